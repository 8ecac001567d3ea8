"""What a scan of shards found, kept in the cache of `datasets`: one Arrow file a split, mapped into memory."""

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, Features, List, Value, Video
from filelock import FileLock
from tqdm import tqdm  # type: ignore[import-untyped]

from vidtune.data.rows import Row
from vidtune.data.shard_files import state_of

# To be raised when the same shards come to give other rows.
FORMAT = 1

SCANS = 16
"""Shards that are scanned at once: what a scan waits for is the disk or the Hub."""


def shard_index(
    names: Mapping[str, str], scan: Callable[[str], list[Row]], split: str, places: tuple[str, ...], how: list[Any]
) -> Dataset:
    """Scan shards, or open what an earlier scan of them found; processes that start together scan once.

    Args:
        names: The shards, and what is said of them in ids.
        scan: Reads the rows of a shard, its labels as text.
        split: Name of the split, for the progress bar.
        places: Columns that say where in its shard a video lies.
        how: What else decides the rows.

    Returns:
        The rows of all shards, in their order.

    Raises:
        InputError: If a shard is broken.
    """
    facts = [FORMAT, how, [(shard, name, *state_of(shard)) for shard, name in names.items()]]
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
    path = Path(datasets.config.HF_DATASETS_CACHE, "shards", f"{digest}.arrow")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            temporary = path.with_suffix(".unfinished")
            try:
                _write_index(temporary, list(names), scan, split, places)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
    return Dataset.from_file(str(path))


def _write_index(
    path: Path, shards: list[str], scan: Callable[[str], list[Row]], split: str, places: tuple[str, ...]
) -> None:
    schema = Features(
        {
            "video": Video(decode=False),
            "label": Value("string"),
            "labels": List(Value("string")),
            **{name: Value("string") for name in ("video_id", "group", "shard")},
            **{name: Value("float64") for name in ("start_seconds", "end_seconds")},
            **{name: Value("int64") for name in ("fold", *places)},
        }
    ).arrow_schema
    with (
        ThreadPoolExecutor(SCANS) as pool,
        path.open("wb") as file,
        pa.ipc.new_stream(file, schema) as writer,
        tqdm(total=len(shards), desc=f"index {split}", unit="shard") as progress,
    ):
        for start in range(0, len(shards), SCANS):
            for rows in pool.map(scan, shards[start : start + SCANS]):
                writer.write_table(pa.Table.from_pylist(rows, schema))
                progress.update()
