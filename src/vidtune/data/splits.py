"""Train, validation and test: every group in one split, every label in the same proportion."""

import itertools
from collections.abc import Mapping

import numpy as np
from datasets import DatasetDict
from numpy.typing import NDArray

from vidtune.errors import InputError


def split_videos(videos: DatasetDict, validation_fraction: float, test_fraction: float, seed: int = 0) -> DatasetDict:
    """Complete the splits of a dataset; those it brings are kept as they are.

    Without any split, validation and test are taken from the videos; with train and test, validation is taken
    from train; with train and validation there is no test.

    Args:
        videos: Rows by split, `train` among them, with columns `label` and `group`.
        validation_fraction: Share of the rows of `train` for validation, in `(0, 1)`.
        test_fraction: Share of the rows of `train` for test, in `[0, 1)`; 0 for none.
        seed: Seed of the draw.

    Returns:
        Rows by split: train, validation and, where there is one, test.

    Raises:
        InputError: If there are too few groups for the fractions, or `validation_fraction` is 0.
    """
    check_groups(videos)
    if "validation" in videos:
        return videos
    if validation_fraction <= 0:
        raise InputError(
            f"validation_fraction: {validation_fraction:g} leaves no video to validate on, and the dataset has no "
            "validation split; give a share above 0"
        )
    shares = {"validation": validation_fraction}
    if "test" not in videos:
        shares["test"] = test_fraction
    rows = videos["train"]
    labels, groups = np.array(rows["label"][:]), np.array(rows["group"][:])
    parts = split_groups(labels, groups, shares, seed)
    for name, part in parts.items():
        absent = np.setdiff1d(labels, labels[part]).tolist() if name == "train" else []
        if len(part) == 0 or absent:
            of_labels = "".join(f" of {rows.features['label'].int2str(label)}" for label in absent[:1])
            raise InputError(
                f"validation_fraction, test_fraction: {validation_fraction}, {test_fraction} leave no "
                f"video{of_labels} in {name} ({len(np.unique(groups))} groups in all); "
                "change them, or give a column `split`"
            )
    return DatasetDict(
        {name: rows.select(part) for name, part in parts.items()}
        | {name: split for name, split in videos.items() if name != "train"}
    )


def check_groups(videos: DatasetDict) -> None:
    """Check that the splits which a dataset brings share no group.

    Raises:
        InputError: If two of them do; it names one group and counts the others.
    """
    groups = {split: set(rows["group"]) for split, rows in videos.items()}
    for first, second in itertools.combinations(groups, 2):
        shared = sorted(groups[first] & groups[second])
        if shared:
            more = f" (and {len(shared) - 1} more)" if len(shared) > 1 else ""
            raise InputError(
                f"group: {shared[0]!r}{more} is in {first} and in {second}: a model would be scored on recordings it "
                "was trained on; mend the splits, or leave out `split` to have them made by group"
            )


def split_groups(
    labels: NDArray[np.int64], groups: NDArray[np.str_], shares: Mapping[str, float], seed: int = 0
) -> dict[str, NDArray[np.int64]]:
    """Divide rows so that no group crosses a split and the labels are spread evenly.

    The largest groups are placed first, each where it misses least: into the split for which the sum over
    labels of (rows - target)^2 / target grows least. Groups of one size come in random order.

    Args:
        labels: Label of each row, `(N,)`.
        groups: Group of each row, `(N,)`.
        shares: Share of the rows of each split; what remains of 1 is `train`.
        seed: Seed of the order.

    Returns:
        Ascending row numbers of each split, `train` first.
    """
    shares = {"train": 1 - sum(shares.values())} | {name: share for name, share in shares.items() if share > 0}
    _, label_index = np.unique(labels, return_inverse=True)
    names, group_index = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), label_index.max() + 1))
    np.add.at(counts, (group_index, label_index), 1)
    targets = np.outer(list(shares.values()), counts.sum(0))
    placed = np.zeros_like(targets)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    split_of_group = np.zeros(len(names), dtype=np.int64)
    for group in order:
        growth = ((placed + counts[group] - targets) ** 2 - (placed - targets) ** 2) / targets
        split_of_group[group] = growth.sum(1).argmin()
        placed[split_of_group[group]] += counts[group]
    split_of_row = split_of_group[group_index]
    return {name: np.flatnonzero(split_of_row == index) for index, name in enumerate(shares)}
