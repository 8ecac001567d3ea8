"""One video encoded once more: which frames, at what size, at what loss."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from run_recipe import refused
from video_files import counting_frames, frame_indices, moving_square, write_video
from vidtune.data import encoding
from vidtune.data.decoding import open_video
from vidtune.data.encoding import Encoding, crf_of, encode_h264, encode_video, psnr, stored_size

CODECS = pytest.mark.parametrize("codec", ["jpeg", "h264"])


def encode(path, start=None, end=None, **options):
    with open_video(path, "auto", start, end) as video:
        return encode_video(video, Encoding(**options))


def stored_frames(content, facts):
    """All frames that are stored."""
    with open_video(content) as video:
        assert video.num_frames == facts["frames"]
        return video.frames_at([(index + 0.5) / facts["fps"] for index in range(facts["frames"])])


def stored_indices(path, num_frames, **options):
    """Which frames of a video of `counting_frames(num_frames)` are stored, and how many a second."""
    content, facts = encode(path, **options)
    return frame_indices(stored_frames(content, facts), num_frames), facts["fps"]


@CODECS
def test_every_frame_of_a_constant_rate_is_stored_once(tmp_path, codec):
    path = write_video(tmp_path / "a.mp4", counting_frames(20), fps=25)
    assert stored_indices(path, 20, codec=codec) == (list(range(20)), 25)


def test_the_rate_of_film_is_kept_exactly(tmp_path):
    path = write_video(tmp_path / "a.mp4", counting_frames(24), fps=Fraction(24000, 1001))
    content, facts = encode(path)
    with av.open(io.BytesIO(content)) as container:
        assert container.streams.video[0].average_rate == Fraction(24000, 1001)
    assert facts["frames"] == 24


@CODECS
def test_a_lower_rate_takes_the_frame_on_screen(tmp_path, codec):
    path = write_video(tmp_path / "a.mp4", counting_frames(30), fps=30)
    assert stored_indices(path, 30, codec=codec, fps=10) == (list(range(0, 30, 3)), 10)


def test_a_higher_rate_repeats_frames(tmp_path):
    path = write_video(tmp_path / "a.mp4", counting_frames(5), fps=10)
    assert stored_indices(path, 5, fps=20) == ([0, 0, 1, 1, 2, 2, 3, 3, 4, 4], 20)


def test_rounded_and_jittering_times_neither_drop_nor_double_a_frame(tmp_path):
    rounded = [round(index / 30, 3) for index in range(40)]  # 0.033, 0.067, 0.1
    path = write_video(tmp_path / "a.mkv", counting_frames(40), fps=30, times=rounded)
    assert stored_indices(path, 40)[0] == list(range(40))
    jitter = np.random.default_rng(0).uniform(-0.008, 0.008, 40)
    jitter[[0, -1]] = 0
    times = [round(index / 30 + shift, 3) for index, shift in enumerate(jitter)]
    path = write_video(tmp_path / "b.mp4", counting_frames(40), fps=30, times=times)
    indices, fps = stored_indices(path, 40)
    assert indices == list(range(40)) and fps == pytest.approx(30, rel=0.02)


def test_a_variable_rate_becomes_constant(tmp_path):
    # 0.1 s apart, then 0.4 s apart: 8 frames in 1.8 s or, as the last is on screen for 0.4 s, in 2 s.
    times = [0, 0.1, 0.2, 0.3, 0.4, 0.8, 1.2, 1.6]
    path = write_video(tmp_path / "a.mkv", counting_frames(8), fps=10, times=times)
    with open_video(path) as video:
        seconds = video.duration_seconds
    assert seconds == pytest.approx(2, abs=0.35)
    indices, fps = stored_indices(path, 8, fps=10)
    # At 0, 0.1, ... 1.6 s and for as long as the last frame lasts.
    expected = [0, 1, 2, 3, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6]
    assert fps == 10 and indices[:16] == expected and set(indices[16:]) == {7}


@CODECS
def test_rotation_is_applied(tmp_path, codec):
    frames = moving_square(6, 32, 48)
    path = write_video(tmp_path / "a.mp4", frames, rotation=90)
    content, facts = encode(path, codec=codec)
    assert (facts["height"], facts["width"]) == (48, 32)
    upright = torch.from_numpy(np.rot90(frames[0]).copy()).permute(2, 0, 1)
    assert psnr(stored_frames(content, facts)[0], upright) > 20


def test_a_span_is_cut_out(tmp_path):
    path = write_video(tmp_path / "a.mp4", counting_frames(25), fps=25)
    content, facts = encode(path, 0.4, 0.8)
    assert frame_indices(stored_frames(content, facts), 25) == list(range(10, 20))


def test_sound_is_left_out(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("libx264", rate=10), container.add_stream("aac", rate=16000)
        video.width = video.height = 32
        for pixels in counting_frames(5):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        container.mux([*audio.encode(silence), *audio.encode(), *video.encode()])
    content, facts = encode(path)
    (tmp_path / "b.mp4").write_bytes(content)
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
    assert facts["frames"] == 5


def test_h264_can_be_entered_every_eight_frames(tmp_path):
    content = encode_h264(torch.from_numpy(moving_square(30)).permute(0, 3, 1, 2), Fraction(30))
    (tmp_path / "a.mp4").write_bytes(content)
    with av.open(str(tmp_path / "a.mp4")) as container:
        packets = [packet for packet in container.demux() if packet.size]
    assert [index for index, packet in enumerate(packets) if packet.is_keyframe] == [0, 8, 16, 24]
    assert [packet.pts for packet in packets] == sorted(packet.pts for packet in packets)  # no B-frames


@pytest.mark.parametrize(
    ("height", "width", "short_side", "even", "expected"),
    [
        (480, 640, 256, False, (256, 341)),
        (640, 480, 256, False, (341, 256)),
        (480, 640, 256, True, (256, 340)),
        (240, 320, 256, False, (240, 320)),  # never enlarged
        (33, 45, 256, False, (33, 45)),
        (33, 45, 256, True, (32, 44)),
        (1, 1000, 256, True, (2, 1000)),
        (2000, 3, 2, False, (1333, 2)),
    ],
)
def test_sizes(height, width, short_side, even, expected):
    assert stored_size(height, width, short_side, even) == expected


@CODECS
def test_odd_sizes(tmp_path, codec):
    path = write_video(tmp_path / "a.mkv", moving_square(6, 33, 45), codec="libx264", pixel_format="yuv444p")
    content, facts = encode(path, codec=codec)
    assert (facts["height"], facts["width"]) == ((33, 45) if codec == "jpeg" else (32, 44))
    assert stored_frames(content, facts).shape == (6, 3, facts["height"], facts["width"])


def test_psnr_by_hand():
    black = torch.zeros(3, 4, 4, dtype=torch.uint8)
    assert psnr(black, black) == 100
    assert psnr(black, black + 1) == pytest.approx(48.1308, abs=1e-4)  # 20 log10(255)
    assert psnr(black, black + 255) == 0
    half = black.clone()
    half[:, :2] = 10
    assert psnr(half, black) == pytest.approx(31.1411, abs=1e-4)  # 10 log10(255^2 / 50)


@CODECS
def test_the_loss_is_that_of_the_stored_frames_and_falls_with_quality(tmp_path, codec):
    frames = moving_square(8, 64, 64)
    path = write_video(tmp_path / "a.mkv", frames, codec="libx264rgb", pixel_format="rgb24")
    losses = []
    for quality in (30, 60, 90):
        content, facts = encode(path, codec=codec, quality=quality)
        expected = [
            psnr(stored, torch.from_numpy(frame).permute(2, 0, 1))
            for stored, frame in zip(stored_frames(content, facts), frames, strict=True)
        ]
        assert facts["psnr"]["mean"] == pytest.approx(np.mean(expected))
        assert facts["psnr"]["min"] == pytest.approx(min(expected))
        losses.append(facts["psnr"]["mean"])
    assert losses == sorted(losses) and losses[-1] > losses[0] + 2


def test_at_most_eight_frames_are_measured_first_and_last_among_them(tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(encoding, "psnr", lambda _, source: measured.append(source) or 50.0)
    path = write_video(tmp_path / "a.mp4", counting_frames(50))
    encode(path)
    assert frame_indices(torch.stack(measured), 50) == [0, 7, 14, 21, 28, 35, 42, 49]


def test_quality_of_h264():
    assert [crf_of(quality) for quality in (100, 90, 75, 50, 1)] == [1, 10, 21, 29, 38]


def test_a_video_too_large_for_a_table_is_refused(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", moving_square(10))
    monkeypatch.setattr(encoding, "LARGEST_BYTES", 3000)
    message = refused(encode, path)
    assert "bytes as jpeg, and a table holds 3000 of a video; divide it by start_seconds and end_seconds" in message


def test_a_video_whose_frames_change_size_is_refused(tmp_path):
    # An MPEG stream may change its size midway: two of them in one file.
    parts = []
    for number, side in enumerate((32, 64)):
        part = write_video(tmp_path / f"{number}.m2v", moving_square(8, side, side), codec="mpeg2video")
        parts.append(part.read_bytes())
    (tmp_path / "a.m2v").write_bytes(b"".join(parts))
    assert "change size" in refused(encode, tmp_path / "a.m2v")
