"""The files of a folder, and which of them are videos: every container that FFmpeg reads, by whatever ending."""

import logging
import mimetypes
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

from vidtune.data.containers import LISTS
from vidtune.errors import InputError
from vidtune.printing import printable

logger = logging.getLogger(__name__)

# Told by their ending, so that a million files are listed without opening one; any other file is opened.
VIDEO_ENDINGS = frozenset(
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .m2ts .m2v .m4v .mjpeg .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogm "
    ".ogv .qt .rm .rmvb .ts .vob .webm .wmv".split()
)
OTHER_ENDINGS = frozenset(
    ".avif .bz2 .db .gz .h5 .hdf5 .heic .heif .ini .jsonl .jxl .lock .log .m4a .md .npy .npz .ogg .parquet .pkl .pt "
    ".pth .rar .safetensors .toml .webp .xz .yaml .yml .zst".split()
)
OTHER_TYPES = ("application/", "audio/", "font/", "image/", "text/")
UNSURE_TYPES = ("application/octet-stream", "application/x-shockwave-flash")

# Demuxers of still pictures and of text that is drawn as one.
STILL_FORMATS = ("adf", "bin", "ico", "idf", "image2", "tty", "xbin")


def list_videos(folder: Path) -> tuple[list[str], list[str]]:
    """List the files of a folder, at any depth.

    Links are followed, but never round a circle of them; what is hidden is passed over.

    Returns:
        Videos, and all other files, in order: paths relative to the folder, their parts parted by `/`.

    Raises:
        InputError: If a folder can't be read.
    """
    videos: list[str] = []
    others: list[str] = []
    for name in sorted(_files(folder), key=lambda name: name.split("/")):
        (videos if is_video(f"{folder}/{name}") else others).append(name)
    return videos, others


def is_video(path: str | Path) -> bool:
    """Whether a file is a video, told by its ending, or else by opening it."""
    by_ending = is_video_ending(os.path.splitext(path)[1].lower())
    return (os.path.isfile(path) and _shows_frames(path)) if by_ending is None else by_ending


@lru_cache
def is_video_ending(ending: str) -> bool | None:
    """Whether an ending, in small letters and with its dot, is that of videos; None where it tells nothing."""
    # The table that Python brings, and not that of the machine: there `.ts` may be a language file.
    kind = mimetypes.MimeTypes().guess_type(f"x{ending}")[0] or ""
    if ending in VIDEO_ENDINGS or kind.startswith("video/"):
        return True
    if ending in OTHER_ENDINGS or (kind.startswith(OTHER_TYPES) and kind not in UNSURE_TYPES):
        return False
    return None


def warn_left_out(folder: Path, files: Sequence[str], reason: str) -> None:
    """Count the files that are left out, by ending, and name the first."""
    if files:
        endings = Counter(os.path.splitext(name)[1].lower() or "no ending" for name in files).most_common()
        counts = ", ".join(f"{ending} {count}" for ending, count in endings[:8]) + (", ..." if endings[8:] else "")
        values = (len(files), reason, printable(counts), printable(files[0]))
        logger.warning("%s: left out %d files that %s (%s), %s first", folder, *values)


def check_videos(paths: Sequence[str], source: str, remedy: str) -> None:
    """Check that videos exist.

    Raises:
        InputError: If one does not; it names the first and counts the others.
    """
    missing = [path for path in dict.fromkeys(paths) if not os.path.isfile(path)]
    if missing:
        problem = "is a folder" if os.path.isdir(missing[0]) else "does not exist"
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(f"dataset: {source}: video {missing[0]} {problem}{more}; {remedy}")


def inside(video: str, folder: Path, where: str, root: Path | None = None) -> str:
    """Join a video's path with the folder that it is relative to.

    What it says is what counts: a link inside the folder may lead where its owner has it lead.

    Args:
        video: As a table or list has it; `~` is the home folder.
        folder: What it is relative to.
        where: What errors call its place.
        root: What it must lie below; None: `folder`.

    Raises:
        InputError: If it doesn't, or is no path.
    """
    root = root or folder
    if "\0" in video:
        raise InputError(f"{where}: video {video!r} holds a null byte; mend the path")
    if re.match(r"[a-z][a-z0-9+.-]*://", video, re.IGNORECASE):
        raise InputError(f"{where}: video {video!r} is a URL; fetch the file, and give its path")
    path = os.path.normpath(folder / os.path.expanduser(video))
    if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root)):
        raise InputError(
            f"{where}: video {video!r} lies outside of {root}; if that is meant, give --video_root FOLDER, the one "
            "that all videos lie below and paths are relative to"
        )
    return path


def file_id(video: str, folder: Path) -> str:
    """One name for one file, however a table spells it: relative to the folder, where it lies inside."""
    path, folder = Path(os.path.abspath(video)), Path(os.path.abspath(folder))
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _shows_frames(path: str | Path) -> bool:
    """Whether FFmpeg finds a video stream in a file, no still picture and no cover, and decodes its first frame."""
    import av

    try:
        with open(path, "rb") as file:
            if file.read(12).startswith(LISTS):
                return False
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if stream is None or stream.codec_context is None:
                return False
            still = container.format.name in STILL_FORMATS or container.format.name.endswith("_pipe")
            if still or stream.disposition & av.stream.Disposition.attached_pic:
                return False
            return next(container.decode(stream), None) is not None
    except (av.error.FFmpegError, OSError):
        return False


def _files(folder: Path) -> Iterator[str]:
    """The files below a folder that aren't hidden, through links too, but never round a circle of them."""

    def stop(error: OSError) -> NoReturn:
        raise InputError(f"{error.filename}: can't be read ({error.strerror}); mend its permissions")

    for root, folders, names in os.walk(folder, followlinks=True, onerror=stop):
        above = {parent.resolve() for parent in [Path(root), *Path(root).parents]} | set(Path(root).resolve().parents)
        folders[:] = [name for name in folders if name[0] != "." and Path(root, name).resolve() not in above]
        start = "" if Path(root) == folder else f"{Path(root).relative_to(folder).as_posix()}/"
        yield from (f"{start}{name}" for name in names if name[0] != ".")
