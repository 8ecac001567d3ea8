"""What names a dataset, how its format is told, and the one shape of rows that all sources give."""

from pathlib import Path
from typing import Any

import pytest

from source_checks import assert_rows, one_line_error, split_and_label, touch, write
from vidtune.data import demo
from vidtune.data.sources import is_hub_id, load_videos
from vidtune.errors import InputError


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


# Formats


@pytest.mark.parametrize(
    ("dataset_format", "words"),
    [
        ("ucf101", ["has no classInd.txt, which dataset_format: ucf101 needs; add it, or give another"]),
        ("hmdb51", ["has no <class>_test_split1.txt, which dataset_format: hmdb51 needs"]),
        ("kinetics", ["has no csv file of a split with columns label, youtube_id, time_start, time_end"]),
        ("ssv2", ["has no labels.json, which dataset_format: ssv2 needs"]),
        ("list", ["has no train.csv or train.txt with lines `path label`"]),
        ("table", ["is a folder; give a table"]),
    ],
)
def test_a_format_that_does_not_fit_says_what_is_missing(
    tmp_path: Path, dataset_format: str, words: list[str]
) -> None:
    with one_line_error(f"{tmp_path}: ", *words):
        load_videos(str(touch(tmp_path, "cat/1.mp4", "dog/1.mp4")), dataset_format)


@pytest.mark.parametrize("dataset_format", ["folder", "ucf101", "hmdb51", "kinetics", "ssv2", "list"])
def test_a_format_of_folders_takes_a_folder(tmp_path: Path, dataset_format: str) -> None:
    if dataset_format != "list":
        with one_line_error(f"is no folder; dataset_format: {dataset_format} takes a folder"):
            load_videos(str(touch(tmp_path, "videos.csv") / "videos.csv"), dataset_format)
    with one_line_error(f"does not exist; dataset_format: {dataset_format} takes a folder"):
        load_videos(str(tmp_path / "gone"), dataset_format)


def test_lists_beside_class_folders_are_passed_over_where_the_folders_are_asked_for(tmp_path: Path) -> None:
    write(touch(tmp_path, "cat/1.mp4", "dog/1.mp4") / "train.txt", "cat/1.mp4 0\ndog/1.mp4 1\n")
    assert load_videos(str(tmp_path))["train"].features["label"].names == ["0", "1"]
    assert load_videos(str(tmp_path), "folder")["train"].features["label"].names == ["cat", "dog"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset_format": "videos"}, "dataset_format: 'videos'; choose from auto, folder, table"),
        (
            {"config": "small"},
            "dataset_config: small goes with a dataset of the Hub, and this one is read as folder; leave it out",
        ),
        (
            {"revision": "v1"},
            "dataset_revision: v1 goes with a dataset of the Hub, and this one is read as folder; leave it out",
        ),
        (
            {"split_number": 2},
            "split_number: 2 goes with ucf101 and hmdb51, and this one is read as folder; leave it out",
        ),
        ({"group_column": "group"}, "split_by_group: 'group' goes with a table or a dataset of the Hub"),
    ],
)
def test_an_option_of_another_format_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_videos(str(touch(tmp_path, "cat/1.mp4", "dog/1.mp4")), **options)
    assert str(caught.value).startswith(message)


def test_groups_of_a_format_that_tells_them(tmp_path: Path) -> None:
    write(tmp_path / "cat_test_split1.txt", "x_cat_f_cm_np1_ba_bad_2.avi 1 \n")
    write(tmp_path / "dog_test_split1.txt", "y_dog_f_cm_np1_ba_bad_2.avi 1 \n")
    touch(tmp_path, "cat/x_cat_f_cm_np1_ba_bad_2.avi", "dog/y_dog_f_cm_np1_ba_bad_2.avi")
    assert list(load_videos(str(tmp_path), group_column="group")["train"]["group"]) == ["cat/x", "dog/y"]
    with pytest.raises(InputError, match="split_by_group: 'film' goes with a table"):
        load_videos(str(tmp_path), group_column="film")
