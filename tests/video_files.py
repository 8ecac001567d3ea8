"""Tiny real videos, written on the spot, whose frames tell their own index."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

Frames = NDArray[np.uint8]

LOSSLESS = {"libx264": {"qp": "0"}, "libx264rgb": {"qp": "0"}, "libvpx-vp9": {"lossless": "1"}}


def counting_frames(num_frames: int, height: int = 32, width: int = 32) -> Frames:
    """Frames `(T, H, W, 3)` of plain grey whose brightness is their index; `frame_indices` reads it back."""
    greys = 16 + np.arange(num_frames) * _grey_step(num_frames)
    return np.broadcast_to(greys[:, None, None, None], (num_frames, height, width, 3)).astype(np.uint8)


def frame_indices(frames: torch.Tensor, num_frames: int) -> list[int]:
    """The indices of decoded `frames` `(T, C, H, W)` of a video made from `counting_frames(num_frames)`."""
    greys = frames.float().mean(dim=(1, 2, 3))
    return [round(index) for index in ((greys - 16) / _grey_step(num_frames)).tolist()]


def _grey_step(num_frames: int) -> int:
    """Greys lie 4 or more apart, since a lossy codec may be off by one or two."""
    if num_frames > 56:
        raise ValueError(f"num_frames must be at most 56 for greys to stay apart, not {num_frames}")
    return min(16, 224 // max(1, num_frames))


def moving_square(num_frames: int, height: int = 32, width: int = 32, seed: int = 0) -> Frames:
    """Frames `(T, H, W, 3)` of a bright square that crosses a coloured texture drawn from `seed`."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 200, (1, (height + 7) // 8, (width + 7) // 8, 3), dtype=np.uint8)
    frames = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width].repeat(num_frames, axis=0)
    side = max(2, height // 4)
    for index, frame in enumerate(frames):
        left = index * max(0, width - side) // max(1, num_frames - 1)
        frame[side : 2 * side, left : left + side] = (255, 230, 40)
    return frames


def write_video(
    path: Path | str,
    frames: Frames,
    fps: float | Fraction = 25,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    times: Sequence[float] | None = None,
    keyframe_every: int = 12,
    b_frames: int = 0,
    rotation: int = 0,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode `frames` `(T, H, W, 3)` and return the path; its suffix chooses the container.

    Args:
        path: The file; its folder is made where it is missing.
        frames: RGB, uint8.
        fps: Frame rate, and the resolution of nothing else: `times` are kept to the millisecond.
        codec: FFmpeg's name of the encoder; those in `LOSSLESS` lose nothing but colour resolution.
        pixel_format: As stored; `yuv444p` keeps every pixel's colour.
        times: When each frame appears, seconds, ascending; constant rate where absent.
        keyframe_every: Longest distance between keyframes, frames.
        b_frames: Most B-frames in a row.
        rotation: Degrees counter-clockwise by which a player turns the stored picture.
        options: More of the encoder's options.
        container_options: Options of the container, such as `{"movflags": "faststart"}`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        stream.thread_count = 1
        stream.options = {**LOSSLESS.get(codec, {}), **(options or {})}
        stream.codec_context.gop_size = keyframe_every
        stream.codec_context.max_b_frames = b_frames
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.time_base = 1 / rate if times is None else Fraction(1, 1000)
            frame.pts = index if times is None else round(times[index] * 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_audio(path: Path | str, seconds: float = 0.5) -> Path:
    """Write a file which holds silence and no picture."""
    path = Path(path)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, int(seconds * 16000), 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_folder_dataset(
    root: Path | str,
    classes: Sequence[str],
    per_class: int,
    splits: Sequence[str] | None = None,
    *,
    num_frames: int = 12,
    height: int = 32,
    width: int = 32,
    fps: float = 12,
) -> Path:
    """Write `root/[split/]class/0000.mp4`, ...: the square moves over a texture, in a tint of its class.

    Every video differs from every other, and the classes can be told apart by colour.
    """
    root = Path(root)
    tints = np.random.default_rng(0).integers(0, 256, (len(classes), 3))
    for split_number, split in enumerate(splits or [""]):
        for class_number, name in enumerate(classes):
            for index in range(per_class):
                seed = (split_number * len(classes) + class_number) * per_class + index
                frames = moving_square(num_frames, height, width, seed=seed)
                tinted = (frames // 2 + tints[class_number] // 2).astype(np.uint8)
                write_video(root / split / name / f"{index:04d}.mp4", tinted, fps)
    return root


def busy_frames(num_frames: int, height: int = 48, width: int = 64, seed: int = 0) -> Frames:
    """Frames `(T, H, W, 3)` no two of which are alike: a texture that scrolls, some noise, a cut every 17 frames.

    So an encoder has reason to use every kind of frame and of reference it knows.
    """
    generator = np.random.default_rng(seed)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for index in range(num_frames):
        if index % 17 == 0:
            coarse = generator.integers(0, 256, ((height + 7) // 8 + 1, (width + 7) // 8 + 1, 3))
            texture = coarse.repeat(8, axis=0).repeat(8, axis=1)
        scrolled = np.roll(texture, (index, 2 * index), axis=(0, 1))[:height, :width]
        frames[index] = (scrolled + generator.integers(-6, 7, (height, width, 1))).clip(0, 255)
    return frames


def ffmpeg_frames(path: Path | str) -> tuple[list[float], list[Frames]]:
    """Seconds, from the first frame on, and upright pictures `(H, W, 3)` of a file as FFmpeg decodes it.

    Knows nothing of indices, seeks and skipping: every frame is decoded, in order. What can't be decoded is passed
    over, and so is what the end of the file cuts, which MPEG streams don't tell from the rest. Frames of a container
    that has no times for them, or not in their order, follow each other at its rate.
    """
    reformatter = VideoReformatter()
    times, pictures = [], []
    with av.open(f"file:{path}", metadata_errors="replace") as container:
        stream = container.streams.best("video")
        stream.thread_type = "NONE"
        for packet in container.demux(stream):
            if packet.is_corrupt and container.format.name not in ("mpeg", "mpegts"):
                continue
            with suppress(av.error.InvalidDataError):
                for frame in packet.decode():
                    times.append(frame.pts)
                    picture = reformatter.reformat(frame, format="rgb24", interpolation=0).to_ndarray()
                    pictures.append(np.rot90(picture, frame.rotation // 90))
        if None in times or times != sorted(times):
            return [float(index / stream.average_rate) for index in range(len(times))], pictures
        return [float((pts - times[0]) * stream.time_base) for pts in times], pictures


def frame_on_screen(times: Sequence[float], seconds: float) -> int:
    """The index of the frame that is on screen, of frames that appear at ascending `times` from 0 on."""
    return max(0, bisect_right(times, seconds + 1e-6) - 1)
