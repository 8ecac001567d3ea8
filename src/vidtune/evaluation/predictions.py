"""What a model said of each video, as a Parquet file: written, read back, and joined over the folds of a dataset."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from numpy.typing import NDArray

from vidtune.card import without_secrets
from vidtune.data.clips import FAILED
from vidtune.data.splits import label_names, multi_hot
from vidtune.errors import InputError
from vidtune.evaluation.scoring import Scores

FILE = "predictions.parquet"
COLUMNS = ("video_id", "path", "group", "label", "prediction", "probabilities", "failed")


def predictions_table(videos: Dataset, scores: Scores, names: Sequence[str]) -> pa.Table:
    """Gather what a model said of each video.

    Args:
        videos: Rows with columns `video_id`, `video`, `group` and `label` or `labels`.
        scores: What the model said of them.
        names: The model's labels, in order; those of the videos are among them.

    Returns:
        A row a video, in their order, with the columns COLUMNS. `label` and `prediction` are names, or lists of names
        where a video may have several; a video that failed has no prediction and no probabilities. The home folder in
        a `path` is `~`.
    """
    several, own = "labels" in videos.column_names, label_names(videos)
    if several:
        truth: list[Any] = [[own[index] for index in np.flatnonzero(row).tolist()] for row in multi_hot(videos)]
        predicted: list[Any] = [
            [names[index] for index in np.flatnonzero(row > 0.5).tolist()] for row in scores.probabilities
        ]
    else:
        truth = [own[index] for index in videos["label"]]
        predicted = [names[index] for index in scores.probabilities.argmax(1).tolist()]
    name = pa.list_(pa.string()) if several else pa.string()
    columns = (
        pa.array(videos["video_id"], pa.string()),
        pa.array([without_secrets(video["path"] or "") for video in videos["video"]], pa.string()),
        pa.array(videos["group"], pa.string()),
        pa.array(truth, name),
        pa.array(_unless(scores.failed, predicted), name),
        pa.array(_unless(scores.failed, scores.probabilities.tolist()), pa.list_(pa.float64())),
        pa.array(scores.failed.tolist(), pa.bool_()),
    )
    return pa.table(dict(zip(COLUMNS, columns, strict=True))).replace_schema_metadata({"labels": json.dumps([*names])})


def _unless(failed: NDArray[np.bool_], values: Sequence[Any]) -> list[Any]:
    return [None if bad else value for bad, value in zip(failed, values, strict=True)]


def write_predictions(path: Path, table: pa.Table) -> None:
    """Write a table of predictions: the file is whole, or not there."""
    temporary = path.with_name(f".{path.name}.unfinished")
    pq.write_table(table, temporary)
    os.replace(temporary, path)


def read_predictions(path: str | Path) -> pa.Table:
    """Read the predictions of a run.

    Args:
        path: The Parquet file, or the folder of the run that holds it.

    Raises:
        InputError: If there is no such file, or it holds something else.
    """
    file = Path(path)
    file = file / FILE if file.is_dir() else file
    try:
        table = pq.read_table(file)
        labels = json.loads((table.schema.metadata or {})[b"labels"])
    except FileNotFoundError:
        raise InputError(f"predictions: {file}: there is no such file; evaluate.py writes one") from None
    except (OSError, pa.ArrowException, KeyError, ValueError):
        labels = None
    if not isinstance(labels, list) or tuple(table.column_names) != COLUMNS:
        raise InputError(f"predictions: {file}: holds no predictions; give a {FILE} that finetune or evaluate wrote")
    return table


def label_order(table: pa.Table) -> list[str]:
    """Name the labels, in the order of the probabilities."""
    names: list[str] = json.loads(table.schema.metadata[b"labels"])
    return names


def to_arrays(table: pa.Table) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Give probabilities (0 where a video failed) and labels as Scores has them."""
    names = label_order(table)
    index = {name: number for number, name in enumerate(names)}
    nothing = [0.0] * len(names)
    probabilities = np.array([row or nothing for row in table["probabilities"].to_pylist()]).reshape(-1, len(names))
    truth = table["label"].to_pylist()
    if pa.types.is_list(table.schema.field("label").type):
        labels = np.array([[name in row for name in names] for row in truth], np.int64).reshape(-1, len(names))
    else:
        labels = np.array([index[name] for name in truth], np.int64)
    labels[table["failed"].to_numpy()] = FAILED
    return probabilities, labels


def pool_predictions(paths: Sequence[str | Path]) -> pa.Table:
    """Join the predictions of several runs, as those of the folds of a dataset, each video from one of them.

    Raises:
        InputError: If a file can't be read, a video is in two of them, or their labels differ.
    """
    tables = [read_predictions(path) for path in paths]
    first, names = tables[0], label_order(tables[0])
    for path, table in zip(paths[1:], tables[1:], strict=True):
        if label_order(table) != names or table.schema.field("label").type != first.schema.field("label").type:
            other = sorted(set(label_order(table)) ^ set(names))
            reason = f"{', '.join(other[:5])} are not labels of both" if other else "the labels have another order"
            raise InputError(f"predictions: {path}: does not fit {paths[0]}: {reason}; pool runs of one dataset")
    pooled = pa.concat_tables(tables)
    ids = pooled["video_id"].value_counts().to_pylist()
    repeated = sorted(item["values"] for item in ids if item["counts"] > 1)
    if repeated:
        more = f" and {len(repeated) - 3} more" if len(repeated) > 3 else ""
        raise InputError(
            f"predictions: {', '.join(repeated[:3])}{more}: scored more than once; give the runs of different folds"
        )
    return pooled
