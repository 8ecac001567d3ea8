"""The rows that every source returns: their columns, and what makes them fit to train on."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, Video

from vidtune.errors import InputError

SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}

Row = dict[str, Any]


def to_dataset(rows: Sequence[Row], source: str) -> DatasetDict:
    """Turn rows into a dataset and check that a classifier can be trained on it.

    Args:
        rows: `video` (path, or mapping of path and bytes), `label`, `split`, `video_id`, and optionally `group`,
            `start_seconds` and `end_seconds`.
        source: What errors call the dataset.

    Raises:
        InputError: If there is nothing to train on, only one class, a label that `train` lacks, or a video twice.
    """
    classes = class_label([(str(row["label"]), row["split"], row["video_id"]) for row in rows], source)
    splits = {}
    for split in ("train", "validation", "test"):
        part = [row for row in rows if row["split"] == split]
        if part:
            columns = {
                "video": [row["video"] for row in part],
                "label": [str(row["label"]) for row in part],
                "video_id": [row["video_id"] for row in part],
                "group": [str(row["video_id"] if row.get("group") is None else row["group"]) for row in part],
                "start_seconds": [row.get("start_seconds") for row in part],
                "end_seconds": [row.get("end_seconds") for row in part],
            }
            splits[split] = Dataset.from_dict(columns, features=video_features(classes))
    return DatasetDict(splits)


def video_features(classes: ClassLabel) -> Features:
    """Name the columns and types of a dataset of videos."""
    return Features(
        {
            "video": Video(decode=False),
            "label": classes,
            "video_id": Value("string"),
            "group": Value("string"),
            "start_seconds": Value("float64"),
            "end_seconds": Value("float64"),
        }
    )


def class_label(rows: Sequence[tuple[str, str, str]], source: str) -> ClassLabel:
    """Number the labels of train, once it is known that a classifier can be trained on the rows.

    Args:
        rows: Label, split and id of each video.
        source: What errors call the dataset.
    """
    names = {label for label, split, _ in rows if split == "train"}
    if not names:
        raise InputError(f"dataset: {source}: has no split `train`; name one of its splits so")
    if len(names) == 1:
        raise InputError(f"dataset: {source}: has one class only, {names.pop()!r}; a classifier needs two or more")
    for label, split, video_id in rows:
        if label not in names:
            raise InputError(
                f"dataset: {source}: label {label!r} of {video_id} in {split} is not in train; "
                "add videos of it to train, or leave it out"
            )
    twice = [video_id for video_id, count in Counter(video_id for _, _, video_id in rows).items() if count > 1]
    if twice:
        more = f" (and {len(twice) - 1} more)" if len(twice) > 1 else ""
        raise InputError(f"dataset: {source}: {twice[0]} is listed twice{more}; list each video once")
    return ClassLabel(names=sorted(names, key=_natural))


def _natural(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key by which class 2 comes before class 10; the text itself tells 1 from 01."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], text
