"""What a long video shows and when: windows over it, neighbours of one label merged, and a picture of both."""

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from vidtune.data.clips import ClipFormat, view_times
from vidtune.data.transforms import crop_views
from vidtune.data.video import TOLERANCE_SECONDS, Video

Span = tuple[float, float]

MOST_CURVES = 8
"""Labels whose probabilities a picture shows: more can't be told apart by colour."""


class Segment(NamedTuple):
    """A part of a video with one label."""

    start_seconds: float
    end_seconds: float
    label: str
    probability: float
    """Mean over the windows that were merged."""


def windows(duration_seconds: float, window_seconds: float, stride_seconds: float) -> list[Span]:
    """Lay windows of one length over a video, so that all of it is seen.

    Args:
        duration_seconds: Length of the video, > 0.
        window_seconds: Length of a window, > 0.
        stride_seconds: From the start of one window to that of the next, > 0.

    Returns:
        Start and end of each, seconds, ascending. The last one ends with the video, and overlaps its neighbour the
        more for it; a video shorter than a window is one window.

    Raises:
        ValueError: If a number is out of range.
    """
    if not (duration_seconds > 0 and window_seconds > 0 and stride_seconds > 0):
        raise ValueError(f"got {duration_seconds}, {window_seconds} and {stride_seconds} seconds; give more than 0")
    if duration_seconds <= window_seconds + TOLERANCE_SECONDS:
        return [(0.0, duration_seconds)]
    last = duration_seconds - window_seconds
    # A stride that ends a rounding error before the end of the video needs no further window.
    count = int(np.ceil((last - TOLERANCE_SECONDS) / stride_seconds))
    starts = [index * stride_seconds for index in range(count)]
    return [(start, start + window_seconds) for start in starts] + [(last, duration_seconds)]


def window_views(
    video: Video, clip: ClipFormat, spans: Sequence[Span], spatial_crops: int = 1
) -> Iterator[torch.Tensor]:
    """Take a clip of each window, decoding the video once and in order, however much the windows overlap.

    A clip is that of the window as a video of its own (`evaluation_views` of such a span). No more than the frames of
    the windows that overlap are in memory, already cropped.

    Args:
        video: An opened video.
        clip: What a clip is.
        spans: Start and end of each window, seconds, ascending, as of `windows`.
        spatial_crops: 1 or 3 crops of each clip.

    Yields:
        uint8 `(spatial_crops, T, C, H, W)`, one for each window.

    Raises:
        VideoError: If a frame can't be decoded.
    """
    # A clip longer than its window repeats the last frame that begins inside of it
    times = [
        np.minimum(start + view_times(video, clip, end - start), end - 2 * TOLERANCE_SECONDS) for start, end in spans
    ]
    moments: list[float] = np.unique(np.concatenate(times)).tolist()
    decoded = zip(moments, video.stream(moments), strict=True)
    frames: dict[float, torch.Tensor] = {}
    for wanted in times:
        frames = {moment: frame for moment, frame in frames.items() if moment >= wanted[0]}
        while not frames or next(reversed(frames)) < wanted[-1]:
            moment, frame = next(decoded)
            frames[moment] = torch.cat(crop_views(frame[None], clip.image_size, spatial_crops))
        yield torch.stack([frames[moment] for moment in wanted], dim=1)


def merge_windows(
    spans: Sequence[Span], probabilities: Sequence[Sequence[float]], labels: Sequence[str], multi_label: bool = False
) -> list[Segment]:
    """Merge neighbouring windows of one label.

    The boundary between two neighbours lies in the middle between their centres; the first begins with the video and
    the last ends with it. So segments follow each other without a gap or an overlap, but where a window may have
    several labels: there each label over 0.5 has segments of its own, and nothing covers what shows none.

    Args:
        spans: Start and end of each window, seconds, ascending.
        probabilities: Of each window `(num_labels,)`.
        labels: Their names, in order.
        multi_label: Whether a window may have several labels.

    Returns:
        Segments by start, then by label.
    """
    centres = [(start + end) / 2 for start, end in spans]
    bounds = [spans[0][0], *((a + b) / 2 for a, b in pairwise(centres)), spans[-1][1]]
    table = np.asarray(probabilities)
    shown = table > 0.5 if multi_label else np.arange(len(labels)) == table.argmax(1)[:, None]
    segments = []
    for label, has, own in zip(labels, shown.T, table.T, strict=True):
        for is_shown, run in groupby(range(len(spans)), has.__getitem__):
            if is_shown:
                rows = list(run)
                segments.append(Segment(bounds[rows[0]], bounds[rows[-1] + 1], label, float(own[rows].mean())))
    return sorted(segments, key=lambda segment: (segment.start_seconds, labels.index(segment.label)))


def plot_timeline(
    path: Path,
    title: str,
    spans: Sequence[Span],
    probabilities: Sequence[Sequence[float]],
    labels: Sequence[str],
    segments: Sequence[Segment],
) -> None:
    """Draw the probabilities over time, above a strip of the segments, into a PNG that is whole or not there.

    Args:
        path: The file.
        title: What stands above: the name of the video.
        spans: Start and end of each window, seconds.
        probabilities: Of each window `(num_labels,)`.
        labels: Their names, in order; of more than MOST_CURVES, those that are highest somewhere are drawn.
        segments: As `merge_windows` returned them.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    table = np.asarray(probabilities)
    drawn = sorted(np.argsort(-table.max(0), kind="stable")[:MOST_CURVES].tolist())
    colours = {labels[index]: colormaps["tab10"](place) for place, index in enumerate(drawn)}
    figure = Figure(figsize=(10, 4), layout="constrained")
    curves, strip = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    centres = [(start + end) / 2 for start, end in spans]
    handles = [curves.plot(centres, table[:, i], ".-", color=colours[labels[i]], markersize=3)[0] for i in drawn]
    # Labels are names, not formulas, whatever signs they have
    for text in curves.legend(
        handles, [labels[i] for i in drawn], loc="upper left", bbox_to_anchor=(1, 1)
    ).get_texts():
        text.set_parse_math(False)
    for segment in segments:
        start, end, label, _ = segment
        strip.axvspan(start, end, color=colours.get(label, "lightgrey"), linewidth=0)
    curves.set(ylabel="probability", ylim=(0, 1.02), xlim=(spans[0][0], spans[-1][1]))
    curves.set_title(title, parse_math=False, fontsize="medium")
    strip.set(xlabel="seconds", yticks=[])
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a sign that the font lacks is drawn as a box
        figure.savefig(picture, format="png", dpi=120)
    temporary = path.with_name(f".{path.name}.unfinished")
    temporary.write_bytes(picture.getvalue())
    os.replace(temporary, path)
