"""A table of videos: csv, tsv, jsonl or parquet, one row a video."""

import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidtune.data.cells import from_cell
from vidtune.data.files import check_videos, file_id, inside
from vidtune.data.rows import SPLITS, UNLABELLED, Row, span_id
from vidtune.errors import InputError, first_line

TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
TABLE_COLUMNS = ("video", "label", "labels", "split", "group", "fold", "start_seconds", "end_seconds")
LABEL_SEPARATOR = "|"  # of `labels` in csv and tsv


def read_table(
    path: Path,
    group_column: str | None = None,
    labelled: bool = True,
    text_column: str | None = None,
    video_root: Path | None = None,
) -> list[Row]:
    """Read a table: columns `video`, `label` or `labels`, and optionally the others of `TABLE_COLUMNS`.

    Relative paths of videos are relative to the table, and none leads out of its folder, but for `video_root`.

    Args:
        path: The table; its ending tells its kind.
        group_column: The column that names the group; `group`, where there is one, by default.
        labelled: Whether labels are read; else a column `video` will do.
        text_column: The column that holds a text of each video; None: none is read.
        video_root: Folder that all videos lie below and that paths are relative to; None: the table's.

    Raises:
        InputError: If the table can't be read, lacks a column, or holds a value that doesn't fit.
    """
    if not path.is_file():
        raise InputError(f"dataset: {path}: {'is a folder' if path.is_dir() else 'does not exist'}; give a table")
    table = _read_table(path)
    table = table.rename(columns=lambda name: str(name).strip())
    if not labelled:
        table = table.drop(columns=["label", "labels"], errors="ignore").assign(label=UNLABELLED)
    _check_columns(list(table), path, {"split_by_group": group_column, "text_column": text_column})
    if not len(table):
        raise InputError(f"dataset: {path}: holds no rows; give one a video")
    if group_column:
        table["group"] = table[group_column]
    columns = [name for name in TABLE_COLUMNS if name in table]
    if text_column:
        table["text"] = table[text_column]
        columns.append("text")
    table = table[columns].astype(object)
    records = table.where(table.notna(), None).to_dict("records")
    root = video_root or path.parent
    rows = [
        _table_row(values, root, f"dataset: {path}: row {number}", text_column)
        for number, values in enumerate(records, start=1)
    ]
    check_videos([row["video"] for row in rows], str(path), f"mend the paths, which are relative to {root}")
    return rows


def _check_columns(columns: list[str], path: Path, named: Mapping[str, str | None]) -> None:
    has = f"it has {', '.join(columns)}"
    if "video" not in columns or not {"label", "labels"} & set(columns):
        missing = "label" if "video" in columns else "video"
        remedy = "give `video` and `label`"
        otherwise = [name for name in columns if name.lower() in (missing, f"{missing}s")]
        if len(columns) == 1 and ";" in columns[0]:
            remedy = "its cells are parted by semicolons: save it with commas"
        elif otherwise:
            remedy = f"call {otherwise[0]!r} {otherwise[0].lower()!r}"
        raise InputError(f"dataset: {path}: column {missing!r} is missing ({has}); {remedy}")
    if {"label", "labels"} <= set(columns):
        raise InputError(f"dataset: {path}: has both columns `label` and `labels`; give one of them")
    for field, name in named.items():
        if name and name not in columns:
            raise InputError(f"{field}: {name!r} is no column of {path} ({has}); name one of them")


def _table_row(values: Row, folder: Path, where: str, text_column: str | None = None) -> Row:
    for name, value in values.items():
        if isinstance(value, dict) and name == "video":
            raise InputError(f"{where}: video is the content of a file; give the folder of the dataset, not one table")
        if hasattr(value, "__len__") and not isinstance(value, str) and name != "labels":
            raise InputError(f"{where}: {name} is {reprlib.repr(value)}; give one value")
    multi_label, has_folds = "labels" in values, "fold" in values
    labels = label_list(values.pop("labels"), where) if multi_label else []
    values = {name: value for name, value in values.items() if value is not None and str(value).strip()}
    for name, needed in {"video": True, "label": not multi_label, "fold": has_folds, "text": text_column}.items():
        if needed and name not in values:
            called = text_column if name == "text" else name
            raise InputError(f"{where}: {called} is empty; fill it in, or delete the row")
    split = str(values.get("split", "train")).strip()
    if split.lower() not in SPLITS:
        raise InputError(f"{where}: split is {split!r}; give train, validation or test")
    start = span_seconds(values.get("start_seconds"), f"{where}: start_seconds")
    end = span_seconds(values.get("end_seconds"), f"{where}: end_seconds")
    if end is not None and end <= (start or 0):
        raise InputError(f"{where}: end_seconds is {end:g}; give a time after the start, {start or 0:g}")
    video = inside(str(values["video"]), folder, where)
    file = file_id(video, folder)
    row: Row = {
        "video": video,
        "split": SPLITS[split.lower()],
        "video_id": span_id(file, start, end),
        # Parts of one file must not cross a split.
        "group": str(values.get("group", file)).strip(),
        "start_seconds": start,
        "end_seconds": end,
    }
    row |= {"labels": labels} if multi_label else {"label": str(values["label"]).strip()}
    row |= {"fold": fold_number(values["fold"], where)} if has_folds else {}
    return row | ({"text": str(values["text"]).strip()} if text_column else {})


def label_list(value: Any, where: str) -> list[str]:
    """The labels of a row: a list, or text with a separator; an empty list is a video that shows none of them."""
    if value is None or isinstance(value, dict) or (isinstance(value, str) and not value.strip()):
        raise InputError(f"{where}: labels is {value!r}; fill it in, or delete the row")
    listed = hasattr(value, "__len__") and not isinstance(value, str)
    values = list(value) if listed else str(value).split(LABEL_SEPARATOR)
    labels = ["" if label is None else str(label).strip() for label in values]
    if "" in labels or len(set(labels)) < len(labels):
        raise InputError(f"{where}: labels is {reprlib.repr(value)}; name each label once")
    return labels


def fold_number(value: Any, where: str) -> int:
    """A fold: 0, 1, ..."""
    try:
        fold = float(value)
    except (TypeError, ValueError):
        fold = -1.0
    if not (fold.is_integer() and fold >= 0):
        raise InputError(f"{where}: fold is {value!r}; give a whole number, 0 or more")
    return int(fold)


def span_seconds(value: Any, field: str) -> float | None:
    """A start or an end, in seconds, >= 0; None where there is none."""
    try:
        seconds = None if value is None else float(value)
    except (TypeError, ValueError):
        raise InputError(f"{field} is {value!r}; give seconds") from None
    if seconds is not None and not 0 <= seconds < math.inf:
        raise InputError(f"{field} is {seconds:g}; give seconds from the beginning of the file")
    return seconds


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
        return table.map(from_cell)
    except Exception as error:  # pandas and pyarrow raise whatever the bytes lead to
        raise InputError(f"dataset: {path}: can't be read as {ending} ({first_line(error)}); mend the file") from None
