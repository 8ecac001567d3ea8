"""A prepared dataset: every video encoded once more, in Parquet files or tar shards that `load_dataset` reads.

It can be killed at any moment. Encoded videos wait in `STAGING` for their shard, finished shards for the others, and
the next call with the same sources and options goes on from there, to the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict
from tqdm import tqdm  # type: ignore[import-untyped]

from vidtune.data.clips import open_row
from vidtune.data.encoding import Encoding, encode_video
from vidtune.data.isolation import Lost, available_cores, run_isolated
from vidtune.data.shards import (
    ENDINGS,
    Facts,
    Job,
    Shard,
    dataset_card,
    plan_shards,
    write_file,
    write_json,
    write_shard,
    write_tar_shard,
    writing_to,
)
from vidtune.errors import InputError, VideoError

# To be raised when the same sources and options come to give other bytes.
FORMAT = 1

RECORD = "preparation.json"
"""The file by which a folder is known to hold a preparation; one without `splits` is not finished."""

STAGING = Path(".unfinished", "preparation")
"""Where, in the folder of a preparation, everything is written before it gets its name."""


def prepare_videos(
    videos: DatasetDict,
    output_dir: Path,
    *,
    codec: str = "jpeg",
    short_side: int = 256,
    fps: float | None = None,
    quality: int = 90,
    container: str = "parquet",
    videos_per_shard: int = 128,
    num_proc: int | None = None,
    decoder: str = "auto",
    on_error: str = "raise",
    overwrite: bool = False,
    license: str | None = None,
) -> dict[str, Any]:
    """Encode every video once more, into a dataset from which training reads at full speed.

    Rows keep their order and their columns; spans are cut out, so `start_seconds` and `end_seconds` become None.
    Rotation is applied, a variable rate made constant, sound left out. The sources are only read.

    Args:
        videos: Rows by split, as a source returns them.
        output_dir: Folder that gets `data/<split>-00000-of-00003.parquet` (or `.tar`), README.md and
            preparation.json, at the end and whole.
        codec: `jpeg` or `h264`; see `Encoding`, also for the next three.
        short_side: Pixels, >= 1.
        fps: Frames per second, > 0; None for the average rate of each video.
        quality: 1 to 100.
        container: `parquet`, or `webdataset` for tar shards.
        videos_per_shard: Videos of one file, >= 1.
        num_proc: Worker processes, >= 1; None for one a core.
        decoder: `auto`, `torchcodec` or `pyav`.
        on_error: `raise` stops at a video that can't be decoded, `skip` leaves it out and lists it.
        overwrite: Whether a preparation of other videos, or with other options, is replaced.
        license: The Hub's name of a licence, for README.md; None to state none.

    Returns:
        `splits`: of each its `videos`, `frames`, `failed` (path and reason), `shards` and `bytes`; `source_bytes` and
        `bytes`; `psnr` in dB: `mean` of the videos, `min` of the measured frames and the path of the `worst`, which
        it belongs to; `fingerprint` of sources and options; how many videos were `encoded` now, and in how many
        `seconds`.

    Raises:
        InputError: If `output_dir` holds something else or can't be written to, or a split is left without videos.
        VideoError: If a video can't be decoded and `on_error` is `raise`.
    """
    started = time.perf_counter()
    encoding = Encoding(codec, short_side, fps, quality)
    options = {**asdict(encoding), "decoder": decoder, "videos_per_shard": videos_per_shard}
    options |= {"container": container} if container != "parquet" else {}
    sources = {
        split: [source_of(row["video"]) for row in part.select_columns("video")] for split, part in videos.items()
    }
    fingerprint = fingerprint_of(videos, sources, options)
    record, encoded = open_folder(output_dir, fingerprint, overwrite), 0
    if record is None:
        ending = ENDINGS[container]
        shards = plan_shards(videos, sources, videos_per_shard, output_dir / STAGING, ending)
        encoded = _encode(videos, shards, output_dir, encoding, decoder, on_error, num_proc)
        totals = _totals(shards, sources, _data_folder(output_dir))
        record = {"format": FORMAT, "fingerprint": fingerprint, "options": options, **totals}
    _finish(output_dir, record, license)
    report = {name: value for name, value in record.items() if name not in ("format", "options")}
    return report | {"encoded": encoded, "seconds": time.perf_counter() - started}


def source_of(video: Mapping[str, Any]) -> dict[str, Any]:
    """Tell a source from a changed one: by path, size and time of change, or by its content if it has no file.

    Args:
        video: `path` and `bytes`, one of which may be None.
    """
    path, content = video["path"], video["bytes"]
    if content is not None:
        return {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    try:
        found = os.stat(path)
    except OSError:  # decoding will say why
        return {"path": path, "bytes": 0, "modified_ns": None}
    return {"path": path, "bytes": found.st_size, "modified_ns": found.st_mtime_ns}


def fingerprint_of(videos: DatasetDict, sources: Mapping[str, Sequence[Facts]], options: Mapping[str, Any]) -> str:
    """Hash everything that decides what a preparation holds: sources, columns, options, and the format of ours."""
    digest = hashlib.sha256(json.dumps([FORMAT, options]).encode())
    for split, part in videos.items():
        columns = part.remove_columns("video")
        digest.update(json.dumps([split, columns.features.to_dict()], sort_keys=True).encode())
        for row, source in zip(columns, sources[split], strict=True):
            digest.update(json.dumps([row, source], sort_keys=True).encode())
    return digest.hexdigest()


def open_folder(output_dir: Path, fingerprint: str, overwrite: bool) -> dict[str, Any] | None:
    """Make a folder ready for a preparation.

    Returns:
        The record of the preparation if the folder holds it finished, else None.

    Raises:
        InputError: If it holds something else, or can't be written to.
    """
    record_file, staging = output_dir / RECORD, output_dir / STAGING
    record = json.loads(record_file.read_bytes()) if record_file.exists() else None
    if record is None and any((output_dir / name).exists() for name in ("data", "README.md")):
        raise InputError(f"output_dir: {output_dir}: holds files of something else; give a new or an empty folder")
    is_same = record is not None and record["fingerprint"] == fingerprint
    if record and not is_same and not overwrite:
        raise InputError(
            f"output_dir: {output_dir}: was prepared from other videos or with other options; give another folder, "
            "or --overwrite"
        )
    if record and is_same and "splits" in record and (output_dir / "data").exists():
        return dict(record)
    with writing_to(output_dir):
        staging.mkdir(parents=True, exist_ok=True)
        if not is_same:
            if (output_dir / "data").exists():
                (output_dir / "data").rename(staging / "replaced")  # from now on it is not finished, whatever happens
            (output_dir / "README.md").unlink(missing_ok=True)
            shutil.rmtree(staging)
            staging.mkdir()
    write_json(record_file, {"format": FORMAT, "fingerprint": fingerprint}, staging)
    return None


def _encode(
    videos: DatasetDict,
    shards: Sequence[Shard],
    output_dir: Path,
    encoding: Encoding,
    decoder: str,
    on_error: str,
    num_proc: int | None,
) -> int:
    """Encode what is still to do, write the shards that lack, and return how many videos were encoded."""

    def is_staged(job: Job, facts: Facts | None) -> bool:
        return facts is not None and (job.staged.exists() if "reason" not in facts else on_error == "skip")

    folder, staging = _data_folder(output_dir), output_dir / STAGING
    facts = {job: job.facts() for shard in shards for job in shard.jobs}
    lacking = [
        shard
        for shard in shards
        if not (folder / shard.name).exists() or any(facts[job] is None for job in shard.jobs)
    ]
    waits_for = [(shard, {job for job in shard.jobs if not is_staged(job, facts[job])}) for shard in lacking]
    place_of = {job: place for place, (_, jobs) in enumerate(waits_for) for job in jobs}

    def finish(shard: Shard) -> None:
        write = write_tar_shard if shard.name.endswith(".tar") else write_shard
        write(shard, videos, folder, staging)
        for job in shard.jobs:
            job.staged.unlink(missing_ok=True)

    for shard, waiting in waits_for:
        if not waiting:
            finish(shard)
    tasks = ((job, (videos[job.split][job.row], job, encoding, decoder)) for job in place_of)
    processes = min(num_proc or available_cores(), max(1, len(place_of)))
    with (
        closing(run_isolated(_stage, tasks, processes, math.inf)) as results,
        tqdm(total=len(facts), initial=len(facts) - len(place_of), desc="prepare", unit="video") as progress,
    ):
        for job, result in results:
            reason = result.detail if isinstance(result, Lost) else result
            if reason and on_error == "raise":
                raise VideoError(
                    f"dataset: {job.path}: {reason}; mend or remove it, or leave such videos out with --on_error skip"
                )
            if reason:
                write_json(job.staged.with_suffix(".json"), {"reason": reason}, staging)
            progress.update()
            shard, waiting = waits_for[place_of[job]]
            waiting.remove(job)
            if not waiting:
                finish(shard)
    return len(place_of)


def _totals(shards: Sequence[Shard], sources: Mapping[str, Sequence[Facts]], folder: Path) -> dict[str, Any]:
    """Sum up what became of the videos, and check that no split lost all of its own."""
    splits: dict[str, Any] = {}
    measured = []
    for shard in shards:
        empty = {"videos": 0, "frames": 0, "failed": [], "shards": 0, "bytes": 0}
        part = splits.setdefault(shard.split, empty)
        part["shards"] += 1
        part["bytes"] += (folder / shard.name).stat().st_size
        for job in shard.jobs:
            facts = job.facts()
            assert facts is not None  # nosec B101 # for the type checker
            if "reason" in facts:
                part["failed"].append({"path": job.path, "reason": facts["reason"]})
            else:
                part["videos"] += 1
                part["frames"] += facts["frames"]
                measured.append((facts["psnr"]["min"], facts["psnr"]["mean"], job.path))
    for split, part in splits.items():
        if not part["videos"]:
            first = part["failed"][0]
            raise InputError(
                f"dataset: no video of {split} can be decoded, {first['path']} first: {first['reason']}; mend them"
            )
    files = {source["path"]: source["bytes"] for part in sources.values() for source in part if "sha256" not in source}
    contents = [source["bytes"] for part in sources.values() for source in part if "sha256" in source]
    least, _, worst = min(measured)
    return {
        "splits": splits,
        "source_bytes": sum(files.values()) + sum(contents),
        "bytes": sum(part["bytes"] for part in splits.values()),
        "psnr": {"mean": sum(mean for _, mean, _ in measured) / len(measured), "min": least, "worst": worst},
    }


def _finish(output_dir: Path, record: Mapping[str, Any], license: str | None) -> None:
    """Give everything its name, the record last, and remove what was only on the way there."""
    staging = output_dir / STAGING
    with writing_to(output_dir):
        staging.mkdir(parents=True, exist_ok=True)
        if not (output_dir / "data").exists():
            (staging / "data").rename(output_dir / "data")
    write_file(output_dir / "README.md", dataset_card(output_dir.resolve().name, record, license).encode(), staging)
    write_json(output_dir / RECORD, record, staging)
    with writing_to(output_dir):
        shutil.rmtree(staging)
        if not any(staging.parent.iterdir()):
            staging.parent.rmdir()


def _data_folder(output_dir: Path) -> Path:
    """Where the shards are: in their place once all are there, and among what is staged before."""
    final, staged = output_dir / "data", output_dir / STAGING / "data"
    return final if final.exists() else staged


def _stage(row: Mapping[str, Any], job: Job, encoding: Encoding, decoder: str) -> str | None:
    """Encode the video of a row into its staged file; returns why it can't be decoded, else None."""
    torch.set_num_threads(1)
    try:
        with open_row(row, decoder) as video:
            content, facts = encode_video(video, encoding)
    except VideoError as error:
        content = row["video"]["bytes"]
        return str(error).removeprefix(f"{job.path}: " if content is None else f"a video of {len(content)} bytes: ")
    # The facts first: where there is a video, they are known.
    write_json(job.staged.with_suffix(".json"), facts, job.staged.parent)
    write_file(job.staged, content, job.staged.parent)
    return None
