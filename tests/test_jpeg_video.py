import io
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from video_files import moving_square
from vidtune.data.decoding import open_video
from vidtune.data.jpeg_video import JpegVideo, encode_jpeg_video
from vidtune.errors import VideoError

FRAMES = torch.from_numpy(moving_square(20, 48, 64, seed=1)).permute(0, 3, 1, 2)


def indices_of(frames: torch.Tensor) -> list[int]:
    """Which of FRAMES each frame is nearest to."""
    return torch.cdist(frames.flatten(1).float(), FRAMES.flatten(1).float()).argmin(1).tolist()


@pytest.fixture(scope="module")
def content() -> bytes:
    return encode_jpeg_video(FRAMES, Fraction(10), quality=95)


def test_auto_reads_it_without_ffmpeg_and_from_a_path_or_bytes(content, tmp_path):
    path = tmp_path / "a video: 100%.mp4"
    path.write_bytes(content)
    for source in (content, path):
        with open_video(source) as video:
            assert isinstance(video, JpegVideo)
            assert (video.num_frames, video.fps, video.duration_seconds) == (20, 10, pytest.approx(2))
            assert (video.height, video.width) == (48, 64)


@pytest.mark.parametrize("seconds", [[0.0, 0.05, 0.1], [1.9, 0.35, 0.35, 9.0, -1.0]])
def test_any_frame_at_its_time(content, seconds):
    with open_video(content) as video:
        frames = video.frames_at(seconds)
    assert frames.dtype == torch.uint8 and frames.permute(0, 2, 3, 1).is_contiguous()
    assert indices_of(frames) == [min(19, max(0, int(time * 10 + 1e-6))) for time in seconds]


def test_the_picture_is_nearly_that_of_the_source():
    smooth = torch.nn.functional.interpolate(FRAMES[:1, :, ::8, ::8].float(), size=(48, 64), mode="bicubic")
    smooth = smooth.mean(1, keepdim=True).expand(1, 3, 48, 64).clamp(0, 255).to(torch.uint8)  # colours are halved
    with open_video(encode_jpeg_video(smooth, Fraction(10), quality=95)) as video:
        assert (video.frames_at([0.0]).float() - smooth.float()).abs().mean() < 2


def test_pyav_and_any_player_read_it_too(content):
    with open_video(content, "pyav") as video, open_video(content) as ours:
        times = [index / 10 for index in range(20)]
        assert video.num_frames == 20
        assert indices_of(video.frames_at(times)) == indices_of(ours.frames_at(times)) == list(range(20))
    with av.open(io.BytesIO(content)) as container:
        assert container.streams.video[0].codec_context.name == "mjpeg"
        assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)


def test_a_rate_that_is_no_whole_number():
    with open_video(encode_jpeg_video(FRAMES, Fraction(30000, 1001))) as video:
        assert video.fps == pytest.approx(30000 / 1001)
        assert video.duration_seconds == pytest.approx(20 * 1001 / 30000)
        last = video.frames_at([19 * 1001 / 30000])
    assert indices_of(last) == [19]


def test_quality_costs_bytes():
    assert len(encode_jpeg_video(FRAMES, Fraction(10), quality=30)) < len(encode_jpeg_video(FRAMES, Fraction(10)))


def test_a_span(content):
    with open_video(content, start_seconds=0.5, end_seconds=1.0) as video:
        assert (video.num_frames, video.duration_seconds) == (5, pytest.approx(0.5))
        assert indices_of(video.frames_at([0.0, 7.0])) == [5, 9]


def test_no_frames_are_refused():
    with pytest.raises(ValueError, match="frames: got none"):
        encode_jpeg_video([], Fraction(10))


@pytest.mark.parametrize("kept", [13, 500, 3000, -400])
def test_a_file_cut_short_is_named(content, kept, tmp_path):
    path = tmp_path / "cut.mp4"
    path.write_bytes(content[:kept])
    with pytest.raises(VideoError, match=r"cut\.mp4: ") as caught, open_video(path) as video:
        video.frames_at(np.linspace(0, 2, 20).tolist())
    assert "\n" not in str(caught.value)
