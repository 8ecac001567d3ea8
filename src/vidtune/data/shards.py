"""The files of a prepared dataset: Parquet or tar shards and README.md, each written whole or not at all."""

from __future__ import annotations

import io
import json
import math
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from datasets import DatasetDict

from vidtune.card import markdown
from vidtune.errors import InputError, first_line

# A reader takes one row group at a time: a few videos, or one.
ROW_GROUP_BYTES = 16 * 2**20

CODECS = {"jpeg": "MP4 of JPEG frames, each of which can be read alone", "h264": "MP4 of H.264, keyframes close"}

ENDINGS = {"parquet": ".parquet", "webdataset": ".tar"}
"""What the shards of a container are called."""

FACTS = """\
`label` (or `labels`, any number of them), `video_id`, `group` (what must not cross splits: the recording, person,
place), and `fold` where the videos are divided into folds"""

PARQUET_CONTENT = f"""\
## Columns

`video` (bytes of an MP4 file), {FACTS}; `start_seconds` and `end_seconds` are empty: each video is whole.

```python
from datasets import Video, load_dataset

dataset = load_dataset("path/to/this/dataset")
dataset = dataset.cast_column("video", Video())  # to have it decoded, by torchcodec
```
"""

TAR_CONTENT = f"""\
## Members of a tar

`00000000.mp4` and `00000000.json`, by turns, as the webdataset package reads them. The JSON holds {FACTS}.

```python
from datasets import load_dataset

dataset = load_dataset("path/to/this/dataset", streaming=True)  # columns mp4 and json
```
"""

Facts = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One video to encode.

    Attributes:
        split: Split that it belongs to.
        row: Its number there.
        path: What errors call it.
        staged: The file it is encoded to. What is known of it is in a file beside, `.json`.
    """

    split: str
    row: int
    path: str
    staged: Path

    def facts(self) -> Facts | None:
        """What `encode_video` said of it, or the `reason` why it can't be decoded; None where it is still to do."""
        path = self.staged.with_suffix(".json")
        facts: Facts | None = json.loads(path.read_bytes()) if path.exists() else None
        return facts


@dataclass(frozen=True)
class Shard:
    """One Parquet or tar file: its name, its split, and its videos in the order of their rows."""

    name: str
    split: str
    jobs: Sequence[Job]


def plan_shards(
    videos: DatasetDict,
    sources: Mapping[str, Sequence[Facts]],
    videos_per_shard: int,
    staging: Path,
    ending: str = ".parquet",
) -> list[Shard]:
    """Divide the videos of each split, in their order, into shards."""
    shards = []
    for split, part in videos.items():
        named = zip(sources[split], part["video_id"], strict=True)
        names = [video_id if "sha256" in source else source["path"] for source, video_id in named]
        jobs = [Job(split, row, name, staging / f"{split}-{row:08}.mp4") for row, name in enumerate(names)]
        number = math.ceil(len(jobs) / videos_per_shard)
        for index in range(number):
            chosen = jobs[index * videos_per_shard : (index + 1) * videos_per_shard]
            shards.append(Shard(f"{split}-{index:05}-of-{number:05}{ending}", split, chosen))
    return shards


def write_shard(shard: Shard, videos: DatasetDict, folder: Path, staging: Path) -> None:
    """Write one Parquet file from the staged videos; memory holds one row group of it.

    `Dataset.to_parquet` writes the same, but from memory.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = videos[shard.split].remove_columns("video")
    schema = videos[shard.split].features.arrow_schema
    with (
        whole_file(folder / shard.name, staging) as file,
        pq.ParquetWriter(file, schema, compression="none", use_dictionary=False, write_page_index=True) as writer,
    ):
        rows: list[dict[str, Any]] = []
        size = 0
        for job in shard.jobs:
            if "reason" in (job.facts() or {}):
                continue
            content = job.staged.read_bytes()
            if rows and size + len(content) > ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows, size = [], 0
            row = columns[job.row] | {"start_seconds": None, "end_seconds": None}
            name = row["video_id"] if row["video_id"].endswith(".mp4") else f"{row['video_id']}.mp4"
            rows.append(row | {"video": {"bytes": content, "path": name}})
            size += len(content)
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))


def write_tar_shard(shard: Shard, videos: DatasetDict, folder: Path, staging: Path) -> None:
    """Write one tar as the webdataset package does, from the staged videos: `key.mp4` and `key.json` by turns."""
    columns = videos[shard.split].remove_columns(["video", "start_seconds", "end_seconds"])
    several = "labels" in columns.column_names
    classes = columns.features["labels"].feature if several else columns.features["label"]
    with (
        whole_file(folder / shard.name, staging) as file,
        tarfile.open(fileobj=file, mode="w") as archive,
    ):
        for job in shard.jobs:
            if "reason" in (job.facts() or {}):
                continue
            row = columns[job.row]
            label = {"labels": classes.int2str(row["labels"])} if several else {"label": classes.int2str(row["label"])}
            said = json.dumps(row | label, ensure_ascii=False).encode()
            for ending, content in (("mp4", job.staged.read_bytes()), ("json", said)):
                member = tarfile.TarInfo(f"{job.row:08}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def dataset_card(name: str, record: Mapping[str, Any], license: str | None = None) -> str:
    """Write the README.md of a prepared dataset, by which `load_dataset` and the Hub find its splits.

    Args:
        name: Its title.
        record: What preparation.json holds.
        license: The Hub's name of a licence, or None to state none.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    options, splits, psnr = record["options"], record["splits"], record["psnr"]
    ending = ENDINGS[options.get("container", "parquet")]
    metadata = DatasetCardData(
        license=license,
        task_categories=["video-classification"],
        tags=["vidtune"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*{ending}"} for split in splits],
            }
        ],
    )
    rate = "the average rate of each" if options["fps"] is None else f"{options['fps']:g}"
    table = [f"| {split} | {part['videos']} | {part['frames']} | {part['bytes']} |" for split, part in splits.items()]
    body = f"""\
# {markdown(name)}

Videos for classification, encoded once more with vidtune so that training never waits for decoding.

| split | videos | frames | bytes |
|---|---|---|---|
{chr(10).join(table)}

## How it was made

- {CODECS[options["codec"]]}, quality {options["quality"]}.
- Shorter side: {options["short_side"]} pixels; smaller videos keep their size.
- Frames per second, constant: {rate}.
- Rotation is applied, spans are cut out, sound is left out.
- Loss against the source at the stored size: PSNR {psnr["mean"]:.1f} dB as mean of the videos, {psnr["min"]:.1f} dB
  for the worst of the frames measured.

{TAR_CONTENT if ending == ".tar" else PARQUET_CONTENT}"""
    return str(DatasetCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}"))


# Files


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn a full disk and its like into one line."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"output_dir: {folder}: can't be written to ({error.strerror or first_line(error)}); mend that and run "
            "the same command again: what is finished is kept"
        ) from None


@contextmanager
def whole_file(path: Path, staging: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name when it is whole and on the disk."""
    temporary = staging / f"{path.name}.{os.getpid()}"
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_file(path: Path, content: bytes, staging: Path) -> None:
    """Write a file that is whole or not there."""
    with whole_file(path, staging) as file:
        file.write(content)


def write_json(path: Path, value: Any, staging: Path) -> None:
    """Write a JSON file that is whole or not there."""
    write_file(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(), staging)
