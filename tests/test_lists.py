"""Lists of `path label`: those of VideoMAE, mmaction2 and Moments in Time, in the format of their authors."""

from pathlib import Path

import pytest

from source_checks import assert_rows, one_line_error, split_and_label, touch, write
from vidtune.data.lists import parse_line, split_of
from vidtune.data.sources import load_videos


def test_videomae(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """DATASET.md: two spaces between path and number, and `test.csv` the same as `val.csv`."""
    touch(tmp_path, *(f"videos/video_{number}.mp4" for number in range(1, 6)))
    root = tmp_path / "videos"
    write(tmp_path / "train.csv", f"{root}/video_1.mp4  0\n{root}/video_2.mp4  10\n{root}/video_3.mp4  9\n")
    for name in ("val.csv", "test.csv"):
        write(tmp_path / name, f"{root}/video_4.mp4  0\n{root}/video_5.mp4  10\n")
    videos = load_videos(str(tmp_path))
    assert_rows(videos, ["0", "9", "10"])
    assert split_and_label(videos) == {
        "videos/video_1.mp4": ("train", "0"),
        "videos/video_2.mp4": ("train", "10"),
        "videos/video_3.mp4": ("train", "9"),
        "videos/video_4.mp4": ("validation", "0"),
        "videos/video_5.mp4": ("validation", "10"),
    }
    assert caplog.messages == [f"{tmp_path / 'test.csv'}: lists what the list of validation lists; read once, as that"]


@pytest.mark.parametrize("dataset_format", ["auto", "list"])
def test_mmaction2(tmp_path: Path, dataset_format: str) -> None:
    """prepare_dataset.md: lists beside folders of videos, to which their paths are relative."""
    touch(tmp_path, "videos_train/abseiling/some path_1.mp4", "videos_train/zumba/2.mp4", "videos_val/zumba/3.mkv")
    write(tmp_path / "kinetics400_train_list_videos.txt", "abseiling/some path_1.mp4 0\nzumba/2.mp4 399\n")
    write(tmp_path / "kinetics400_val_list_videos.txt", "zumba/3.mkv 399\n")
    write(tmp_path / "kinetics400_train_list_rawframes.txt", "abseiling/some_path_1 300 0\n")
    assert split_and_label(load_videos(str(tmp_path), dataset_format)) == {
        "videos_train/abseiling/some path_1.mp4": ("train", "0"),
        "videos_train/zumba/2.mp4": ("train", "399"),
        "videos_val/zumba/3.mkv": ("validation", "399"),
    }


def test_moments_in_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """README.txt: `path,label,agreeing workers,disagreeing workers`, videos in training/ and validation/."""
    write(
        tmp_path / "trainingSet.csv",
        "blocking/getty-karate-video-id635808620_4.mp4,blocking,3,0\r\n"
        "adult+male+singing/yt-5of6ffo6-Bw_205.mp4,adult+male+singing,4,1\r\n",
    )
    write(tmp_path / "validationSet.csv", "blocking/yt-0BVed4nBigM_7.mp4,blocking,2,0\r\n")
    write(tmp_path / "moments_categories.txt", "adult+male+singing,0\r\nblocking,1\r\n")
    touch(
        tmp_path,
        "training/blocking/getty-karate-video-id635808620_4.mp4",
        "training/adult+male+singing/yt-5of6ffo6-Bw_205.mp4",
        "validation/blocking/yt-0BVed4nBigM_7.mp4",
        "validation/blocking/unlisted.mp4",
    )
    videos = load_videos(str(tmp_path))
    assert_rows(videos, ["adult+male+singing", "blocking"])
    assert split_and_label(videos) == {
        "training/blocking/getty-karate-video-id635808620_4.mp4": ("train", "blocking"),
        "training/adult+male+singing/yt-5of6ffo6-Bw_205.mp4": ("train", "adult+male+singing"),
        "validation/blocking/yt-0BVed4nBigM_7.mp4": ("validation", "blocking"),
    }
    assert "left out 1 files that no list names (.mp4 1), validation/blocking/unlisted.mp4" in caplog.messages[0]


@pytest.mark.parametrize("name", ["videos.txt", "videos.csv", "val.txt", "VIDEOS.TXT"])
def test_one_list_is_all_there_is(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "a.mp4", "b b.avi", "c.webm")
    videos = load_videos(str(write(tmp_path / name, "\ufeffa.mp4 cat\n\nb b.avi dog\nc.webm\tcat\n")))
    assert split_and_label(videos) == {
        "a.mp4": ("train", "cat"),
        "b b.avi": ("train", "dog"),
        "c.webm": ("train", "cat"),
    }


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        ("a.mp4 1", ("a.mp4", "1")),
        ("  a.mp4 \t 1\r\n", ("a.mp4", "1")),
        ("some path/a b.mp4 cat", ("some path/a b.mp4", "cat")),
        ("one, two.mp4 3", ("one, two.mp4", "3")),
        ("a.mp4,cat", ("a.mp4", "cat")),
        ("a b.mp4, brushing hair", ("a b.mp4", "brushing hair")),
        ("a.mp4,cat,3,0", ("a.mp4", "cat")),
        ("a.unknown,cat", ("a.unknown", "cat")),
        ("a.mp4,cat,garden", ("a.mp4", "")),  # what it says besides would be lost
        ("a.mp4,1,5,7", ("a.mp4", "")),  # several labels
        ("a.mp4", ("a.mp4", "")),
        ("a.mp4,", ("a.mp4", "")),
    ],
)
def test_lines(line: str, parsed: tuple[str, str]) -> None:
    assert parse_line(line) == parsed


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.csv", "train"),
        ("trainingSet.csv", "train"),
        ("trainlist01.txt", "train"),
        ("kinetics-400_train.csv", "train"),
        ("sthv2_val_list_videos.txt", "validation"),
        ("VALIDATION.txt", "validation"),
        ("dev.txt", "validation"),
        ("a/b/test.csv", "test"),
        ("hmdb51_test_split_1_videos.txt", "test"),
        ("train/labels.csv", None),
        ("strain.csv", None),
        ("trainer.csv", None),
        ("latest.csv", None),
        ("videos.csv", None),
    ],
)
def test_the_split_that_a_name_tells(name: str, split: str | None) -> None:
    assert split_of(name) == split


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ({"train.txt": "a.mp4 0\nb.mp4\n"}, ["train.txt: line 2: 'b.mp4' has no label; write `path label`"]),
        (
            {"train.txt": "a.mp4 0\n\nx.mp4 1\ny.mp4 1\n"},
            ["x.mp4 does not exist (and 1 more)", "relative to the list"],
        ),
        ({"train.txt": "a.mp4 0\n../b.mp4 1\n"}, ["line 2: video '../b.mp4' lies outside of", "--video_root"]),
        ({"train.txt": "a.mp4 0\nb.mp4 0\n"}, ["has one class only, '0'"]),
        ({"train.txt": "a.mp4 0\nb.mp4 1\n./a.mp4 1\n"}, ["a.mp4 is listed twice"]),
        ({"val.txt": "a.mp4 0\nb.mp4 1\n"}, ["has no split `train`"]),
        ({"train.txt": "a.mp4 0\nb.mp4 1\n", "test.txt": "c.mp4 2\n"}, ["label '2' of c.mp4 in test is not in train"]),
        (
            {"train_1.txt": "a.mp4 0\nb.mp4 1\n", "train_2.txt": "c.mp4 0\n"},
            ["two lists of train, train_1.txt and train_2.txt; keep one of them"],
        ),
    ],
)
def test_lists_that_cannot_be_trained_on(tmp_path: Path, lists: dict[str, str], words: list[str]) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    for name, text in lists.items():
        write(tmp_path / name, text)
    with one_line_error(str(tmp_path), *words):
        load_videos(str(tmp_path))


def test_a_folder_without_a_list(tmp_path: Path) -> None:
    with one_line_error("has no train.csv or train.txt with lines `path label`, which dataset_format: list needs"):
        load_videos(str(touch(tmp_path, "cat/1.mp4", "notes.txt")), "list")


def test_a_list_in_a_folder_of_its_own(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.mp4", "dog/1.mp4")
    write(tmp_path / "annotations" / "train.txt", "cat/1.mp4 0\ndog/1.mp4 1\n")
    assert split_and_label(load_videos(str(tmp_path))) == {"cat/1.mp4": ("train", "0"), "dog/1.mp4": ("train", "1")}
