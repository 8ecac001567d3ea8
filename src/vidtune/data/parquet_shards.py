"""Parquet shards with a column of videos as bytes, as `push_to_hub` and prepare_data write them."""

from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo, Features, Value
from datasets.table import InMemoryTable
from huggingface_hub import HfFileSystem

from vidtune.data.hub_dataset import hub_columns, hub_values
from vidtune.data.rows import Row
from vidtune.data.shard_files import ON_HUB, open_shard, unreadable
from vidtune.errors import InputError, first_line

KEPT_BYTES = 256 * 2**20
"""Row groups are kept up to this many bytes, or one, in each process that reads."""

_row_groups: dict[tuple[str, int], pa.ChunkedArray] = {}  # the one used last comes last


def parquet_rows(shard: str, labelled: bool, group_column: str | None) -> list[Row]:
    """Read the columns of a Parquet shard that are no videos.

    Args:
        shard: The file.
        labelled: Whether labels are read.
        group_column: The column that names the group; `group`, where there is one, by default.

    Returns:
        A row a video, in their order, with the number of its `row_group` and of its `row` in there; `video_id` and
        `group` are None where the file has none.

    Raises:
        InputError: If it can't be read, or has no rows, or no column of videos, of labels, or of that group.
    """
    try:
        with open_shard(shard) as opened, pq.ParquetFile(opened) as file:
            features = Features.from_arrow_schema(file.schema_arrow)
            video, label = hub_columns(features, shard, labelled)
            if group_column and group_column not in features:
                raise InputError(
                    f"split_by_group: {group_column!r} is no column of {shard} (it has {', '.join(features)}); "
                    "name one of them"
                )
            wanted = {label, "video_id", group_column or "group", "start_seconds", "end_seconds", "fold"}
            columns = [name for name in features if name in wanted]
            table = file.read(columns=[*columns, f"{video}.path"])
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    except InputError:
        raise
    except Exception as error:  # pyarrow and the connection raise whatever the bytes lead to
        raise InputError(f"dataset: {shard}: can't be read ({first_line(error)}); fetch or write it again") from None
    if not len(table):
        raise InputError(f"dataset: {shard}: holds no videos; remove it")
    row_groups, rows = np.repeat(np.arange(len(sizes)), sizes), np.concatenate([np.arange(size) for size in sizes])
    known = Features({name: features[name] for name in columns} | {"row": Value("int64")})
    part = Dataset(
        InMemoryTable.from_pydict({name: table[name] for name in columns} | {"row": rows}),
        info=DatasetInfo(features=known),
    )
    values = hub_values(part, label, "", [f"row {row}" for row in range(len(part))], shard)
    found: dict[str, list[Any]] = {
        "video": [{"path": video["path"], "bytes": None} for video in table[video].to_pylist()],
        "label": values["label"],
        **{name: values[name] for name in ("start_seconds", "end_seconds", "fold")},
        "video_id": _texts(part, "video_id"),
        "group": _texts(part, group_column or "group"),
        "shard": [shard] * len(part),
        "row_group": row_groups.tolist(),
        "row": rows.tolist(),
    }
    if label == "labels":
        found["labels"] = found.pop("label")
    return [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]


def read_video(shard: str, row_group: int, row: int) -> bytes:
    """Read a video, and keep its row group for those that follow.

    No file stays open, so that none is shared with a process that is forked.

    Raises:
        RunError: If it can't be read.
        InputError: If the file names a video in place of holding it.
    """
    key = shard, row_group
    try:
        column = _row_groups.pop(key) if key in _row_groups else _read_row_group(shard, row_group)
    except Exception as error:  # whatever the disk, the client and the connection raise
        raise unreadable(shard, error) from None
    _row_groups[key] = column
    while len(_row_groups) > 1 and sum(kept.nbytes for kept in _row_groups.values()) > KEPT_BYTES:
        del _row_groups[next(iter(_row_groups))]
    content: bytes | None = column[row]["bytes"].as_py()
    if content is None:
        raise InputError(
            f"dataset: {shard}: video {row} of row group {row_group} is a path; --streaming reads files that hold "
            "their videos; leave it out"
        )
    return content


def _texts(part: Dataset, column: str) -> list[str | None]:
    if column not in part.column_names:
        return [None] * len(part)
    return [None if value is None else str(value) for value in part[column][:]]


def _read_row_group(shard: str, row_group: int) -> pa.ChunkedArray:
    metadata = _metadata(shard)
    video, _ = hub_columns(Features.from_arrow_schema(metadata.schema.to_arrow_schema()), shard, labelled=False)
    on_hub = shard.startswith(ON_HUB)
    source = HfFileSystem().open(shard, "rb", cache_type="none") if on_hub else shard
    with pq.ParquetFile(source, metadata=metadata, memory_map=not on_hub) as file:
        return file.read_row_group(row_group, columns=[f"{video}.bytes"], use_threads=False)[video]


@lru_cache(maxsize=64)
def _metadata(shard: str) -> pq.FileMetaData:
    with open_shard(shard) as file:
        return pq.read_metadata(file)
