"""Lists of `path label` lines, as VideoMAE, mmaction2 and Moments in Time have them.

Source: VideoMAE, DATASET.md (`path label`, parted by a space); mmaction2, VideoDataset (the same); Moments in Time,
README (`path,label,agreeing workers,disagreeing workers`).
"""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from vidtune.data.annotations import lacks, numbered_lines
from vidtune.data.files import check_videos, file_id, inside, is_video_ending, warn_left_out
from vidtune.data.rows import SPLITS, Row
from vidtune.errors import InputError

logger = logging.getLogger(__name__)

LIST_ENDINGS = (".csv", ".txt")
SPLIT_OF_LIST = re.compile(rf"(?<![a-z])({'|'.join(SPLITS)})(?=set|list|[^a-z]|$)")
ROOT_SAMPLE = 50


def split_of(file: str) -> str | None:
    """The split that the name of a file tells: `train.csv`, `trainingSet.csv`, `kinetics400_val_list_videos.txt`."""
    found = SPLIT_OF_LIST.findall(os.path.basename(file).lower())
    return SPLITS[found[-1]] if found else None


def is_list(path: Path) -> bool:
    """Whether the first line of a file is `path label`, and the path that of a video."""
    if path.suffix.lower() not in LIST_ENDINGS or not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = next((line for line in file if line.strip()), "")
    name, label = parse_line(first)
    return bool(label) and bool(is_video_ending(_ending(name)))


def parse_line(line: str) -> tuple[str, str]:
    """Path and label of a line: its first cells, or, without commas, its last word and what stands before it.

    After a label that is text, Moments in Time has numbers of votes. The label is empty if a line is no such line.
    """
    line = line.strip()
    name, *cells = line.split(",")
    if cells and (is_video_ending(_ending(name)) or len(line.split()) == 1):
        label, *votes = (cell.strip() for cell in cells)
        is_known = not votes or (all(map(str.isdecimal, votes)) and not label.isdecimal())
        return name.strip(), label if is_known else ""
    words = line.rsplit(maxsplit=1)
    return (words[0], words[1]) if len(words) == 2 else (line, "")


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def find_lists(folder: Path, others: Sequence[str]) -> dict[str, Path]:
    """The lists of a folder by split, whose names tell their split; at its top or one folder below."""
    candidates = [name for name in others if name.count("/") <= 1 and split_of(name)]
    found: dict[str, Path] = {}
    for path in (folder / name for name in candidates):
        if is_list(path):
            split = split_of(path.name) or ""
            if split in found:
                names = f"{found[split].name} and {path.name}"
                raise InputError(f"dataset: {folder}: has two lists of {split}, {names}; keep one of them")
            found[split] = path
    return found


def read_lists(
    folder: Path, lists: dict[str, Path], videos: Sequence[str] = (), video_root: Path | None = None
) -> list[Row]:
    """Read lists of videos.

    Paths are relative to the list, to the folder, or to one of its subfolders, the same for a whole list, and none
    leads out of the folder; with `video_root`, all are relative to that and lie below it. A list of
    test that is that of validation over again, as VideoMAE's are, is left out.

    Args:
        folder: The dataset.
        lists: List by split.
        videos: Its videos, relative to it; those that no list names are counted in a warning.
        video_root: Folder that all videos lie below; None: `folder`.

    Raises:
        InputError: If there is no list, a line has no label, or a video does not exist.
    """
    if not lists:
        raise lacks(folder, "train.csv or train.txt with lines `path label`", "list")
    lines = {split: _read_lines(path) for split, path in lists.items()}
    if "test" in lines and lines["test"] == lines.get("validation"):
        logger.warning("%s: lists what the list of validation lists; read once, as that", lists["test"])
        del lines["test"]
    root, rows = video_root or folder, []
    for split, labelled in lines.items():
        folders = [video_root] if video_root else [lists[split].parent, folder, *_subfolders(folder)]
        base = _root([name for _, name, _ in labelled], folders)
        for number, name, label in labelled:
            video = inside(name, base, f"dataset: {lists[split]}: line {number}", root)
            rows.append({"video": video, "label": label, "split": split, "video_id": file_id(video, root)})
    check_videos(
        [row["video"] for row in rows],
        ", ".join(str(lists[split]) for split in lines),
        "mend the paths, which are relative to the list, or to a folder beside it",
    )
    listed = {file_id(row["video"], folder) for row in rows}
    warn_left_out(folder, [name for name in videos if name not in listed], "no list names")
    return rows


def _read_lines(path: Path) -> list[tuple[int, str, str]]:
    """Number, path and label of each line."""
    lines = [(number, *parse_line(line)) for number, line in numbered_lines(path)]
    for number, name, label in lines:
        if not label:
            raise InputError(f"dataset: {path}: line {number}: {name!r} has no label; write `path label`")
    return lines


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def _root(names: Sequence[str], folders: Sequence[Path]) -> Path:
    """The folder in which most of the first videos lie; the first of several."""
    return max(folders, key=lambda folder: sum((folder / name).is_file() for name in names[:ROOT_SAMPLE]))
