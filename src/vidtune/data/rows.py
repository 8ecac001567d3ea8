"""The rows that every source returns: their columns, and what makes them fit to train on."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, Video

from vidtune.errors import InputError

SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "validate": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}

UNLABELLED = "unlabelled"
"""The label of all videos where labels are not read."""

Row = dict[str, Any]


def to_dataset(rows: Sequence[Row], source: str, labelled: bool = True) -> DatasetDict:
    """Turn rows into a dataset and check that a classifier can be trained on it, if they are labelled.

    Args:
        rows: `video` (path, or mapping of path and bytes), `label`, or `labels` in all rows, `split`, `video_id`, and
            optionally `group`, `start_seconds`, `end_seconds` and, in all rows or none, `fold` and `text`.
        source: What errors call the dataset.
        labelled: Whether the labels are read; else all videos have the label UNLABELLED.

    Raises:
        InputError: If there is nothing to train on, only one class, a label that `train` lacks, or a video twice.
    """
    if not labelled:
        rows = [{name: row[name] for name in row if name != "labels"} | {"label": UNLABELLED} for row in rows]
    column = "labels" if rows and "labels" in rows[0] else "label"
    classes = class_label(
        [(row[column], row["split"], row["video_id"]) for row in rows], source, least=2 if labelled else 1
    )
    features = video_features(classes, column, folds="fold" in rows[0], texts="text" in rows[0])
    splits = {}
    for split in ("train", "validation", "test"):
        part = [row for row in rows if row["split"] == split]
        if part:
            columns = {name: [row.get(name) for row in part] for name in features}
            columns[column] = [classes.str2int(row[column]) for row in part]
            columns["group"] = [str(row["video_id"] if row.get("group") is None else row["group"]) for row in part]
            splits[split] = Dataset.from_dict(columns, features=features)
    return DatasetDict(splits)


def video_features(classes: ClassLabel, column: str = "label", folds: bool = False, texts: bool = False) -> Features:
    """Name the columns and types of a dataset of videos.

    Args:
        classes: The labels.
        column: `label`, one of each video, or `labels`, any number.
        folds: Whether a video states its fold.
        texts: Whether a video has a text.
    """
    return Features(
        {
            "video": Video(decode=False),
            column: List(classes) if column == "labels" else classes,
            "video_id": Value("string"),
            "group": Value("string"),
            "start_seconds": Value("float64"),
            "end_seconds": Value("float64"),
        }
        | ({"fold": Value("int64")} if folds else {})
        | ({"text": Value("string")} if texts else {})
    )


def class_label(rows: Sequence[tuple[str | list[str], str, str]], source: str, least: int = 2) -> ClassLabel:
    """Number the labels of train, once it is known that a classifier can be trained on the rows.

    Args:
        rows: Label or list of labels, split and id of each video.
        source: What errors call the dataset.
        least: How many labels there must be.
    """
    names = {label for labels, split, _ in rows if split == "train" for label in as_list(labels)}
    if not any(split == "train" for _, split, _ in rows):
        raise InputError(f"dataset: {source}: has no split `train`; name one of its splits so")
    if len(names) < least:
        found = f"one class only, {names.pop()!r}" if names else "no labels in train"
        raise InputError(f"dataset: {source}: has {found}; a classifier needs two or more")
    for labels, split, video_id in rows:
        for label in as_list(labels):
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


def as_list(labels: str | list[str]) -> list[str]:
    """The labels of a video that has one or several."""
    return [labels] if isinstance(labels, str) else labels


def span_id(file_id: str, start_seconds: float | None, end_seconds: float | None) -> str:
    """Name a video: its file, and the span of it, if it is only one."""
    if start_seconds is end_seconds is None:
        return file_id
    return f"{file_id}#{start_seconds or 0:.12g}-{'' if end_seconds is None else f'{end_seconds:.12g}'}"


def _natural(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key by which class 2 comes before class 10; the text itself tells 1 from 01."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], text
