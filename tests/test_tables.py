"""Tables of videos: one shape of rows, and one line for what can't be trained on."""

import json
from pathlib import Path
from typing import Any

import pandas
import pytest

from source_checks import assert_rows, one_line_error, split_and_label, table, touch
from vidtune.data.sources import load_videos
from vidtune.data.tables import read_table
from vidtune.errors import InputError

CSV = "video,label\na.mp4,cat\nb.mp4,dog\n"


def test_rows_of_a_table(tmp_path: Path) -> None:
    text = "video,label,group,start_seconds,end_seconds\na.mp4,cat,garden,0.5,2\nb.mp4,dog,,,\n"
    videos = load_videos(str(table(tmp_path, text)))
    assert_rows(videos, ["cat", "dog"])
    assert list(videos["train"]) == [
        {
            "video": {"bytes": None, "path": str(tmp_path / "a.mp4")},
            "label": 0,
            "video_id": "a.mp4#0.5-2",
            "group": "garden",
            "start_seconds": 0.5,
            "end_seconds": 2.0,
        },
        {
            "video": {"bytes": None, "path": str(tmp_path / "b.mp4")},
            "label": 1,
            "video_id": "b.mp4",
            "group": "b.mp4",
            "start_seconds": None,
            "end_seconds": None,
        },
    ]


def test_a_table_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "videos.csv").mkdir()
    with one_line_error("videos.csv: is a folder", "give a table"):
        read_table(tmp_path / "videos.csv")


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    frame = pandas.DataFrame(rows)
    match path.suffix.lower():
        case ".csv":
            frame.to_csv(path, index=False)
        case ".tsv":
            frame.to_csv(path, index=False, sep="\t")
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        case ".parquet":
            frame.to_parquet(path)
    return path


ENDINGS = [".csv", ".tsv", ".jsonl", ".parquet"]


@pytest.mark.parametrize("ending", [*ENDINGS, ".CSV", ".Parquet"])
def test_every_kind_of_table_reads_alike(tmp_path: Path, ending: str) -> None:
    touch(tmp_path, "videos/a, b.mp4", "videos/ü.mp4", "c.mp4")
    rows = [
        {"video": "videos/a, b.mp4", "label": "cat", "split": "train", "start_seconds": 0.1, "end_seconds": 1.5},
        {"video": "videos/ü.mp4", "label": "NA", "split": "train", "start_seconds": None, "end_seconds": None},
        {"video": str(tmp_path / "c.mp4"), "label": "cat", "split": "dev", "start_seconds": 2, "end_seconds": None},
    ]
    videos = load_videos(str(write_table(tmp_path / f"videos{ending}", rows)))
    assert_rows(videos, ["NA", "cat"])
    assert [list(part["video_id"]) for part in videos.values()] == [
        ["videos/a, b.mp4#0.1-1.5", "videos/ü.mp4"],
        ["c.mp4#2-"],
    ]
    assert list(videos["train"]["start_seconds"]) == [0.1, None] and videos["validation"][0]["start_seconds"] == 2
    assert videos["validation"][0]["video"]["path"] == str(tmp_path / "c.mp4")


@pytest.mark.parametrize("ending", ENDINGS)
def test_numbers_are_labels_and_groups(tmp_path: Path, ending: str) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    rows = [
        {"video": f"{name}.mp4", "label": label, "group": 0} for name, label in zip("abc", (10, 9, 0), strict=True)
    ]
    videos = load_videos(str(write_table(tmp_path / f"videos{ending}", rows)))
    assert_rows(videos, ["0", "9", "10"])
    assert list(videos["train"]["group"]) == ["0", "0", "0"]  # 0 is a group, not none


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_other_columns_may_hold_anything(tmp_path: Path, ending: str) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    rows = [{"video": f"{name}.mp4", "label": name, "boxes": [1, 2], "more": {"x": None}} for name in "ab"]
    assert_rows(load_videos(str(write_table(tmp_path / f"videos{ending}", rows))), ["a", "b"])


def test_paths_are_relative_to_the_table_and_not_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "data/a.mp4", "data/deeper/b.mp4")
    table(tmp_path / "data", "video,label\na.mp4,cat\ndeeper/../deeper/b.mp4,dog\n", videos="")
    monkeypatch.chdir(tmp_path)
    videos = load_videos("data/videos.csv")
    assert [video["path"] for video in videos["train"]["video"]] == ["data/a.mp4", "data/deeper/b.mp4"]
    assert list(videos["train"]["video_id"]) == ["a.mp4", "deeper/b.mp4"]


@pytest.mark.parametrize("video", ["../other/b.mp4", "deeper/../../other/b.mp4", "./../other/b.mp4"])
def test_a_path_out_of_the_folder_of_the_table_needs_another_root(tmp_path: Path, video: str) -> None:
    touch(tmp_path, "data/a.mp4", "data/deeper/c.mp4", "other/b.mp4")
    path = table(tmp_path / "data", f"video,label\na.mp4,cat\n{video},dog\n", videos="")
    with one_line_error(f"row 2: video '{video}' lies outside of {tmp_path / 'data'}", "give --video_root FOLDER"):
        load_videos(str(path))
    path.write_text(f"video,label\ndata/a.mp4,cat\n{tmp_path}/other/b.mp4,dog\n")
    ids = load_videos(str(path), video_root=str(tmp_path))["train"]["video_id"]
    assert list(ids) == ["data/a.mp4", "other/b.mp4"]


def test_a_name_that_begins_with_dots_stays_inside(tmp_path: Path) -> None:
    path = table(tmp_path, "video,label\n..a.mp4,cat\n.../b.mp4,dog\n", videos="..a.mp4 .../b.mp4")
    assert list(load_videos(str(path))["train"]["video_id"]) == ["..a.mp4", ".../b.mp4"]


def test_a_table_as_spreadsheets_write_it(tmp_path: Path) -> None:
    text = '\ufeffvideo, label ,split\r\na.mp4,"cat ",Train\r\nb.mp4, dog,\r\nc.mp4,cat,TEST\r\n\r\n'
    assert split_and_label(load_videos(str(table(tmp_path, text)))) == {
        "a.mp4": ("train", "cat"),
        "b.mp4": ("train", "dog"),
        "c.mp4": ("test", "cat"),
    }


def test_parts_of_one_file_are_one_group_where_none_is_named(tmp_path: Path) -> None:
    text = "video,label,start_seconds,end_seconds\na.mp4,cat,0,2\n./a.mp4,dog,2,4\nb.mp4,dog,2,\n"
    videos = load_videos(str(table(tmp_path, text)))
    assert list(videos["train"]["video_id"]) == ["a.mp4#0-2", "a.mp4#2-4", "b.mp4#2-"]
    assert list(videos["train"]["group"]) == ["a.mp4", "a.mp4", "b.mp4"]


BAD_TABLES = {
    "empty file": ("", ["can't be read as .csv", "mend the file"]),
    "no rows": ("video,label\n", ["holds no rows"]),
    "no label": ("video,class\na.mp4,cat\n", ["column 'label' is missing (it has video, class)", "give `video`"]),
    "no header": ("a.mp4,cat,garden\nb.mp4,dog,garden\n", ["column 'video' is missing"]),
    "semicolons": (
        "video;label\na.mp4;cat\n",
        ["column 'video' is missing (it has video;label)", "semicolons: save it with commas"],
    ),
    "capitals": (
        "Video,Label\na.mp4,cat\n",
        ["column 'video' is missing (it has Video, Label)", "call 'Video' 'video'"],
    ),
    "capital label": ("video,LABELS\na.mp4,cat\n", ["column 'label' is missing", "call 'LABELS' 'labels'"]),
    "label and labels": ("video,label,labels\na.mp4,cat,cat\n", ["has both columns `label` and `labels`"]),
    "empty labels": ("video,labels\na.mp4,cat|dog\nb.mp4, \n", ["row 2: labels is ' '; fill it in"]),
    "gap in labels": ("video,labels\na.mp4,cat||dog\n", ["row 1: labels is 'cat||dog'; name each label once"]),
    "label twice": ("video,labels\na.mp4,cat|cat\n", ["row 1: labels is 'cat|cat'; name each label once"]),
    "one class in labels": ("video,labels\na.mp4,cat\nb.mp4,cat\n", ["has one class only, 'cat'"]),
    "unseen label in labels": (
        "video,labels,split\na.mp4,cat|dog,train\nb.mp4,cat|bird,test\n",
        ["label 'bird' of b.mp4 in test is not in train"],
    ),
    "fold is no number": ("video,label,fold\na.mp4,cat,first\n", ["row 1: fold is 'first'; give a whole number"]),
    "fold is a fraction": ("video,label,fold\na.mp4,cat,0.5\n", ["row 1: fold is '0.5'"]),
    "fold is negative": ("video,label,fold\na.mp4,cat,-1\n", ["row 1: fold is '-1'"]),
    "empty fold": ("video,label,fold\na.mp4,cat,0\nb.mp4,dog,\n", ["row 2: fold is empty; fill it in"]),
    "too many cells": ("video,label\na.mp4,x,cat\nb.mp4,x,dog\n", ["more cells than its header"]),
    "too many cells in one row": ("video,label\na.mp4,cat\nb.mp4,dog,x\n", ["can't be read as .csv", "line 3"]),
    "empty video": ("video,label\na.mp4,cat\n,dog\n", ["row 2: video is empty", "fill it in"]),
    "empty label": ("video,label\na.mp4,cat\nb.mp4,\n", ["row 2: label is empty"]),
    "blank label": ("video,label\na.mp4,cat\nb.mp4,  \n", ["row 2: label is empty"]),
    "too few cells": ("video,label\na.mp4,cat\nb.mp4\n", ["row 2: label is empty"]),
    "unknown split": (
        "video,label,split\na.mp4,cat,holdout\n",
        ["row 1: split is 'holdout'", "give train, validation"],
    ),
    "no train": ("video,label,split\na.mp4,cat,test\nb.mp4,dog,val\n", ["has no split `train`"]),
    "one class": ("video,label\na.mp4,cat\nb.mp4,cat\n", ["has one class only, 'cat'"]),
    "unseen label": (
        "video,label,split\na.mp4,cat,train\nb.mp4,dog,train\nc.mp4,bird,val\n",
        ["label 'bird' of c.mp4 in validation is not in train", "add videos"],
    ),
    "missing video": (CSV + "gone.mp4,dog\n", ["gone.mp4 does not exist; mend the paths"]),
    "missing videos": (CSV + "x.mp4,dog\ny.mp4,dog\nz.mp4,cat\n", ["x.mp4 does not exist (and 2 more)"]),
    "folder for a video": (CSV + "folder.mp4,dog\n", ["folder.mp4 is a folder"]),
    "listed twice": (CSV + "a.mp4,cat\n", ["a.mp4 is listed twice; list each video once"]),
    "listed twice, spelled otherwise": (
        CSV + "./x/../a.mp4,cat\n./b.mp4,dog\n",
        ["a.mp4 is listed twice (and 1 more)"],
    ),
    "start is no number": ("video,label,start_seconds\na.mp4,cat,1:30\n", ["start_seconds is '1:30'", "give seconds"]),
    "start is negative": ("video,label,start_seconds\na.mp4,cat,-1\n", ["row 1: start_seconds is -1"]),
    "end is nan": ("video,label,end_seconds\na.mp4,cat,nan\n", ["row 1: end_seconds is nan"]),
    "end before start": (
        "video,label,start_seconds,end_seconds\na.mp4,cat,2,1\n",
        ["end_seconds is 1", "the start, 2"],
    ),
    "end is 0": ("video,label,end_seconds\na.mp4,cat,0\n", ["end_seconds is 0"]),
    "line break in a name": ('video,label\n"a\nb.mp4",cat\n', ["a b.mp4 does not exist"]),
}


@pytest.mark.parametrize("problem", BAD_TABLES)
def test_tables_that_cannot_be_trained_on(tmp_path: Path, problem: str) -> None:
    text, words = BAD_TABLES[problem]
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "x").mkdir()
    with one_line_error(str(tmp_path / "videos.csv"), *words):
        load_videos(str(table(tmp_path, text)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("videos.parquet", b"PAR1 and no more"),
        ("videos.parquet", b""),
        ("videos.jsonl", b'{"video": "a.mp4", "label"\n'),
        ("videos.jsonl", b"1\n2\n"),
        ("videos.jsonl", b""),
        ("videos.csv", b"\xff\xfev\0i\0"),
        ("videos.csv", b"video,label\n\xe9.mp4,cat\n"),
        ("videos.csv", b'video,label\n"a.mp4,cat\n'),
    ],
)
def test_tables_that_are_corrupt(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with one_line_error(f"{tmp_path / name}: "):
        load_videos(str(tmp_path / name))


def test_a_parquet_cut_short(tmp_path: Path) -> None:
    path = write_table(tmp_path / "videos.parquet", [{"video": "a.mp4", "label": "cat"}] * 100)
    path.write_bytes(path.read_bytes()[:-20])
    with one_line_error("can't be read as .parquet", "mend the file"):
        load_videos(str(path))


@pytest.mark.parametrize("label", [["cat", "dog"], {"name": "cat"}, []])
def test_a_label_is_one_value(tmp_path: Path, label: Any) -> None:
    touch(tmp_path, "a.mp4")
    path = write_table(tmp_path / "videos.jsonl", [{"video": "a.mp4", "label": label}])
    with one_line_error("row 1: label is ", "give one value"):
        load_videos(str(path))


# Several labels of a video, folds and groups


@pytest.mark.parametrize("ending", ENDINGS)
def test_several_labels_of_a_video(tmp_path: Path, ending: str) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    listed: list[list[Any]] = [["run", "jump"], ["sit"], ["jump", "sit", "run"]]
    rows = [
        {"video": f"{name}.mp4", "labels": "|".join(labels) if ending in (".csv", ".tsv") else labels, "split": split}
        for name, labels, split in zip("abc", listed, ("train", "train", "test"), strict=True)
    ]
    videos = load_videos(str(write_table(tmp_path / f"videos{ending}", rows)))
    assert_rows(videos, ["jump", "run", "sit"], column="labels")
    assert [list(part["labels"]) for part in videos.values()] == [[[1, 0], [2]], [[0, 2, 1]]]


def test_a_video_may_show_none_of_several_labels(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    rows = [{"video": "a.mp4", "labels": [1, 2]}, {"video": "b.mp4", "labels": []}]
    videos = load_videos(str(write_table(tmp_path / "videos.jsonl", rows)))
    assert_rows(videos, ["1", "2"], column="labels")
    assert list(videos["train"]["labels"]) == [[0, 1], []]


@pytest.mark.parametrize("labels", [None, {"cat": 1}, ["cat", None], ["cat", "cat"]])
def test_labels_that_are_none(tmp_path: Path, labels: Any) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    rows = [{"video": "a.mp4", "labels": ["cat", "dog"]}, {"video": "b.mp4", "labels": labels}]
    with one_line_error("row 2: labels is "):
        load_videos(str(write_table(tmp_path / "videos.jsonl", rows)))


@pytest.mark.parametrize("ending", ENDINGS)
def test_folds_of_a_table(tmp_path: Path, ending: str) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    rows = [{"video": f"{name}.mp4", "label": name, "fold": fold} for name, fold in zip("abc", (0, 2, 1), strict=True)]
    videos = load_videos(str(write_table(tmp_path / f"videos{ending}", rows)))
    assert_rows(videos, ["a", "b", "c"], folds=True)
    assert list(videos["train"]["fold"]) == [0, 2, 1]


def test_any_column_may_tell_the_group(tmp_path: Path) -> None:
    path = str(table(tmp_path, "video,label,group,patient\na.mp4,cat,x,7\nb.mp4,dog,x,8\nc.mp4,dog,x,\n"))
    assert list(load_videos(path)["train"]["group"]) == ["x", "x", "x"]
    assert list(load_videos(path, group_column="group")["train"]["group"]) == ["x", "x", "x"]
    assert list(load_videos(path, group_column="patient")["train"]["group"]) == ["7", "8", "c.mp4"]
    with pytest.raises(InputError) as caught:
        load_videos(path, group_column="person")
    assert str(caught.value) == (
        f"split_by_group: 'person' is no column of {path} (it has video, label, group, patient); name one of them"
    )


def test_spans_of_a_long_file_keep_apart(tmp_path: Path) -> None:
    text = "video,label,start_seconds,end_seconds\na.mp4,cat,360000.25,360001\na.mp4,dog,360000.5,360001\n"
    videos = load_videos(str(table(tmp_path, text)))
    assert list(videos["train"]["video_id"]) == ["a.mp4#360000.25-360001", "a.mp4#360000.5-360001"]


def test_a_table_that_holds_the_files_themselves(tmp_path: Path) -> None:
    rows = [{"video": {"path": "a.mp4", "bytes": b"x" * 1000}, "label": "cat"}]
    with one_line_error("row 1: video is the content of a file; give the folder of the dataset"):
        load_videos(str(write_table(tmp_path / "videos.parquet", rows)))
