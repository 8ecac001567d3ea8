"""Where videos come from: a demo, a folder, a table or the Hub, all as rows of one shape.

Every source gives a `datasets.DatasetDict` with columns `video` (path or bytes, not decoded), `label`,
`video_id`, `group`, `start_seconds` and `end_seconds`.
"""

import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from datasets import DatasetDict

from vidtune.data import demo
from vidtune.data.hub_dataset import read_hub
from vidtune.data.rows import SPLITS, Row, to_dataset
from vidtune.errors import InputError, first_line

logger = logging.getLogger(__name__)

VIDEO_ENDINGS = set(
    ".3gp .asf .avi .divx .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv".split()
)
TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
TABLE_COLUMNS = ("video", "label", "split", "group", "start_seconds", "end_seconds")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def load_videos(dataset: str) -> DatasetDict:
    """Load a dataset by whatever names it.

    Args:
        dataset: `demo` or `demo-success`, a folder, a table, or a Hub id (`user/name`).

    Returns:
        Rows by split, `train` always, `validation` and `test` where the dataset has them. `label` is a `ClassLabel`
        with the labels of `train`; `group` is the video itself where the dataset names none.

    Raises:
        InputError: If there is no such dataset, or it can't be trained on.
    """
    path = Path(dataset)
    if dataset in demo.CLASSES:
        rows = read_folder(demo.write_demo(dataset))
    elif path.is_dir():
        if not any(map(_is_video, _files(path))) and any(path.rglob("*.parquet")):
            return read_hub(str(path))
        rows = read_folder(path)
    elif path.suffix.lower() in TABLE_ENDINGS:
        rows = read_table(path)
    elif is_hub_id(dataset):
        return read_hub(dataset)
    else:
        known = f"a folder, a table ({', '.join(TABLE_ENDINGS)}), a Hub id (user/name), demo or demo-success"
        raise InputError(
            f"dataset: {dataset}: {'is none of these' if path.exists() else 'does not exist'}; give {known}"
        )
    return to_dataset(rows, source=dataset)


def is_hub_id(dataset: str) -> bool:
    """Whether a dataset's name can only mean one on the Hub."""
    path = Path(dataset)
    return bool(HUB_ID.fullmatch(dataset)) and not path.exists() and path.suffix.lower() not in TABLE_ENDINGS


def read_folder(folder: Path) -> list[Row]:
    """List the videos of `class/*.mp4` or `split/class/*.mp4`, at any depth below the class.

    Links are followed; what is hidden is passed over.

    Raises:
        InputError: If the folder holds no videos, or holds them outside of class folders.
    """
    files = sorted(_files(folder))
    videos = [path for path in files if _is_video(path)]
    if not videos:
        raise InputError(
            f"dataset: {folder}: holds no videos ({len(files)} other files); "
            "put them into class/*.mp4 or split/class/*.mp4"
        )
    if len(videos) < len(files):
        rest = [path for path in files if not _is_video(path)]
        logger.warning("dataset: %s: left out %d files that are no videos, %s first", folder, len(rest), rest[0])
    parents = {parent for path in videos for parent in path.parents}
    empty = [str(path) for path in sorted(_folders(folder)) if path not in parents]
    if empty:
        logger.warning("dataset: %s: holds no videos, and is no class", ", ".join(empty))
    first_level = {path.relative_to(folder).parts[0] for path in videos if path.parent != folder}
    others = sorted(name for name in first_level if name.lower() not in SPLITS)
    has_splits = bool(first_level) and not others
    if others and len({SPLITS[name.lower()] for name in first_level.difference(others)}) > 1:
        raise InputError(
            f"dataset: {folder / others[0]}: stands beside folders of splits and is none; "
            "move it away, or name it train, validation or test"
        )
    rows = []
    for path in videos:
        parts = path.relative_to(folder).parts
        if len(parts) < (3 if has_splits else 2):
            raise InputError(f"dataset: {path}: lies outside of a class folder; put it into one named for its label")
        if not path.is_file():
            raise InputError(f"dataset: {path}: is a link to a file that does not exist; fetch it, or remove the link")
        split = SPLITS[parts[0].lower()] if has_splits else "train"
        label = parts[1] if has_splits else parts[0]
        rows.append({"video": str(path), "label": label, "split": split, "video_id": "/".join(parts)})
    return rows


def _folders(folder: Path) -> list[Path]:
    """The folders that may stand for a class: those below the folder or below a split of it."""
    below = [path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]
    splits = [path for path in below if path.name.lower() in SPLITS]
    inside = [path for split in splits for path in split.iterdir() if path.is_dir() and path.name[0] != "."]
    return [path for path in below if path not in splits] + inside


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_ENDINGS


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder that aren't hidden, through links too, but never round a circle of them."""

    def stop(error: OSError) -> NoReturn:
        raise InputError(f"dataset: {error.filename}: can't be read ({error.strerror}); mend its permissions")

    for root, folders, names in os.walk(folder, followlinks=True, onerror=stop):
        above = {parent.resolve() for parent in [Path(root), *Path(root).parents]} | set(Path(root).resolve().parents)
        folders[:] = [name for name in folders if name[0] != "." and Path(root, name).resolve() not in above]
        yield from (Path(root, name) for name in names if name[0] != ".")


def read_table(path: Path) -> list[Row]:
    """Read a table: columns `video`, `label`, and optionally `split`, `group`, `start_seconds`, `end_seconds`.

    Relative paths of videos are relative to the table.

    Raises:
        InputError: If the table can't be read, lacks a column, or holds a value that doesn't fit.
    """
    if not path.is_file():
        raise InputError(f"dataset: {path}: {'is a folder' if path.is_dir() else 'does not exist'}; give a table")
    table = _read_table(path)
    table = table.rename(columns=lambda name: str(name).strip())
    missing = [name for name in ("video", "label") if name not in table]
    if missing:
        raise InputError(
            f"dataset: {path}: column {missing[0]!r} is missing (it has {', '.join(table)}); give `video` and `label`"
        )
    if not len(table):
        raise InputError(f"dataset: {path}: holds no rows; give one a video")
    table = table[[name for name in TABLE_COLUMNS if name in table]].astype(object)
    records = table.where(table.notna(), None).to_dict("records")
    rows = [
        _table_row(values, path.parent, where=f"dataset: {path}: row {number}")
        for number, values in enumerate(records, start=1)
    ]
    _check_paths([row["video"] for row in rows], path)
    return rows


def _table_row(values: Row, folder: Path, where: str) -> Row:
    for name, value in values.items():
        if hasattr(value, "__len__") and not isinstance(value, str):
            raise InputError(f"{where}: {name} is {value!r}; give one value")
    values = {name: value for name, value in values.items() if value is not None and str(value).strip()}
    for name in ("video", "label"):
        if name not in values:
            raise InputError(f"{where}: {name} is empty; fill it in, or delete the row")
    split = str(values.get("split", "train")).strip()
    if split.lower() not in SPLITS:
        raise InputError(f"{where}: split is {split!r}; give train, validation or test")
    start = _seconds(values.get("start_seconds"), f"{where}: start_seconds")
    end = _seconds(values.get("end_seconds"), f"{where}: end_seconds")
    if end is not None and end <= (start or 0):
        raise InputError(f"{where}: end_seconds is {end:g}; give a time after the start, {start or 0:g}")
    video = str(folder / Path(str(values["video"])).expanduser())
    file_id = _file_id(video, folder)
    return {
        "video": video,
        "label": str(values["label"]).strip(),
        "split": SPLITS[split.lower()],
        "video_id": file_id
        if start is end is None
        else f"{file_id}#{start or 0:g}-{'' if end is None else f'{end:g}'}",
        # Parts of one file must not cross a split.
        "group": str(values.get("group", file_id)).strip(),
        "start_seconds": start,
        "end_seconds": end,
    }


def _file_id(video: str, folder: Path) -> str:
    """One name for one file, however a table spells it."""
    path, folder = Path(os.path.abspath(video)), Path(os.path.abspath(folder))
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _read_table(path: Path) -> Any:
    import pandas

    ending = path.suffix.lower()
    try:
        if ending == ".parquet":
            return pandas.read_parquet(path)
        if ending == ".jsonl":
            return pandas.read_json(path, lines=True, dtype=False, convert_dates=False)
        table = pandas.read_csv(path, sep="\t" if ending == ".tsv" else ",", dtype=str, keep_default_na=False)
        if not isinstance(table.index, pandas.RangeIndex):  # what pandas makes of the cells too many
            raise ValueError("its rows have more cells than its header")
        return table
    except Exception as error:  # pandas and pyarrow raise whatever the bytes lead to
        raise InputError(f"dataset: {path}: can't be read as {ending} ({first_line(error)}); mend the file") from None


def _seconds(value: Any, field: str) -> float | None:
    try:
        seconds = None if value is None else float(value)
    except (TypeError, ValueError):
        raise InputError(f"{field} is {value!r}; give seconds") from None
    if seconds is not None and not 0 <= seconds < math.inf:
        raise InputError(f"{field} is {seconds:g}; give seconds from the beginning of the file")
    return seconds


def _check_paths(paths: Sequence[str], table: Path) -> None:
    missing = [path for path in dict.fromkeys(paths) if not Path(path).is_file()]
    if missing:
        problem = "is a folder" if Path(missing[0]).is_dir() else "does not exist"
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(
            f"dataset: {table}: video {missing[0]} {problem}{more}; mend the paths, which are relative to the table"
        )
