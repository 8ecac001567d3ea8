"""Where videos come from: the demo, a folder, a table, lists of the field, the Hub, all as rows of one shape.

Every source gives a `datasets.DatasetDict` with columns `video` (path or bytes, not decoded), `label` (or `labels`,
several of a video), `video_id`, `group`, `start_seconds`, `end_seconds` and, where the dataset has it, `fold`.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from datasets import DatasetDict

from vidtune.data import demo
from vidtune.data.files import list_videos
from vidtune.data.folders import read_folder
from vidtune.data.hub_dataset import read_hub
from vidtune.data.lists import find_lists, is_list, read_lists
from vidtune.data.published import (
    HMDB51_LIST,
    find_kinetics,
    read_hmdb51,
    read_kinetics,
    read_ssv2,
    read_ucf101,
)
from vidtune.data.rows import to_dataset
from vidtune.data.streaming import read_stream
from vidtune.data.tables import TABLE_ENDINGS, read_table
from vidtune.errors import InputError

FORMATS = ("auto", "folder", "table", "hub", "ucf101", "hmdb51", "kinetics", "ssv2", "list")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def load_videos(
    dataset: str,
    dataset_format: str = "auto",
    *,
    config: str | None = None,
    revision: str | None = None,
    split_number: int = 1,
    group_column: str | None = None,
    labelled: bool = True,
    text_column: str | None = None,
    video_root: str | None = None,
    streaming: bool = False,
) -> DatasetDict:
    """Load a dataset by whatever names it.

    Args:
        dataset: `demo` or `demo-success`, a folder, a table, a list of videos, or a Hub id (`user/name`).
        dataset_format: One of `FORMATS`; `auto` tells it by the files.
        config: Which configuration of a dataset of the Hub.
        revision: Branch, tag or commit of a dataset of the Hub.
        split_number: Which of the official splits of UCF101 and HMDB51, 1 to 3.
        group_column: The column that names the group of a video, of a table or of a dataset of the Hub.
        labelled: Whether labels are read. If not, none need be there, and all videos have the label UNLABELLED.
        text_column: The column that holds a text of each video, of a table or of a dataset of the Hub; the rows then
            have a column `text`.
        video_root: Folder that the videos of a table, of lists or of paths in a dataset lie below, and that these are
            relative to; None: that of the table or dataset.
        streaming: Whether tar or Parquet shards are read where they lie; see `read_stream`.

    Returns:
        Rows by split, `train` always, `validation` and `test` where the dataset has them. The labels are those of
        `train`; `group` is the video itself where the dataset names none.

    Raises:
        InputError: If there is no such dataset, it isn't of the format, or it can't be trained on.
    """
    if streaming:
        return read_stream(dataset, is_hub_id(dataset), config, revision, group_column, labelled)
    path = demo.write_demo(dataset) if dataset in demo.CLASSES else Path(dataset)
    videos, others = list_videos(path) if path.is_dir() else ([], [])
    if dataset_format == "auto":
        dataset_format = recognise(path, videos, others)
    _check_options(dataset_format, config, revision, split_number, group_column, text_column, video_root)
    root = Path(video_root) if video_root else None
    if dataset_format == "hub":
        return read_hub(str(path), config, revision, group_column, labelled, text_column, root)
    if dataset_format == "table":
        rows = read_table(path, group_column, labelled, text_column, root)
    elif dataset_format == "list" and path.is_file():
        rows = read_lists(path.parent, {"train": path}, video_root=root)
    elif not path.is_dir():
        problem = "is no folder" if path.exists() else "does not exist"
        raise InputError(f"dataset: {dataset}: {problem}; dataset_format: {dataset_format} takes a folder")
    elif dataset_format == "folder":
        rows = read_folder(path, videos, others, labelled)
    elif dataset_format == "ucf101":
        rows = read_ucf101(path, videos, others, split_number)
    elif dataset_format == "hmdb51":
        rows = read_hmdb51(path, videos, others, split_number)
    elif dataset_format == "kinetics":
        rows = read_kinetics(path, videos, others)
    elif dataset_format == "ssv2":
        rows = read_ssv2(path, videos, others)
    else:
        rows = read_lists(path, find_lists(path, others), videos, root)
    return to_dataset(rows, dataset, labelled)


def recognise(path: Path, videos: Sequence[str] = (), others: Sequence[str] = ()) -> str:
    """Tell the format of a dataset by its files.

    Args:
        path: A folder, a file, or a Hub id.
        videos: The videos of the folder, relative to it; see `list_videos`.
        others: Its other files.

    Returns:
        One of `FORMATS`, not `auto`.

    Raises:
        InputError: If it is none of them.
    """
    if path.is_dir():
        names = {PurePosixPath(name).name for name in others}
        if any(map(HMDB51_LIST.fullmatch, names)):
            return "hmdb51"
        if "classInd.txt" in names:
            return "ucf101"
        if any(name.endswith("labels.json") for name in names) and any(name.endswith("train.json") for name in names):
            return "ssv2"
        if find_kinetics(path, others):
            return "kinetics"
        if find_lists(path, others):
            return "list"
        if not videos and any(name.endswith(".tar") for name in names):
            raise InputError(f"dataset: {path}: holds tar shards; add --streaming to read them where they lie")
        return "hub" if not videos and any(name.endswith(".parquet") for name in names) else "folder"
    if is_list(path):
        return "list"
    if path.suffix.lower() in TABLE_ENDINGS:
        return "table"
    if is_hub_id(str(path)):
        return "hub"
    if path.suffix == ".tar":
        raise InputError(f"dataset: {path}: is a tar, or names several; add --streaming to read them where they lie")
    known = (
        f"a folder, a table ({', '.join(TABLE_ENDINGS)}), a list of videos, a Hub id (user/name), demo, demo-success"
    )
    raise InputError(f"dataset: {path}: {'is none of these' if path.exists() else 'does not exist'}; give {known}")


def is_hub_id(dataset: str) -> bool:
    """Whether a dataset's name can only mean one on the Hub."""
    path = Path(dataset)
    ending = path.suffix.lower()
    return bool(HUB_ID.fullmatch(dataset)) and not path.exists() and ending not in (*TABLE_ENDINGS, ".tar")


def _check_options(
    dataset_format: str,
    config: str | None,
    revision: str | None,
    split_number: int,
    group_column: str | None,
    text_column: str | None,
    video_root: str | None,
) -> None:
    """Check that nothing was asked for that the format does not know."""
    if dataset_format not in FORMATS:
        raise InputError(f"dataset_format: {dataset_format!r}; choose from {', '.join(FORMATS)}")
    other = f"and this one is read as {dataset_format}"
    if dataset_format != "hub" and (config or revision):
        field, value = ("dataset_config", config) if config else ("dataset_revision", revision)
        raise InputError(f"{field}: {value} goes with a dataset of the Hub, {other}; leave it out")
    if dataset_format not in ("ucf101", "hmdb51") and split_number != 1:
        raise InputError(f"split_number: {split_number} goes with ucf101 and hmdb51, {other}; leave it out")
    has_groups = dataset_format in ("ucf101", "hmdb51", "kinetics") and group_column == "group"
    if group_column and dataset_format not in ("table", "hub") and not has_groups:
        raise InputError(
            f"split_by_group: {group_column!r} goes with a table or a dataset of the Hub, {other}; "
            "give its videos in a table, or tell groups by group_pattern"
        )
    if text_column and dataset_format not in ("table", "hub"):
        raise InputError(
            f"text_column: {text_column!r} goes with a table or a dataset of the Hub, {other}; "
            "its videos have no texts: give them in a table"
        )
    if video_root and dataset_format not in ("table", "list", "hub"):
        raise InputError(f"video_root: {video_root} goes with a table, lists or Parquet, {other}; leave it out")
    if video_root and not Path(video_root).is_dir():
        raise InputError(f"video_root: {video_root}: is no folder; give the one that all videos lie below")
