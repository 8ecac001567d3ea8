"""The files in which authors tell labels and splits, and the videos that these name."""

import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vidtune.data.files import warn_left_out
from vidtune.data.rows import Row, span_id
from vidtune.errors import InputError
from vidtune.printing import printable

logger = logging.getLogger(__name__)


def with_files(rows: list[Row], folder: Path, videos: Sequence[str]) -> list[Row]:
    """Put the path of its file in place of the name that each row has for its video.

    Args:
        rows: `video` is the name without an ending, `class/name` or `name`, and `where` the line that lists it.
        folder: The dataset.
        videos: Its videos, relative to it.
    """
    index = index_by_name(videos, parts=1 + max((row["video"].count("/") for row in rows), default=0))
    missing = [row for row in rows if row["video"] not in index]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(
            f"dataset: {missing[0]['where']}: {missing[0]['video']} is not in {folder}{more}; "
            "fetch what is missing, or delete it from the list"
        )
    for row in rows:
        files = index[row["video"]]
        if len(files) > 1:
            raise InputError(f"dataset: {folder}: {files[0]} and {files[1]} are the same video; keep one of them")
        row["video"] = str(folder / files[0])
        row["video_id"] = span_id(files[0], row.get("start_seconds"), row.get("end_seconds"))
    listed = {row["video"] for row in rows}
    warn_left_out(folder, [name for name in videos if str(folder / name) not in listed], "no list names")
    return rows


def index_by_name(videos: Sequence[str], parts: int) -> dict[str, list[str]]:
    """Videos by the last parts of their path, without the ending."""
    index: dict[str, list[str]] = {}
    for name in videos:
        index.setdefault("/".join(os.path.splitext(name)[0].split("/")[-parts:]), []).append(name)
    return index


def warn_missing(folder: Path, names: Sequence[str], reason: str) -> None:
    """Count the videos that are left out, and name the first."""
    if names:
        logger.warning("%s: left out %d videos that %s, %s first", folder, len(names), reason, printable(names[0]))


def find_file(folder: Path, others: Sequence[str], name: str) -> Path | None:
    """A file of the authors', anywhere in the folder; its name may have something before it, as in `v2-train.json`."""
    found = [folder / other for other in others if re.search(rf"(^|[/-]){re.escape(name)}$", other)]
    if len(found) > 1:
        raise InputError(f"dataset: {folder}: has both {found[0]} and {found[1]}; keep one of them")
    return found[0] if found else None


def needed_file(folder: Path, others: Sequence[str], name: str, dataset_format: str) -> Path:
    """A file of the authors', as `find_file` finds it, without which a format can't be read."""
    found = find_file(folder, others, name)
    if found is None:
        raise lacks(folder, name, dataset_format)
    return found


def lacks(folder: Path, name: str, dataset_format: str) -> InputError:
    """Say what a folder lacks for a format."""
    return InputError(
        f"dataset: {folder}: has no {name}, which dataset_format: {dataset_format} needs; "
        "add it, or give another dataset_format"
    )


def read_text(path: Path) -> str:
    """Read a text file, as UTF-8.

    Raises:
        InputError: If it can't be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"dataset: {path}: can't be read ({error.strerror}); mend its permissions") from None
    except UnicodeDecodeError as error:
        raise InputError(f"dataset: {path}: is no UTF-8 ({error}); save it so") from None


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that isn't empty."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: If it can't be read.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"dataset: {path}: is no JSON ({error}); mend the file") from None
