"""Videos of a prepared dataset: an MP4 of JPEG frames, any of which is read without those before it.

FFmpeg and all that build on it play them. Here, the bytes of a frame are taken from where the file's index says and
handed to libjpeg-turbo, which takes half the time of FFmpeg's own JPEG decoder.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from vidtune.data.video import Pixels, Video, undecodable
from vidtune.errors import VideoError

# Bytes 8 to 12 of an MP4 name its kind; players go by the compatible kinds that follow.
BRAND = b"vdtn"


def encode_jpeg_video(frames: Iterable[torch.Tensor], fps: Fraction, quality: int = 90) -> bytes:
    """Write frames as an MP4 of JPEG.

    Args:
        frames: uint8 RGB `(C, H, W)`, all of one size.
        fps: Frames per second.
        quality: 1 to 100, as libjpeg has it; chroma is stored at half the resolution.

    Returns:
        The content of the file.

    Raises:
        ValueError: If there are no frames.
    """
    import av
    from torchvision.io import encode_jpeg

    file, stream = io.BytesIO(), None
    with av.open(file, "w", format="mp4", options={"brand": BRAND.decode()}) as container:
        for index, frame in enumerate(frames):
            if stream is None:
                stream = container.add_stream("mjpeg", rate=fps)
                stream.height, stream.width = frame.shape[-2:]
                stream.pix_fmt = "yuvj420p"
                stream.codec_context.open()
            packet = av.Packet(encode_jpeg(frame.contiguous(), quality=quality).numpy().tobytes())
            packet.stream, packet.time_base, packet.is_keyframe = stream, 1 / fps, True
            packet.pts = packet.dts = index
            packet.duration = 1
            container.mux(packet)
    if stream is None:
        raise ValueError("frames: got none; give at least one")
    return file.getvalue()


class JpegVideo(Video):
    """A video written by `encode_jpeg_video`."""

    def __init__(self, name: str, source: str | bytes, start: float | None, end: float | None) -> None:
        """Open the file and read its index; see `open_video`."""
        import av

        path = Path() if isinstance(source, bytes) else Path(source.removeprefix("file:"))
        self._file = io.BytesIO(source) if isinstance(source, bytes) else path.open("rb")
        try:
            with av.open(self._file, metadata_errors="replace") as container:
                stream = container.streams.video[0]
                entries = [(entry.timestamp, entry.pos, entry.size) for entry in stream.index_entries]
                base, fps = float(stream.time_base), float(stream.average_rate or 1)
                self._shape = stream.height, stream.width
        except (av.error.FFmpegError, IndexError) as error:
            raise undecodable(name, error) from None
        if not entries:
            raise VideoError(f"{name}: holds no frames")
        self._seconds = [(time - entries[0][0]) * base for time, _, _ in entries]
        self._places = [(begin, size) for _, begin, size in entries]
        super().__init__(name, len(entries), len(entries) / fps, start, end)

    def frames_at(self, seconds: Sequence[float], slack_seconds: float = 0.0) -> torch.Tensor:
        """Decode frames as `Video.frames_at` does, each straight into its place."""
        frames = np.empty((len(seconds), *self._shape, 3), np.uint8)
        rows: dict[int, int] = {}
        for row, time in enumerate(self._times(seconds)):
            index = self._index(time)
            if index in rows:
                frames[row] = frames[rows[index]]
            else:
                self._decode(index, frames[row])
                rows[index] = row
        return torch.from_numpy(frames).permute(0, 3, 1, 2)

    def _size(self) -> tuple[int, int]:
        return self._shape

    def _frames(self, times: list[float], slack_seconds: float = 0.0) -> Iterator[Pixels]:
        pixels = np.empty((*self._shape, 3), np.uint8)
        position = -1
        for time in times:
            index = self._index(time)
            if index != position:
                self._decode(index, pixels)
                position = index
            yield pixels

    def _index(self, time: float) -> int:
        return max(0, bisect_right(self._seconds, time) - 1)

    def _decode(self, index: int, pixels: Pixels) -> None:
        """Decode a frame into `pixels` `(H, W, 3)`."""
        from simplejpeg import decode_jpeg

        begin, size = self._places[index]
        self._file.seek(begin)
        try:
            # Half the resolution of chroma is widened by repetition, as FFmpeg does: faster, and 68 dB from the rest.
            decode_jpeg(self._file.read(max(0, size)), fastupsample=True, buffer=pixels)
        except ValueError as error:
            raise undecodable(self._name, error) from None

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
