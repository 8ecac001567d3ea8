"""Videos opened by torchcodec."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

from vidtune.data.video import Pixels, Video, content_seconds, undecodable
from vidtune.errors import VideoError

# Frames decoded at once, when a whole video is read.
FRAMES_AT_ONCE = 32


class TorchcodecVideo(Video):
    """A video opened by torchcodec, which scans the whole file first."""

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

    def _frames(self, times: list[float], slack_seconds: float = 0.0) -> Iterator[Pixels]:
        # torchcodec refuses times at or past what it takes for the end.
        before_end = math.nextafter(self._end, self._begin)
        inside = [time for time in (self._begin + time for time in times) if time < self._end]
        try:
            for start in range(0, len(inside), FRAMES_AT_ONCE):
                part = [min(time, before_end) for time in inside[start : start + FRAMES_AT_ONCE]]
                yield from self._decoder.get_frames_played_at(part).data.permute(0, 2, 3, 1).numpy()
            if len(inside) < len(times):
                last = self._decoder.get_frame_at(len(self._decoder) - 1).data.permute(1, 2, 0).numpy()
                yield from [last] * (len(times) - len(inside))
        except (RuntimeError, IndexError) as error:
            raise undecodable(self._name, error) from None

    def close(self) -> None:
        """Let go of the file."""
        self._decoder = None


@cache
def torchcodec_works() -> bool:
    """Whether torchcodec is installed and finds FFmpeg; some versions fail at import where they do not."""
    try:
        import torchcodec.decoders
    except (ImportError, RuntimeError, OSError):
        return False
    return getattr(torchcodec, "ffmpeg_major_version", None) is not None
