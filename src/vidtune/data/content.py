"""What there is to know of a video's frames, gathered while they pass by once, in constant memory."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from vidtune.data.duplicates import THUMBNAIL_SIZE, perceptual_hashes

MOST_SAMPLES = 128
"""Frames of a video of which a thumbnail is kept; at least half as many, where it has them."""

NEARLY_ALL = 0.95
"""Share of these that makes a video black or frozen."""

BLACK = 32
"""No cell of a black thumbnail is brighter, of 255: room for noise, not for a lamp at night."""

STILL = 2
"""Grey levels by which the cells of a thumbnail may differ from their median over time where nothing moves. A still
picture as video stays within 1; the stillest of 300 surveillance clips, a bare corridor, reaches 4."""

STILL_SECONDS = 0.04
"""How long a single frame is shown that doesn't say so."""

Problems = dict[str, str]  # kind: detail


class Content:
    """The frames of a file.

    Attributes:
        frames: How many have passed.
        damaged: How many of them the decoder had to guess at.
        width: Of the first frame, pixels, as displayed.
        height: The same.
        rotation: Degrees counter-clockwise by which stored frames are turned to be displayed.
        first: Time of the first frame, seconds.
        timeless: Whether a frame carries no time.
        problems: What is wrong with the order or size of frames.
        spans: The videos that are parts of the file.
    """

    def __init__(self, spans: Sequence[tuple[float | None, float | None]]) -> None:
        self.frames = self.damaged = self.width = self.height = self.rotation = 0
        self.timeless = False
        self.problems: Problems = {}
        self.spans = [Span(start or 0.0, math.inf if end is None else end) for start, end in spans]
        self.first = self._last = self._end = 0.0
        self._shortest, self._longest = math.inf, 0.0

    def add(self, frame: Any, time_base: Any) -> None:
        """Take the next frame, in the order in which they are shown."""
        pts = frame.dts if frame.pts is None else frame.pts
        self.timeless |= pts is None
        now = float((pts or 0) * time_base)
        rotation = round(frame.rotation / 90) * 90 % 360
        width, height = (frame.height, frame.width) if rotation % 180 else (frame.width, frame.height)
        if not self.frames:
            self.first = self._last = self._end = now
            self.rotation, self.width, self.height = rotation, width, height
        else:
            self._shortest = min(self._shortest, now - self._last)
            self._longest = max(self._longest, now - self._last)
        if now < self._last:
            detail = f"its times run backwards after {self._last - self.first:g} s"
            self.problems.setdefault("bad_timestamps", detail)
        if (width, height) != (self.width, self.height):
            sizes = f"{self.width} x {self.height} to {width} x {height}"
            self.problems.setdefault("size_changes", f"from {sizes} at {now - self.first:g} s")
        self.frames += 1
        self.damaged += frame.is_corrupt
        self._last, self._end = now, max(self._end, now + float((frame.duration or 0) * time_base))
        for span in self.spans:
            span.add(now - self.first, frame)

    def timing(self, tick_seconds: float) -> tuple[float, bool]:
        """How long the frames last, and whether all are equally far apart.

        Args:
            tick_seconds: The unit of their times; of some files they are whole milliseconds besides.

        Returns:
            Seconds from the first frame's appearance to the end of the last one's, > 0, and the answer.
        """
        if self.frames == 1:
            return self._end - self.first or STILL_SECONDS, True
        interval = (self._last - self.first) / (self.frames - 1)
        is_constant = self._longest - self._shortest <= 2 * max(tick_seconds, 0.001)
        # Where files leave the last frame without a duration, or a tick short, its own follows from the others'.
        end = self._last + interval if is_constant or self._end <= self._last else self._end
        return end - self.first or STILL_SECONDS, is_constant


class Span:
    """The frames of a video, which is a file or a part of one.

    Attributes:
        start: Seconds from the first frame of the file.
        end: The same; infinity for the end of the file.
        frames: How many have passed.
        hashes: Of frames evenly spread over it, once it is finished; see `perceptual_hashes`.
        problems: Whether it is black or frozen, once it is finished.
    """

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end, self.frames = start, end, 0
        self.hashes: list[str] = []
        self.problems: Problems = {}
        self._stride = 1
        self._seconds: list[float] = []
        self._thumbnails: list[NDArray[np.uint8]] = []
        self._reformatter = VideoReformatter()

    def add(self, seconds: float, frame: Any) -> None:
        """Take the next frame of the file."""
        if seconds >= self.end:
            self.finish()
        if not self.start <= seconds < self.end:
            return
        if self.frames % self._stride == 0:
            self._seconds.append(seconds)
            self._thumbnails.append(_thumbnail(frame, self._reformatter))
        self.frames += 1
        if len(self._thumbnails) == MOST_SAMPLES:  # their number isn't known before the last: keep every second one
            self._seconds, self._thumbnails, self._stride = self._seconds[::2], self._thumbnails[::2], self._stride * 2

    def finish(self) -> None:
        """Look at the thumbnails, and let go of them."""
        if self._thumbnails:
            thumbnails = np.stack(self._thumbnails)
            self.problems = _problems_of_pictures(thumbnails)
            self.hashes = perceptual_hashes(thumbnails, self._seconds)
            self._seconds, self._thumbnails = [], []


def _thumbnail(frame: Any, reformatter: VideoReformatter) -> NDArray[np.uint8]:
    """A frame in grey, as displayed, small and square."""
    size = THUMBNAIL_SIZE
    grey = reformatter.reformat(frame, width=size, height=size, format="gray", interpolation="AREA", threads=1)
    plane: Any = grey.planes[0]
    lines = np.frombuffer(plane, np.uint8).reshape(size, -1)[:, :size]
    upright: NDArray[np.uint8] = np.rot90(lines, round(frame.rotation / 90)).copy()
    return upright


def _problems_of_pictures(thumbnails: NDArray[np.uint8]) -> Problems:
    """Whether nearly all frames `(N, H, W)` are black, or nearly the same."""
    black = float((thumbnails.max((1, 2)) <= BLACK).mean())
    if black >= NEARLY_ALL:
        return {"black": f"{black:.0%} of its frames are black"}
    changes = np.abs(thumbnails - np.median(thumbnails, 0)).max((1, 2))
    still = float((changes <= STILL).mean())
    if len(thumbnails) > 1 and still >= NEARLY_ALL:
        return {"frozen": f"{still:.0%} of its frames show the same"}
    return {}
