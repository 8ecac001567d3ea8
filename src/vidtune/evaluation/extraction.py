"""Features on disk: Parquet files of so many videos each, made one by one, kept when a run is killed."""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset, DatasetDict, Features, List, Value
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from vidtune.card import without_secrets
from vidtune.data.clips import EvaluationClips
from vidtune.errors import InputError
from vidtune.evaluation.classifier import Classifier
from vidtune.evaluation.inference import batched_logits
from vidtune.training.checkpoints import is_unfinished, write_text

MARK = "features.json"
"""The file that says what the features of a folder are of."""


class Shard(NamedTuple):
    """Some videos of a split, and the file of their features."""

    split: str
    rows: range
    file: str
    """Relative to the folder of the features."""


def list_shards(videos: Mapping[str, Dataset], videos_per_shard: int) -> list[Shard]:
    """Divide the videos of each split into shards, named as `datasets.load_dataset` knows them."""
    shards = []
    for split, rows in videos.items():
        count = math.ceil(len(rows) / videos_per_shard)
        for number in range(count):
            start = number * videos_per_shard
            part = range(start, min(start + videos_per_shard, len(rows)))
            shards.append(Shard(split, part, f"data/{split}-{number:05d}-of-{count:05d}.parquet"))
    return shards


def check_folder(folder: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Check that features may be written into a folder: it is new, empty, holds some of the same, or is replaced.

    Raises:
        InputError: If it holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output_dir: {folder}: is a file; give a new or an empty folder")
    if not folder.exists() or all(is_unfinished(path) for path in folder.iterdir()):
        return
    try:
        known = json.loads((folder / MARK).read_text(encoding="utf-8"))
        names = sorted(known.keys() | settings.keys())
    except (OSError, ValueError, AttributeError):
        raise InputError(
            f"output_dir: {folder}: holds files of something else; give a new or an empty folder"
        ) from None
    differ = [name for name in names if known.get(name) != settings.get(name)]
    if differ and not overwrite:
        raise InputError(
            f"output_dir: {folder}: holds features of other settings ({', '.join(differ)}); give another folder, or "
            "--overwrite"
        )


def start_folder(folder: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Say in a folder what its features are of; with `overwrite`, remove what it held."""
    if overwrite:
        for path in (*folder.glob("data/*.parquet"), *folder.glob("probes/*/probe.*")):
            path.unlink()
    (folder / "data").mkdir(parents=True, exist_ok=True)
    write_text(folder / MARK, json.dumps(settings, indent=2) + "\n")


def videos_digest(videos: DatasetDict) -> str:
    """Digest what the rows of a dataset say, but for where the files are."""
    digest = sha256()
    for split, rows in videos.items():
        columns = [name for name in rows.column_names if name != "video"]
        digest.update(json.dumps([split, [rows[name][:] for name in columns]]).encode())
    return digest.hexdigest()


def extract(
    extractor: Classifier,
    videos: DatasetDict,
    shards: Sequence[Shard],
    folder: Path,
    *,
    batch_size: int = 8,
    num_workers: int = 0,
    keep_clips: bool = False,
    on_video: Callable[[], object] = bool,
    **views: Any,
) -> None:
    """Compute the features of videos, and write them shard by shard.

    No batch crosses a shard, so that its features depend neither on what was done before nor on other processes.

    Args:
        extractor: A Classifier whose `logits` are features.
        videos: Rows by split.
        shards: Those to make, split by split.
        folder: Where their files go.
        batch_size: Clips that the model reads at once.
        num_workers: Processes that decode.
        keep_clips: Whether to keep the features of each clip in place of their average.
        on_video: Called when a video is done.
        **views: `temporal_views`, `spatial_crops` and `decoder` of EvaluationClips.

    Raises:
        InputError: If a worker dies.
    """
    for split, found in groupby(shards, key=lambda shard: shard.split):
        of_split = list(found)
        rows = [row for shard in of_split for row in shard.rows]
        loader = DataLoader(
            EvaluationClips(videos[split], extractor.clip, **views),
            batch_size=None,
            sampler=rows,
            num_workers=min(num_workers, len(rows)),
            collate_fn=_as_it_is,
            pin_memory=extractor.device.type == "cuda",
        )
        items = iter(loader)
        for shard in of_split:
            features = {}
            try:
                for row, clips in batched_logits(extractor, _views(islice(items, len(shard.rows))), batch_size):
                    if len(clips):
                        features[row] = (clips if keep_clips else clips.mean(0, keepdim=True)).numpy()
                    on_video()
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise InputError(
                    f"num_workers: a worker died while it decoded videos of {split}, of a broken file or for want of "
                    "memory; give --num_workers 0 to see which"
                ) from None
            write_shard(folder / shard.file, videos[split], features, keep_clips)


def _views(items: Iterator[dict[str, Any]]) -> Iterator[tuple[int, torch.Tensor]]:
    for item in items:
        yield item["row"], item["pixel_values"][: 0 if item["failed"] else None]


def _as_it_is(item: Any) -> Any:
    return item


def write_shard(
    path: Path, videos: Dataset, features: Mapping[int, NDArray[np.float32]], keep_clips: bool = False
) -> None:
    """Write the features of some videos: the file is whole, or not there.

    Args:
        path: The file.
        videos: Rows of the split.
        features: Of each row that could be read, `(clips, width)`.
        keep_clips: Whether there is a row a clip, which the column `clip` counts.
    """
    label = "labels" if "labels" in videos.features else "label"
    columns = {
        "video_id": Value("string"),
        label: videos.features[label],
        "group": Value("string"),
        "path": Value("string"),
    }
    kinds = Features(columns | ({"clip": Value("int64")} if keep_clips else {}) | {"features": List(Value("float32"))})
    table: dict[str, list[Any]] = {name: [] for name in kinds}
    for row, clips in sorted(features.items()):
        video = videos[row]
        video["path"] = without_secrets(video["video"]["path"] or "")
        for number, values in enumerate(clips):
            for name in columns:
                table[name].append(video[name])
            if keep_clips:
                table["clip"].append(number)
            table["features"].append(values)
    temporary = path.with_name(f".{path.name}.unfinished")
    pq.write_table(pa.table(table, schema=kinds.arrow_schema), temporary)
    os.replace(temporary, path)


def read_shards(folder: Path, shards: Sequence[Shard]) -> pa.Table:
    """Read the features of one split, in the order of its videos; those that failed are not in it.

    Raises:
        InputError: If a file can't be read.
    """
    tables = []
    for shard in shards:
        try:
            tables.append(pq.read_table(folder / shard.file))
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"output_dir: {folder / shard.file}: can't be read ({reason}); remove it, and run again"
            ) from None
    return pa.concat_tables(tables)
