"""Clips of a dataset's videos, decoded, sampled and transformed on the fly in the workers of a data loader."""

import importlib
import random
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from vidtune.data.decoding import open_video
from vidtune.data.sampling import dense_views, random_dense, random_segments, segment_views
from vidtune.data.streaming import shard_video
from vidtune.data.transforms import augment, crop_views
from vidtune.data.video import Video
from vidtune.errors import InputError, VideoError
from vidtune.printing import printable

FAILED = -100
"""The label of a video that could not be decoded: cross-entropy, metrics and the Trainer's counts pass over it."""

PADDING = -1
"""The repeat of an index that fills the last batches of an epoch, so that each process has as many: none is read."""

CHUNK = 2**16
"""Row numbers that are turned into Python's at once: ten million of them would take half a gigabyte."""

Item = dict[str, Any]


@dataclass(frozen=True)
class ClipFormat:
    """What a clip is, for the model that reads it.

    Attributes:
        num_frames: Frames, >= 1.
        image_size: Height and width, pixels.
        sampling: `segments` (the whole video) or `dense` (consecutive frames).
        fps: Frames per second of a dense clip.
        frame_stride: In place of `fps`: a dense clip takes every so many-th frame of the file, whatever its rate.
    """

    num_frames: int
    image_size: int
    sampling: str = "segments"
    fps: float = 7.5
    frame_stride: int | None = None

    def rate(self, video: Video) -> float:
        """Frames per second of a dense clip of a video."""
        return video.fps / self.frame_stride if self.frame_stride else self.fps


class TrainingClips(TorchDataset[Item]):
    """One random clip of each video, or several of the same frames, in each epoch others.

    An index is (epoch, row), or (epoch, row, repeat) where the row was drawn before in that epoch, and a clip is a
    pure function of (seed, epoch, row, draw): the same for any number of workers and processes, before or after a
    restart.

    Args:
        videos: Rows with columns `video` and `label` or `labels`, and optionally `start_seconds` and `end_seconds`.
        clip: What a clip is.
        seed: Seed of all draws.
        decoder: `auto`, `torchcodec` or `pyav`.
        transform: `module:function` that replaces `augment`; see `load_transform`.
        num_sample: Clips of a video, of frames decoded once and augmented so many times (Hoffer et al. 2020).
        augmentation: Keyword arguments of `augment`.
    """

    def __init__(
        self,
        videos: Dataset,
        clip: ClipFormat,
        *,
        seed: int = 0,
        decoder: str = "auto",
        transform: str | None = None,
        num_sample: int = 1,
        **augmentation: Any,
    ) -> None:
        self.videos, self.clip, self.seed, self.decoder = videos, clip, seed, decoder
        self.transform, self.num_sample, self.augmentation = transform, num_sample, augmentation

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: tuple[int, ...]) -> Item:
        """Return `pixel_values`, `labels`, `row`, `epoch` and whether it `failed`.

        The pixels are uint8 `(T, C, H, W)`, or `(num_sample, T, C, H, W)` where that is above 1.
        """
        epoch, row, repeat = (*index, 0)[:3]
        video = self.videos[row]
        item = {"labels": row_label(self.videos, video), "row": row, "epoch": epoch, "failed": False}
        if repeat == PADDING:
            return self._without_frames(item) | {"failed": False, "padding": True}
        draws = range(repeat * self.num_sample, (repeat + 1) * self.num_sample)
        rngs = [np.random.default_rng([self.seed, epoch, row, draw]) for draw in draws]
        try:
            with open_row(video, self.decoder) as opened:
                frames = opened.frames_at(self._times(opened, rngs[0]).tolist(), slack_seconds(opened, self.clip))
        except VideoError:
            return self._without_frames(item)
        if self.num_sample == 1:
            return item | {"pixel_values": self._augmented(frames, rngs[0])}
        # Each from a copy, since a transform of the user's may work in place
        return item | {"pixel_values": torch.stack([self._augmented(frames.clone(), rng) for rng in rngs])}

    def _without_frames(self, item: Item) -> Item:
        shape = (self.clip.num_frames, 3, self.clip.image_size, self.clip.image_size)
        return _failed(item, shape if self.num_sample == 1 else (self.num_sample, *shape))

    def _augmented(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        if self.transform:
            return apply_transform(load_transform(self.transform), frames, self.clip.image_size, rng)
        return augment(frames, self.clip.image_size, rng, **self.augmentation)

    def _times(self, opened: Video, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float64]]:
        if self.clip.sampling == "dense":
            return random_dense(opened.duration_seconds, self.clip.num_frames, self.clip.rate(opened), rng)
        return random_segments(opened.duration_seconds, self.clip.num_frames, rng)


class EvaluationClips(TorchDataset[Item]):
    """All views of each video, from one decode; the same at every call.

    Args:
        videos: Rows with columns `video` and `label` or `labels`, and optionally `start_seconds` and `end_seconds`.
        clip: What a clip is.
        temporal_views: Clips over the length of a video.
        spatial_crops: 1 or 3 crops of each clip.
        decoder: `auto`, `torchcodec` or `pyav`.
        frame_order: How the frames of each clip are put in order: takes their number and the `video_id`, returns
            indices; None: as they are.
    """

    def __init__(
        self,
        videos: Dataset,
        clip: ClipFormat,
        *,
        temporal_views: int = 1,
        spatial_crops: int = 1,
        decoder: str = "auto",
        frame_order: Callable[[int, str], NDArray[np.int64]] | None = None,
    ) -> None:
        self.videos, self.clip, self.decoder, self.frame_order = videos, clip, decoder, frame_order
        self.temporal_views, self.spatial_crops = temporal_views, spatial_crops

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, row: int) -> Item:
        """Return `pixel_values` (uint8 `(V, T, C, H, W)`), `labels`, `row` and whether it `failed`."""
        video = self.videos[row]
        item = {"labels": row_label(self.videos, video), "row": row, "failed": False}
        try:
            with open_row(video, self.decoder) as opened:
                pixels = evaluation_views(opened, self.clip, self.temporal_views, self.spatial_crops)
        except VideoError:
            views, size = self.temporal_views * self.spatial_crops, self.clip.image_size
            return _failed(item, (views, self.clip.num_frames, 3, size, size))
        if self.frame_order:
            pixels = pixels[:, self.frame_order(self.clip.num_frames, video["video_id"])]
        return item | {"pixel_values": pixels}


def evaluation_views(video: Video, clip: ClipFormat, temporal_views: int = 1, spatial_crops: int = 1) -> torch.Tensor:
    """Take all views of a video from one decode.

    Args:
        video: An opened video.
        clip: What a clip is.
        temporal_views: Clips over the length of the video, >= 1.
        spatial_crops: 1 or 3 crops of each clip.

    Returns:
        uint8 `(V, T, C, H, W)`, the crops of the first clip first.

    Raises:
        VideoError: If a frame can't be decoded.
    """
    times = view_times(video, clip, video.duration_seconds, temporal_views)
    moments, places = np.unique(times, return_inverse=True)
    places = places.reshape(temporal_views, clip.num_frames)
    # Each frame is cropped once, however many clips share it, and no more than one of full size is in memory.
    views = np.empty((temporal_views, spatial_crops, clip.num_frames, 3, clip.image_size, clip.image_size), np.uint8)
    for index, frame in enumerate(video.stream(moments.tolist(), slack_seconds(video, clip))):
        crops = torch.cat(crop_views(frame[None], clip.image_size, spatial_crops)).numpy()
        for view, position in np.argwhere(places == index):
            views[view, :, position] = crops
    return torch.from_numpy(views).flatten(0, 1)


def view_times(
    video: Video, clip: ClipFormat, duration_seconds: float, temporal_views: int = 1
) -> NDArray[np.float64]:
    """Give the times of the frames of all views.

    Args:
        video: The video.
        clip: What a clip is.
        duration_seconds: Length of the video, or of the part of it that the views are of.
        temporal_views: Clips over that length, >= 1.

    Returns:
        Seconds from the start of it, `(temporal_views * num_frames,)`, those of the first clip first.
    """
    if clip.sampling == "dense":
        times = dense_views(duration_seconds, clip.num_frames, clip.rate(video), temporal_views)
    else:
        times = segment_views(duration_seconds, clip.num_frames, temporal_views)
    # The middle of the time that a frame is on screen: some containers round when it begins
    middles: NDArray[np.float64] = (np.floor(np.concatenate(times) * video.fps + 1e-3) + 0.5) / video.fps
    return middles


def slack_seconds(video: Video, clip: ClipFormat) -> float:
    """How much earlier than asked for a frame of a long file may appear: a twentieth of its segment; no dense one.

    Of an hour in 16 segments, this makes a keyframe of the last 11 seconds do, instead of decoding from there on.
    """
    return video.duration_seconds / clip.num_frames / 20 if clip.sampling == "segments" else 0.0


class EpochSampler(Sampler[tuple[int, ...]]):
    """Rows in an order that (seed, epoch) alone decide, each with its epoch: every process sees the same.

    The epoch travels with the index, so no state is shared with workers. Set `epoch` before iterating.

    Args:
        num_rows: Rows, and indices of an epoch.
        seed: Seed of the order.
        weights: `(num_rows,)`, >= 0: rows are drawn with replacement, in proportion to these. A row that is drawn
            again has the count of its earlier draws as a third number, for another clip. None: each row once.
        multiple_of: Videos of a batch of all processes: the epoch is filled up to a multiple of it, with indices of
            PADDING. Accelerate would fill it with rows from its start, which then count twice.
        shards: `(num_rows,)`, the number of each row's shard: those of a shard come near each other; see
            `shuffle_near`. None: any row may follow any other.
        shuffle_buffer: Rows that are shuffled among each other then, >= 1.
    """

    def __init__(
        self,
        num_rows: int,
        seed: int = 0,
        weights: Sequence[float] | None = None,
        multiple_of: int = 1,
        shards: NDArray[np.int64] | None = None,
        shuffle_buffer: int = 1,
    ) -> None:
        self.num_rows, self.seed, self.epoch = num_rows, seed, 0
        self.shards, self.shuffle_buffer = shards, shuffle_buffer
        self.padding = -num_rows % multiple_of
        self.shares = None if weights is None else np.asarray(weights, dtype=np.float64) / np.sum(weights)

    def __len__(self) -> int:
        return self.num_rows + self.padding

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        epoch = self.epoch
        rng = np.random.default_rng([self.seed, epoch])
        if self.shares is not None:
            order = rng.choice(self.num_rows, size=self.num_rows, p=self.shares)
        else:
            order = rng.permutation(self.num_rows) if self.shards is None else np.arange(self.num_rows)
        if self.shards is not None:
            order = shuffle_near(order, self.shards, self.shuffle_buffer, rng)
        draws: Counter[int] = Counter()
        for start in range(0, self.num_rows, CHUNK):
            for row in order[start : start + CHUNK].tolist():
                yield (epoch, row, draws[row]) if row in draws else (epoch, row)
                if self.shares is not None:
                    draws[row] += 1
        yield from [(epoch, 0, PADDING)] * self.padding


def shuffle_near(
    rows: NDArray[np.int64], shards: NDArray[np.int64], shuffle_buffer: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Put shards in random order, the rows of each one after another, and shuffle those that are near in that order.

    Args:
        rows: Row numbers, `(N,)`.
        shards: The number of the shard of each row that there is, by its number.
        shuffle_buffer: So many rows that follow each other are shuffled, then as many again; >= 1.
        rng: Source of randomness.

    Returns:
        The same row numbers, `(N,)`, each less than `shuffle_buffer` from its place among the shards.
    """
    place_of_shard = rng.permutation(int(shards.max()) + 1)
    order: NDArray[np.int64] = rows[np.lexsort((rows, place_of_shard[shards[rows]]))]
    for start in range(0, len(order), shuffle_buffer):
        rng.shuffle(order[start : start + shuffle_buffer])
    return order


def collate(items: Sequence[Item]) -> dict[str, Any]:
    """Stack items of B videos, each with S clips in training, or its views in evaluation.

    Returns:
        `pixel_values`: uint8 `(B * S, T, C, H, W)`, the clips of the first video first; in evaluation `(B, V, ...)`.
        `labels`: int64 `(B * S,)`, or float32 `(B * S, num_labels)` where a video has several; S is 1 in evaluation.
        `rows`: int64 `(B,)`; `failed_rows`: a list of those that failed.
        `epoch`: int, 0 in evaluation.
    """
    items = without_padding(items)
    pixels = torch.stack([item["pixel_values"] for item in items])
    labels = torch.stack([torch.as_tensor(item["labels"]) for item in items])
    if "epoch" in items[0] and pixels.ndim == 6:
        labels = labels.repeat_interleave(pixels.shape[1], dim=0)
        pixels = pixels.flatten(0, 1)
    return {
        "pixel_values": pixels,
        "labels": labels,
        "rows": torch.tensor([item["row"] for item in items]),
        "failed_rows": [item["row"] for item in items if item["failed"]],
        "epoch": items[0].get("epoch", 0),
    }


def without_padding(items: Sequence[Item]) -> Sequence[Item]:
    """Leave out what only fills a batch, but for one where there is nothing else: each process takes each step."""
    return [item for item in items if "padding" not in item] or items[:1]


def collate_frames(items: Sequence[Item]) -> dict[str, Any]:
    """Stack clips of one frame as pictures, `(B * S, C, H, W)`, in evaluation `(B, V, C, H, W)`; see `collate`."""
    batch = collate(items)
    return batch | {"pixel_values": batch["pixel_values"].squeeze(-4)}


def open_row(video: Mapping[str, Any], decoder: str = "auto") -> Video:
    """Open the video of a row: a file, the bytes of one, or a part of a shard.

    Raises:
        VideoError: If it can't be opened.
        RunError: If its shard can't be read any more.
    """
    source = video["video"]
    if "shard" in video:
        content = shard_video(video)
    else:
        content = source["bytes"] if source["bytes"] is not None else source["path"]
    return open_video(content, decoder, video.get("start_seconds"), video.get("end_seconds"))


def failure(videos: Dataset, row: int, decoder: str = "auto") -> dict[str, str]:
    """Say why a video fails: its `path` (or id) and the `reason`, by decoding it once more."""
    video = videos[row]
    path = video["video"]["path"] or video["video_id"]
    try:
        with open_row(video, decoder) as opened:
            opened.frames_at([0.0, opened.duration_seconds])
        reason = "failed once, and was read on a second try"
    except VideoError as error:
        reason = str(error).removeprefix(f"{printable(path)}: ")
    return {"path": path, "reason": reason}


def unreadable_videos(videos: Dataset, decoder: str = "auto", most: int = 300) -> list[dict[str, str]]:
    """Open videos, evenly spread over the rows and at most so many, and list those that fail, as `failure`.

    Only the container and its first frame are read: this finds missing files, folders, text files and broken
    headers before an hour of training does. Fewer are opened of shards, which are known to be there.
    """
    failures = []
    most = min(most, 30) if "shard" in videos.column_names else most
    for row in np.linspace(0, len(videos) - 1, min(most, len(videos))).astype(int):
        try:
            with open_row(videos[int(row)], decoder) as opened:
                opened.frames_at([0.0])
        except VideoError:
            failures.append(failure(videos, int(row), decoder))
    return failures


def check_one_readable(videos: Dataset, decoder: str = "auto") -> None:
    """Check that not all videos fail; most often the first one tells.

    Raises:
        InputError: If they do.
    """
    for row in range(len(videos)):
        if not unreadable_videos(videos.select([row]), decoder):
            return
    first = failure(videos, 0, decoder)
    raise InputError(
        f"dataset: {first['path']}: {first['reason']}, and none of the {len(videos)} videos can be read; mend them"
    )


def load_transform(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Import a user's transform, `module:function`, from the working folder or the installed packages.

    Raises:
        InputError: If there is no such module or function.
    """
    module_name, _, function_name = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        transform = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, SyntaxError, AttributeError, TypeError, ValueError) as error:  # the last two of odd names
        raise InputError(
            f"train_transform: {name}: {error}; write module:function, as in my_transforms:train"
        ) from None
    if not callable(transform):
        raise InputError(f"train_transform: {name}: is a {type(transform).__name__}; name a function or transform")
    result: Callable[[torch.Tensor], torch.Tensor] = transform
    return result


def apply_transform(
    transform: Callable[[torch.Tensor], torch.Tensor],
    frames: torch.Tensor,
    size: int,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Apply a user's transform, its global randomness seeded from ours.

    Args:
        transform: Takes and returns a clip `(C, T, H, W)`, the layout of pytorchvideo; uint8, or float in [0, 1].
        frames: uint8 `(T, C, H, W)`.
        size: Height and width that the result must have.
        rng: Source of randomness.

    Returns:
        uint8 `(T, C, size, size)`.

    Raises:
        InputError: If the result is no tensor, or has another shape, type or range.
    """
    try:
        with seeded(int(rng.integers(2**32))):
            clip: object = transform(frames.transpose(0, 1))
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{last.filename}, line {last.lineno}"
        raise InputError(f"train_transform: {type(error).__name__}: {error} ({place}); mend it") from error
    expected = (frames.shape[1], frames.shape[0], size, size)
    if not isinstance(clip, torch.Tensor):
        raise InputError(f"train_transform: returned a {type(clip).__name__}; return a tensor {expected}")
    if tuple(clip.shape) != expected:
        raise InputError(
            f"train_transform: returned shape {tuple(clip.shape)}; return {expected}: channels, frames, height, width"
        )
    if clip.is_floating_point():
        low, high = clip.min().item(), clip.max().item()
        if not (low >= -0.01 and high <= 1.01):  # nor NaN
            raise InputError(
                f"train_transform: returned values from {low:.3g} to {high:.3g}; return uint8, or float in [0, 1], "
                "and leave out Normalize: the trainer normalises"
            )
        clip = clip.clamp(0, 1).mul(255).round().to(torch.uint8)
    if clip.dtype != torch.uint8:
        raise InputError(f"train_transform: returned {clip.dtype}; return uint8, or float in [0, 1]")
    return clip.transpose(0, 1)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch (on the CPU), and put them back as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reset the GPU's as well
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def row_label(videos: Dataset, video: dict[str, Any]) -> int | torch.Tensor:
    """The label of a row, or, where it has a list of them, a 1 for each: float32 `(num_labels,)`; 0 without labels."""
    if "labels" not in video:
        label: int = video.get("label", 0)
        return label
    several = torch.zeros(len(videos.features["labels"].feature.names))
    several[video["labels"]] = 1.0
    return several


def uncounted(item: Item) -> Item:
    """Give an item the label that losses and metrics pass over."""
    label = item["labels"]
    return item | {"labels": torch.full_like(label, FAILED) if isinstance(label, torch.Tensor) else FAILED}


def _failed(item: Item, shape: tuple[int, ...]) -> Item:
    return uncounted(item) | {"pixel_values": torch.zeros(shape, dtype=torch.uint8), "failed": True}
