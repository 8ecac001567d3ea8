"""The shards of a dataset that is read in place: tar or Parquet files, in a folder here or on the Hub."""

import glob
import os
import re
from pathlib import Path
from typing import Any, BinaryIO

import datasets
from datasets import load_dataset_builder
from huggingface_hub import HfApi, HfFileSystem

from vidtune.data.hub_dataset import HUB_TIMEOUT_SECONDS, check_config
from vidtune.data.rows import SPLITS
from vidtune.errors import InputError, RunError, first_line

ENDINGS = (".tar", ".parquet")

ON_HUB = "hf://"
"""What the names of files begin with that are read over HTTP."""

SCAN_BYTES = 16 * 2**10
"""What is read of a file on the Hub at once while it is scanned: a tar's header, its neighbours and a small label."""


def find_shards(
    dataset: str, on_hub: bool, config: str | None = None, revision: str | None = None
) -> dict[str, list[str]]:
    """List the shards of each split, told by their names as `load_dataset` tells them.

    Args:
        dataset: A folder, a glob, or an id on the Hub.
        on_hub: Whether it is such an id.
        config: Which of its configurations.
        revision: Branch, tag or commit on the Hub; what is listed is the commit that it names now.

    Returns:
        Paths, or `hf://` names that hold the commit, by the names of the splits; all of one ending of ENDINGS.

    Raises:
        InputError: If there are none, or of both kinds, or the Hub can't be reached.
    """
    if revision and not on_hub:
        raise InputError(f"dataset_revision: {revision} goes with a dataset of the Hub; leave it out")
    by_names = on_hub or Path(dataset).is_dir()
    if config and not by_names:
        raise InputError(f"dataset_config: {config} goes with a dataset of the Hub or a copy of one; leave it out")
    shards = _by_names(dataset, on_hub, config, revision) if by_names else _by_glob(dataset)
    kinds = {os.path.splitext(shard)[1].lower() for part in shards.values() for shard in part}
    if len(kinds) != 1 or not kinds.issubset(ENDINGS):
        problem = f"has {'both' if kinds.issuperset(ENDINGS) else 'no'} .tar and .parquet shards"
        raise InputError(
            f"dataset: {dataset}: {problem}; --streaming reads a folder, a glob (in quotes) or a dataset of the Hub "
            "with one of them, not compressed; leave it out for anything else"
        )
    return shards


def open_shard(shard: str) -> BinaryIO:
    """Open a shard to look for what is in it; on the Hub, little more is fetched than what is read."""
    if not shard.startswith(ON_HUB):
        return open(shard, "rb")
    file: BinaryIO = HfFileSystem().open(shard, "rb", block_size=SCAN_BYTES)
    return file


def read_range(shard: str, offset: int, size: int) -> bytes:
    """Read bytes of a shard, in one request of exactly these where it is on the Hub.

    No file stays open, so that none is shared with a process that is forked.

    Raises:
        RunError: If they can't be read.
    """
    try:
        on_hub = shard.startswith(ON_HUB)
        # With a size given, the Hub is not asked for it.
        exactly: dict[str, Any] = {"cache_type": "none", "size": offset + size} if on_hub else {}
        with (HfFileSystem().open if on_hub else open)(shard, "rb", **exactly) as file:
            file.seek(offset)
            content: bytes = file.read(size)
    except Exception as error:  # whatever the disk, the client and the connection raise
        raise unreadable(shard, error) from None
    if len(content) < size:
        raise RunError(f"dataset: {shard}: ends before byte {offset + size}; it was changed during the run")
    return content


def unreadable(shard: str, error: Exception) -> RunError:
    """The one line of a shard that could be read once, and can't be now."""
    return RunError(f"dataset: {shard}: can't be read any more ({first_line(error)}); mend that, and resume")


def state_of(shard: str) -> tuple[int, ...]:
    """Size and time of change of a file; none of one on the Hub, whose name holds the commit."""
    if shard.startswith(ON_HUB):
        return ()
    found = os.stat(shard)
    return found.st_size, found.st_mtime_ns


def short_names(shards: list[str]) -> dict[str, str]:
    """Name shards by what of their paths isn't common to all, without endings."""
    paths = {shard: os.path.splitext(shard.removeprefix(ON_HUB))[0] for shard in shards}
    common = os.path.commonpath([os.path.dirname(path) for path in paths.values()]) if paths else ""
    return {shard: os.path.relpath(path, common) for shard, path in paths.items()}


def _by_names(dataset: str, on_hub: bool, config: str | None, revision: str | None) -> dict[str, list[str]]:
    """Have `datasets` find the files of a folder or a repository, by its card or their names."""
    if on_hub and datasets.config.HF_HUB_OFFLINE:
        raise InputError(f"dataset: {dataset}: HF_HUB_OFFLINE is set, and --streaming reads from the Hub; unset it")
    if not on_hub and not _shards_below(Path(dataset)):
        return {}
    commit = None
    try:
        if on_hub:
            commit = HfApi().dataset_info(dataset, revision=revision, expand=["sha"], timeout=HUB_TIMEOUT_SECONDS).sha
        found = load_dataset_builder(dataset, config, revision=commit).config.data_files or {}
    except Exception as error:  # every library below raises its own
        check_config(dataset, config, commit, error)
        raise InputError(f"dataset: {dataset}: can't be listed ({first_line(error)}); mend that") from None
    shards = {str(split): [str(file) for file in files] for split, files in found.items()}
    card = Path(dataset, "README.md")
    if not on_hub and not (card.exists() and "data_files" in card.read_text(errors="replace")):
        listed = {os.path.realpath(file) for files in shards.values() for file in files}
        for path in _shards_below(Path(dataset)):
            if os.path.realpath(path) not in listed:
                raise InputError(f"dataset: {path}: names no split; name it train-..., validation-... or test-...")
    return shards


def _shards_below(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    return [path for path in found if not any(part[0] == "." for part in path.relative_to(folder).parts)]


def _by_glob(pattern: str) -> dict[str, list[str]]:
    """The files of a glob, each of the split that its name tells, or a folder that differs; else of train."""
    shards: dict[str, list[str]] = {}
    for shard, name in short_names(sorted(map(os.path.abspath, glob.glob(pattern, recursive=True)))).items():
        words = [word for part in reversed(name.lower().split("/")) for word in re.split(r"[^a-z]+", part)]
        shards.setdefault(next((SPLITS[word] for word in words if word in SPLITS), "train"), []).append(shard)
    return shards
