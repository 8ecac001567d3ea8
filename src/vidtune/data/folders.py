"""A folder of videos whose subfolders are the labels."""

import logging
from collections.abc import Sequence
from pathlib import Path

from vidtune.data.files import warn_left_out
from vidtune.data.rows import SPLITS, Row
from vidtune.errors import InputError
from vidtune.printing import printable

logger = logging.getLogger(__name__)


def read_folder(folder: Path, videos: Sequence[str], others: Sequence[str], labelled: bool = True) -> list[Row]:
    """Make rows of `class/*.mp4` or `split/class/*.mp4`, at any depth below the class.

    Args:
        folder: The dataset.
        videos: Its videos, relative to it; see `list_videos`.
        others: Its other files.
        labelled: Whether folders are labels; else `*.mp4` or `split/*.mp4` will do, at any depth.

    Raises:
        InputError: If the folder holds no videos, or holds them outside of class folders.
    """
    if not videos:
        raise InputError(
            f"dataset: {folder}: holds no videos ({len(others)} other files); "
            "put them into class/*.mp4 or split/class/*.mp4"
        )
    warn_left_out(folder, others, "are no videos")
    parts_of = {name: name.split("/") for name in videos}
    below = {"/".join(parts[:depth]) for parts in parts_of.values() for depth in (1, 2)}
    empty = [str(folder / name) for name in _class_folders(folder) if name not in below]
    if empty and labelled:
        logger.warning("dataset: %s: holds no videos, and is no class", printable(", ".join(empty)))
    first_level = {parts[0] for parts in parts_of.values() if len(parts) > 1}
    others_than_splits = sorted(name for name in first_level if name.lower() not in SPLITS)
    has_splits = bool(first_level) and not others_than_splits
    if others_than_splits and len({SPLITS[name.lower()] for name in first_level.difference(others_than_splits)}) > 1:
        raise InputError(
            f"dataset: {folder / others_than_splits[0]}: stands beside folders of splits and is none; "
            "move it away, or name it train, validation or test"
        )
    rows = []
    for name, parts in parts_of.items():
        path = folder / name
        if labelled and len(parts) < (3 if has_splits else 2):
            raise InputError(f"dataset: {path}: lies outside of a class folder; put it into one named for its label")
        if not path.exists():
            raise InputError(f"dataset: {path}: is a link to a file that does not exist; fetch it, or remove the link")
        if not path.is_file():
            raise InputError(f"dataset: {path}: is a pipe or a device, and no file; remove it")
        split = SPLITS[parts[0].lower()] if has_splits and len(parts) > 1 else "train"
        label = {"label": parts[1] if has_splits else parts[0]} if labelled else {}
        rows.append({"video": str(path), **label, "split": split, "video_id": name})
    return rows


def _class_folders(folder: Path) -> list[str]:
    """The folders that may stand for a class: those below the folder, or below a split of it."""
    below = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    splits = [path for path in below if path.name.lower() in SPLITS]
    inside = sorted(path for split in splits for path in split.iterdir() if path.is_dir() and path.name[0] != ".")
    return [path.relative_to(folder).as_posix() for path in [*(p for p in below if p not in splits), *inside]]
