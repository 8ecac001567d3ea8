"""What a video file holds, against what its header says: from one decode of all of it, in order, on one thread.

This runs in worker processes that may die of a file, so importing this module imports neither torch nor datasets.
"""

import hashlib
import io
import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import av

from vidtune.data.containers import is_whole
from vidtune.data.content import Content, Problems, Span

Facts = dict[str, Any]

FACTS = (
    "size_bytes sha256 container codec video_streams width height rotation fps constant_rate header_frames frames "
    "header_seconds seconds damaged_frames hashes error problems"
).split()

WITH_HEADER = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flv", "asf")
"""Containers whose header states a duration; of others FFmpeg reports what it finds, or guesses from the bit rate."""

TEXTS = ("tty", "hls", "dash", "concat", "sdp")
"""What FFmpeg calls plain texts, and lists whose files it would play."""

MOST_OFF = 0.05
"""Share by which a header may be wrong, and at least a quarter of a second and two frames: some containers state the
duration of the sound, and the last frame's of none is sure."""

MOST_DAMAGED = 0.01
"""Share of frames above which damaged ones make a file corrupt."""

LEAST_INSIDE = 0.9
"""Share of a span that must lie inside of the file."""


class UnreadableError(Exception):
    """A file that holds no video: the kind of problem, and the detail."""


def probe_file(
    source: str | bytes, spans: Sequence[tuple[float | None, float | None]] = ((None, None),)
) -> list[Facts]:
    """Decode all of a file, once, and say what is in it and what is wrong with it.

    Args:
        source: A path, or the content of a file.
        spans: Start and end, in seconds from the first frame, of each video that is a part of the file; None for the
            start or the end of the file.

    Returns:
        For each span the values of `FACTS`, None where unknown. `problems` maps kinds to details; `error` is the
        detail of the one that keeps the video from being read. `frames`, `seconds` and `hashes` are those of the
        span, all else is the file's.
    """
    facts: Facts = dict.fromkeys(FACTS) | {"problems": {}}
    try:
        whole = _read(source, facts)
        with _open(source, whole) as container:
            content = Content(spans)
            _decode(container, content, facts)
            if not content.frames:
                raise UnreadableError(
                    "truncated" if whole is False else "corrupt", "none of its frames can be decoded"
                )
    except UnreadableError as error:
        kind, detail = error.args
        return [facts | {"error": detail, "problems": {kind: detail}} for _ in spans]
    problems = content.problems | _problems_of_file(facts, content.first, whole)
    return [_facts_of_span(facts, span, problems) for span in content.spans]


def _read(source: str | bytes, facts: Facts) -> bool | None:
    """Fill in size and hash of a file, and find whether it is as long as its container says."""
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            facts["size_bytes"], facts["sha256"] = _digest(file)
            if not facts["size_bytes"]:
                raise UnreadableError("empty", "it has no bytes")
            return is_whole(file, facts["size_bytes"])
    except FileNotFoundError:
        raise UnreadableError("missing", "there is no such file") from None
    except OSError as error:
        raise UnreadableError("missing", f"it can't be read ({error.strerror})") from None


def _digest(file: BinaryIO) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while block := file.read(1 << 20):
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()


def _open(source: str | bytes, whole: bool | None) -> Any:
    """Open the container of a file."""
    # "file:" keeps FFmpeg from reading a protocol into a name such as a:b.mp4.
    location = io.BytesIO(source) if isinstance(source, bytes) else f"file:{source}"
    try:
        return av.open(location, metadata_errors="replace")
    except av.error.FFmpegError as error:
        if whole is False:
            raise UnreadableError("truncated", "it ends before its index, without which nothing can be read") from None
        raise UnreadableError("not_a_video", f"FFmpeg can't open it ({error.strerror})") from None


def _decode(container: Any, content: Content, facts: Facts) -> None:
    """Let all frames of a file pass, and fill in what they are and what its header says."""
    name = facts["container"] = container.format.name
    facts["video_streams"] = len(container.streams.video)
    stream = container.streams.best("video")
    if stream is None:
        kinds = sorted({other.type for other in container.streams})
        if "audio" in kinds:
            raise UnreadableError("audio_only", "it holds sound and no picture")
        raise UnreadableError("not_a_video", f"it holds {', '.join(kinds) or 'nothing'}")
    if stream.disposition & av.stream.Disposition.attached_pic:
        raise UnreadableError("cover_picture", "its only picture is a cover")
    if name in TEXTS:
        raise UnreadableError("not_a_video", f"it is a text, or a list of other files ({name})")
    if name.endswith("_pipe") or name == "image2":
        raise UnreadableError("still_picture", f"it is a picture ({name})")
    if stream.codec_context is None:
        raise UnreadableError("unknown_codec", "FFmpeg has no decoder for it")
    facts["codec"] = stream.codec_context.codec.canonical_name
    stream.thread_type, stream.thread_count = "NONE", 1
    for frame in _frames(container, stream, content):
        content.add(frame, stream.time_base)
    for span in content.spans:
        span.finish()
    if content.timeless:
        raise UnreadableError("bad_timestamps", "its frames carry no times")
    if content.frames == 1 and name == "gif":
        raise UnreadableError("still_picture", "it is a picture (gif)")
    if content.frames:
        seconds, facts["constant_rate"] = content.timing(float(stream.time_base))
        facts |= {"seconds": seconds, "frames": content.frames, "fps": content.frames / seconds}
        facts |= {"width": content.width, "height": content.height, "rotation": content.rotation}
        facts["damaged_frames"] = content.damaged
    if name in WITH_HEADER:
        facts["header_frames"], facts["header_seconds"] = stream.frames or None, _header_seconds(container, stream)


def _frames(container: Any, stream: Any, content: Content) -> Iterator[Any]:
    """All frames, in the order in which they are shown; what can't be decoded is counted."""
    name, packets = container.format.name, container.demux(stream)
    stored: deque[int] = deque()
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            # A packet that the end of the file cuts is no frame; MPEG streams mark good ones so as well.
            is_cut = packet.is_corrupt and name not in ("mpeg", "mpegts")
            content.damaged += is_cut
            frames = [] if is_cut else packet.decode()
        except av.error.FFmpegError:
            content.damaged += 1
            continue
        # AVI has no times of presentation: the n-th frame that is shown is the n-th out of the decoder.
        if name == "avi" and packet.dts is not None:
            stored.append(packet.dts)
        for frame in frames:
            if stored:
                frame.pts = stored.popleft()
            yield frame


def _header_seconds(container: Any, stream: Any) -> float | None:
    """How long the video is by the header of its container."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    written = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))  # in Matroska
    if written:
        hours, minutes, seconds = map(float, written.groups())
        return 3600 * hours + 60 * minutes + seconds
    return container.duration / av.time_base if container.duration else None


def _problems_of_file(facts: Facts, first: float, whole: bool | None) -> Problems:
    """What is wrong with a file that can be read, and whose first frame's time is given."""
    problems = {}
    seconds, frames = facts["seconds"], facts["frames"]
    claimed, found = facts["header_seconds"], f"there are {seconds:.2f} s, {frames} frames"
    least = max(0.25, 2 / facts["fps"])
    if claimed is None:
        # Beside a duration that is right, a number of frames that isn't is that of a file before it was cut.
        claimed = (facts["header_frames"] or frames) / facts["fps"]
    # Matroska's muxers count from the first frame, or from 0.
    is_off = min(abs(claimed - seconds), abs(claimed - first - seconds)) > max(least, MOST_OFF * claimed)
    if whole is False or (whole is None and is_off and seconds < claimed):
        problems["truncated"] = f"its end is missing: by its header {claimed:.2f} s; {found}"
    elif is_off:
        problems["header_mismatch"] = f"by its header {claimed:.2f} s; {found}"
    if facts["damaged_frames"] > MOST_DAMAGED * frames + (whole is False):  # one is cut
        problems["corrupt"] = f"damaged or lost: {facts['damaged_frames']} of {frames} frames"
    return problems


def _facts_of_span(facts: Facts, span: Span, problems: Problems) -> Facts:
    """The facts of one video of a file that can be read."""
    length = facts["seconds"]
    seconds = min(span.end, length) - span.start
    if span.start < 0 or seconds <= 0:
        detail = f"the file lasts {length:g} s, and it is to start at {span.start:g} s and to end at {span.end:g} s"
        nothing = {"frames": None, "seconds": None, "hashes": None}
        return facts | nothing | {"error": detail, "problems": problems | {"span_outside": detail}}
    if span.end - span.start < float("inf") and seconds < LEAST_INSIDE * (span.end - span.start):
        problems = problems | {"span_outside": f"the file ends at {length:g} s, and it is to end at {span.end:g} s"}
    own = {"frames": span.frames, "seconds": seconds, "hashes": span.hashes, "problems": problems | span.problems}
    return facts | own
