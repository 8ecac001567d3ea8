"""From files to probabilities: workers decode while this process runs the model, so that the slower sets the pace."""

import math
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset

from vidtune.data.clips import ClipFormat, evaluation_views
from vidtune.data.decoding import open_video
from vidtune.errors import InputError, VideoError
from vidtune.evaluation.classifier import Classifier
from vidtune.evaluation.timeline import Span, window_views, windows
from vidtune.printing import printable

Key = TypeVar("Key")


class VideoScores(NamedTuple):
    """What a model says of one video, or why it says nothing."""

    path: Path
    spans: list[Span]
    """Start and end of each window, seconds; of a whole video one, from 0 to its end. Empty where it failed."""
    probabilities: list[list[float]]
    """Of each window, `(num_labels,)`."""
    error: str | None
    """Why the video can't be read, without its name."""


class Part(NamedTuple):
    """A piece of what a worker makes of a video."""

    row: int
    span: Span
    is_last: bool
    error: str | None


class VideoParts(IterableDataset[tuple[Part, torch.Tensor]]):
    """The views of videos: a video at once, or window after window; each video from one decode.

    Each worker takes the next video that none has taken, so that long and short ones spread evenly. It is read once:
    afterwards all are taken.

    Args:
        paths: The videos.
        clip: What a clip is.
        temporal_views: Clips over the length of a video, or of one window.
        spatial_crops: 1 or 3 crops of each clip.
        window_seconds: Length of a window; None: whole videos.
        stride_seconds: From one window's start to the next one's.
        decoder: `auto`, `torchcodec` or `pyav`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        clip: ClipFormat,
        *,
        temporal_views: int = 1,
        spatial_crops: int = 1,
        window_seconds: float | None = None,
        stride_seconds: float | None = None,
        decoder: str = "auto",
    ) -> None:
        self.paths, self.clip, self.decoder = paths, clip, decoder
        self.temporal_views, self.spatial_crops = temporal_views, spatial_crops
        self.window_seconds, self.stride_seconds = window_seconds, stride_seconds
        self._next_row: Any = multiprocessing.Value("q", 0)

    def __iter__(self) -> Iterator[tuple[Part, torch.Tensor]]:
        """Yield parts and their views, uint8 `(V, T, C, H, W)`; V is 0 where a video failed."""
        while (row := self._take_row()) < len(self.paths):
            path = self.paths[row]
            try:
                yield from self._parts(row, path)
            except VideoError as error:
                size = self.clip.image_size
                nothing = torch.empty((0, self.clip.num_frames, 3, size, size), dtype=torch.uint8)
                yield Part(row, (0.0, 0.0), True, str(error).removeprefix(f"{printable(path)}: ")), nothing

    def _parts(self, row: int, path: Path) -> Iterator[tuple[Part, torch.Tensor]]:
        with open_video(path, self.decoder) as video:
            duration = video.duration_seconds
            if self.window_seconds is None:
                views = evaluation_views(video, self.clip, self.temporal_views, self.spatial_crops)
                yield Part(row, (0.0, duration), True, None), views
                return
            spans = windows(duration, self.window_seconds, self.stride_seconds or self.window_seconds)
            views_of_windows = window_views(video, self.clip, spans, self.spatial_crops)
            for index, (span, views) in enumerate(zip(spans, views_of_windows, strict=True), start=1):
                yield Part(row, span, index == len(spans), None), views

    def _take_row(self) -> int:
        with self._next_row.get_lock():
            self._next_row.value += 1
            return int(self._next_row.value) - 1


def predict_videos(
    classifier: Classifier,
    paths: Sequence[Path],
    *,
    batch_size: int = 8,
    num_workers: int = 0,
    on_part: Callable[[Part], object] = bool,
    **views: Any,
) -> Iterator[VideoScores]:
    """Predict the labels of videos, which worker processes decode.

    Args:
        classifier: The model.
        paths: The videos.
        batch_size: Clips that the model reads at once.
        num_workers: Processes that decode; 0: this one does, between the batches.
        on_part: Called when a video, or a window of one, is done.
        **views: `temporal_views`, `spatial_crops`, `window_seconds`, `stride_seconds`, `decoder` of `VideoParts`.

    Yields:
        Scores in the order of `paths`, one of each, as soon as it and those before it are done.

    Raises:
        InputError: If a worker dies.
    """
    parts = VideoParts(paths, classifier.clip, **views)
    # A single video has nothing to wait for, but its own windows
    num_workers = min(num_workers, len(paths)) if len(paths) > 1 or parts.window_seconds else 0
    views_of_part = parts.spatial_crops * (1 if parts.window_seconds else parts.temporal_views)
    loader = DataLoader(
        parts,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        # While the model reads a batch, the next two are made.
        prefetch_factor=max(2, math.ceil(2 * batch_size / views_of_part / num_workers)) if num_workers else None,
        in_order=False,
        pin_memory=classifier.device.type == "cuda",
    )
    unfinished: dict[int, VideoScores] = {}
    finished: dict[int, VideoScores] = {}
    next_row = 0
    try:
        for part, logits in batched_logits(classifier, loader, batch_size):
            scores = unfinished.setdefault(part.row, VideoScores(paths[part.row], [], [], None))
            if part.error is None:
                scores.spans.append(part.span)
                scores.probabilities.append(classifier.probabilities(logits).tolist())
            else:  # in the middle of a video, too: what came before isn't half of an answer
                unfinished[part.row] = VideoScores(paths[part.row], [], [], part.error)
            on_part(part)
            if part.is_last:
                finished[part.row] = unfinished.pop(part.row)
            while next_row in finished:
                yield finished.pop(next_row)
                next_row += 1
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            f"num_workers: a worker died while it decoded {paths[next_row]} or a video after it, of a broken file or "
            "for want of memory; give --num_workers 0 to see which"
        ) from None


def batched_logits(
    classifier: Classifier, parts: Iterable[tuple[Key, torch.Tensor]], batch_size: int
) -> Iterator[tuple[Key, torch.Tensor]]:
    """Run a model on the views of videos, several videos at once.

    The result of a batch is waited for when the next one is on its way, so that a GPU always has work.

    Args:
        classifier: The model.
        parts: Anything, and its views: uint8 `(V, T, C, H, W)`, V >= 0.
        batch_size: Views that the model reads at once; what has more is read in several.

    Yields:
        Each thing, and its logits: float32 `(V, num_labels)`, on the CPU; in the same order.
    """
    running: list[tuple[list[tuple[Key, int]], torch.Tensor]] = []
    for batch in _batches(parts, batch_size):
        running.append(([(key, len(views)) for key, views in batch], _start(classifier, batch, batch_size)))
        if len(running) > 1:
            yield from _finish(*running.pop(0))
    for keys, logits in running:
        yield from _finish(keys, logits)


def _batches(parts: Iterable[tuple[Key, torch.Tensor]], batch_size: int) -> Iterator[list[tuple[Key, torch.Tensor]]]:
    batch: list[tuple[Key, torch.Tensor]] = []
    for part in parts:
        if batch and sum(len(views) for _, views in batch) + len(part[1]) > batch_size:
            yield batch
            batch = []
        batch.append(part)
    if batch:
        yield batch


def _start(classifier: Classifier, batch: Sequence[tuple[Any, torch.Tensor]], batch_size: int) -> torch.Tensor:
    views = torch.cat([views.to(classifier.device, non_blocking=True) for _, views in batch])
    if not len(views):
        return torch.empty((0, len(classifier.labels)))
    return torch.cat([classifier.logits(some) for some in torch.split(views, batch_size)])


def _finish(keys: Sequence[tuple[Key, int]], logits: torch.Tensor) -> Iterator[tuple[Key, torch.Tensor]]:
    of_each = torch.split(logits.cpu(), [count for _, count in keys])
    yield from ((key, own) for (key, _), own in zip(keys, of_each, strict=True))


def _as_it_is(item: Any) -> Any:
    return item
