"""Folders, tables, the demo and the Hub: one shape of rows, and one line for what can't be trained on."""

# ruff: noqa: F811 (the fixture `hub` is imported, then named by the tests that take it)

import json
import os
import socket
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pandas
import pyarrow
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, Video
from huggingface_hub import constants

from hub_server import HubServer, hub  # noqa: F401
from video_files import counting_frames, frame_indices, write_video
from vidtune.data import demo, hub_dataset
from vidtune.data.clips import open_row
from vidtune.data.sources import is_hub_id, load_videos, read_folder, read_table
from vidtune.errors import InputError

CSV = "video,label\na.mp4,cat\nb.mp4,dog\n"


def touch(root: Path, *names: str) -> Path:
    """Empty files: a source lists videos, it does not open them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def table(root: Path, text: str, name: str = "videos.csv", videos: str = "a.mp4 b.mp4 c.mp4") -> Path:
    touch(root, *videos.split())
    (root / name).write_text(text, encoding="utf-8")
    return root / name


def split_and_label(videos: DatasetDict) -> dict[str, tuple[str, str]]:
    """Split and label of each video, by its id."""
    return {
        row["video_id"]: (split, part.features["label"].int2str(row["label"]))
        for split, part in videos.items()
        for row in part
    }


@contextmanager
def one_line_error(*words: str) -> Iterator[None]:
    with pytest.raises(InputError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message and message.startswith("dataset: ")
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"


# Rows


def assert_rows(videos: DatasetDict, labels: list[str]) -> None:
    """The contract that all stations lean on."""
    assert isinstance(videos, DatasetDict) and "train" in videos
    ids = []
    for part in videos.values():
        assert part.features == Features(
            {
                "video": Video(decode=False),
                "label": ClassLabel(names=labels),
                "video_id": Value("string"),
                "group": Value("string"),
                "start_seconds": Value("float64"),
                "end_seconds": Value("float64"),
            }
        )
        for row in part:
            assert set(row["video"]) == {"bytes", "path"} and isinstance(row["label"], int) and row["group"]
            ids.append(row["video_id"])
    assert len(set(ids)) == len(ids)


def test_rows_of_a_folder(tmp_path: Path) -> None:
    videos = load_videos(str(touch(tmp_path, "dog/1.mp4", "cat/1.mp4", "cat/2.mp4")))
    assert_rows(videos, ["cat", "dog"])
    assert videos["train"][0] == {
        "video": {"bytes": None, "path": str(tmp_path / "cat/1.mp4")},
        "label": 0,
        "video_id": "cat/1.mp4",
        "group": "cat/1.mp4",
        "start_seconds": None,
        "end_seconds": None,
    }


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


def test_rows_of_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(demo.VIDEOS_PER_CLASS, "demo-success", {"train": 1, "validation": 1, "test": 1})
    videos = load_videos("demo-success")
    assert_rows(videos, ["failure", "success"])
    assert split_and_label(videos) == {
        f"{split}/{label}/0000.mp4": (split, label)
        for split in ("train", "validation", "test")
        for label in ("failure", "success")
    }
    assert Path(videos["test"][0]["video"]["path"]).is_relative_to(tmp_path)


# Folders


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (["train", "validation", "test"], ["train", "validation", "test"]),
        (["training", "val", "testing"], ["train", "validation", "test"]),
        (["Train", "VALID"], ["train", "validation"]),
        (["train", "dev"], ["train", "validation"]),
        (["train", "test"], ["train", "test"]),
        (["train"], ["train"]),
    ],
)
def test_folders_of_splits_by_any_of_their_names(tmp_path: Path, folders: list[str], splits: list[str]) -> None:
    touch(tmp_path, *(f"{folder}/{label}/1.mp4" for folder in folders for label in ("cat", "dog")))
    assert split_and_label(load_videos(str(tmp_path))) == {
        f"{folder}/{label}/1.mp4": (split, label)
        for folder, split in zip(folders, splits, strict=True)
        for label in ("cat", "dog")
    }


def test_two_folders_may_make_one_split(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/1.mp4", "training/dog/1.mp4")
    assert split_and_label(load_videos(str(tmp_path))) == {
        "train/cat/1.mp4": ("train", "cat"),
        "training/dog/1.mp4": ("train", "dog"),
    }


def test_videos_deeper_in_a_class_and_of_one_name(tmp_path: Path) -> None:
    touch(tmp_path, "cat/monday/1.mp4", "cat/tuesday/morning/1.mp4", "dog/1.MOV")
    assert split_and_label(load_videos(str(tmp_path))) == {
        "cat/monday/1.mp4": ("train", "cat"),
        "cat/tuesday/morning/1.mp4": ("train", "cat"),
        "dog/1.MOV": ("train", "dog"),
    }


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.mp4", "bus/1.mp4")
    assert load_videos(str(tmp_path))["train"].features["label"].names == ["bus", "train"]


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (["10", "9", "1"], ["1", "9", "10"]),
        (["class10", "class2", "Class1"], ["Class1", "class2", "class10"]),
        (["b", "a2", "a10", "2"], ["2", "a2", "a10", "b"]),
        (["01", "1", "001"], ["001", "01", "1"]),
        (["²", "x²", "2²", "٣"], ["2²", "٣", "x²", "²"]),
        (["naïve", "日本", "with space", "a.b"], ["a.b", "naïve", "with space", "日本"]),
    ],
)
def test_labels_come_in_natural_order(tmp_path: Path, labels: list[str], order: list[str]) -> None:
    touch(tmp_path, *(f"{label}/1.mp4" for label in labels))
    assert load_videos(str(tmp_path))["train"].features["label"].names == order


def test_hidden_files_and_other_files_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.mp4", "dog/1.webm", "cat/._1.mp4", ".trash/x/1.mp4", "cat/.old/1.mp4", "cat/notes.txt")
    touch(tmp_path, "labels.csv", "cat/thumbnail.jpg", "cat/mp4")
    assert [row["video_id"] for row in read_folder(tmp_path)] == ["cat/1.mp4", "dog/1.webm"]


def test_links_to_folders_and_files_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "1.mp4", "deeper/2.mp4")
    touch(tmp_path / "videos", "dog/1.mp4")
    (tmp_path / "videos" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "videos" / "dog" / "2.mp4").symlink_to(tmp_path / "elsewhere" / "1.mp4")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "videos")
    (tmp_path / "videos" / "dog" / "circle").symlink_to(".")
    assert [row["video_id"] for row in read_folder(tmp_path / "videos")] == [
        "cat/1.mp4",
        "cat/deeper/2.mp4",
        "dog/1.mp4",
        "dog/2.mp4",
    ]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ("", ["holds no videos (0 other files)", "class/*.mp4"]),
        ("cat/1.txt cat/.1.mp4", ["holds no videos (1 other files)"]),
        ("cat/1.mp4 cat/2.mp4", ["has one class only, 'cat'"]),
        ("1.mp4 2.mp4", ["1.mp4: lies outside of a class folder"]),
        ("cat/1.mp4 dog/1.mp4 stray.mp4", ["stray.mp4: lies outside of a class folder"]),
        ("train/1.mp4 train/cat/1.mp4 train/dog/1.mp4", ["train/1.mp4: lies outside of a class folder"]),
        ("train/cat/1.mp4 test/cat/1.mp4 more/cat/1.mp4", ["more: stands beside folders of splits", "name it train"]),
        ("test/cat/1.mp4 val/dog/1.mp4", ["has no split `train`"]),
        ("train/cat/1.mp4 train/dog/1.mp4 val/bird/1.mp4", ["label 'bird' of val/bird/1.mp4 in validation"]),
    ],
)
def test_folders_that_cannot_be_trained_on(tmp_path: Path, files: str, words: list[str]) -> None:
    with one_line_error(str(tmp_path), *words):
        load_videos(str(touch(tmp_path, *files.split())))


def test_a_link_to_nowhere_is_not_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.mp4", "dog/1.mp4")
    (tmp_path / "dog" / "2.mp4").symlink_to("gone.mp4")
    with one_line_error("dog/2.mp4: is a link to a file that does not exist", "fetch it"):
        load_videos(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_folder", ["does not exist", "a folder, a table", "demo-success"]),
        ("/no/such/folder", ["does not exist"]),
        ("a/b/c", ["does not exist"]),
        ("no_such_table.csv", ["no_such_table.csv: does not exist", "give a table"]),
        ("user/no_such_table.csv", ["does not exist", "give a table"]),
        ("videos.txt", ["videos.txt: is none of these", ".parquet"]),
        ("one.mp4", ["one.mp4: is none of these"]),
        ("line\nbreak", ["line break: does not exist"]),
    ],
)
def test_names_that_are_no_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: list[str]
) -> None:
    monkeypatch.chdir(touch(tmp_path, "videos.txt", "one.mp4"))
    with one_line_error(*words):
        load_videos(name)


def test_a_table_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "videos.csv").mkdir()
    with one_line_error("videos.csv: is a folder", "give a table"):
        read_table(tmp_path / "videos.csv")


# Tables


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
    touch(tmp_path, "data/a.mp4", "other/b.mp4")
    table(tmp_path / "data", "video,label\na.mp4,cat\n../other/b.mp4,dog\n", videos="")
    monkeypatch.chdir(tmp_path)
    videos = load_videos("data/videos.csv")
    assert [video["path"] for video in videos["train"]["video"]] == ["data/a.mp4", "data/../other/b.mp4"]
    assert list(videos["train"]["video_id"]) == ["a.mp4", str(tmp_path / "other/b.mp4")]


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
    "no header": ("a.mp4,cat\nb.mp4,dog\n", ["column 'video' is missing"]),
    "semicolons": ("video;label\na.mp4;cat\n", ["column 'video' is missing (it has video;label)"]),
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


# The Hub


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("user/name", True),
        ("user-1/na.me_2", True),
        ("name", False),
        ("a/b/c", False),
        ("./name", False),
        ("../name", False),
        ("/user/name", False),
        ("~/name", False),
        ("user/videos.csv", False),
        ("user/videos.CSV", False),
        ("user/", False),
        ("user /name", False),
        ("here/now", False),
    ],
)
def test_which_names_can_only_be_those_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, expected: bool
) -> None:
    (tmp_path / "here" / "now").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(name) is expected


def num_frames(videos: DatasetDict) -> dict[str, int]:
    """Decode every video: brightness tells which one it is."""
    found = {}
    for part in videos.values():
        for row in part:
            with open_row(row, "pyav") as video:
                found[row["video_id"]] = frame_indices(video.frames_at([0.0]), 8)[0]
    return found


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Real videos by path, each of one grey by which it is known: 0, 1, 2, ..."""
    folder = tmp_path_factory.mktemp("clips")
    names = ["train/cat/a.mp4", "train/cat/b.mp4", "train/dog/a.mp4", "test/cat/a.mp4", "test/dog/a.mp4"]
    frames = counting_frames(8)
    for index, name in enumerate(names):
        write_video(folder / name, frames[[index] * 3])
    return {name: (folder / name).read_bytes() for name in names}


def as_dataset(clips: dict[str, bytes], split: str, label: Any = None, video: str = "video") -> Dataset:
    rows = [name.split("/") for name in clips if name.startswith(split)]
    names = [name for _, name, _ in rows]
    columns = {
        video: [{"path": "/".join(row[1:]), "bytes": clips["/".join(row)]} for row in rows],
        "label": [["cat", "dog"].index(name) for name in names] if isinstance(label, ClassLabel) else names,
    }
    features = Features({video: Video(), "label": label or Value("string")})
    return Dataset.from_dict(columns, features=features)


def parquet(part: Dataset) -> bytes:
    sink = pyarrow.BufferOutputStream()
    part.to_parquet(sink)
    return sink.getvalue().to_pybytes()


def parquet_files(clips: dict[str, bytes], **kwargs: Any) -> dict[str, bytes]:
    return {
        f"data/{split}-00000-of-00001.parquet": parquet(as_dataset(clips, split, **kwargs))
        for split in ("train", "test")
    }


def test_a_folder_of_videos_on_the_hub(hub: HubServer, clips: dict[str, bytes]) -> None:
    hub.add_dataset("tester/clips", {**clips, "README.md": b"# Clips\n"})
    videos = load_videos("tester/clips")
    assert_rows(videos, ["cat", "dog"])
    assert split_and_label(videos) == {
        "train/0": ("train", "cat"),
        "train/1": ("train", "cat"),
        "train/2": ("train", "dog"),
        "test/0": ("test", "cat"),
        "test/1": ("test", "dog"),
    }
    assert num_frames(videos) == {"train/0": 0, "train/1": 1, "train/2": 2, "test/0": 3, "test/1": 4}


@pytest.mark.parametrize("label", [ClassLabel(names=["cat", "dog"]), ClassLabel(names=["cat", "dog", "bird"]), None])
def test_a_parquet_with_videos_on_the_hub(hub: HubServer, clips: dict[str, bytes], label: ClassLabel | None) -> None:
    hub.add_dataset("tester/clips", parquet_files(clips, label=label, video="clip"))
    videos = load_videos("tester/clips")
    assert_rows(videos, ["cat", "dog"])  # a class without videos is none
    assert {video_id: label for video_id, (_, label) in split_and_label(videos).items()} == {
        "train/0": "cat",
        "train/1": "cat",
        "train/2": "dog",
        "test/0": "cat",
        "test/1": "dog",
    }
    assert num_frames(videos) == {"train/0": 0, "train/1": 1, "train/2": 2, "test/0": 3, "test/1": 4}
    assert videos["train"][0]["video"]["bytes"] == clips["train/cat/a.mp4"]


def test_a_dataset_pushed_by_the_library_itself(hub: HubServer, clips: dict[str, bytes]) -> None:
    classes = ClassLabel(names=["cat", "dog"])
    DatasetDict({split: as_dataset(clips, split, label=classes) for split in ("train", "test")}).push_to_hub(
        "tester/clips"
    )
    videos = load_videos("tester/clips")
    assert_rows(videos, ["cat", "dog"])
    assert num_frames(videos) == {"train/0": 0, "train/1": 1, "train/2": 2, "test/0": 3, "test/1": 4}


def test_groups_and_spans_of_a_dataset_on_the_hub(hub: HubServer, clips: dict[str, bytes]) -> None:
    part = as_dataset(clips, "train")
    part = part.add_column("group", [7, 0, None]).add_column("start_seconds", [1, None, 2])
    part = part.add_column("video_id", ["x", "x", "x"]).add_column("caption", ["a", "b", "c"])
    hub.add_dataset("tester/clips", {"data/train.parquet": parquet(part)})
    videos = load_videos("tester/clips")
    assert_rows(videos, ["cat", "dog"])
    assert list(videos["train"]["group"]) == ["7", "0", "train/2"]
    assert list(videos["train"]["start_seconds"]) == [1.0, None, 2.0]


def test_bytes_of_videos_stay_on_the_disk(hub: HubServer) -> None:
    size, count = 2**20, 8
    rows = {"video": [{"path": None, "bytes": os.urandom(size)} for _ in range(count)], "label": list("ab") * 4}
    part = Dataset.from_dict(rows, features=Features({"video": Video(), "label": Value("string")}))
    hub.add_dataset("tester/clips", {"data/train.parquet": parquet(part)})
    load_videos("tester/clips")  # fetches and converts
    allocated = pyarrow.total_allocated_bytes()
    tracemalloc.start()
    videos = load_videos("tester/clips")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(videos["train"][3]["video"]["bytes"]) == size
    assert pyarrow.total_allocated_bytes() - allocated < size
    assert peak < count * size / 2


def test_a_copy_of_a_dataset_in_a_folder(tmp_path: Path, clips: dict[str, bytes]) -> None:
    for name, content in parquet_files(clips).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    videos = load_videos(str(tmp_path))
    assert_rows(videos, ["cat", "dog"])
    assert num_frames(videos)["test/1"] == 4


def rows(**columns: list[Any]) -> Dataset:
    features: dict[str, Any] = {name: Video() for name in columns if name in ("video", "camera_1", "camera_2")}
    columns |= {name: [{"path": None, "bytes": text.encode()} for text in columns[name]] for name in features}
    features |= {"class": ClassLabel(names=["cat", "dog"])} if "class" in columns else {}
    part = Dataset.from_dict(columns)
    for name, feature in features.items():
        part = part.cast_column(name, feature)
    return part


BAD_DATASETS = {
    "no video": ({"train": rows(text=["a"], label=["b"])}, ["has no column of type Video (it has text, label)"]),
    "no label": ({"train": rows(video=["a"], name=["b"])}, ["has no column of labels (it has video, name)"]),
    "two cameras": (
        {"train": rows(camera_1=["a"], camera_2=["b"], label=["c"])},
        ["several columns of type Video and none is called video"],
    ),
    "no train": ({"test": rows(video=["a", "b"], label=["c", "d"])}, ["has no split `train`"]),
    "unknown split": (
        {"train": rows(video=["a"], label=["b"]), "holdout": rows(video=["a"], label=["b"])},
        ["has a split 'holdout'"],
    ),
    "one class": ({"train": rows(video=["a"], label=["c"])}, ["has one class only, 'c'"]),
    "hidden labels": (
        {"train": rows(video=["a", "b"], **{"class": [0, 1]}), "test": rows(video=["c"], **{"class": [-1]})},
        ["test/0 has no label"],
    ),
    "no label in a row": ({"train": rows(video=["a", "b", "c"], label=["c", "d", None])}, ["train/2 has no label"]),
    "lists of labels": ({"train": rows(video=["a"], label=[["c", "d"]])}, ["label of train/0 is ['c', 'd']"]),
}


@pytest.mark.parametrize("problem", BAD_DATASETS)
def test_datasets_on_the_hub_that_cannot_be_trained_on(hub: HubServer, problem: str) -> None:
    splits, words = BAD_DATASETS[problem]
    header = [{"split": split, "path": f"{split}.parquet"} for split in splits]
    card = f"---\nconfigs: {json.dumps([{'config_name': 'default', 'data_files': header}])}\n---\n"
    files = {f"{split}.parquet": parquet(part) for split, part in splits.items()}
    hub.add_dataset("tester/clips", {**files, "README.md": card.encode()})
    with one_line_error("tester/clips", *words):
        load_videos("tester/clips")


def test_a_dataset_that_the_hub_does_not_have(hub: HubServer) -> None:
    with one_line_error("tester/nothing: can't be loaded (", "404", "hf download tester/nothing --repo-type dataset"):
        load_videos("tester/nothing")
    assert hub.requests == ["GET /api/datasets/tester/nothing"]  # asked once


def test_a_private_dataset_is_read_with_the_token_alone(
    hub: HubServer, clips: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_dataset("tester/clips", clips, private=True)
    assert len(load_videos("tester/clips")["train"]) == 3
    monkeypatch.delenv("HF_TOKEN")
    with one_line_error("tester/clips: can't be loaded (", "401"):
        load_videos("tester/clips")


def test_without_a_network_the_error_comes_soon(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", url)
        started = time.monotonic()
        with one_line_error("user/clips: can't be loaded (", "HF_HUB_OFFLINE=1", "hf download user/clips"):
            load_videos("user/clips")
    assert time.monotonic() - started < 3


def test_a_hub_that_does_not_answer_is_not_waited_for(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(hub_dataset, "HUB_TIMEOUT_SECONDS", 0.3)
        started = time.monotonic()
        with one_line_error("user/clips: can't be loaded (timed out)"):
            load_videos("user/clips")
    assert time.monotonic() - started < 3


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("layout", ["folder", "parquet"])
def test_a_dataset_loaded_before_works_offline(
    hub: HubServer, clips: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    hub.add_dataset("tester/clips", clips if layout == "folder" else parquet_files(clips))
    online = load_videos("tester/clips")
    asked = len(hub.requests)
    go_offline(monkeypatch)
    offline = load_videos("tester/clips")
    assert len(hub.requests) == asked
    assert [list(part) for part in offline.values()] == [list(part) for part in online.values()]
    assert num_frames(offline)["test/1"] == 4


def test_a_dataset_never_loaded_fails_offline_at_once(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(monkeypatch)
    started = time.monotonic()
    with one_line_error("tester/clips: can't be loaded (", "hf download tester/clips"):
        load_videos("tester/clips")
    assert time.monotonic() - started < 1 and not hub.requests


def test_what_a_folder_holds_besides_videos_is_counted_and_named(tmp_path, caplog):
    for name in ("blue/a.mp4", "red/a.mp4", "red/notes.txt", "red/labels.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "green").mkdir()
    assert [row["label"] for row in read_folder(tmp_path)] == ["blue", "red"]
    left_out, empty = caplog.messages
    assert "left out 2 files that are no videos" in left_out and "labels.csv" in left_out
    assert empty == f"dataset: {tmp_path / 'green'}: holds no videos, and is no class"
