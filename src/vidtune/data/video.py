"""An opened video: what every decoder gives, and what all of them mean by time."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import Self

from vidtune.errors import VideoError

Pixels = NDArray[np.uint8]

# Containers round their times: a frame counts as on screen from this long before its time on.
TOLERANCE_SECONDS = 1e-6

# A picture without a duration and without a rate still has to be on screen for some time.
STILL_SECONDS = 0.04


class Video(ABC):
    """An opened video, or a span of one; a context manager that closes it.

    It belongs to the process that opened it, and decodes on one thread.

    Attributes:
        duration_seconds: Length of the content that is there, whatever the header claims.
        num_frames: Frames of the content; of a span, as many as its duration holds on average; of a long file of
            variable rate, an estimate from its header.
        fps: Average rate of the content.
    """

    def __init__(
        self, name: str, num_frames: int, content_seconds: float, start: float | None, end: float | None
    ) -> None:
        """Check the span from `start` to `end` against the content; errors call the video `name`."""
        first, last = start or 0.0, content_seconds if end is None else min(end, content_seconds)
        if not 0 <= first < last:
            raise VideoError(
                f"{name}: start_seconds {first:g} and end_seconds {last if end is None else end:g} "
                f"enclose none of its {content_seconds:g} s"
            )
        self._name = name
        self._start_seconds = first
        # Past its end, a span shows the last frame that begins inside of it.
        self._last_seconds = last - 2 * TOLERANCE_SECONDS if last < content_seconds else math.inf
        self.duration_seconds = last - first
        self.fps = num_frames / content_seconds
        self.num_frames = max(1, round(self.fps * self.duration_seconds))

    @property
    def height(self) -> int:
        """Pixels as displayed."""
        return self._size()[0]

    @property
    def width(self) -> int:
        """Pixels as displayed."""
        return self._size()[1]

    def frames_at(self, seconds: Sequence[float], slack_seconds: float = 0.0) -> torch.Tensor:
        """Decode the frames on screen at the given times.

        Args:
            seconds: One time or more, counted from the first frame (of the span), in any order, repeated or
                not; times at or past the end show the last frame.
            slack_seconds: In a long file, a keyframe that appears at most so much earlier may stand for a frame,
                which saves decoding what lies between them.

        Returns:
            uint8 RGB `(T, C, H, W)`, a view of channels-last memory, as decoded.

        Raises:
            VideoError: If one of the frames cannot be decoded.
        """
        order = sorted(range(len(seconds)), key=seconds.__getitem__)
        frames: Pixels | None = None
        for row, pixels in zip(order, self._alike([seconds[row] for row in order], slack_seconds), strict=True):
            if frames is None:  # NumPy asks for large pages of memory, which come at a fraction of the cost
                frames = np.empty((len(order), *pixels.shape), np.uint8)
            frames[row] = pixels
        assert frames is not None  # nosec B101 # for the type checker
        return torch.from_numpy(frames).permute(0, 3, 1, 2)

    def stream(self, seconds: Iterable[float], slack_seconds: float = 0.0) -> Iterator[torch.Tensor]:
        """Decode frame after frame, for reading a whole video with little memory.

        Args:
            seconds: Times as for `frames_at`, ascending.
            slack_seconds: As for `frames_at`.

        Yields:
            uint8 RGB `(C, H, W)`, a view of channels-last memory, one for each time; it is not to be written to.

        Raises:
            VideoError: If one of the frames cannot be decoded.
        """
        for pixels in self._alike(list(seconds), slack_seconds):
            yield torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)

    def _alike(self, seconds: list[float], slack_seconds: float) -> Iterator[Pixels]:
        """The frames at ascending times, all of one size."""
        shape: tuple[int, ...] | None = None
        for time, pixels in zip(seconds, self._frames(self._times(seconds), slack_seconds), strict=True):
            if shape not in (None, pixels.shape):
                raise VideoError(f"{self._name}: its frames change size at {time:g} s")
            shape = pixels.shape
            yield pixels

    def _times(self, seconds: Iterable[float]) -> list[float]:
        """Times counted from the first frame of the file, none past the end of the span."""
        times = (self._start_seconds + max(0.0, float(time)) for time in seconds)
        return [min(time, self._last_seconds) + TOLERANCE_SECONDS for time in times]

    @abstractmethod
    def _size(self) -> tuple[int, int]:
        """Height and width, after the rotation that the file asks for."""

    @abstractmethod
    def _frames(self, times: list[float], slack_seconds: float = 0.0) -> Iterator[Pixels]:
        """The frames `(H, W, C)` at ascending times counted from the first frame of the file; infinity is the last."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""

    def __enter__(self) -> Self:
        """The video itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the file."""
        self.close()

    def __reduce__(self) -> NoReturn:
        """Refuse: a copied decoder crashes the process it lands in."""
        raise TypeError("An opened video belongs to its process; send the path and open it there.")


def content_seconds(seconds: float, num_frames: int, rate: float | None) -> float:
    """Length of the content, given what FFmpeg says lies between its first frame's start and its last one's end.

    At a constant rate it follows from the number of frames, and has to: FFmpeg leaves the last frame of some
    files without a duration, or a tick short, which ones depending on its version.
    """
    if rate and min(abs(seconds * rate - intervals) for intervals in (num_frames - 1, num_frames)) < 0.1:
        return num_frames / rate
    return seconds or STILL_SECONDS


def undecodable(name: str, error: Exception) -> VideoError:
    """The one line that a user gets to see, from what a library says."""
    reason = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]
    reason = re.sub(r"^.*\.cpp:\d+, ", "", reason)
    return VideoError(f"{name}: FFmpeg cannot decode it ({reason.rstrip('.: ')})")
