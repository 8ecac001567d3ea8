import pickle
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from video_files import counting_frames, frame_indices, moving_square, write_audio, write_video
from vidtune.data import decoding
from vidtune.data.decoding import available_decoders, open_video
from vidtune.data.pyav_video import PyavVideo
from vidtune.data.video import Video
from vidtune.errors import InputError, VideoError

NUM_FRAMES = 30
RATE = 25
VARIABLE_TIMES = np.cumsum([0.0] + [0.02, 0.05, 0.1] * 9 + [0.2, 0.04]).tolist()

needs_torchcodec = pytest.mark.skipif("torchcodec" not in available_decoders(), reason="torchcodec finds no FFmpeg")
each_decoder = pytest.mark.parametrize("decoder", available_decoders())

# Name, options of write_video, height and width: what files come in.
KINDS = {
    "constant.mp4": {},
    "variable.mp4": {"times": VARIABLE_TIMES},
    "variable.mkv": {"times": VARIABLE_TIMES},
    "b_frames.mp4": {"codec": "libx264", "options": {"qp": "1", "bf": "2", "x264-params": "b-adapt=0"}},
    "b_frames.mkv": {"codec": "libx264", "options": {"qp": "1", "bf": "2", "x264-params": "b-adapt=0"}},
    "starts_late.mp4": {"times": (1.5 + np.arange(NUM_FRAMES) / RATE).tolist()},
    "starts_late.mkv": {"times": (1.5 + np.arange(NUM_FRAMES) / RATE).tolist()},
    "ntsc.mp4": {"fps": 30000 / 1001},
    "one_keyframe.mp4": {"keyframe_every": 300},
    "turned_90.mp4": {"rotation": 90},
    "turned_180.mp4": {"rotation": 180},
    "turned_270.mov": {"rotation": 270},
    "odd_size.mp4": {"pixel_format": "yuv444p", "height": 45, "width": 51},
    "even_size.mkv": {"height": 46, "width": 50},
    "vp9.webm": {"codec": "libvpx-vp9"},
}
# Of such, torchcodec gives wrong frames or none.
KINDS_FOR_PYAV = {
    "mpeg4.avi": {"codec": "mpeg4", "options": {"b": "2000000"}},
    "no_duration.flv": {"codec": "flv", "options": {"b": "2000000"}},
    "b_frames.avi": {"codec": "mpeg4", "b_frames": 2, "options": {"b": "2000000"}},
    "mpeg1.mpg": {"codec": "mpeg1video", "options": {"b": "2000000"}},
    "b_frames.mpg": {"codec": "mpeg1video", "b_frames": 2, "options": {"b": "2000000"}},
    "open_gop.ts": {"options": {"qp": "1", "bf": "2", "x264-params": "b-adapt=0:open-gop=1"}},
}


def write_kind(folder: Path, name: str, frames=None) -> Path:
    options = {"fps": RATE, "height": 48, "width": 64, **{**KINDS, **KINDS_FOR_PYAV}[name]}
    height, width = options.pop("height"), options.pop("width")
    return write_video(
        folder / name, counting_frames(NUM_FRAMES, height, width) if frames is None else frames, **options
    )


def indices_at(video: Video, seconds: list[float]) -> list[int]:
    return frame_indices(video.frames_at(seconds), NUM_FRAMES)


def rate_of(name: str) -> float:
    return KINDS.get(name, {}).get("fps", RATE)


@pytest.fixture(scope="module")
def counting(tmp_path_factory) -> Path:
    """30 frames at 25 fps, a keyframe every 12."""
    return write_video(tmp_path_factory.mktemp("videos") / "counting.mp4", counting_frames(NUM_FRAMES), RATE)


@each_decoder
def test_describes_the_content(counting, decoder):
    with open_video(counting, decoder) as video:
        assert video.num_frames == NUM_FRAMES
        assert video.duration_seconds == pytest.approx(NUM_FRAMES / RATE, abs=1e-6)
        assert video.fps == pytest.approx(RATE)
        assert (video.height, video.width) == (32, 32)


@each_decoder
def test_gives_uint8_frames_in_channels_last_memory(counting, decoder):
    with open_video(counting, decoder) as video:
        frames = video.frames_at([0.1, 0.9])
    assert frames.dtype == torch.uint8
    assert frames.shape == (2, 3, 32, 32)
    assert frames.permute(0, 2, 3, 1).is_contiguous()


@each_decoder
@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([0.0, 0.039, 0.04, 0.0401], [0, 0, 1, 1]),
        ([1.0, 0.5, 0.5, 0.0, 1.0], [25, 12, 12, 0, 25]),
        ([1.199, 1.2, 99.0], [29, 29, 29]),
        ([-1.0], [0]),
        ([index / RATE for index in range(NUM_FRAMES)], list(range(NUM_FRAMES))),
        ([7 * 0.04, 3 * 0.1], [7, 7]),
    ],
    ids=["boundaries", "unsorted", "past the end", "before the start", "all", "rounded floats"],
)
def test_gives_the_frame_on_screen(counting, decoder, seconds, expected):
    with open_video(counting, decoder) as video:
        assert indices_at(video, seconds) == expected
        assert indices_at(video, seconds) == expected


@pytest.mark.parametrize("name", [*KINDS, *KINDS_FOR_PYAV])
@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_every_kind_of_file_gives_each_frame_at_its_time(tmp_path, name, decoder):
    times = VARIABLE_TIMES if "variable" in name else [index / rate_of(name) for index in range(NUM_FRAMES)]
    with open_video(write_kind(tmp_path, name), decoder) as video:
        assert video.num_frames == NUM_FRAMES
        assert indices_at(video, [time + 0.001 for time in times]) == list(range(NUM_FRAMES))
        for chosen in ([29], [0], [20, 3], [28, 13, 13]):
            assert indices_at(video, [times[index] + 0.001 for index in chosen]) == chosen


@each_decoder
def test_times_of_a_variable_rate_are_those_of_the_file(tmp_path, decoder):
    with open_video(write_kind(tmp_path, "variable.mp4"), decoder) as video:
        assert video.duration_seconds == pytest.approx(VARIABLE_TIMES[-1] + 0.04, abs=1e-6)
        assert video.fps == pytest.approx(NUM_FRAMES / video.duration_seconds)
        assert indices_at(video, [0.019, 0.021, 0.069, 0.071, 0.169]) == [0, 1, 1, 2, 2]


@each_decoder
@pytest.mark.parametrize(("rotation", "corner"), [(0, (0, 0)), (90, (47, 0)), (180, (31, 47)), (270, (0, 31))])
def test_rotation_is_applied(tmp_path, decoder, rotation, corner):
    frames = np.full((3, 32, 48, 3), 30, np.uint8)
    frames[:, :8, :8] = 220
    height, width = (48, 32) if rotation in (90, 270) else (32, 48)
    with open_video(write_video(tmp_path / "turned.mp4", frames, rotation=rotation), decoder) as video:
        assert (video.height, video.width) == (height, width)
        picture = video.frames_at([0.0])[0].float().mean(0)
    assert picture.shape == (height, width)
    assert picture[corner] > 200
    assert (picture > 150).sum() == pytest.approx(64, abs=20)


@each_decoder
def test_colours_are_kept(tmp_path, decoder):
    frames = np.zeros((2, 32, 32, 3), np.uint8)
    frames[:, :16] = (200, 40, 90)
    frames[:, 16:] = (20, 160, 230)
    with open_video(write_video(tmp_path / "colours.mp4", frames, pixel_format="yuv444p"), decoder) as video:
        picture = video.frames_at([0.0])[0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(picture - frames[0]).max() <= 3


@each_decoder
def test_a_span_has_its_own_clock(counting, decoder):
    with open_video(counting, decoder, start_seconds=0.4, end_seconds=0.8) as video:
        assert video.duration_seconds == pytest.approx(0.4)
        assert video.num_frames == 10
        assert video.fps == pytest.approx(RATE)
        assert indices_at(video, [0.0, 0.2, 0.399, 0.4, 5.0]) == [10, 15, 19, 19, 19]
    with open_video(counting, decoder, start_seconds=1.0) as video:
        assert indices_at(video, [0.0, 5.0]) == [25, 29]
    with open_video(counting, decoder, end_seconds=99.0) as video:
        assert video.duration_seconds == pytest.approx(1.2)


@each_decoder
@pytest.mark.parametrize("span", [(2.0, 3.0), (1.0, 0.5), (-1.0, 1.0), (1.3, None), (0.5, 0.5)])
def test_a_span_outside_the_content_is_an_error(counting, decoder, span):
    with pytest.raises(VideoError, match=r"counting\.mp4: start_seconds .* enclose none of its 1\.2 s"):
        open_video(counting, decoder, *span)


@each_decoder
def test_opens_bytes_and_odd_names(counting, decoder, tmp_path):
    odd = tmp_path / "concat:a %d é.mp4"
    odd.write_bytes(counting.read_bytes())
    for source in (counting.read_bytes(), odd, str(odd)):
        with open_video(source, decoder) as video:
            assert indices_at(video, [0.5]) == [12]


@pytest.mark.parametrize(("name", "codec"), [("one.mp4", "libx264"), ("one.flv", "flv")])
def test_one_frame_has_a_duration(tmp_path, name, codec):
    with open_video(write_video(tmp_path / name, counting_frames(1), RATE, codec=codec)) as video:
        assert video.num_frames == 1
        assert video.duration_seconds > 0
        assert video.frames_at([0.0, 0.03, 1.0]).shape == (3, 3, 32, 32)


def write_broken(folder: Path) -> dict[str, Path]:
    whole = write_video(folder / "whole.mp4", moving_square(NUM_FRAMES)).read_bytes()
    broken = {
        "text": b"this is no video\n" * 100,
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "junk": whole[:100] + np.random.default_rng(0).bytes(len(whole)),
    }
    paths = {"missing": folder / "missing.mp4", "folder": folder}
    for name, content in broken.items():
        paths[name] = folder / f"{name}.mp4"
        paths[name].write_bytes(content)
    paths["audio"] = write_audio(folder / "audio.mp4")
    return paths


@pytest.mark.parametrize("decoder", ["auto", *available_decoders()])
@pytest.mark.parametrize("kind", ["text", "empty", "cut", "junk", "missing", "folder", "audio"])
def test_what_is_no_video_is_an_error_in_one_line(tmp_path, decoder, kind):
    path = write_broken(tmp_path)[kind]
    with pytest.raises(VideoError) as caught:
        open_video(path, decoder)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert ".cpp" not in str(caught.value)


@pytest.mark.parametrize("decoder", ["auto", *available_decoders()])
def test_a_truncated_video_gives_the_frames_that_are_there(tmp_path, decoder):
    whole = write_video(tmp_path / "whole.mkv", moving_square(NUM_FRAMES), RATE)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with open_video(whole, decoder) as reference, open_video(cut, decoder) as video:
        assert 0 < video.num_frames < NUM_FRAMES
        assert video.duration_seconds == pytest.approx(video.num_frames / RATE, abs=1e-6)
        times = [index / RATE for index in range(video.num_frames)]
        assert torch.equal(video.frames_at(times), reference.frames_at(times))


@each_decoder
def test_the_end_of_a_file_that_was_cut(tmp_path, decoder):
    whole = write_video(
        tmp_path / "whole.mp4", moving_square(NUM_FRAMES), RATE, container_options={"movflags": "faststart"}
    )
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 4])
    with open_video(path, decoder) as video:
        assert video.frames_at([0.0]).shape[0] == 1
        if decoder == "pyav":  # The frame that is cut counts as not there.
            whole = all_frames(path.parent / "whole.mp4")[1]
            assert 15 < video.num_frames < NUM_FRAMES
            last = video.frames_at([9.0])[0].permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(last, whole[video.num_frames - 1])
        else:
            with pytest.raises(VideoError, match=r"cut\.mp4: "):
                video.frames_at([9.0])


@each_decoder
def test_an_opened_video_is_not_pickled(counting, decoder):
    with open_video(counting, decoder) as video, pytest.raises(TypeError, match="open it there"):
        pickle.dumps(video)


def test_an_unknown_decoder_is_an_error(counting):
    with pytest.raises(InputError, match="decoder: must be auto, torchcodec or pyav, not 'decord'"):
        open_video(counting, "decord")


def test_without_ffmpeg_auto_is_pyav_and_torchcodec_an_error(counting, monkeypatch):
    monkeypatch.setattr(decoding, "torchcodec_works", lambda: False)
    assert available_decoders() == ["pyav"]
    assert isinstance(open_video(counting), PyavVideo)
    with pytest.raises(InputError, match="decoder: torchcodec finds no FFmpeg here; install FFmpeg or use"):
        open_video(counting, "torchcodec")


def test_auto_is_pyav_even_where_torchcodec_works(counting):
    with open_video(counting) as one, open_video(counting.read_bytes()) as other:
        assert type(one) is type(other) is PyavVideo


def test_a_stream_gives_one_frame_after_the_other(counting):
    with open_video(counting, start_seconds=0.2) as video:
        frames = list(video.stream(time / RATE for time in (0, 0, 1, 5, 60)))
    assert [tuple(frame.shape) for frame in frames] == [(3, 32, 32)] * 5
    assert frame_indices(torch.stack(frames), NUM_FRAMES) == [5, 5, 6, 10, 29]


def all_frames(path: Path) -> tuple[np.ndarray, list[np.ndarray]]:
    """Times and pixels of all frames, decoded one after the other."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        times = np.array([float(frame.pts * frame.time_base) for frame in frames])
        return times - times[0], [frame.to_ndarray(format="rgb24", interpolation="FAST_BILINEAR") for frame in frames]


@pytest.fixture(scope="module", params=["long.mp4", "long.mkv"])
def long(request, tmp_path_factory) -> Path:
    """100 seconds of pictures that are all different, a keyframe every 8 seconds, B-frames between."""
    pixels = np.random.default_rng(0).integers(0, 256, (400, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    return write_video(
        tmp_path_factory.mktemp("long") / request.param,
        pixels,
        4,
        keyframe_every=32,
        options={"bf": "3", "qp": "20", "sc_threshold": "0"},
    )


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_a_long_file_is_read_in_parts_and_gives_the_same_frames(long, decoder):
    times, pixels = all_frames(long)
    rng = np.random.default_rng(1)
    with open_video(long, decoder) as video:
        assert video._timeline is None  # the file was not scanned
        assert video.duration_seconds == pytest.approx(100, abs=0.01)
        assert (video.num_frames, video.fps) == (400, pytest.approx(4, abs=0.001))
        requests = [rng.uniform(0, 100, 6), rng.uniform(0, 98) + np.arange(8) / 4, [99.99, 200.0], [0.0], times + 0.01]
        for request in requests:
            expected = [np.searchsorted(times, time + 1e-6, "right") - 1 for time in request]
            frames = video.frames_at(list(request)).permute(0, 2, 3, 1).numpy()
            for frame, index in zip(frames, expected, strict=True):
                np.testing.assert_array_equal(frame, pixels[index])
        assert video._timeline is None


def test_with_slack_a_keyframe_of_a_long_file_stands_for_what_follows_it(long):
    _, pixels = all_frames(long)
    with open_video(long) as video:
        frames = video.frames_at([3.0, 30.0, 55.9], slack_seconds=6.5).permute(0, 2, 3, 1).numpy()
    # Keyframes appear every 8 seconds; that before 55.9 is too far from it.
    for frame, index in zip(frames, [0, 24 * 4, 223], strict=True):
        np.testing.assert_array_equal(frame, pixels[index])


def test_a_span_of_a_long_file(long):
    times, pixels = all_frames(long)
    with open_video(long, start_seconds=61.0, end_seconds=70.0) as video:
        assert (video.duration_seconds, video.num_frames) == (pytest.approx(9), 36)
        first, last = video.frames_at([0.0, 30.0]).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(first, pixels[np.searchsorted(times, 61.0 + 1e-6, "right") - 1])
    np.testing.assert_array_equal(last, pixels[np.searchsorted(times, 70.0 - 1e-3, "right") - 1])


def test_a_long_file_that_was_cut_has_the_length_of_what_is_there(tmp_path):
    pixels = moving_square(400, seed=3)
    whole = write_video(tmp_path / "whole.mp4", pixels, 4, container_options={"movflags": "faststart"})
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    with open_video(cut) as video:
        assert 50 < video.duration_seconds < 90
        assert len(video.frames_at([0.0, video.duration_seconds - 1])) == 2


@needs_torchcodec
def test_torchcodec_is_kept_from_files_it_misreads(tmp_path):
    with pytest.raises(
        VideoError, match=r"mpeg1\.mpg: torchcodec misses frames of this kind of file; use decoder: auto"
    ):
        open_video(write_kind(tmp_path, "mpeg1.mpg"), "torchcodec")


@needs_torchcodec
@pytest.mark.parametrize("name", KINDS)
def test_both_decoders_give_the_same_bytes(tmp_path, name):
    options = KINDS[name]
    frames = moving_square(NUM_FRAMES, options.get("height", 48), options.get("width", 64), seed=1)
    path = write_kind(tmp_path, name, frames)
    with open_video(path, "torchcodec") as one, open_video(path, "pyav") as other:
        assert one.num_frames == other.num_frames
        assert one.duration_seconds == pytest.approx(other.duration_seconds, abs=1e-6)
        assert (one.height, one.width) == (other.height, other.width)
        spread = np.linspace(0, one.duration_seconds * 1.05, 50).tolist()
        drawn = np.random.default_rng(0).uniform(0, one.duration_seconds, 8).tolist()
        for times in (spread, drawn):
            assert torch.equal(one.frames_at(times), other.frames_at(times))
