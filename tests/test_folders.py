"""Folders of videos: classes and splits by their folders, and which files are videos."""

import os
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from run_recipe import load_recipe
from source_checks import one_line_error, split_and_label, touch
from video_files import moving_square, write_audio, write_video
from vidtune.data.clips import open_row
from vidtune.data.files import list_videos
from vidtune.data.folders import read_folder
from vidtune.data.sources import load_videos
from vidtune.errors import InputError


def ids(folder: Path) -> list[str]:
    return [row["video_id"] for row in read_folder(folder, *list_videos(folder))]


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
    assert ids(tmp_path) == ["cat/1.mp4", "dog/1.webm"]


def test_links_to_folders_and_files_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "1.mp4", "deeper/2.mp4")
    touch(tmp_path / "videos", "dog/1.mp4")
    (tmp_path / "videos" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "videos" / "dog" / "2.mp4").symlink_to(tmp_path / "elsewhere" / "1.mp4")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "videos")
    (tmp_path / "videos" / "dog" / "circle").symlink_to(".")
    assert ids(tmp_path / "videos") == [
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


def test_a_pipe_is_no_video(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.mp4", "dog/1.mp4")
    os.mkfifo(tmp_path / "dog" / "2.mp4")
    with one_line_error("dog/2.mp4: is a pipe or a device", "remove it"):
        load_videos(str(tmp_path))


def test_what_a_folder_holds_besides_videos_is_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "blue/a.mp4", "red/a.mp4", "red/notes.txt", "red/labels.csv", "red/more.txt", "red/LICENSE")
    (tmp_path / "green").mkdir()
    assert ids(tmp_path) == ["blue/a.mp4", "red/a.mp4"]
    assert caplog.messages == [
        f"{tmp_path}: left out 4 files that are no videos (.txt 2, no ending 1, .csv 1), red/LICENSE first",
        f"dataset: {tmp_path / 'green'}: holds no videos, and is no class",
    ]


def test_many_endings_of_what_is_left_out_are_cut_short(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a/1.mp4", "b/1.mp4", *(f"b/1.x{number}" for number in range(20)))
    ids(tmp_path)
    (message,) = caplog.messages
    assert "left out 20 files" in message and message.count(" 1, ") == 8 and ", ...), b/1.x0 first" in message


# Which files are videos

ENDINGS = ".3gp .asf .AVI .flv .gif .m2ts .m4v .mkv .mov .MP4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv".split()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_known_ending_is_taken_without_opening_the_file(tmp_path: Path, ending: str) -> None:
    assert list_videos(touch(tmp_path, f"cat/1{ending}")) == ([f"cat/1{ending}"], [])


CONTAINERS = {
    "mp4": "libx264",
    "mkv": "libx264",
    "ts": "libx264",
    "avi": "mpeg4",
    "webm": "libvpx-vp9",
    "mpg": "mpeg1video",
    "flv": "flv",
    "nut": "ffv1",
    "mxf": "mpeg2video",
    "wmv": "wmv2",
    "y4m": "rawvideo",
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_video_of_any_ending_is_told_by_opening_it(tmp_path: Path, container: str) -> None:
    video = write_video(tmp_path / f"x.{container}", moving_square(4), codec=CONTAINERS[container])
    for name in ("cat/video", "cat/video.recording", "cat/video.001", "cat/video.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(video.read_bytes())
    video.unlink()
    assert list_videos(tmp_path) == (["cat/video", "cat/video.001", "cat/video.bin", "cat/video.recording"], [])


def test_what_is_no_video_is_told_by_opening_it(tmp_path: Path) -> None:
    write_audio(tmp_path / "sound.m4a").rename(tmp_path / "sound")
    Image.fromarray(moving_square(1)[0]).save(tmp_path / "picture", format="png")
    Image.fromarray(moving_square(1)[0]).save(tmp_path / "photo", format="jpeg")
    Image.fromarray(moving_square(1)[0]).save(tmp_path / "symbol", format="ico")
    (tmp_path / "letter.nfo").write_text("Dear reader,\n" * 20)  # FFmpeg would draw it
    (tmp_path / "empty.xyz").touch()
    (tmp_path / "noise.xyz").write_bytes(np.random.default_rng(0).bytes(10_000))
    (tmp_path / "nowhere").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe")
    videos, others = list_videos(tmp_path)
    assert videos == [] and len(others) == 9


def test_a_sound_with_a_cover_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        cover = container.add_stream("mjpeg", width=32, height=32, pix_fmt="yuvj420p")
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(moving_square(1)[0], format="rgb24")))
        container.mux(cover.encode())
    (tmp_path / "song.mp4").rename(tmp_path / "song")
    assert list_videos(tmp_path) == ([], ["song"])


@pytest.mark.parametrize("name", ["1.txt", "1.json", "1.jpg", "1.PNG", "1.pdf", "1.wav", "1.mp3", "1.npy", "1.heic"])
def test_an_ending_that_is_no_video_s_is_not_opened(tmp_path: Path, name: str) -> None:
    video = write_video(tmp_path / "x.mp4", moving_square(2))
    video.rename(tmp_path / name)
    assert list_videos(tmp_path) == ([], [name])


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "cat/1.mp4", "dog/1.mp4")
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read all
    with pytest.raises(InputError, match="dog: can't be read"):
        load_videos(str(tmp_path))


@pytest.mark.parametrize(
    "name", ["with space.mp4", "line\nbreak.mp4", "quo'te\".mp4", "日本 é.mp4", "-dash.mp4", "a:b.mp4"]
)
def test_names_of_every_kind(tmp_path: Path, name: str) -> None:
    (tmp_path / "cat").mkdir()
    write_video(tmp_path / "x.mp4", moving_square(2)).rename(tmp_path / "cat" / name)
    touch(tmp_path, "dog/1.mp4")
    videos = load_videos(str(tmp_path))
    assert videos["train"]["video_id"][0] == f"cat/{name}"
    with open_row(videos["train"][0]) as video:
        assert video.num_frames == 2


def test_predict_finds_videos_as_a_dataset_does(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_video(tmp_path / "x.mp4", moving_square(2)).rename(tmp_path / "video")
    touch(tmp_path, "b/1.webm", "notes.txt", "alone.mp4")
    find_videos = load_recipe("predict").find_videos
    assert find_videos([str(tmp_path)]) == [tmp_path / name for name in ("alone.mp4", "b/1.webm", "video")]
    assert "left out 1 files that are no videos (.txt 1), notes.txt first" in caplog.messages[0]
    touch(tmp_path, "noise.bin")
    assert find_videos([str(tmp_path / "noise.bin")]) == [tmp_path / "noise.bin"]  # what is named is tried
    (tmp_path / "empty").mkdir()
    for name, words in (("empty", "holds no videos"), ("gone", "does not exist")):
        with pytest.raises(InputError, match=f"input: .*{name}: {words}"):
            find_videos([str(tmp_path / name)])
