"""Groups, and train, validation and test: every group in one split, every label in the same proportion."""

import logging
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Value
from numpy.typing import NDArray

from vidtune.errors import InputError
from vidtune.printing import printable

logger = logging.getLogger(__name__)

UCF101_NAME = re.compile(r"(?:^|/)(v_[^/]+_g\d+)_c\d+\.\w+$")
"""How UCF101 names a clip (Soomro et al. 2012): class, group of clips from one recording, clip."""

STARTS = 10
"""Arrangements that the search for the best split of few groups starts from."""
FEW_GROUPS = 100
SWAP_BUDGET = 30_000_000
"""Groups x partners x labels of one pass of the search, some tenths of a second."""

LISTED = 3
"""Groups of a leak that an error spells out."""


# Groups


def group_by_pattern(videos: DatasetDict, pattern: str | None) -> DatasetDict:
    r"""Put videos into the groups that a regular expression finds in their ids.

    Without a pattern, videos that are all named as UCF101 names them (`v_Archery_g01_c02.avi`), and have no groups
    yet, are put into its groups; others keep theirs.

    Args:
        videos: Rows by split, with columns `video_id` and `group`.
        pattern: Searched in each `video_id`. What its brackets capture, joined by `_`, is the group; the whole match
            where it has none. `.+` makes each video a group of its own.

    Returns:
        The same rows with that `group`.

    Raises:
        InputError: If a video's id doesn't match.
    """
    if pattern is None and not UCF101_NAME.search(next(iter(videos.values()))["video_id"][0]):
        return videos  # at once, of millions of videos too
    ids = [video_id for rows in videos.values() for video_id in rows["video_id"][:]]
    if pattern is None:
        groups = [group for rows in videos.values() for group in rows["group"][:]]
        if groups != ids or not all(map(UCF101_NAME.search, ids)):
            return videos
        logger.warning(
            "dataset: grouped by the recordings that its videos, such as %s, are named for, as those of UCF101 are; "
            "--group_pattern '.+' makes each video a group of its own",
            printable(ids[0]),
        )
    expression = re.compile(pattern) if pattern else UCF101_NAME
    group_of = {}
    for video_id in ids:
        found = expression.search(video_id)
        if not found:
            raise InputError(
                f"group_pattern: {pattern!r} is not found in {video_id!r}; write one that finds a group in every video"
            )
        group_of[video_id] = "_".join(part or "" for part in found.groups()) if found.groups() else found[0]
    return _with_groups(videos, group_of)


def merge_groups(videos: DatasetDict, pairs: Sequence[tuple[str, str]]) -> DatasetDict:
    """Make one group of the groups of videos that are too alike to be told apart.

    Args:
        videos: Rows by split, with columns `video_id` and `group`.
        pairs: Two `video_id` each; if a is like b and b like c, all three become one group.

    Returns:
        The same rows; a merged group has the name that sorts first of those it was made of.
    """
    group_of = {
        video_id: group
        for rows in videos.values()
        for video_id, group in zip(rows["video_id"], rows["group"], strict=True)
    }
    merged_into: dict[str, str] = {}

    def final(group: str) -> str:
        while group in merged_into:
            group = merged_into[group]
        return group

    for one, other in pairs:
        first, last = sorted((final(group_of[one]), final(group_of[other])))
        if first != last:
            merged_into[last] = first
    return _with_groups(videos, {video_id: final(group) for video_id, group in group_of.items()})


def _with_groups(videos: DatasetDict, group_of: Mapping[str, str]) -> DatasetDict:
    parts = {}
    for split, rows in videos.items():
        groups = [group_of[video_id] for video_id in rows["video_id"]]
        part = rows.remove_columns("group").add_column("group", groups, feature=Value("string"))
        parts[split] = part.select_columns(rows.column_names)
    return DatasetDict(parts)


# Splits


def split_videos(
    videos: DatasetDict,
    validation_fraction: float,
    test_fraction: float,
    seed: int = 0,
    *,
    folds: int | None = None,
    fold: int | None = None,
    allow_leakage: bool = False,
) -> DatasetDict:
    """Complete the splits of a dataset; those it brings are kept as they are.

    Without any split, validation and test are taken from the videos; with train and test, validation is taken
    from train; with train and validation there is no test. A fold becomes test, and validation is taken from the
    other folds.

    Args:
        videos: Rows by split, `train` among them, with columns `video_id`, `group`, `label` or `labels`, and
            optionally `fold`.
        validation_fraction: Share of the rows of `train` for validation, in `(0, 1)`.
        test_fraction: Share of the rows of `train` for test, in `[0, 1)`; 0 for none. Unused with a fold.
        seed: Seed of the draw.
        folds: Number of folds to make, >= 2; not needed where the videos have a column `fold`.
        fold: The fold to test on, in `[0, folds)`.
        allow_leakage: Warn of splits of the dataset's own that share a group, in place of refusing them.

    Returns:
        Rows by split: train, validation and, where there is one, test.

    Raises:
        InputError: If splits share a group, there are too few groups for the fractions or the folds, there is no such
            fold, folds are asked of a dataset that is split already, or `validation_fraction` is 0.
    """
    fractions = f"validation_fraction, test_fraction: {validation_fraction}, {test_fraction}"
    if folds is not None or fold is not None:
        videos = _take_fold(videos, folds, fold, seed)
        fractions = f"validation_fraction, fold: {validation_fraction}, {fold}"
    check_groups(videos, allow_leakage)
    if "validation" in videos:
        return videos
    if validation_fraction <= 0:
        raise InputError(
            f"validation_fraction: {validation_fraction:g} leaves no video to validate on, and the dataset has no "
            "validation split, which training is watched by; give a share above 0"
        )
    shares = {"validation": validation_fraction}
    if "test" not in videos and test_fraction > 0:
        shares["test"] = test_fraction
    rows = videos["train"]
    parts = split_groups(multi_hot(rows), rows["group"][:], {"train": 1 - sum(shares.values())} | shares, seed)
    splits = DatasetDict(
        {name: rows.select(part) for name, part in parts.items()}
        | {name: split for name, split in videos.items() if name != "train"}
    )
    known = multi_hot(splits["train"]).any(0)
    for name, split in splits.items():
        unknown = np.flatnonzero(multi_hot(split).any(0) & ~known)
        if len(split) == 0 or len(unknown):
            of_label = f" of {label_names(split)[unknown[0]]} in train" if len(unknown) else f" in {name}"
            raise InputError(
                f"{fractions} leave no video{of_label} ({len(set(rows['group']))} groups in all); "
                "change them, or give a column `split`"
            )
    return splits


def assign_folds(videos: DatasetDict, folds: int, seed: int = 0) -> DatasetDict:
    """Divide videos into folds of one size, no group in two of them, every label spread evenly.

    Args:
        videos: Rows of one split, `train`.
        folds: Number of folds, >= 2.
        seed: Seed of the draw.

    Returns:
        The same rows with a column `fold`, 0 to `folds - 1`.

    Raises:
        InputError: If the videos are split or have folds already, or make fewer groups than folds.
    """
    rows = videos["train"]
    if "fold" in rows.column_names:
        raise InputError(f"folds: {folds}: the dataset has a column `fold` of its own; leave folds out, or the column")
    if len(videos) > 1:
        raise InputError(
            f"folds: {folds}: the dataset is split already ({', '.join(videos)}); leave folds out, or its splits"
        )
    shares = {str(number): 1 / folds for number in range(folds)}
    parts = split_groups(multi_hot(rows), rows["group"][:], shares, seed)
    if not all(map(len, parts.values())):
        raise InputError(f"folds: {folds} are too many for {len(set(rows['group']))} groups of videos; give fewer")
    column = np.zeros(len(rows), dtype=np.int64)
    for name, part in parts.items():
        column[part] = int(name)
    return DatasetDict(train=rows.add_column("fold", column.tolist(), feature=Value("int64")))


def _take_fold(videos: DatasetDict, folds: int | None, fold: int | None, seed: int) -> DatasetDict:
    """Make one fold `test` and the others `train`, of folds that the dataset has or that are made."""
    if fold is None:
        raise InputError(f"fold: missing; say which of the {folds} folds to test on, 0 to {(folds or 0) - 1}")
    if "fold" not in videos["train"].column_names:
        if folds is None:
            raise InputError(f"folds: missing; fold {fold} is one of how many? The dataset has no column `fold`")
        videos = assign_folds(videos, folds, seed)
    if len(videos) > 1:
        raise InputError(f"fold: {fold}: the dataset is split already ({', '.join(videos)}); leave fold out")
    column = np.array(videos["train"]["fold"][:])
    known = sorted(set(column.tolist()))
    if folds not in (None, len(known)):
        raise InputError(f"folds: {folds}: the dataset has {len(known)} folds of its own; leave folds out")
    if fold not in known:
        raise InputError(f"fold: {fold}: the dataset has the folds {', '.join(map(str, known))}; name one of them")
    return DatasetDict(
        train=videos["train"].select(np.flatnonzero(column != fold)),
        test=videos["train"].select(np.flatnonzero(column == fold)),
    )


def check_groups(videos: DatasetDict, allow_leakage: bool = False) -> None:
    """Check that splits share no group.

    Args:
        videos: Rows by split, with columns `video_id` and `group`.
        allow_leakage: Whether to warn in place of failing.

    Raises:
        InputError: If two of them do; it lists videos of the first such groups, and counts all of them.
    """
    distinct = [_groups(rows).unique() for rows in videos.values()]
    if pc.count_distinct(pa.chunked_array(distinct, pa.string())).as_py() == sum(map(len, distinct)):
        return
    seen: dict[str, dict[str, str]] = {}
    for split, rows in videos.items():
        for video_id, group in zip(rows["video_id"], rows["group"], strict=True):
            seen.setdefault(group, {}).setdefault(split, video_id)
    shared = {group: ids for group, ids in sorted(seen.items()) if len(ids) > 1}
    if not shared:
        return
    listed = ", ".join(
        f"{group!r} ({' and '.join(f'{video_id} in {split}' for split, video_id in ids.items())})"
        for group, ids in list(shared.items())[:LISTED]
    )
    more = f" and {len(shared) - LISTED} more" if len(shared) > LISTED else ""
    problem = (
        f"group: {len(shared)} in more than one split: {listed}{more}; a model is scored on what it was trained on"
    )
    if not allow_leakage:
        raise InputError(
            f"{problem}; mend the splits, or give the videos without splits to have them made by group, "
            "or accept it with --allow_leakage"
        )
    logger.warning("%s", printable(problem))


def _groups(rows: Dataset) -> pa.ChunkedArray:
    """The groups of rows, as Arrow keeps them: a list of ten million texts would take a gigabyte."""
    return rows.select_columns("group").with_format("arrow")[:]["group"]


def split_groups(
    labels: NDArray[np.bool_], groups: Sequence[str], shares: Mapping[str, float], seed: int = 0
) -> dict[str, NDArray[np.int64]]:
    """Divide rows so that no group crosses a split, and sizes and labels come near their shares.

    What is made small is the sum of (rows - target)^2 / target over splits, and over each label and all rows. The
    largest groups are placed first, each where the sum grows least, those of one size in random order; then groups
    move and trade places for as long as the sum falls. Few groups are arranged from several random starts as well.

    Args:
        labels: Whether each row has each label, `(N, L)`.
        groups: Group of each row, `N` of them.
        shares: Share of the rows of each split, > 0, 1 in all.
        seed: Seed of the draw.

    Returns:
        Ascending row numbers of each split.
    """
    names, group_of_row = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.zeros((len(names), labels.shape[1] + 1))
    np.add.at(counts, group_of_row, np.column_stack([labels, np.ones(len(labels))]))
    counts = counts[:, counts.any(0)]
    targets = np.outer(list(shares.values()), counts.sum(0))
    rng = np.random.default_rng(seed)
    starts = [_place(counts, targets, rng)]
    if len(counts) <= FEW_GROUPS:
        starts += [rng.integers(len(shares), size=len(counts)) for _ in range(STARTS - 1)]
    arrangements = [_improve(start, counts, targets, rng) for start in starts]
    best = min(arrangements, key=lambda split_of_group: _misses(split_of_group, counts, targets))
    return {name: np.flatnonzero(best[group_of_row] == index) for index, name in enumerate(shares)}


def _place(counts: NDArray[np.float64], targets: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Place groups one by one, the largest first."""
    placed = np.zeros_like(targets)
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order, -1], kind="stable")]
    split_of_group = np.zeros(len(counts), dtype=np.int64)
    for group in order:
        growth = ((placed + counts[group] - targets) ** 2 - (placed - targets) ** 2) / targets
        split_of_group[group] = growth.sum(1).argmin()
        placed[split_of_group[group]] += counts[group]
    return split_of_group


def _improve(
    start: NDArray[np.int64], counts: NDArray[np.float64], targets: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Let groups move to another split, or trade places with another group, for as long as that misses less."""
    where: NDArray[np.int64] = start.copy()
    excess = -targets
    np.add.at(excess, where, counts)
    pool = rng.permutation(len(counts))[: SWAP_BUDGET // counts.size]
    # Moving is trading places with nothing
    partners = np.vstack([counts[pool], np.zeros_like(targets)])
    improved = True
    while improved:
        improved = False
        for group, own in enumerate(counts):
            here, there = where[group], np.append(where[pool], range(len(targets)))
            gain = partners - own
            relative = excess / targets
            change = (2 * gain * (relative[here] - relative[there])).sum(1)
            change += (gain**2 * (1 / targets[here] + (1 / targets)[there])).sum(1)
            change[there == here] = 0
            best = int(change.argmin())
            if change[best] < -1e-9:
                excess[here] += gain[best]
                excess[there[best]] -= gain[best]
                where[group] = there[best]
                if best < len(pool):
                    where[pool[best]] = here
                improved = True
    return where


def _misses(split_of_group: NDArray[np.int64], counts: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    excess = -targets
    np.add.at(excess, split_of_group, counts)
    return float((excess**2 / targets).sum())


# Labels


def label_names(rows: Dataset) -> list[str]:
    """Names of the labels, of which each row has one (column `label`) or several (`labels`)."""
    features = rows.features
    names: list[str] = (features["labels"].feature if "labels" in features else features["label"]).names
    return names


def multi_hot(rows: Dataset) -> NDArray[np.bool_]:
    """Whether each row has each label, `(N, L)`."""
    table = np.zeros((len(rows), len(label_names(rows))), dtype=bool)
    if "labels" not in rows.column_names:
        table[np.arange(len(rows)), rows["label"][:]] = True
        return table
    for row, labels in enumerate(rows["labels"][:]):
        table[row, labels] = True
    return table


def label_counts(rows: Dataset) -> dict[str, int]:
    """How many rows have each label, by its name."""
    names = label_names(rows)
    labels = list(chain.from_iterable(rows["labels"][:])) if "labels" in rows.column_names else rows["label"][:]
    counts = np.bincount(np.asarray(labels, dtype=np.int64), minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))


def few_of_each_label(rows: Dataset, count: int, seed: int = 0) -> Dataset:
    """Draw as many videos of each label, to see how far so few go.

    Args:
        rows: Rows of one split, of one label each.
        count: Videos of each label, >= 1.
        seed: Seed of the draw.

    Returns:
        `count` rows of each label, in the order they were in.

    Raises:
        InputError: If a label has fewer, or videos have several labels.
    """
    if "labels" in rows.column_names:
        raise InputError(f"videos_per_label: {count}: videos of this dataset have several labels; leave it out")
    labels, rng, drawn = np.asarray(rows["label"][:]), np.random.default_rng(seed), []
    for label, name in enumerate(label_names(rows)):
        found = np.flatnonzero(labels == label)
        if len(found) < count:
            raise InputError(f"videos_per_label: got {count}; train has {len(found)} of {name!r}; give that or fewer")
        drawn += rng.permutation(found)[:count].tolist()
    return rows.select(sorted(drawn))


def describe_split(videos: DatasetDict, splits: DatasetDict, seed: int, fold: int | None = None) -> dict[str, Any]:
    """What a report says of a split.

    Args:
        videos: Rows by split as the dataset brought them.
        splits: Rows by split as they are used.
        seed: Seed that they were drawn with.
        fold: The fold to test on, if one was.

    Returns:
        `how` the split was made, `seed`, and `splits`: `videos`, `groups` and `labels` (videos of each) by split.
    """
    made = [name for name in splits if name not in videos]
    how = f"made by group: {', '.join(made)}" if made else "given"
    if fold is not None:
        number = len({number for rows in splits.values() for number in rows["fold"]})
        how = f"fold {fold} of {number} is test, validation made by group"
    return {
        "how": how,
        "seed": seed,
        "splits": {
            name: {
                "videos": len(rows),
                "groups": pc.count_distinct(_groups(rows)).as_py(),
                "labels": label_counts(rows),
            }
            for name, rows in splits.items()
        },
    }
