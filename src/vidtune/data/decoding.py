"""Frames of a video at given times, by torchcodec or by PyAV, which carries its own FFmpeg.

Both give the same frames, to the byte (but for interlaced and for 10-bit video, whose colours they place a
fraction of a pixel apart). A decoder belongs to the process that opened it and decodes on one thread.
"""

from __future__ import annotations

import io
import math
import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import Self

from vidtune.errors import InputError, VideoError

# Containers round their times: a frame counts as on screen from this long before its time on.
TOLERANCE_SECONDS = 1e-6

# A picture without a duration and without a rate still has to be on screen for some time.
STILL_SECONDS = 0.04

# A seek costs about as much as decoding this many frames.
FRAMES_WORTH_A_SEEK = 8

# The first bytes of MP4, MOV, Matroska and WebM. In others torchcodec misses frames: it seeks into the middle
# of MPEG streams, and never reaches the end of AVI with B-frames.
FIT_FOR_TORCHCODEC = re.compile(rb"....(ftyp|moov|mdat|wide|free|skip)|\x1a\x45\xdf\xa3", re.DOTALL)


class Video(ABC):
    """An opened video, or a span of one; a context manager that closes it.

    Attributes:
        duration_seconds: Length of the content that is there, whatever the header claims.
        num_frames: Frames of the content; of a span, as many as its duration holds on average.
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

    def frames_at(self, seconds: Sequence[float]) -> torch.Tensor:
        """Decode the frames on screen at the given times.

        Args:
            seconds: One time or more, counted from the first frame (of the span), in any order, repeated or
                not; times at or past the end show the last frame.

        Returns:
            uint8 RGB `(T, C, H, W)`, a view of channels-last memory, as decoded.

        Raises:
            VideoError: If one of the frames cannot be decoded.
        """
        times = [self._start_seconds + max(0.0, float(time)) for time in seconds]
        return self._decode([min(time, self._last_seconds) + TOLERANCE_SECONDS for time in times])

    @abstractmethod
    def _size(self) -> tuple[int, int]:
        """Height and width, after the rotation that the file asks for."""

    @abstractmethod
    def _decode(self, times: list[float]) -> torch.Tensor:
        """The frames at times counted from the first frame of the file; infinity is the last frame."""

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


class TorchcodecVideo(Video):
    """A video opened by torchcodec."""

    def __init__(self, name: str, source: str | bytes, start: float | None, end: float | None) -> None:
        """Open and scan the file; see `open_video`."""
        from torchcodec.decoders import VideoDecoder

        try:
            self._decoder: Any = VideoDecoder(source, num_ffmpeg_threads=1)
        except (RuntimeError, ValueError) as error:
            raise undecodable(name, error) from None
        metadata = self._decoder.metadata
        if not metadata.num_frames:
            raise VideoError(f"{name}: holds no frames")
        self._begin, self._end = metadata.begin_stream_seconds, metadata.end_stream_seconds
        duration = content_seconds(self._end - self._begin, metadata.num_frames, metadata.average_fps_from_header)
        super().__init__(name, metadata.num_frames, duration, start, end)

    def _size(self) -> tuple[int, int]:
        return self._decoder.metadata.height, self._decoder.metadata.width

    def _decode(self, times: list[float]) -> torch.Tensor:
        times = [self._begin + time for time in times]
        late = [row for row, time in enumerate(times) if time >= self._end]
        last = len(self._decoder) - 1
        try:
            if len(late) == len(times):
                return self._decoder.get_frames_at([last] * len(times)).data  # type: ignore[no-any-return]
            # torchcodec refuses times at or past what it takes for the end.
            before_end = math.nextafter(self._end, self._begin)
            frames: torch.Tensor = self._decoder.get_frames_played_at([min(time, before_end) for time in times]).data
            if late:
                frames[late] = self._decoder.get_frame_at(last).data
        except (RuntimeError, IndexError) as error:
            raise undecodable(self._name, error) from None
        return frames

    def close(self) -> None:
        """Let go of the file."""
        self._decoder = None


class PyavVideo(Video):
    """A video opened by PyAV."""

    def __init__(self, name: str, source: str | bytes, start: float | None, end: float | None) -> None:
        """Open the file and read the times of its frames off its packets, decoding none; see `open_video`."""
        import av
        from av.video.reformatter import VideoReformatter

        self._name, self._source, self._reformatter = name, source, VideoReformatter()
        self._shape: torch.Size | None = None
        try:
            self._open()
            packets = [
                (packet.dts if packet.pts is None else packet.pts, packet.duration or 0, packet.is_keyframe)
                for packet in self._container.demux(self._stream)
                if not packet.is_discard and not (packet.pts is None and packet.dts is None)
            ]
        except av.error.FFmpegError as error:
            raise undecodable(name, error) from None
        if not packets:
            raise VideoError(f"{name}: holds no frames with times")
        packets.sort()
        base, rate = self._stream.time_base, self._stream.base_rate
        self._pts = [pts for pts, _, _ in packets]
        self._seconds = [float((pts - self._pts[0]) * base) for pts in self._pts]
        self._keyframes = [index for index, (_, _, is_key) in enumerate(packets) if is_key] or [0]
        # MPEG program streams come back from a seek with half a packet.
        self._seeks = self._container.format.name != "mpeg"
        span = max(pts + duration for pts, duration, _ in packets) - self._pts[0]
        duration = content_seconds(float(span * base), len(packets), rate and float(rate))
        super().__init__(name, len(packets), duration, start, end)

    def _open(self) -> None:
        import av

        source = io.BytesIO(self._source) if isinstance(self._source, bytes) else self._source
        self._container: Any = av.open(source, metadata_errors="replace")
        self._stream = self._container.streams.best("video")
        if self._stream is None or self._stream.codec_context is None:
            raise VideoError(f"{self._name}: holds no video stream that FFmpeg can decode")
        self._stream.thread_type, self._stream.thread_count = "NONE", 1

    def _size(self) -> tuple[int, int]:
        if self._shape is None:  # Only a decoded frame tells its rotation.
            self._shape = self._decode([0.0]).shape[-2:]
        return self._shape[0], self._shape[1]

    def _decode(self, times: list[float]) -> torch.Tensor:
        import av

        rows: dict[int, list[int]] = {}
        for row, time in enumerate(times):
            rows.setdefault(bisect_right(self._seconds, time) - 1, []).append(row)
        frames: torch.Tensor | None = None
        decoded: Iterator[Any] = iter(())
        position = -math.inf
        try:
            for index in sorted(rows):
                if self._keyframe(index) > position + FRAMES_WORTH_A_SEEK:
                    decoded = self._decoded_from(index)
                frame = next((frame for frame in decoded if shown_at(frame) >= self._pts[index]), None)
                if frame is None:
                    raise VideoError(f"{self._name}: cannot decode its frame at {self._seconds[index]:g} s")
                position = index
                pixels = self._to_rgb(frame)
                if frames is None:
                    frames = torch.empty((len(times), *pixels.shape), dtype=torch.uint8)
                if pixels.shape != frames.shape[1:]:
                    raise VideoError(f"{self._name}: its frames change size at {self._seconds[index]:g} s")
                frames.numpy()[rows[index]] = pixels
        except av.error.FFmpegError as error:
            raise undecodable(self._name, error) from None
        assert frames is not None
        return frames.permute(0, 3, 1, 2)

    def _keyframe(self, index: int) -> int:
        """The keyframe from which a frame can be decoded."""
        return self._keyframes[max(0, bisect_right(self._keyframes, index) - 1)]

    def _decoded_from(self, index: int) -> Iterator[Any]:
        """The frames in order of time, from a keyframe at or before the given one on."""
        if self._seeks:
            self._container.seek(self._pts[self._keyframe(index)], stream=self._stream)
            decoded: Iterator[Any] = self._container.decode(self._stream)
            first = next(decoded, None)
            if first is not None and shown_at(first) <= self._pts[index]:
                return chain([first], decoded)
            self._seeks = False  # It landed too late, as it would again.
        self.close()
        self._open()
        return iter(self._container.decode(self._stream))

    def _to_rgb(self, frame: Any) -> NDArray[np.uint8]:
        """The pixels `(H, W, C)`, upright, by the same conversion as torchcodec's: no flags."""
        rgb = self._reformatter.reformat(frame, format="rgb24", interpolation=0, threads=1)
        plane: Any = rgb.planes[0]
        lines = np.frombuffer(plane, np.uint8).reshape(rgb.height, -1)
        pixels = lines[:, : rgb.width * 3].reshape(rgb.height, rgb.width, 3)
        return np.rot90(pixels, round(frame.rotation / 90))

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()


def shown_at(frame: Any) -> int:
    """When a frame of PyAV appears, in the stream's unit; last of all where it carries no time."""
    pts = frame.dts if frame.pts is None else frame.pts
    return 2**63 if pts is None else int(pts)


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


@cache
def torchcodec_works() -> bool:
    """Whether torchcodec is installed and finds FFmpeg; some versions fail at import where they do not."""
    try:
        import torchcodec.decoders
    except (ImportError, RuntimeError, OSError):
        return False
    return getattr(torchcodec, "ffmpeg_major_version", None) is not None


def available_decoders() -> list[str]:
    """The decoders that work on this machine, the preferred one first."""
    return ["torchcodec", "pyav"] if torchcodec_works() else ["pyav"]


def open_video(
    source: str | Path | bytes,
    decoder: str = "auto",
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> Video:
    """Open a video file, or a span of one, to be used in this process only.

    Args:
        source: A path, or the content of a file.
        decoder: `torchcodec`, `pyav`, or `auto`: torchcodec where it works, for this file on this machine.
        start_seconds: Start of the span, counted from the first frame; the start of the file where absent.
        end_seconds: End of the span; the end of the file where absent or past it.

    Raises:
        VideoError: If there is nothing to decode, or nothing in the span; one line, `path: reason`.
        InputError: If the decoder is unknown or does not work here.
    """
    if decoder not in ("auto", "torchcodec", "pyav"):
        raise InputError(f"decoder: must be auto, torchcodec or pyav, not {decoder!r}")
    if decoder == "torchcodec" and not torchcodec_works():
        raise InputError("decoder: torchcodec finds no FFmpeg here; install FFmpeg or use decoder: pyav")
    location: str | bytes
    if isinstance(source, bytes):
        name, head, location = f"a video of {len(source)} bytes", source[:12], source
    else:
        # "file:" keeps FFmpeg from reading a protocol into a name such as a:b.mp4.
        name, head, location = str(source), first_bytes(Path(source)), f"file:{source}"
    if not head:
        raise VideoError(f"{name}: the file is empty")
    if decoder == "torchcodec":
        return TorchcodecVideo(name, location, start_seconds, end_seconds)
    if decoder == "auto" and FIT_FOR_TORCHCODEC.match(head) and torchcodec_works():
        try:
            return TorchcodecVideo(name, location, start_seconds, end_seconds)
        except VideoError:
            pass  # What it cannot open gets a second chance, and a clearer error.
    return PyavVideo(name, location, start_seconds, end_seconds)


def first_bytes(path: Path) -> bytes:
    """The first bytes of a file, which tell its kind."""
    try:
        with path.open("rb") as file:
            return file.read(12)
    except FileNotFoundError:
        raise VideoError(f"{path}: there is no such file") from None
    except OSError as error:
        raise VideoError(f"{path}: cannot be read ({error.strerror})") from None
