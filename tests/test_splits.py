"""Splits: no group crosses them, every row is in one, labels are spread evenly, a seed decides the rest."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from vidtune.data.sources import load_videos
from vidtune.data.splits import split_groups, split_videos
from vidtune.errors import InputError

SURVEILLANCE_FIGHT = Path(
    os.environ.get("VIDTUNE_SURVEILLANCE_FIGHT", Path(__file__).parents[2] / "shared/data/surveillance-fight")
)


def rows(groups: Sequence[str], labels: Sequence[int], start: int = 0) -> Dataset:
    names = [str(label) for label in range(max(labels) + 1)]
    features = Features({"label": ClassLabel(names=names), "group": Value("string"), "row": Value("int64")})
    numbers = list(range(start, start + len(groups)))
    return Dataset.from_dict({"label": list(labels), "group": list(groups), "row": numbers}, features=features)


def many_rows(num_groups: int, num_labels: int, seed: int = 0) -> Dataset:
    """Groups of 1 to 12 rows, each with one to all labels."""
    rng = np.random.default_rng(seed)
    groups, labels = [], []
    for group in range(num_groups):
        own = rng.choice(num_labels, rng.integers(1, num_labels + 1), replace=False)
        for _ in range(rng.integers(1, 13)):
            groups.append(f"group {group}")
            labels.append(int(rng.choice(own)))
    return rows(groups, labels)


# One split


def test_a_split_worked_out_by_hand() -> None:
    """Of 6 rows of each label, 4 for train and 2 for validation.

    The group of 3 goes to train: (3 - 4)^2 / 4 - 4 = -3.75 against (3 - 2)^2 / 2 - 2 = -1.5.
    That of 2 goes to validation: 1 / 4 - 1 / 4 = 0 against 0 - 2 = -2. That of 1 to train: -0.25 against 0.5.
    """
    groups = np.array(list("aaabbcdddeef"))
    labels = np.array([0] * 6 + [1] * 6)
    for seed in range(10):
        parts = split_groups(labels, groups, {"validation": 1 / 3}, seed)
        assert list(parts) == ["train", "validation"]
        assert parts["train"].tolist() == [0, 1, 2, 5, 6, 7, 8, 11]
        assert parts["validation"].tolist() == [3, 4, 9, 10]


def test_one_row_a_group_gives_exact_shares_of_every_label() -> None:
    videos = DatasetDict(train=rows([f"{i}" for i in range(100)], [0] * 60 + [1] * 40))
    parts = split_videos(videos, 0.15, 0.2, seed=3)
    assert {name: Counter(part["label"]) for name, part in parts.items()} == {
        "train": {0: 39, 1: 26},
        "validation": {0: 9, 1: 6},
        "test": {0: 12, 1: 8},
    }


@pytest.mark.parametrize(("num_groups", "num_labels"), [(40, 2), (200, 5), (1000, 30)])
@pytest.mark.parametrize("seed", [0, 1])
def test_invariants(num_groups: int, num_labels: int, seed: int) -> None:
    videos = many_rows(num_groups, num_labels, seed)
    parts = split_videos(DatasetDict(train=videos), 0.15, 0.2, seed)
    counts = {name: Counter(part["label"][:]) for name, part in parts.items()}
    assert list(parts) == ["train", "validation", "test"]
    assert sorted(row for part in parts.values() for row in part["row"]) == list(range(len(videos)))
    for part in parts.values():
        assert part.features == videos.features and list(part["row"]) == sorted(part["row"])
    groups = [set(part["group"]) for part in parts.values()]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    for name, share in (("train", 0.65), ("validation", 0.15), ("test", 0.2)):
        assert len(parts[name]) / len(videos) == pytest.approx(share, abs=0.03)
        for label, count in Counter(videos["label"][:]).items():
            assert counts[name][label] / count == pytest.approx(share, abs=0.12)


def test_a_seed_gives_one_split_and_another_seed_another() -> None:
    videos = DatasetDict(train=many_rows(60, 3))
    first, same, other = (list(split_videos(videos, 0.15, 0.15, seed)["test"]["row"]) for seed in (7, 7, 8))
    assert first == same and first != other


def test_the_split_depends_on_groups_and_not_on_their_names_type_or_on_global_randomness() -> None:
    groups, labels = np.array(["1", "2", "3", "4"] * 5), np.array([0, 1, 0, 1] * 5)
    np.random.seed(0)
    first = split_groups(labels, groups, {"test": 0.5}, seed=1)
    np.random.seed(1)
    again = split_groups(labels, groups.astype(int), {"test": 0.5}, seed=1)
    assert {name: part.tolist() for name, part in first.items()} == {
        name: part.tolist() for name, part in again.items()
    }


# Splits that a dataset brings


def test_splits_that_share_a_group_are_refused() -> None:
    train, test = rows("abcd", [0, 1, 0, 1], 0), rows("efda", [0, 1, 0, 1], 10)
    with pytest.raises(InputError, match=r"group: 'a' \(and 1 more\) is in train and in test: .*mend the splits"):
        split_videos(DatasetDict(train=train, test=test), 0.25, 0)


def test_splits_of_a_dataset_are_kept() -> None:
    train, validation, test = (
        rows(groups, [0, 1, 0, 1], start) for groups, start in (("abcd", 0), ("efgh", 10), ("ijkl", 20))
    )
    both = DatasetDict(train=train, validation=validation)
    assert split_videos(both, 0.15, 0.15) is both
    everything = DatasetDict(train=train, validation=validation, test=test)
    assert split_videos(everything, 0, 0) is everything


def test_validation_is_taken_from_train_where_there_is_a_test_split() -> None:
    videos = DatasetDict(train=rows([f"{i}" for i in range(20)], [0, 1] * 10), test=rows(["t", "u"], [0, 1], start=50))
    parts = split_videos(videos, 0.2, 0.5)
    assert list(parts) == ["train", "validation", "test"]
    assert (len(parts["train"]), len(parts["validation"])) == (16, 4)
    assert list(parts["test"]["row"]) == [50, 51]


def test_a_test_fraction_of_0_makes_no_test_split() -> None:
    parts = split_videos(DatasetDict(train=rows([f"{i}" for i in range(20)], [0, 1] * 10)), 0.2, 0)
    assert {name: len(part) for name, part in parts.items()} == {"train": 16, "validation": 4}


# Errors


@pytest.mark.parametrize(
    ("groups", "labels", "fractions", "words"),
    [
        ("aaaa", [0, 1, 0, 1], (0.2, 0.2), ["no video in validation", "(1 groups in all)", "column `split`"]),
        ("ab", [0, 1], (0.4, 0), ["validation_fraction, test_fraction: 0.4, 0 leave no video"]),
        ("abcdefab", [0, 1, 0, 1, 0, 1, 0, 1], (0.01, 0.2), ["0.01, 0.2 leave no video in validation"]),
        ("abcdefghij", [0, 1] * 5, (0, 0.2), ["validation_fraction: 0 leaves no video", "give a share above 0"]),
        ("abcdefghijk", [0] * 10 + [1], (0.4, 0.4), ["0.4, 0.4 leave no video of 1 in train (11 groups in all)"]),
    ],
)
def test_too_few_groups_for_the_fractions(
    groups: str, labels: list[int], fractions: tuple[float, float], words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        split_videos(DatasetDict(train=rows(list(groups), labels)), *fractions)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"


# A real dataset


@pytest.mark.skipif(not (SURVEILLANCE_FIGHT / "videos.csv").is_file(), reason="needs VIDTUNE_SURVEILLANCE_FIGHT")
@pytest.mark.parametrize("seed", range(5))
def test_clips_of_one_recording_stay_together(seed: int) -> None:
    videos = load_videos(str(SURVEILLANCE_FIGHT / "videos.csv"))
    labels = videos["train"].features["label"].names
    assert labels == ["fight", "noFight"]
    assert Counter(labels[label] for label in videos["train"]["label"]) == {"fight": 150, "noFight": 150}
    parts = split_videos(videos, 0.15, 0.15, seed)
    groups = [set(part["group"]) for part in parts.values()]
    assert sum(map(len, groups)) == len(set().union(*groups)) == len(set(videos["train"]["group"]))
    assert sum(map(len, parts.values())) == 300
    for part, share in zip(parts.values(), (0.7, 0.15, 0.15), strict=True):
        for count in Counter(part["label"]).values():
            assert count / 150 == pytest.approx(share, abs=0.05)
