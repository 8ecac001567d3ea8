"""One video, encoded once more so that training never waits for it: smaller, at a constant rate, upright, silent."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2.functional as F

from vidtune.data.decoding import open_video
from vidtune.data.jpeg_video import encode_jpeg_video
from vidtune.data.video import Video
from vidtune.errors import VideoError

# What one cell of an Arrow table holds (2^31 - 1 bytes), less what Parquet adds to it.
LARGEST_BYTES = 2**31 - 2**16

# A random frame of H.264 costs at most so many decoded ones.
KEYFRAME_EVERY = 8

# Frames of each video whose loss is measured.
MEASURED_FRAMES = 8

# The PSNR of equal pictures, which is infinite, counts as this.
HIGHEST_PSNR = 100.0


@dataclass(frozen=True)
class Encoding:
    """How videos are stored.

    Attributes:
        codec: `jpeg` (any frame is read alone) or `h264` (smaller, slower to read).
        short_side: Pixels of the shorter side; smaller videos keep their size.
        fps: Frames per second; None for the average rate of each video.
        quality: 1 to 100; of JPEG as libjpeg has it, for H.264 see `crf_of`.
    """

    codec: str = "jpeg"
    short_side: int = 256
    fps: float | None = None
    quality: int = 90


def encode_video(video: Video, encoding: Encoding) -> tuple[bytes, dict[str, Any]]:
    """Encode an opened video, frame after frame, so that memory holds the result and a few frames.

    Args:
        video: An opened video, or span of one.
        encoding: How to store it.

    Returns:
        The content of an MP4, and its `frames`, `fps`, `height`, `width`, and `psnr`: mean and least, in dB, over
        `MEASURED_FRAMES` evenly spread frames, between what is stored and the source at the stored size.

    Raises:
        VideoError: If a frame can't be decoded, the frames change size, or the result is larger than a table holds.
    """
    rate, times = stored_times(video, encoding.fps)
    measured = sorted({round(index) for index in np.linspace(0, len(times) - 1, MEASURED_FRAMES)})
    kept: dict[int, torch.Tensor] = {}

    def scaled() -> Iterator[torch.Tensor]:
        size = [0, 0]
        for index, frame in enumerate(video.stream(times)):
            height, width = frame.shape[1:]
            if index == 0:
                size = list(stored_size(height, width, encoding.short_side, even=encoding.codec == "h264"))
            if [height, width] != size:
                frame = F.resize(frame, size, antialias=True)
            if index in measured:
                kept[index] = frame
            yield frame

    encode = encode_h264 if encoding.codec == "h264" else encode_jpeg_video
    content = encode(scaled(), rate, encoding.quality)
    if len(content) > LARGEST_BYTES:
        raise VideoError(
            f"takes {len(content)} bytes as {encoding.codec}, and a table holds {LARGEST_BYTES} of a video; divide it "
            "by start_seconds and end_seconds, or lower quality, short_side or fps"
        )
    with open_video(content) as stored:
        frames = stored.frames_at([(index + 0.5) / float(rate) for index in measured])
    losses = [psnr(frame, kept[index]) for index, frame in zip(measured, frames, strict=True)]
    facts = {"frames": len(times), "fps": float(rate), "height": frames.shape[-2], "width": frames.shape[-1]}
    return content, facts | {"psnr": {"mean": sum(losses) / len(losses), "min": min(losses)}}


def stored_times(video: Video, fps: float | None) -> tuple[Fraction, list[float]]:
    """When the frames to store are on screen in the source.

    Frame k is the one on screen at k / fps, seen half a frame later: the times in a file are rounded or jitter, and
    at the very k / fps one frame would come twice and the next not at all.

    Args:
        video: An opened video.
        fps: Frames per second to store; None for the video's average.

    Returns:
        The rate, and ascending times in seconds, one a frame, at least one.
    """
    rate = Fraction(video.fps if fps is None else fps).limit_denominator(100_000)
    number = max(1, round(video.duration_seconds * rate))
    later = min(0.5 / rate, 0.5 / video.fps)
    return rate, [float(index / rate + later) for index in range(number)]


def stored_size(height: int, width: int, short_side: int, even: bool) -> tuple[int, int]:
    """Height and width of the stored picture: the shorter side is `short_side`, or as it was if that is less.

    Args:
        height: Of the source, pixels.
        width: Of the source, pixels.
        short_side: Pixels.
        even: Whether an odd number is lowered by one, as H.264 needs it.
    """
    scale = min(1.0, short_side / min(height, width))
    sides = (max(1, round(height * scale)), max(1, round(width * scale)))
    return (max(2, sides[0] - sides[0] % 2), max(2, sides[1] - sides[1] % 2)) if even else sides


def encode_h264(frames: Iterable[torch.Tensor], fps: Fraction, quality: int = 90) -> bytes:
    """Write frames as an MP4 of H.264, a keyframe every `KEYFRAME_EVERY` frames and none that needs a later one.

    Args:
        frames: uint8 RGB `(C, H, W)`, all of one even size.
        fps: Frames per second.
        quality: 1 to 100; see `crf_of`.

    Returns:
        The content of the file.

    Raises:
        ValueError: If there are no frames.
    """
    import av

    file, stream = io.BytesIO(), None
    with av.open(file, "w", format="mp4") as container:
        for index, pixels in enumerate(frames):
            if stream is None:
                stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf_of(quality))})
                stream.height, stream.width = pixels.shape[-2:]
                stream.pix_fmt, stream.thread_count = "yuv420p", 1
                context = stream.codec_context
                context.gop_size, context.max_b_frames = KEYFRAME_EVERY, 0
                context.colorspace, context.color_range = 5, 1  # BT.601 as FFmpeg converts to; players guess by size
            frame = av.VideoFrame.from_ndarray(pixels.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            frame.pts, frame.time_base = index, 1 / fps
            container.mux(stream.encode(frame))
        if stream is None:
            raise ValueError("frames: got none; give at least one")
        container.mux(stream.encode())
    return file.getvalue()


def crf_of(quality: int) -> int:
    """The constant rate factor of libx264 (51 worst, 0 best) for a quality of 1 to 100.

    Fitted so that the PSNR comes out as that of JPEG of the same quality: 10 for 90, 21 for 75, 29 for 50.
    """
    return max(1, round(12 * math.log(max(1, 100 - quality)) - 17.6))


def psnr(first: torch.Tensor, second: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures of one shape, dB; `HIGHEST_PSNR` at most."""
    error = (first.float() - second.float()).square().mean().item()
    return HIGHEST_PSNR if error == 0 else min(HIGHEST_PSNR, 10 * math.log10(255**2 / error))
