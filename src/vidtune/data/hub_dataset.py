"""A dataset of the Hub, or a copy of one in a folder, as rows."""

from pathlib import Path
from typing import Any

import datasets
from datasets import ClassLabel, Dataset, DatasetDict, Features, Video, concatenate_datasets, load_dataset
from huggingface_hub import HfApi

from vidtune.data.rows import SPLITS, class_label, video_features
from vidtune.errors import InputError, first_line

HUB_TIMEOUT_SECONDS = 3.0


def read_hub(name: str) -> DatasetDict:
    """Load a dataset with a `Video` column from the Hub, or from a folder that holds a copy.

    Videos that are bytes stay in the files of the cache: they are never all in memory.

    Raises:
        InputError: If it can't be reached, or has no column of videos or of labels.
    """
    try:
        if not (datasets.config.HF_HUB_OFFLINE or Path(name).is_dir()):
            # load_dataset would try an unreachable Hub again and again for half a minute
            HfApi().dataset_info(name, expand=["sha"], timeout=HUB_TIMEOUT_SECONDS)
        splits = load_dataset(name)
    except Exception as error:  # every library below raises its own
        raise InputError(
            f"dataset: {name}: can't be loaded ({first_line(error)}); is it a local path, mend it; without a network, "
            "set HF_HUB_OFFLINE=1 if it was loaded here before, or fetch it elsewhere and give the folder: "
            f"hf download {name} --repo-type dataset --local-dir FOLDER"
        ) from None
    video, label = _hub_columns(next(iter(splits.values())).features, name)
    parts: dict[str, list[Dataset]] = {}
    columns: list[dict[str, list[Any]]] = []
    labelled: list[tuple[str, str, str]] = []
    for split, part in splits.items():
        if split.lower() not in SPLITS:
            raise InputError(f"dataset: {name}: has a split {split!r}; only train, validation and test are known")
        ids = [f"{split}/{number}" for number in range(len(part))]
        columns.append(_hub_values(part, label, ids, name))
        labelled += [(text, SPLITS[split.lower()], ids[row]) for row, text in enumerate(columns[-1]["label"])]
    classes = class_label(labelled, name)
    features = video_features(classes)
    for (split, part), values in zip(splits.items(), columns, strict=True):
        part = part.select_columns([video]).cast_column(video, Video(decode=False)).rename_columns({video: "video"})
        for column, feature in features.items():
            if column == "label":
                part = part.add_column(column, classes.str2int(values[column]), feature=feature)
            elif column != "video":
                part = part.add_column(column, values[column], feature=feature)
        parts.setdefault(SPLITS[split.lower()], []).append(part)
    order = sorted(parts, key=list(SPLITS.values()).index)
    return DatasetDict({split: concatenate_datasets(parts[split]) for split in order})


def _hub_columns(features: Features, name: str) -> tuple[str, str]:
    """Which columns hold the videos and the labels."""
    videos = [column for column, feature in features.items() if isinstance(feature, Video)]
    labels = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    found: list[str] = []
    for word, candidates in (("video", videos), ("label", ["label"] if "label" in features else labels)):
        if word in candidates:
            candidates = [word]
        if len(candidates) != 1:
            kind = "of type Video" if word == "video" else "of labels"
            problem = (
                f"has several columns {kind} and none is called {word}" if candidates else f"has no column {kind}"
            )
            raise InputError(
                f"dataset: {name}: {problem} (it has {', '.join(features)}); "
                "choose another, or list its videos in a table"
            )
        found += candidates
    return found[0], found[1]


def _hub_values(part: Dataset, label: str, ids: list[str], name: str) -> dict[str, list[Any]]:
    """What a row says of its video, by column of ours; videos are not read."""

    def read(column: str) -> list[Any]:
        if column not in part.column_names:
            return [None] * len(part)
        values: list[Any] = part[column][:]
        return values

    labels = read(label)
    feature = part.features[label]
    for video_id, value in zip(ids, labels, strict=True):
        if value is None or (isinstance(feature, ClassLabel) and value < 0):
            raise InputError(f"dataset: {name}: {video_id} has no label; choose another, or leave its split out")
        if isinstance(value, list | dict):
            raise InputError(f"dataset: {name}: label of {video_id} is {value!r}; one label a video is known")
    to_text = feature.int2str if isinstance(feature, ClassLabel) else str
    groups = zip(ids, read("group"), strict=True)
    return {
        "label": [to_text(value) for value in labels],
        "video_id": ids,
        "group": [video_id if group is None else str(group) for video_id, group in groups],
        "start_seconds": read("start_seconds"),
        "end_seconds": read("end_seconds"),
    }
