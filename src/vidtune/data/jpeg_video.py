"""Videos of a prepared dataset: an MP4 of JPEG frames, any of which is read without those before it.

FFmpeg and all that build on it play them. Here, the bytes of a frame are taken from where the file's index says and
handed to libjpeg-turbo, which takes half the time of FFmpeg's own JPEG decoder.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from vidtune.data.video import Pixels, Video, undecodable

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
        path = Path() if isinstance(source, bytes) else Path(source.removeprefix("file:"))
        self._file = io.BytesIO(source) if isinstance(source, bytes) else path.open("rb")
        try:
            self._shape, self._sizes, first, self._fps = _index_of(self._file)
        except (struct.error, ValueError, ZeroDivisionError) as error:
            raise undecodable(name, error) from None
        self._places = first + np.cumsum(self._sizes) - self._sizes
        super().__init__(name, len(self._sizes), len(self._sizes) / self._fps, start, end)

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
        position, pixels = -1, np.empty((0, 0, 3), np.uint8)
        for time in times:
            index = self._index(time)
            if index != position:
                pixels = np.empty((*self._shape, 3), np.uint8)
                self._decode(index, pixels)
                position = index
            yield pixels

    def _index(self, time: float) -> int:
        return int(min(time * self._fps, len(self._sizes) - 1))

    def _decode(self, index: int, pixels: Pixels) -> None:
        """Decode a frame into `pixels` `(H, W, 3)`."""
        from simplejpeg import decode_jpeg

        self._file.seek(int(self._places[index]))
        try:
            # Half the resolution of chroma is widened by repetition, as FFmpeg does: faster, and 68 dB from the rest.
            decode_jpeg(self._file.read(int(self._sizes[index])), fastupsample=True, buffer=pixels)
        except ValueError as error:
            raise undecodable(self._name, error) from None

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _index_of(file: IO[bytes]) -> tuple[tuple[int, int], NDArray[np.int64], int, float]:
    """Read what `encode_jpeg_video` wrote of its frames, in a tenth of the time that FFmpeg takes to open the file.

    Returns:
        Height and width, the size of each frame in bytes, the place of the first, which the others follow without a
        gap, and frames per second.

    Raises:
        ValueError, struct.error: If the file is damaged.
    """
    position, kind, size = 0, b"", 0
    while kind != b"moov":  # ISO/IEC 14496-12: boxes of a size, a kind and their content
        position += size
        file.seek(position)
        size, kind, long_size = struct.unpack(">I4sQ", file.read(16))
        size = long_size if size == 1 else size
        if size < 8:
            raise ValueError("it ends before its index")
    file.seek(position)
    index = file.read(size)

    def numbers(box: bytes, at: int, form: str) -> Any:
        return struct.unpack_from(form, index, index.index(box) + len(box) + at)

    (time_unit,) = numbers(b"mdhd", 12, ">I")
    (duration,) = numbers(b"stts", 12, ">I")
    height, width = numbers(b"jpeg" if b"jpeg" in index else b"mp4v", 24, ">HH")[::-1]
    same_size, count = numbers(b"stsz", 4, ">II")
    (first,) = numbers(b"co64", 8, ">Q") if b"co64" in index else numbers(b"stco", 8, ">I")
    sizes = np.frombuffer(index, ">u4", 0 if same_size else count, index.index(b"stsz") + 16).astype(np.int64)
    sizes = np.full(count, same_size) if same_size else sizes
    if not (count and height and width):
        raise ValueError("it holds no frames")
    return (height, width), sizes, first, time_unit / duration
