"""Opening a video: PyAV, which carries its own FFmpeg, or torchcodec, which needs one installed."""

import re
from pathlib import Path

from vidtune.data.containers import LISTS
from vidtune.data.jpeg_video import BRAND, JpegVideo
from vidtune.data.pyav_video import PyavVideo
from vidtune.data.torchcodec_video import TorchcodecVideo, torchcodec_works
from vidtune.data.video import Video
from vidtune.errors import InputError, VideoError

# The first bytes of MP4, MOV, Matroska and WebM. In others torchcodec misses frames: it seeks into the middle
# of MPEG streams, and never reaches the end of AVI with B-frames.
FIT_FOR_TORCHCODEC = re.compile(rb"....(ftyp|moov|mdat|wide|free|skip)|\x1a\x45\xdf\xa3", re.DOTALL)


def open_video(
    source: str | Path | bytes,
    decoder: str = "auto",
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> Video:
    """Open a video file, or a span of one, to be used in this process only.

    Args:
        source: A path, or the content of a file.
        decoder: `torchcodec`, `pyav`, or `auto`: PyAV, but for the videos of a prepared dataset, whose frames are
            read without FFmpeg.
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
    if head.startswith(LISTS):
        raise VideoError(f"{name}: is a list of other files, not a video")
    if decoder == "torchcodec":
        if not FIT_FOR_TORCHCODEC.match(head):
            raise VideoError(f"{name}: torchcodec misses frames of this kind of file; use decoder: auto")
        return TorchcodecVideo(name, location, start_seconds, end_seconds)
    if decoder == "auto" and head.endswith(BRAND):
        return JpegVideo(name, location, start_seconds, end_seconds)
    return PyavVideo(name, location, start_seconds, end_seconds)


def first_bytes(path: Path) -> bytes:
    """The first 12 bytes of a file, which tell its kind."""
    try:
        with path.open("rb") as file:
            return file.read(12)
    except FileNotFoundError:
        raise VideoError(f"{path}: there is no such file") from None
    except OSError as error:
        raise VideoError(f"{path}: cannot be read ({error.strerror})") from None


def available_decoders() -> list[str]:
    """The decoders that work on this machine, the preferred one first."""
    return ["pyav", "torchcodec"] if torchcodec_works() else ["pyav"]
