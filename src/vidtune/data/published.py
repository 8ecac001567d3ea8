"""UCF101, HMDB51, Kinetics and Something-Something v2, as their authors ship them.

The files that tell labels and splits may lie anywhere in the folder, and so may the videos: these are found by name,
whatever their ending, so that a converted copy is read as well.
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vidtune.data.annotations import (
    find_file,
    index_by_name,
    lacks,
    needed_file,
    numbered_lines,
    read_json,
    read_text,
    warn_missing,
    with_files,
)
from vidtune.data.lists import split_of
from vidtune.data.rows import SPLITS, Row
from vidtune.errors import InputError

HMDB51_LIST = re.compile(r"(.+)_test_split(\d)\.txt")
HMDB51_TAGS = r"_[fhlu]_[cn]m_np\d+_(?:ba|fr|le|ri)_(?:bad|med|goo)_\d+"  # body, camera, people, view, quality, count
KINETICS_COLUMNS = ("youtube_id", "time_start", "time_end")


def read_ucf101(folder: Path, videos: Sequence[str], others: Sequence[str], split_number: int) -> list[Row]:
    """Read UCF101: `<Class>/v_<Class>_gNN_cNN.avi`, `classInd.txt`, `trainlist0N.txt` and `testlist0N.txt`.

    A group is one person before one background, `v_<Class>_gNN`.

    Args:
        folder: The dataset.
        videos: Its videos, relative to it; see `list_videos`.
        others: Its other files.
        split_number: Which of the three official splits, from 1 on.

    Raises:
        InputError: If a list or a video is missing.
    """
    classes = {line.split()[-1] for _, line in numbered_lines(needed_file(folder, others, "classInd.txt", "ucf101"))}
    rows = []
    for split in ("train", "test"):
        path = needed_file(folder, others, f"{split}list{split_number:02}.txt", "ucf101")
        for number, line in numbered_lines(path):
            name = PurePosixPath(line.split()[0])  # in trainlist, the number of the class follows
            label, where = name.parent.name, f"{path}: line {number}"
            if label not in classes:
                raise InputError(f"dataset: {where}: class {label!r} is not in classInd.txt; mend the list")
            group = re.sub(r"_c\d+$", "", name.stem)
            rows.append(
                {"video": f"{label}/{name.stem}", "label": label, "split": split, "group": group, "where": where}
            )
    return with_files(rows, folder, videos)


def read_hmdb51(folder: Path, videos: Sequence[str], others: Sequence[str], split_number: int) -> list[Row]:
    """Read HMDB51: `<class>/<name>.avi`, and `<class>_test_splitN.txt` with lines `<name>.avi 1` (train), 2 (test), 0.

    A group is the film or upload that a name begins with, within its class: the authors keep these apart, but spread
    one film over train and test of different classes.

    Args:
        folder: The dataset.
        videos: Its videos, relative to it; see `list_videos`.
        others: Its other files.
        split_number: Which of the three official splits, from 1 on.

    Raises:
        InputError: If a list or a video is missing.
    """
    matches = {name: HMDB51_LIST.fullmatch(PurePosixPath(name).name) for name in others}
    lists = {match[1]: folder / name for name, match in matches.items() if match and match[2] == str(split_number)}
    if not lists:
        raise lacks(folder, f"<class>_test_split{split_number}.txt", "hmdb51")
    rows = []
    for label, path in lists.items():
        for number, line in numbered_lines(path):
            where = f"{path}: line {number}"
            name, _, use = line.rpartition(" ")
            if use not in ("0", "1", "2") or not name:
                raise InputError(f"dataset: {where}: {line!r}; write the name of a video, and 0, 1 or 2")
            stem = PurePosixPath(name.strip()).stem
            group = re.sub(f"_{re.escape(label)}{HMDB51_TAGS}$", "", stem)
            if use != "0":
                split = {"1": "train", "2": "test"}[use]
                row = {"label": label, "split": split, "group": f"{label}/{group}", "where": where}
                rows.append({"video": f"{label}/{stem}", **row})
    return with_files(rows, folder, videos)


def read_ssv2(folder: Path, videos: Sequence[str], others: Sequence[str]) -> list[Row]:
    """Read Something-Something v2: `labels.json`, `train.json`, `validation.json`, `test.json` and `<id>.webm`.

    The older names, `something-something-v2-train.json`, are read too. The labels of test are those of
    `test-answers.csv`; without it, test is left out.

    Args:
        folder: The dataset.
        videos: Its videos, relative to it; see `list_videos`.
        others: Its other files.

    Raises:
        InputError: If a file or a video is missing, or a template is not in `labels.json`.
    """
    classes = read_json(needed_file(folder, others, "labels.json", "ssv2"))
    splits = {"train": needed_file(folder, others, "train.json", "ssv2")}
    for split in ("validation", "test"):
        if path := find_file(folder, others, f"{split}.json"):
            splits[split] = path
    answers_file = find_file(folder, others, "test-answers.csv")
    answers = dict(line.partition(";")[::2] for _, line in numbered_lines(answers_file)) if answers_file else {}
    rows, unlabelled = [], []
    for split, path in splits.items():
        for record in read_json(path):
            if not isinstance(record, dict) or "id" not in record:
                raise InputError(f"dataset: {path}: {record!r} has no id; mend the file")
            video_id, where = str(record["id"]), f"{path}: id {record['id']}"
            label = str(record.get("template") or answers.get(video_id, "")).replace("[", "").replace("]", "").strip()
            if not label and split == "test":
                unlabelled.append(video_id)
                continue
            if label not in classes:
                raise InputError(f"dataset: {where}: template {label!r} is not in labels.json; mend the files")
            rows.append({"video": video_id, "label": label, "split": split, "where": where})
    warn_missing(folder, unlabelled, "have no label (test-answers.csv would tell it)")
    return with_files(rows, folder, videos)


def read_kinetics(folder: Path, videos: Sequence[str], others: Sequence[str]) -> list[Row]:
    """Read Kinetics: csv files of `label,youtube_id,time_start,time_end,split`, and the videos that were fetched.

    A video is cut out already, `<youtube_id>_000012_000022.mp4`, or whole, `<youtube_id>.mp4`: then it is the span of
    the file. What is not there is left out, since YouTube loses videos, and so are rows without a label; a warning
    counts both. A group is what was cut from one upload.

    Args:
        folder: The dataset.
        videos: Its videos, relative to it; see `list_videos`.
        others: Its other files.

    Raises:
        InputError: If there is no such csv file, or none of the videos.
    """
    tables = find_kinetics(folder, others)
    if not tables:
        raise lacks(folder, f"csv file of a split with columns label, {', '.join(KINETICS_COLUMNS)}", "kinetics")
    index = index_by_name(videos, parts=1)
    rows, missing, unlabelled = [], [], []
    for path in tables:
        for number, record in enumerate(csv.DictReader(read_text(path).splitlines()), start=1):
            where = f"{path}: row {number}"
            try:
                start, end = float(record["time_start"]), float(record["time_end"])
            except (TypeError, ValueError):
                raise InputError(f"dataset: {where}: time_start or time_end is no number; mend the file") from None
            youtube_id, label = record["youtube_id"], (record.get("label") or "").strip()
            cut = f"{youtube_id}_{int(start):06}_{int(end):06}"
            split = SPLITS.get((record.get("split") or "").strip().lower()) or split_of(path.name)
            row = {"label": label, "split": split, "group": youtube_id, "where": where}
            if not label:
                unlabelled.append(cut)
            elif cut in index:
                rows.append({"video": cut, **row})
            elif youtube_id in index:
                rows.append({"video": youtube_id, "start_seconds": start, "end_seconds": end, **row})
            else:
                missing.append(cut)
    if not rows:
        raise InputError(f"dataset: {folder}: holds none of the {len(missing)} videos of its csv files; fetch them")
    warn_missing(folder, missing, "are not there")
    warn_missing(folder, unlabelled, "have no label")
    return with_files(rows, folder, videos)


def find_kinetics(folder: Path, others: Sequence[str]) -> list[Path]:
    """The csv files of Kinetics in a folder, at its top or one folder below."""
    paths = [folder / name for name in others if name.count("/") <= 1 and name.endswith(".csv") and split_of(name)]
    return [path for path in paths if set(KINETICS_COLUMNS) <= set(_header(path))]


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return next(csv.reader(file), [])
