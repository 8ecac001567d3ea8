"""Splits: no group crosses them, every row is in one, labels are spread evenly, a seed decides the rest."""

import itertools
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from run_recipe import refused
from vidtune.data.sources import load_videos
from vidtune.data.splits import (
    assign_folds,
    describe_split,
    group_by_pattern,
    merge_groups,
    multi_hot,
    split_groups,
    split_videos,
)

SURVEILLANCE_FIGHT = Path(
    os.environ.get("VIDTUNE_SURVEILLANCE_FIGHT", Path(__file__).parents[2] / "shared/data/surveillance-fight")
)


def rows(groups: Sequence[str], labels: Sequence[int], start: int = 0) -> Dataset:
    names = [str(label) for label in range(max(labels) + 1)]
    features = Features(
        {
            "label": ClassLabel(names=names),
            "video_id": Value("string"),
            "group": Value("string"),
            "row": Value("int64"),
        }
    )
    numbers = list(range(start, start + len(groups)))
    ids = [f"{number}.mp4" for number in numbers]
    return Dataset.from_dict(
        {"label": list(labels), "video_id": ids, "group": list(groups), "row": numbers}, features=features
    )


def named(*video_ids: str, groups: Sequence[str] | None = None) -> Dataset:
    """Rows of these ids, each a group of its own where none are given; labels take turns."""
    dataset = rows(list(groups or video_ids), [number % 2 for number in range(len(video_ids))])
    return dataset.remove_columns("video_id").add_column("video_id", list(video_ids), feature=Value("string"))


def one_hot(labels: Sequence[int]) -> NDArray[np.bool_]:
    return np.eye(max(labels) + 1, dtype=bool)[list(labels)]


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
    """Of 6 rows of each label, 4 for train and 2 for validation: of each label the group of 2 is exactly that."""
    groups = list("aaabbcdddeef")
    labels = one_hot([0] * 6 + [1] * 6)
    for seed in range(10):
        parts = split_groups(labels, groups, {"train": 2 / 3, "validation": 1 / 3}, seed)
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
        assert len(parts[name]) / len(videos) == pytest.approx(share, abs=0.005)
        for label, count in Counter(videos["label"][:]).items():
            assert counts[name][label] / count == pytest.approx(share, abs=0.05)


def test_a_seed_gives_one_split_and_another_seed_another() -> None:
    videos = DatasetDict(train=many_rows(60, 3))
    first, same, other = (list(split_videos(videos, 0.15, 0.15, seed)["test"]["row"]) for seed in (7, 7, 8))
    assert first == same and first != other


def test_the_split_does_not_depend_on_global_randomness() -> None:
    groups, labels = ["1", "2", "3", "4"] * 5, one_hot([0, 1, 0, 1] * 5)
    np.random.seed(0)
    first = split_groups(labels, groups, {"train": 0.5, "test": 0.5}, seed=1)
    np.random.seed(1)
    again = split_groups(labels, groups, {"train": 0.5, "test": 0.5}, seed=1)
    assert {name: part.tolist() for name, part in first.items()} == {
        name: part.tolist() for name, part in again.items()
    }


def misses(labels: NDArray[np.bool_], parts: dict[str, NDArray[np.int64]], shares: dict[str, float]) -> float:
    """How far a split is from its shares: what `split_groups` says that it makes small."""
    counts = np.column_stack([labels, np.ones(len(labels))])
    targets = {name: share * counts.sum(0) for name, share in shares.items()}
    return float(
        sum((((counts[part].sum(0) - targets[name]) ** 2) / targets[name]).sum() for name, part in parts.items())
    )


@pytest.mark.parametrize("seed", range(12))
def test_few_groups_are_split_as_well_as_any_arrangement_of_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shares = {"train": 0.7, "validation": 0.15, "test": 0.15}
    groups = np.repeat(list("abcdefg"), rng.integers(1, 9, 7))
    labels = one_hot([0, 1, 2, *rng.integers(3, size=len(groups) - 3)])
    found = misses(labels, split_groups(labels, groups.tolist(), shares, seed), shares)
    _, group = np.unique(groups, return_inverse=True)
    best = min(
        misses(labels, {name: np.flatnonzero(np.array(where)[group] == i) for i, name in enumerate(shares)}, shares)
        for where in itertools.product(range(3), repeat=7)
    )
    assert found == pytest.approx(best, rel=0.02)


@pytest.mark.parametrize(("num_groups", "num_labels", "folds"), [(40, 2, 5), (60, 10, 10), (300, 8, 5)])
def test_folds_are_more_even_than_those_of_scikit_learn(num_groups: int, num_labels: int, folds: int) -> None:
    videos = many_rows(num_groups, num_labels)
    labels, groups = np.array(videos["label"][:]), videos["group"][:]
    shares = {str(fold): 1 / folds for fold in range(folds)}
    ours = split_groups(one_hot(labels.tolist()), groups, shares)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(labels, labels, groups)
    theirs = {str(fold): part for fold, (_, part) in enumerate(splitter)}
    assert misses(one_hot(labels.tolist()), ours, shares) < misses(one_hot(labels.tolist()), theirs, shares)


def test_videos_of_several_labels_are_split_by_all_of_them() -> None:
    rng = np.random.default_rng(0)
    lists = [sorted({0, *rng.integers(4, size=2).tolist()}) for _ in range(200)]
    features = Features(
        {"labels": List(ClassLabel(names=list("abcd"))), "video_id": Value("string"), "group": Value("string")}
    )
    ids = [f"{number}.mp4" for number in range(200)]
    videos = Dataset.from_dict({"labels": lists, "video_id": ids, "group": ids}, features=features)
    assert multi_hot(videos).sum(1).tolist() == [len(labels) for labels in lists]
    parts = split_videos(DatasetDict(train=videos), 0.2, 0.2)
    assert [len(part) for part in parts.values()] == [120, 40, 40]
    for part, share in zip(parts.values(), (0.6, 0.2, 0.2), strict=True):
        expected = share * multi_hot(videos).sum(0)
        assert np.abs(multi_hot(part).sum(0) - expected).max() <= 1


# Folds


def test_every_video_is_in_one_fold_and_no_group_in_two() -> None:
    videos = many_rows(60, 3)
    (split,) = assign_folds(DatasetDict(train=videos), 5, seed=3).items()
    assert split[0] == "train"
    folded = split[1]
    assert folded.remove_columns("fold").to_dict() == videos.to_dict()
    fold_of_group = dict(zip(folded["group"], folded["fold"], strict=True))
    assert [fold_of_group[group] for group in folded["group"]] == list(folded["fold"])
    sizes = Counter(folded["fold"])
    assert sorted(sizes) == [0, 1, 2, 3, 4] and max(sizes.values()) - min(sizes.values()) <= 2
    again, other = (assign_folds(DatasetDict(train=videos), 5, seed)["train"]["fold"][:] for seed in (3, 4))
    assert again == folded["fold"][:] and other != folded["fold"][:]


def test_each_fold_is_test_once_and_validation_comes_from_the_others() -> None:
    videos = many_rows(60, 3)
    tested: list[int] = []
    for fold in range(4):
        parts = split_videos(DatasetDict(train=videos), 0.2, 0.9, seed=1, folds=4, fold=fold)
        assert list(parts) == ["train", "validation", "test"]
        groups = [set(part["group"]) for part in parts.values()]
        assert sum(map(len, groups)) == len(set().union(*groups)) == 60
        assert sum(map(len, parts.values())) == len(videos)
        assert len(parts["validation"]) / len(videos) == pytest.approx(0.2 * 0.75, abs=0.01)
        tested += parts["test"]["row"][:]
    assert sorted(tested) == list(range(len(videos)))


def test_folds_that_a_dataset_brings_are_used() -> None:
    videos = rows([f"{i}" for i in range(20)], [0, 1] * 10).add_column("fold", [i // 4 for i in range(20)])
    parts = split_videos(DatasetDict(train=videos), 0.25, 0, fold=2)
    assert list(parts["test"]["row"]) == [8, 9, 10, 11]
    assert len(parts["validation"]) == 4
    again = split_videos(DatasetDict(train=videos), 0.25, 0, fold=2, folds=5)
    assert again["validation"]["row"][:] == parts["validation"]["row"][:]


def test_folds_that_cannot_be_made() -> None:
    whole = DatasetDict(train=rows("abcdabcd", [0, 1] * 4))
    split = DatasetDict(train=rows("abcd", [0, 1] * 2), test=rows("ef", [0, 1], start=10))
    folded = DatasetDict(train=whole["train"].add_column("fold", [0, 1, 2, 3] * 2))
    assert "fold: missing; say which of the 4 folds" in refused(split_videos, whole, 0.2, 0, folds=4)
    assert "folds: missing; fold 1 is one of how many?" in refused(split_videos, whole, 0.2, 0, fold=1)
    assert "folds: 2: the dataset is split already (train, test)" in refused(
        split_videos, split, 0.2, 0, folds=2, fold=0
    )
    assert "folds: 5 are too many for 4 groups" in refused(assign_folds, whole, 5)
    assert "folds: 4: the dataset has a column `fold`" in refused(assign_folds, folded, 4)
    assert "folds: 3: the dataset has 4 folds of its own" in refused(split_videos, folded, 0.2, 0, folds=3, fold=0)
    assert "fold: 4: the dataset has the folds 0, 1, 2, 3" in refused(split_videos, folded, 0.2, 0, fold=4)
    own = DatasetDict(train=folded["train"], test=folded["train"])
    assert "fold: 1: the dataset is split already (train, test)" in refused(split_videos, own, 0.2, 0, fold=1)


def test_a_label_that_is_in_the_tested_fold_only_is_refused() -> None:
    videos = rows(list("aabbccdd"), [0, 1, 0, 1, 0, 1, 2, 2]).add_column("fold", [0, 0, 1, 1, 2, 2, 3, 3])
    message = refused(split_videos, DatasetDict(train=videos), 0.3, 0, fold=3)
    assert "validation_fraction, fold: 0.3, 3 leave no video of 2 in train" in message


# Groups


def grouped(pattern: str | None, *video_ids: str) -> list[str]:
    videos = group_by_pattern(DatasetDict(train=named(*video_ids)), pattern)
    assert list(videos["train"]["video_id"]) == list(video_ids)
    return list(videos["train"]["group"])


def test_a_pattern_finds_the_group_in_the_id() -> None:
    ids = ("walk/ann_g01_c02.mp4", "walk/bob_g01_c01.mp4", "run/ann_g12_c01.mp4")
    assert grouped(r"_g(\d+)_", *ids) == ["01", "01", "12"]
    assert grouped(r"_g\d+_", *ids) == ["_g01_", "_g01_", "_g12_"]
    assert grouped(r"/(\w+?)_g(\d+)_", *ids) == ["ann_01", "bob_01", "ann_12"]
    assert grouped(r"(an)?n?_g(\d+)_", *ids) == ["an_01", "_01", "an_12"]
    assert grouped(".+", *ids) == list(ids)
    videos = DatasetDict(train=named(*ids), test=named("walk/eve_g03_c01.mp4"))
    parts = group_by_pattern(videos, r"_g(\d+)_")
    assert parts["test"]["group"][:] == ["03"]
    assert parts["train"].features == videos["train"].features
    assert parts["train"].column_names == videos["train"].column_names


def test_a_video_that_the_pattern_does_not_find_is_named() -> None:
    message = refused(grouped, r"_g(\d+)_", "a_g1_c1.mp4", "b.mp4")
    assert message.startswith(r"group_pattern: '_g(\\d+)_' is not found in 'b.mp4'; ")


def test_names_of_ucf101_are_recognised_where_all_videos_have_them(caplog: pytest.LogCaptureFixture) -> None:
    ids = ("Archery/v_Archery_g01_c01.avi", "Archery/v_Archery_g01_c02.avi", "Run/v_Run_g01_c01.avi")
    with caplog.at_level(logging.WARNING):
        assert grouped(None, *ids) == ["v_Archery_g01", "v_Archery_g01", "v_Run_g01"]
    assert "UCF101" in caplog.text
    caplog.clear()
    assert grouped(None, *ids, "Run/mine.avi") == [*ids, "Run/mine.avi"]
    videos = DatasetDict(train=named(*ids, groups="aab"))
    assert group_by_pattern(videos, None) is videos
    assert caplog.text == ""


def test_groups_of_videos_that_are_alike_become_one() -> None:
    videos = DatasetDict(
        train=named("1", "2", "3", "4", "5", groups=["b", "b", "c", "d", "e"]), test=named("6", "7", groups=["a", "f"])
    )
    merged = merge_groups(videos, [("2", "3"), ("3", "6"), ("4", "4"), ("7", "5"), ("5", "7")])
    assert merged["train"]["group"][:] == ["a", "a", "a", "d", "e"]
    assert merged["test"]["group"][:] == ["a", "e"]
    assert merged["train"].features == videos["train"].features
    assert merge_groups(videos, [])["train"].to_dict() == videos["train"].to_dict()
    assert "'a' (1 in train and 6 in test)" in refused(split_videos, merged, 0.2, 0)


def test_copies_of_a_video_stay_on_one_side() -> None:
    videos = DatasetDict(train=rows([f"{i}" for i in range(40)], [0, 1] * 20))
    pairs = [(f"{i}.mp4", f"{i + 2}.mp4") for i in range(0, 36, 4)]
    parts = split_videos(merge_groups(videos, pairs), 0.25, 0.25)
    split_of = {video_id: name for name, part in parts.items() for video_id in part["video_id"]}
    assert len(split_of) == 40
    assert all(split_of[one] == split_of[other] for one, other in pairs)


# Splits that a dataset brings


def test_splits_that_share_a_group_are_refused_with_the_videos_listed() -> None:
    train, test = rows("abcd", [0, 1, 0, 1], 0), rows("efda", [0, 1, 0, 1], 10)
    message = refused(split_videos, DatasetDict(train=train, test=test), 0.25, 0)
    assert message.startswith(
        "group: 2 in more than one split: 'a' (0.mp4 in train and 13.mp4 in test), "
        "'d' (3.mp4 in train and 12.mp4 in test); a model is scored on what it was trained on; mend the splits"
    )
    assert "--allow_leakage" in message


def test_of_many_shared_groups_some_are_listed_and_all_are_counted() -> None:
    train, validation, test = (rows("abcde", [0, 1, 0, 1, 0], start) for start in (0, 10, 20))
    message = refused(split_videos, DatasetDict(train=train, validation=validation, test=test), 0.25, 0)
    assert (
        "group: 5 in more than one split: 'a' (0.mp4 in train and 10.mp4 in validation and 20.mp4 in test)" in message
    )
    assert "'c' (" in message and "'d' (" not in message and " and 2 more; " in message


def test_a_leak_that_is_allowed_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    videos = DatasetDict(train=rows("abcd" * 5, [0, 1] * 10), test=rows("az", [0, 1], start=50))
    with caplog.at_level(logging.WARNING):
        parts = split_videos(videos, 0.25, 0, allow_leakage=True)
    assert "group: 1 in more than one split: 'a' (0.mp4 in train and 50.mp4 in test)" in caplog.text
    assert parts["test"]["row"][:] == [50, 51]
    assert not set(parts["train"]["group"]) & set(parts["validation"]["group"])


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


# What a report says


def test_a_split_is_described() -> None:
    videos = DatasetDict(train=rows("aabbccdd", [0, 1] * 4))
    parts = split_videos(videos, 0.25, 0.25, seed=7)
    assert describe_split(videos, parts, 7) == {
        "how": "made by group: validation, test",
        "seed": 7,
        "splits": {
            "train": {"videos": 4, "groups": 2, "labels": {"0": 2, "1": 2}},
            "validation": {"videos": 2, "groups": 1, "labels": {"0": 1, "1": 1}},
            "test": {"videos": 2, "groups": 1, "labels": {"0": 1, "1": 1}},
        },
    }
    assert describe_split(parts, parts, 7)["how"] == "given"
    parts = split_videos(videos, 0.25, 0, folds=4, fold=3)
    assert describe_split(videos, parts, 0, fold=3)["how"] == "fold 3 of 4 is test, validation made by group"


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
    message = refused(split_videos, DatasetDict(train=rows(list(groups), labels)), *fractions)
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
    assert [len(part) for part in parts.values()] == [210, 45, 45]
    for part, count in zip(parts.values(), (105, 22.5, 22.5), strict=True):
        assert all(abs(found - count) <= 0.5 for found in Counter(part["label"]).values())


@pytest.mark.skipif(not (SURVEILLANCE_FIGHT / "videos.csv").is_file(), reason="needs VIDTUNE_SURVEILLANCE_FIGHT")
def test_folds_of_recordings_are_exactly_even() -> None:
    videos = assign_folds(load_videos(str(SURVEILLANCE_FIGHT / "videos.csv")), 5)["train"]
    assert set(Counter(zip(videos["fold"], videos["label"], strict=True)).values()) == {30}
