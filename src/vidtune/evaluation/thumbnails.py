"""Small moving pictures of videos, to be looked at in a page."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from vidtune.data.clips import open_row

FRAMES = 10
WIDTH, HEIGHT = 240, 180
FRAME_MILLISECONDS = 220
MOST_BYTES = 45_000
"""So that 60 of them, as Base64, stay below 4 MB."""


def animated_thumbnail(video: Mapping[str, Any], decoder: str = "auto") -> bytes:
    """Make an animated WebP of a video, or of its span: frames evenly spread over it, at a steady pace.

    Args:
        video: A row with column `video`, and optionally `start_seconds` and `end_seconds`.
        decoder: `auto`, `torchcodec` or `pyav`.

    Returns:
        A WebP that repeats for ever, at most 240 x 180 pixels and MOST_BYTES.

    Raises:
        VideoError: If the video can't be decoded.
    """
    with open_row(video, decoder) as opened:
        part = opened.duration_seconds / FRAMES
        frames = opened.frames_at(((np.arange(FRAMES) + 0.5) * part).tolist(), slack_seconds=part / 2)
    pictures = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames.permute(0, 2, 3, 1).numpy()]
    for picture in pictures:
        picture.thumbnail((WIDTH, HEIGHT), reducing_gap=2)
    for quality in (60, 40, 20, 5):
        content = encode(pictures, quality)
        if len(content) <= MOST_BYTES:
            return content
    return encode(pictures[:1], quality)  # noise hardly compresses; a still says as much of it


def encode(pictures: list[Image.Image], quality: int) -> bytes:
    """Write pictures as one WebP; quality is from 0 to 100."""
    file = io.BytesIO()
    options = {"duration": FRAME_MILLISECONDS, "loop": 0, "quality": quality, "method": 2}
    pictures[0].save(file, "WEBP", save_all=True, append_images=pictures[1:], **options)
    return file.getvalue()
