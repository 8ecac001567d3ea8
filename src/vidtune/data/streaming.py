"""A dataset that is read in place: an index of its shards takes the place of its videos.

The index is a dataset of rows as any other, but for where the bytes of each video lie: `shard`, with `offset` and
`size` in a tar, with `row_group` and `row` in Parquet. Splits, evaluation and reports know nothing of it.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, DatasetDict, concatenate_datasets
from numpy.typing import NDArray

from vidtune.data.parquet_shards import parquet_rows, read_video
from vidtune.data.rows import SPLITS, UNLABELLED, Row, class_label, video_features
from vidtune.data.shard_files import find_shards, read_range, short_names
from vidtune.data.shard_index import shard_index
from vidtune.data.tar_shards import tar_rows
from vidtune.errors import InputError

BATCH = 100_000
"""Rows of an index that are looked at together."""

PLACES = {".tar": ("offset", "size"), ".parquet": ("row_group", "row")}
"""Columns that say where in its shard a video lies."""


def read_stream(
    dataset: str,
    on_hub: bool,
    config: str | None = None,
    revision: str | None = None,
    group_column: str | None = None,
    labelled: bool = True,
) -> DatasetDict:
    """Index the shards of a dataset: rows whose videos are read where they lie, as `shard_video` does.

    Of a tar the headers and labels are read, of Parquet all columns that are used but the videos. The index is kept in
    the cache of `datasets` until a shard changes, and stays on the disk.

    Args:
        dataset: A folder of tar or Parquet shards, a glob of them, or the id of a dataset of the Hub.
        on_hub: Whether it is such an id.
        config: Which configuration of a dataset of the Hub.
        revision: Branch, tag or commit of a dataset of the Hub.
        group_column: The column that names the group, of Parquet.
        labelled: Whether labels are read.

    Raises:
        InputError: If there are no such shards, or one is broken, or they can't be trained on.
    """
    shards = find_shards(dataset, on_hub, config, revision)
    for split in shards:
        if split.lower() not in SPLITS:
            raise InputError(f"dataset: {dataset}: has a split {split!r}; only train, validation and test are known")
    names = short_names([shard for part in shards.values() for shard in part])
    ending = os.path.splitext(next(iter(names)))[1].lower()
    if ending == ".tar" and group_column:
        raise InputError(
            f"split_by_group: {group_column!r} goes with Parquet shards; write `group` into the JSON of a tar's videos"
        )

    def scan(shard: str) -> list[Row]:
        if ending == ".tar":
            return tar_rows(shard, names[shard])
        return parquet_rows(shard, labelled, group_column)

    how = [ending] if ending == ".tar" else [ending, labelled, group_column]
    parts = {
        split: shard_index({shard: names[shard] for shard in part}, scan, split, PLACES[ending], how)
        for split, part in shards.items()
    }
    return _finished(parts, dataset, labelled)


def shard_video(row: Mapping[str, Any]) -> bytes:
    """Read the video of a row of an index.

    Raises:
        RunError: If its shard can't be read any more, or has changed.
    """
    if "offset" in row:
        return read_range(row["shard"], row["offset"], row["size"])
    return read_video(row["shard"], row["row_group"], row["row"])


def shard_numbers(videos: Dataset) -> NDArray[np.int64]:
    """Number the shards in the order in which the rows of an index come to them: that of each row, `(N,)`."""
    numbers: dict[str, int] = {}
    parts = []
    for batch in _batches(videos.select_columns("shard")):
        encoded = batch["shard"].combine_chunks().dictionary_encode()
        of_code = np.array([numbers.setdefault(name, len(numbers)) for name in encoded.dictionary.to_pylist()])
        parts.append(of_code[encoded.indices.to_numpy()])
    return np.concatenate(parts)


def fingerprint(videos: Dataset) -> str:
    """Hash which videos the rows of an index are, in their order, and where in their shards they lie."""
    digest = hashlib.sha256()
    columns = ["video_id", *(name for places in PLACES.values() for name in places if name in videos.column_names)]
    for batch in _batches(videos.select_columns(columns)):
        texts = pc.binary_join_element_wise(*(pc.cast(batch[name], pa.string()) for name in columns), "\0")
        digest.update("\n".join(texts.to_pylist()).encode())
    return digest.hexdigest()


def _batches(videos: Dataset) -> Iterator[pa.Table]:
    yield from videos.with_format("arrow").iter(batch_size=BATCH)


# From what shards say to what rows are


def _finished(parts: Mapping[str, Dataset], dataset: str, labelled: bool) -> DatasetDict:
    """Number the labels, and name the videos and groups that have no names, without a list of them all."""
    tables = {split: part.data for split, part in parts.items()}
    ids = _video_ids(tables)
    several = labelled and any(table["labels"].null_count < len(table) for table in tables.values())
    column, folds = "labels" if several else "label", _has_folds(tables, dataset)
    named: list[tuple[str | list[str], str, str]] = []
    for split, table in tables.items():
        if labelled:
            _check_labels(table, column)
            named += _examples(table[column], ids[split], SPLITS[split.lower()])
        else:
            named.append((UNLABELLED, SPLITS[split.lower()], split))
    classes = class_label(named, dataset, least=2 if labelled else 1)
    wanted = video_features(classes, column, folds=folds)
    finished: dict[str, list[Dataset]] = {}
    for split, table in tables.items():
        numbers = _numbers(table[column], classes) if labelled else np.zeros(len(table), dtype=np.int64)
        groups = pc.coalesce(table["group"], ids[split])
        part = parts[split].remove_columns(["label", "labels", "video_id", "group"])
        for name, values in ((column, numbers), ("video_id", ids[split]), ("group", groups)):
            part = part.add_column(name, values, feature=wanted[name])
        places = ["shard", *(name for both in PLACES.values() for name in both if name in part.column_names)]
        finished.setdefault(SPLITS[split.lower()], []).append(part.select_columns([*wanted, *places]))
    order = sorted(finished, key=list(SPLITS.values()).index)
    return DatasetDict({split: concatenate_datasets(finished[split]) for split in order})


def _video_ids(tables: Mapping[str, Any]) -> dict[str, pa.ChunkedArray]:
    """The ids that a dataset gives its videos, if these are unique, else split and number."""
    columns = {split: table["video_id"] for split, table in tables.items()}
    together = pa.chunked_array([chunk for column in columns.values() for chunk in column.chunks], pa.string())
    if not together.null_count and pc.count_distinct(together).as_py() == len(together):
        return columns
    counts = {split: pc.cast(pa.array(np.arange(len(table))), pa.string()) for split, table in tables.items()}
    return {
        split: pa.chunked_array([pc.binary_join_element_wise(split, numbers, "/")])
        for split, numbers in counts.items()
    }


def _has_folds(tables: Mapping[str, Any], dataset: str) -> bool:
    rows, without = sum(map(len, tables.values())), sum(table["fold"].null_count for table in tables.values())
    if 0 < without < rows:
        raise InputError(f"dataset: {dataset}: {without} of {rows} videos have no `fold`; give one to all, or to none")
    return not without


def _check_labels(table: Any, column: str) -> None:
    missing = pc.index(table[column].is_null(), True).as_py()
    if missing >= 0:
        shard, path = table["shard"][missing].as_py(), str(table["video"][missing]["path"])
        has = ", but `label`, where others have `labels`" if table["label"][missing].is_valid else ""
        raise InputError(
            f"dataset: {shard}: {path.removeprefix(f'{shard}/')} has no {column}{has}; write it into the .json or "
            ".cls beside it, or leave the video out"
        )


def _examples(labels: pa.ChunkedArray, ids: pa.ChunkedArray, split: str) -> list[tuple[str | list[str], str, str]]:
    """Label, or labels, split and id of the first video of each label."""
    labels = labels.combine_chunks()
    is_list = pa.types.is_list(labels.type)
    values = labels.flatten() if is_list else labels
    rows = pc.list_parent_indices(labels) if is_list else pa.array(np.arange(len(labels)))
    first = pa.table({"label": values, "row": rows}).group_by("label").aggregate([("row", "min")])
    labels_of: dict[int, list[str]] = {}
    for row in first.to_pylist():
        labels_of.setdefault(row["row_min"], []).append(row["label"])
    return [(found, split, ids[row].as_py()) for row, found in labels_of.items()]


def _numbers(labels: pa.ChunkedArray, classes: ClassLabel) -> pa.Array:
    """The numbers of labels, or of lists of them."""
    labels, names = labels.combine_chunks(), pa.array(classes.names)
    if not pa.types.is_list(labels.type):
        return pc.index_in(labels, names).cast(pa.int64())
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(labels).to_numpy())])
    numbers = pc.index_in(labels.flatten(), names).cast(pa.int64())
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), numbers)
