"""Videos opened by PyAV: only the frames asked for, and those they are built on, are decoded."""

from __future__ import annotations

import io
import math
from bisect import bisect_right
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np

from vidtune.data.video import Pixels, Video, content_seconds, undecodable
from vidtune.errors import VideoError

# A seek costs about as much as decoding this many frames.
FRAMES_WORTH_A_SEEK = 8

# Containers that hold a frame a packet and an index: their packets can be passed over, and parts of them read alone.
INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")

# The times of every frame of a shorter file are read when it is opened; of a longer one, those around a clip.
LONG_SECONDS = 60.0

# Times that lie further apart are sought one by one in a long file.
APART_SECONDS = 10.0

# Pictures and texts that FFmpeg takes for a video of one frame.
STILLS = ("image2", "tty")


class Timeline(NamedTuple):
    """When the frames of a file, or of a part of one, appear: their times ascending, in the stream's unit."""

    pts: list[int]
    keyframes: list[int]
    """Places in `pts` from which decoding can start."""


class PyavVideo(Video):
    """A video opened by PyAV."""

    def __init__(self, name: str, source: str | bytes, start: float | None, end: float | None) -> None:
        """Open the file and learn the times of its frames, decoding none; see `open_video`."""
        import av
        from av.video.reformatter import VideoReformatter

        self._name, self._source, self._reformatter = name, source, VideoReformatter()
        self._shape: tuple[int, int] | None = None
        try:
            self._open()
            indexed = self._container.format.name in INDEXED
            # Both fields of an interlaced frame are in one packet there, so that none is passed over alone.
            self._skips = indexed
            # AVI has no presentation times: the n-th frame out of the decoder is the n-th on screen.
            self._counts = self._container.format.name == "avi" and self._stream.codec_context.has_b_frames
            # A packet that the end of the file cuts is no frame; MPEG streams mark good ones so as well.
            self._takes_corrupt = self._container.format.name in ("mpeg", "mpegts")
            # MPEG program streams come back from a seek with half a packet.
            self._seeks = self._container.format.name != "mpeg" and not self._counts
            self._timeline: Timeline | None = None
            length = self._header_length() if indexed else None
            num_frames, seconds = length or self._scan()
        except (av.error.FFmpegError, IndexError) as error:  # PyAV's, of a stream that comes up while it reads
            raise undecodable(name, error) from None
        super().__init__(name, num_frames, seconds, start, end)

    def _open(self) -> None:
        import av.stream

        source = io.BytesIO(self._source) if isinstance(self._source, bytes) else self._source
        self._container: Any = av.open(source, metadata_errors="replace")
        self._stream = self._container.streams.best("video")
        if self._stream is None or self._stream.codec_context is None:
            raise VideoError(f"{self._name}: holds no video stream that FFmpeg can decode")
        if self._stream.disposition & av.stream.Disposition.attached_pic:
            raise VideoError(f"{self._name}: holds sound and a cover picture, but no video")
        form = self._container.format.name
        if form in STILLS or form.endswith("_pipe"):
            raise VideoError(f"{self._name}: is a still picture or a text ({form}), not a video")
        self._base = self._stream.time_base
        self._stream.thread_type, self._stream.thread_count = "NONE", 1

    def _scan(self) -> tuple[int, float]:
        """Read the times of all frames off their packets; returns number of frames and seconds of content."""
        packets, timeless = [], 0
        first_key = last_key = -math.inf
        for packet in self._packets():
            pts = _times_of(packet)[0]
            if packet.is_keyframe and pts is not None:
                if pts < last_key:
                    raise VideoError(f"{self._name}: its times go back, as of joined recordings; re-encode it")
                first_key, last_key = (pts if math.isinf(first_key) else first_key), pts
            if _has_time(packet):
                packets.append(_times_of(packet))
            elif packet.size and not packet.is_discard:
                timeless += 1
        if timeless and self._skips:
            raise VideoError(f"{self._name}: {timeless} of its {timeless + len(packets)} frames have no time")
        # What comes before the first keyframe can't be decoded: a recording that begins amid a group of pictures.
        packets = [packet for packet in packets if packet[0] >= first_key]
        if not packets:
            raise VideoError(f"{self._name}: holds no frames with times")
        self._timeline = _timeline(packets)
        self._first = self._timeline.pts[0]
        span = max(pts + duration for pts, duration, _ in packets) - self._first
        rate = self._stream.base_rate
        return len(packets), content_seconds(float(span * self._base), len(packets), rate and float(rate))

    def _header_length(self) -> tuple[int, float] | None:
        """Number of frames and seconds of a long file, by its header and its last packets.

        None for a short file, and for one whose header claims content that isn't there: these are scanned.
        """
        header = self._stream.duration * self._base if self._stream.duration else (self._container.duration or 0) / 1e6
        rate = self._stream.average_rate
        if header < LONG_SECONDS or not rate:
            return None
        beginning = [_times_of(packet) for packet in islice(self._packets(), 32) if _has_time(packet)]
        if not beginning:
            return None
        self._first = min(beginning)[0]
        last = self._first + int(float(header) / self._base)
        self._container.seek(last, stream=self._stream)
        ending = [_times_of(packet) for packet in self._packets() if _has_time(packet)]
        end = max((pts + duration for pts, duration, _ in ending), default=self._first)
        if abs(last - end) * self._base > 1:
            self._container.seek(0)
            return None
        seconds = float((end - self._first) * self._base)
        return self._stream.frames or round(seconds * rate), seconds

    def _size(self) -> tuple[int, int]:
        if self._shape is None:  # Only a decoded frame tells its rotation.
            self._shape = next(self._frames([0.0])).shape[:2]
        return self._shape

    def _frames(self, times: list[float], slack_seconds: float = 0.0) -> Iterator[Pixels]:
        import av

        try:
            if self._timeline is not None:
                yield from self._decode(self._timeline, times)
                return
            for part in _neighbours(times):
                yield from self._decode(self._timeline_around(part[0], part[-1], slack_seconds), part)
        except (av.error.FFmpegError, IndexError) as error:
            raise undecodable(self._name, error) from None

    def _timeline_around(self, first: float, last: float, slack_seconds: float) -> Timeline:
        """The times of the frames of a long file that are needed for those between two times.

        Where a keyframe begins at most `slack_seconds` before, and alone will do, it is the only one.
        """
        begin, end = (self._first + _ticks(time, self._base) for time in (first, last))
        slack = _ticks(slack_seconds, self._base)
        self._container.seek(begin, stream=self._stream)
        packets = []
        for packet in self._packets():
            if _has_time(packet):
                packets.append(_times_of(packet))
                pts, _, is_key = packets[-1]
                if is_key and end - slack <= pts <= begin:
                    return Timeline([pts], [0])
                # A frame appears at its decoding time or later.
                if packet.dts is not None and packet.dts > end:
                    break
        timeline = _timeline(packets)
        if packets and timeline.pts[timeline.keyframes[0]] <= begin:
            return timeline
        # The index led past the time: nothing but reading all of it helps.
        self._container.seek(0)
        self._scan()
        assert self._timeline is not None  # nosec B101 # for the type checker
        return self._timeline

    def _decode(self, timeline: Timeline, times: list[float]) -> Iterator[Pixels]:
        """Decode the frames at ascending times that a timeline covers."""
        ticks = [self._first + _ticks(time, self._base) for time in times]
        indices = [max(0, bisect_right(timeline.pts, tick) - 1) for tick in ticks]
        wanted = {timeline.pts[index] for index in indices}
        decoded: Iterator[Any] = iter(())
        position, pixels = -math.inf, np.empty((0, 0, 3), np.uint8)
        for index in indices:
            if index != position:
                keyframe = _keyframe(timeline, index)
                if keyframe > position + FRAMES_WORTH_A_SEEK:
                    decoded = self._decoded_from(timeline.pts[keyframe], timeline.pts[index], wanted)
                pts = timeline.pts[index]
                frame = next((frame for frame in decoded if shown_at(frame) >= pts), None)
                if self._skips and (frame is None or shown_at(frame) != pts):
                    # A frame that nobody asked for was needed after all.
                    self._skips = False
                    decoded = self._decoded_from(timeline.pts[keyframe], pts, wanted)
                    frame = next((frame for frame in decoded if shown_at(frame) >= pts), None)
                if frame is None:
                    seconds = float((pts - self._first) * self._base)
                    raise VideoError(f"{self._name}: cannot decode its frame at {seconds:g} s")
                position, pixels = index, self._to_rgb(frame)
            yield pixels

    def _decoded_from(self, keyframe: int, pts: int, wanted: set[int]) -> Iterator[Any]:
        """The frames in order of time, from a keyframe at or before the given time on; some unwanted ones lack."""
        if self._seeks:
            self._container.seek(keyframe, stream=self._stream)
            decoded = self._decoded(wanted)
            first = next(decoded, None)
            if first is not None and shown_at(first) <= pts:
                return chain([first], decoded)
            self._seeks = False  # It landed too late, as it would again.
        self.close()
        self._open()
        return self._decoded(wanted)

    def _decoded(self, wanted: set[int]) -> Iterator[Any]:
        """Decode on from here; frames that are neither wanted nor referred to by others are passed over."""
        context, timeline = self._stream.codec_context, self._timeline
        count = 0
        for packet in self._packets():
            passes = self._skips and packet.pts is not None and packet.pts not in wanted
            context.skip_frame = "NONREF" if passes else "DEFAULT"
            for frame in packet.decode():
                if self._counts and timeline and count < len(timeline.pts):
                    frame.pts = timeline.pts[count]
                count += 1
                yield frame

    def _packets(self) -> Iterator[Any]:
        """The packets from here on; an empty one comes last."""
        packets: Iterator[Any] = self._container.demux(self._stream)
        return (packet for packet in packets if self._takes_corrupt or not packet.is_corrupt)

    def _to_rgb(self, frame: Any) -> Pixels:
        """The pixels `(H, W, C)`, upright, by the same conversion as torchcodec's: no flags."""
        rgb = self._reformatter.reformat(frame, format="rgb24", interpolation=0, threads=1)
        plane: Any = rgb.planes[0]
        lines = np.frombuffer(plane, np.uint8).reshape(rgb.height, -1)
        pixels = lines[:, : rgb.width * 3].reshape(rgb.height, rgb.width, 3)
        return np.rot90(pixels, round(frame.rotation / 90))

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()


def _has_time(packet: Any) -> bool:
    return not packet.is_discard and not (packet.pts is None and packet.dts is None)


def _times_of(packet: Any) -> tuple[int, int, bool]:
    """Presentation time and duration of a packet, and whether it is a keyframe."""
    return packet.dts if packet.pts is None else packet.pts, packet.duration or 0, packet.is_keyframe


def _timeline(packets: list[tuple[int, int, bool]]) -> Timeline:
    packets = sorted(packets)
    keyframes = [index for index, (_, _, is_key) in enumerate(packets) if is_key]
    return Timeline([pts for pts, _, _ in packets], keyframes or [0])


def _keyframe(timeline: Timeline, index: int) -> int:
    """The keyframe from which a frame can be decoded."""
    return timeline.keyframes[max(0, bisect_right(timeline.keyframes, index) - 1)]


def _ticks(seconds: float, base: Any) -> int:
    """Seconds in units of a stream, rounded down; infinity is further than any file reaches."""
    return 2**62 if math.isinf(seconds) else math.floor(seconds / base)


def _neighbours(times: list[float]) -> Iterator[list[float]]:
    """Ascending times in parts between which there are wide gaps."""
    start = 0
    for index in range(1, len(times) + 1):
        if index == len(times) or times[index] - times[index - 1] > APART_SECONDS:
            yield times[start:index]
            start = index


def shown_at(frame: Any) -> int:
    """When a frame of PyAV appears, in the stream's unit; last of all where it carries no time."""
    pts = frame.dts if frame.pts is None else frame.pts
    return 2**63 if pts is None else int(pts)
