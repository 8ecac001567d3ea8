"""The demo datasets: reproducible, real H.264, varied, labelled truly, and never half-written."""

import threading
from pathlib import Path

import av
import numpy as np
import pytest

from vidtune.data import demo
from vidtune.errors import InputError

MOTIONS = demo.CLASSES["demo"]


def few_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two videos a class, one for test, so that a whole dataset takes half a second."""
    monkeypatch.setitem(demo.VIDEOS_PER_CLASS, "demo", {"train": 2, "validation": 1, "test": 1})


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def find_object(frame: np.ndarray) -> tuple[float, float, int]:
    """x and y of the middle and area of what is brighter than any background, in pixels."""
    rows, columns = np.nonzero(frame.mean(axis=-1) > 125)
    return columns.mean(), rows.mean(), len(rows)


@pytest.mark.parametrize("name", demo.CLASSES)
def test_a_video_is_a_pure_function_of_what_names_it(name: str) -> None:
    label = demo.CLASSES[name][0]
    frames, fps = demo.draw_video(name, "train", label, 0)
    again, fps_again = demo.draw_video(name, "train", label, 0)
    assert fps == fps_again
    np.testing.assert_array_equal(frames, again)
    others = [("test", label, 0), ("train", demo.CLASSES[name][1], 0), ("train", label, 1)]
    for other in others:
        assert not np.array_equal(frames, demo.draw_video(name, *other)[0])


def test_files_are_h264_mp4_with_the_frames_and_rate_drawn(tmp_path: Path) -> None:
    frames, fps = demo.draw_video("demo", "train", "grows", 0)
    demo.encode_video(tmp_path / "0000.mp4", frames, fps)
    with av.open(str(tmp_path / "0000.mp4")) as container:
        stream = container.streams.video[0]
        assert "mp4" in container.format.name
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == fps
    decoded = decode(tmp_path / "0000.mp4")
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(float) - frames).mean() < 5  # compression, no more


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    video = demo.draw_video("demo-success", "train", "success", 0)
    demo.encode_video(tmp_path / "a.mp4", *video)
    demo.encode_video(tmp_path / "b.mp4", *video)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_length_rate_and_size_vary() -> None:
    videos = [demo.draw_video("demo", "train", "moves_left", index) for index in range(20)]
    seconds = [len(frames) / fps for frames, fps in videos]
    assert min(seconds) >= 0.9 and max(seconds) <= 2.6
    assert max(seconds) - min(seconds) > 1
    assert len({fps for _, fps in videos}) >= 4
    sizes = {frames.shape[1:3] for frames, _ in videos}
    assert any(height > width for height, width in sizes) and any(height < width for height, width in sizes)
    assert all(height % 2 == width % 2 == 0 for height, width in sizes)


@pytest.mark.parametrize(
    ("label", "change"),
    [
        ("moves_left", (-1, 0, 0)),
        ("moves_right", (1, 0, 0)),
        ("moves_up", (0, -1, 0)),
        ("moves_down", (0, 1, 0)),
        ("grows", (0, 0, 1)),
        ("shrinks", (0, 0, -1)),
    ],
)
def test_only_what_the_class_names_differs_from_start_to_end(label: str, change: tuple[int, int, int]) -> None:
    for seed in range(20):
        path = demo.draw_drift(label, 30, np.random.default_rng(seed))
        assert path.shape == (30, 3)
        assert np.abs(path).max() <= 1
        net = path[-1] - path[0]
        for moved, sign in zip(net, change, strict=True):
            if sign:
                assert 0.8 - 1e-6 <= sign * moved <= 1 + 1e-6
            else:
                assert abs(moved) < 1e-6
        # What swings there and back covers nearly as much as what drifts.
        assert np.ptp(path, axis=0).min() > 0.5


def test_a_person_who_watches_the_frames_sees_the_class() -> None:
    for label in MOTIONS:
        frames, _ = demo.draw_video("demo", "train", label, 0)
        (x, y, area), (x_end, y_end, area_end) = find_object(frames[0]), find_object(frames[-1])
        height, width = frames.shape[1:3]
        right, down, growth = (x_end - x) / width, (y_end - y) / height, np.log2(area_end / area)
        assert (right > 0.15) == (label == "moves_right") and (right < -0.15) == (label == "moves_left")
        assert (down > 0.15) == (label == "moves_down") and (down < -0.15) == (label == "moves_up")
        assert (growth > 0.8) == (label == "grows") and (growth < -0.8) == (label == "shrinks")


def test_positions_and_sizes_are_alike_in_all_classes() -> None:
    paths = {
        label: np.concatenate([demo.draw_drift(label, 20, np.random.default_rng(seed)) for seed in range(300)])
        for label in MOTIONS
    }
    for path in paths.values():
        assert np.abs(path.mean(axis=0)).max() < 0.1
        assert np.all((path.std(axis=0) > 0.35) & (path.std(axis=0) < 0.6))


def test_only_a_success_ends_in_the_bin() -> None:
    endings = set()
    for seed in range(60):
        for label in demo.CLASSES["demo-success"]:
            path, bin_x = demo.draw_transfer(label, 40, np.random.default_rng(seed))
            assert path.min() >= 0 and path.max() <= 1
            assert path[-1, 1] == 0, "the object ends on the ground"
            beside = path[-1, 0] - bin_x
            assert (abs(beside) < demo.BIN_WIDTH / 2) == (label == "success")
            if label == "failure":
                endings.add((beside > 0) == (path[0, 0] > bin_x))
    assert endings == {True, False}, "failures end on both sides of the bin"


def test_a_whole_dataset_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_videos(monkeypatch)
    folder = demo.write_demo("demo", tmp_path)
    assert folder == tmp_path / "vidtune" / "demo-v1"
    for split, count in {"train": 2, "validation": 1, "test": 1}.items():
        assert sorted(path.name for path in (folder / split).iterdir()) == sorted(MOTIONS)
        for label in MOTIONS:
            files = sorted(path.name for path in (folder / split / label).iterdir())
            assert files == ["0000.mp4", "0001.mp4"][:count]
    assert [path.name for path in folder.parent.iterdir()] == ["demo-v1"], "nothing temporary is left"

    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    monkeypatch.setattr(demo, "encode_video", lambda *_: pytest.fail("written again"))
    assert demo.write_demo("demo", tmp_path) == folder
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_shipped_counts() -> None:
    totals = {
        name: {split: count * len(demo.CLASSES[name]) for split, count in counts.items()}
        for name, counts in demo.VIDEOS_PER_CLASS.items()
    }
    assert totals == {
        "demo": {"train": 480, "validation": 120, "test": 120},
        "demo-success": {"train": 160, "validation": 40, "test": 40},
    }


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "xdg" / "vidtune" / "demo-v1").mkdir(parents=True)
    (tmp_path / "home" / ".cache" / "vidtune" / "demo-v1").mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert demo.write_demo("demo") == tmp_path / "xdg" / "vidtune" / "demo-v1"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert demo.write_demo("demo") == tmp_path / "home" / ".cache" / "vidtune" / "demo-v1"


def test_an_interrupted_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_videos(monkeypatch)
    encode, written = demo.encode_video, []

    def encode_then_stop(path: Path, frames: np.ndarray, fps: int) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        encode(path, frames, fps)

    monkeypatch.setattr(demo, "encode_video", encode_then_stop)
    with pytest.raises(KeyboardInterrupt):
        demo.write_demo("demo", tmp_path)
    assert list((tmp_path / "vidtune").iterdir()) == []


def test_two_writers_at_once_end_with_one_whole_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_videos(monkeypatch)
    write_videos, both_wrote = demo._write_videos, threading.Barrier(2, timeout=30)

    def write_then_wait(name: str, folder: Path) -> None:
        write_videos(name, folder)
        both_wrote.wait()  # both reach the renaming with a whole folder in hand

    monkeypatch.setattr(demo, "_write_videos", write_then_wait)
    folders: list[Path] = []
    writers = [threading.Thread(target=lambda: folders.append(demo.write_demo("demo", tmp_path))) for _ in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert folders == [tmp_path / "vidtune" / "demo-v1"] * 2
    assert len(list(folders[0].rglob("*.mp4"))) == 4 * len(MOTIONS)
    assert [path.name for path in folders[0].parent.iterdir()] == ["demo-v1"]


def test_a_folder_that_cannot_be_put_in_place_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_videos(monkeypatch)
    (tmp_path / "vidtune").mkdir()
    (tmp_path / "vidtune" / "demo-v1").write_text("a file is in the way")
    with pytest.raises(OSError):
        demo.write_demo("demo", tmp_path)


def test_an_unknown_name_is_named_with_the_choices() -> None:
    with pytest.raises(InputError, match="'dmeo'; choose from demo, demo-success"):
        demo.write_demo("dmeo")
