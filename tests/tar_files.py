"""Tar shards as the webdataset package writes them, of files that are at hand."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Member = tuple[str, bytes]


def write_tar(path: Path, members: Iterable[Member]) -> Path:
    """Write a tar of members by name, in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def sample(key: str, video: bytes, **facts: Any) -> list[Member]:
    """The members of a video: `key.mp4` and `key.json`."""
    return [(f"{key}.mp4", video), (f"{key}.json", json.dumps(facts).encode())]


def tar_of_folder(folder: Path, path: Path, rows: slice = slice(None)) -> Path:
    """Write some of the videos of `folder/class/*.mp4`, which are sorted by name, to a tar."""
    videos = sorted(folder.rglob("*.mp4"))[rows]
    return write_tar(
        path,
        [
            member
            for video in videos
            for member in sample(
                video.relative_to(folder).with_suffix("").as_posix(), video.read_bytes(), label=video.parent.name
            )
        ],
    )
