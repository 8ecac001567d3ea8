"""Where videos come from: a demo, a folder, a table or the Hub, all as rows of one shape.

Every source gives a `datasets.DatasetDict` with columns `video` (path or bytes, not decoded), `label`,
`video_id`, `group`, `start_seconds` and `end_seconds`.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, Video, load_dataset

from vidtune.data import demo
from vidtune.errors import InputError

SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
VIDEO_ENDINGS = set(
    ".3gp .asf .avi .divx .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv".split()
)
TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

Row = dict[str, Any]


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
    path = Path(dataset).expanduser()
    if dataset in demo.CLASSES:
        rows = read_folder(demo.write_demo(dataset))
    elif path.is_dir():
        rows = read_folder(path)
    elif path.suffix in TABLE_ENDINGS:
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
    return bool(HUB_ID.fullmatch(dataset)) and not Path(dataset).exists() and Path(dataset).suffix not in TABLE_ENDINGS


def read_folder(folder: Path) -> list[Row]:
    """List the videos of `class/*.mp4` or `split/class/*.mp4`, at any depth below the class.

    Raises:
        InputError: If the folder holds no videos, or holds them outside of class folders.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    videos = [path for path in files if path.suffix.lower() in VIDEO_ENDINGS]
    if not videos:
        raise InputError(
            f"dataset: {folder}: holds no videos ({len(files)} other files); "
            "put them into class/*.mp4 or split/class/*.mp4"
        )
    first_level = {path.relative_to(folder).parts[0] for path in videos if path.parent != folder}
    has_splits = bool(first_level) and all(name.lower() in SPLITS for name in first_level)
    rows = []
    for path in videos:
        parts = path.relative_to(folder).parts
        if len(parts) < (3 if has_splits else 2):
            raise InputError(f"dataset: {path}: lies outside of a class folder; put it into one named for its label")
        split = SPLITS[parts[0].lower()] if has_splits else "train"
        label = parts[1] if has_splits else parts[0]
        rows.append({"video": str(path), "label": label, "split": split, "video_id": "/".join(parts)})
    return rows


def read_table(path: Path) -> list[Row]:
    """Read a table: columns `video`, `label`, and optionally `split`, `group`, `start_seconds`, `end_seconds`.

    Relative paths of videos are relative to the table.

    Raises:
        InputError: If the table can't be read, lacks a column, or holds a value that doesn't fit.
    """
    if not path.is_file():
        raise InputError(f"dataset: {path}: {'is a folder' if path.is_dir() else 'does not exist'}; give a table")
    table = _read_table(path)
    missing = [name for name in ("video", "label") if name not in table]
    if missing:
        raise InputError(
            f"dataset: {path}: column {missing[0]!r} is missing (it has {', '.join(map(str, table))}); "
            "give `video` and `label`"
        )
    if not len(table):
        raise InputError(f"dataset: {path}: holds no rows; give one a video")
    rows = [
        _table_row(values, path.parent, where=f"dataset: {path}: row {number}")
        for number, values in enumerate(table.to_dict("records"), start=1)
    ]
    _check_paths([row["video"] for row in rows], path)
    return rows


def _table_row(values: Row, folder: Path, where: str) -> Row:
    values = {name: value for name, value in values.items() if value != "" and value == value}  # NaN is not itself
    for name in ("video", "label"):
        if values.get(name) is None:
            raise InputError(f"{where}: {name} is empty; fill it in, or delete the row")
    split = str(values.get("split") or "train")
    if split.lower() not in SPLITS:
        raise InputError(f"{where}: split is {split!r}; give train, validation or test")
    video, group = str(values["video"]), values.get("group")
    start = _seconds(values.get("start_seconds"), f"{where}: start_seconds")
    end = _seconds(values.get("end_seconds"), f"{where}: end_seconds")
    return {
        "video": str(folder / video),
        "label": values["label"],
        "split": SPLITS[split.lower()],
        "video_id": video if start is end is None else f"{video}#{start or 0:g}-{'' if end is None else f'{end:g}'}",
        "group": group,
        "start_seconds": start,
        "end_seconds": end,
    }


def read_hub(name: str) -> DatasetDict:
    """Load a dataset with a `Video` column from the Hub.

    Raises:
        InputError: If it can't be reached, or has no column of videos or of labels.
    """
    try:
        splits = load_dataset(name)
    except Exception as error:  # every library below raises its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"dataset: {name}: is no file or folder here, and can't be loaded from the Hub ({reason}); offline, copy it "
            f"here where there is a network: hf download {name} --repo-type dataset --local-dir DIR, and --dataset DIR"
        ) from None
    features = next(iter(splits.values())).features
    video = [column for column, feature in features.items() if isinstance(feature, Video)]
    if not video:
        raise InputError(
            f"dataset: {name}: has no column of type Video (it has {', '.join(features)}); choose another"
        )
    label = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    label = ["label"] if "label" in features else label
    if len(label) != 1:
        raise InputError(f"dataset: {name}: has no column `label` (it has {', '.join(features)}); choose another")
    rows = []
    for split, part in splits.items():
        if split.lower() not in SPLITS:
            raise InputError(f"dataset: {name}: has a split {split!r}; only train, validation and test are known")
        part = part.cast_column(video[0], Video(decode=False))
        names = features[label[0]].int2str if isinstance(features[label[0]], ClassLabel) else str
        for number, row in enumerate(part):
            rows.append(
                {
                    "video": row[video[0]],
                    "label": names(row[label[0]]),
                    "split": SPLITS[split.lower()],
                    "video_id": f"{split}/{number}",
                    "group": row.get("group"),
                }
            )
    return to_dataset(rows, source=name)


def to_dataset(rows: Sequence[Row], source: str) -> DatasetDict:
    """Turn rows into a dataset and check that a classifier can be trained on it.

    Args:
        rows: `video` (path, or mapping of path and bytes), `label`, `split`, `video_id`, and optionally `group`,
            `start_seconds` and `end_seconds`.
        source: What errors call the dataset.

    Raises:
        InputError: If there is nothing to train on, only one class, a label that `train` lacks, or a video twice.
    """
    labels = sorted({str(row["label"]) for row in rows if row["split"] == "train"}, key=_natural)
    if not labels:
        raise InputError(f"dataset: {source}: has no split `train`; name one of its splits so")
    if len(labels) == 1:
        raise InputError(f"dataset: {source}: has one class only, {labels[0]!r}; a classifier needs two or more")
    for row in rows:
        if str(row["label"]) not in labels:
            raise InputError(
                f"dataset: {source}: label {row['label']!r} of {row['video_id']} in {row['split']} is not in train; "
                "add videos of it to train, or leave it out"
            )
    twice = [video_id for video_id, count in Counter(row["video_id"] for row in rows).items() if count > 1]
    if twice:
        raise InputError(
            f"dataset: {source}: {twice[0]} is listed twice (and {len(twice) - 1} more); list each video once"
        )
    features = Features(
        {
            "video": Video(decode=False),
            "label": ClassLabel(names=labels),
            "video_id": Value("string"),
            "group": Value("string"),
            "start_seconds": Value("float64"),
            "end_seconds": Value("float64"),
        }
    )
    splits = {}
    for split in ("train", "validation", "test"):
        part = [row for row in rows if row["split"] == split]
        if part:
            columns = {
                "video": [row["video"] for row in part],
                "label": [str(row["label"]) for row in part],
                "video_id": [row["video_id"] for row in part],
                "group": [str(row.get("group") or row["video_id"]) for row in part],
                "start_seconds": [row.get("start_seconds") for row in part],
                "end_seconds": [row.get("end_seconds") for row in part],
            }
            splits[split] = Dataset.from_dict(columns, features=features)
    return DatasetDict(splits)


def _read_table(path: Path) -> Any:
    import pandas

    try:
        if path.suffix == ".parquet":
            return pandas.read_parquet(path)
        if path.suffix == ".jsonl":
            return pandas.read_json(path, lines=True, dtype=False)
        return pandas.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"dataset: {path}: can't be read as {path.suffix} ({reason}); mend the file") from None


def _seconds(value: Any, field: str) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        raise InputError(f"{field} is {value!r}; give seconds") from None


def _check_paths(paths: Sequence[str], table: Path) -> None:
    missing = [path for path in dict.fromkeys(paths) if not Path(path).is_file()]
    if missing:
        problem = "is a folder" if Path(missing[0]).is_dir() else "does not exist"
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(f"dataset: {table}: video {missing[0]} {problem}{more}; paths are relative to the table")


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key by which class 2 comes before class 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text)]
