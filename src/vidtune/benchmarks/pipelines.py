"""Clips of the public notebook's input pipeline, of ours, and of the least that any can do.

Each function gives clips one after the other; what comes before the first is not part of the time.
"""

import random
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from vidtune.benchmarks.timing import Clips
from vidtune.benchmarks.videos import paths
from vidtune.data.clips import ClipFormat, EvaluationClips, TrainingClips, collate

FPS = 30 / 4
"""The guide's clip is every fourth frame at 30 frames per second; so many frames at this rate span the same time."""


def notebook_clips(videos: Dataset, clip: ClipFormat, seed: int, number: int) -> Clips:
    """The clips of the guide's training dataset: float, normalised, `(C, T, H, W)`."""
    random.seed(seed + number)
    torch.manual_seed(seed + number)
    dataset = notebook_dataset(videos, clip.num_frames, clip.image_size)
    return ((sample["video_index"], sample["video"]) for sample in dataset)


def notebook_dataset(
    videos: Dataset,
    num_frames: int,
    image_size: int,
    mean: Sequence[float] = (0.5,) * 3,
    std: Sequence[float] = (0.5,) * 3,
) -> Any:
    """The guide's training dataset over our files.

    Source: https://huggingface.co/docs/transformers/tasks/video_classification, "Prepare the datasets for training".
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how pytorchvideo uses torch
        from pytorchvideo.data import LabeledVideoDataset, make_clip_sampler
        from pytorchvideo.transforms import (
            ApplyTransformToKey,
            Normalize,
            RandomShortSideScale,
            UniformTemporalSubsample,
        )
    from torchvision.transforms import Compose, Lambda, RandomCrop, RandomHorizontalFlip

    steps = [
        UniformTemporalSubsample(num_frames),
        Lambda(lambda pixels: pixels / 255.0),
        Normalize(mean, std),
        RandomShortSideScale(min_size=256, max_size=320),
        RandomCrop((image_size, image_size)),
        RandomHorizontalFlip(p=0.5),
    ]
    return LabeledVideoDataset(
        [(path, {"label": label}) for path, label in zip(paths(videos), videos["label"], strict=True)],
        make_clip_sampler("random", num_frames / FPS),
        transform=ApplyTransformToKey(key="video", transform=Compose(steps)),
        decode_audio=False,
    )


def own_clips(clips: TrainingClips, number: int) -> Clips:
    """Our training clips: uint8 `(T, C, H, W)`, which the trainer normalises."""
    items = (clips[number, row] for row in range(len(clips)))
    return ((item["row"], item["pixel_values"]) for item in items if not item["failed"])


def own_views(clips: EvaluationClips, number: int) -> Clips:
    """All views of each video: uint8 `(V, T, C, H, W)`."""
    items = (clips[row] for row in range(len(clips)))
    return ((item["row"], item["pixel_values"]) for item in items if not item["failed"])


def decoded_videos(files: Sequence[str], number: int) -> Clips:
    """All frames of each video, decoded by PyAV and dropped as they are."""
    import av

    def count_frames(path: str) -> int:
        try:
            with av.open(f"file:{path}", metadata_errors="replace") as container:
                stream = container.streams.video[0]
                stream.thread_type, stream.thread_count = "NONE", 1
                return sum(1 for _ in container.decode(stream))
        except (av.error.FFmpegError, IndexError):
            return 0  # as the others do, say no more of it here

    return ((row, None) for row, path in enumerate(files) if count_frames(path))


def copied_clips(clips: TrainingClips, number: int) -> Clips:
    """Copies of one finished clip."""
    finished = clips[number, 0]["pixel_values"]
    return ((row, finished.clone()) for row in range(len(clips)))


def loaded_clips(clips: TrainingClips, batch_size: int, num_workers: int, epochs: int, number: int) -> Clips:
    """Our training clips of some epochs as they arrive from a data loader whose workers have started."""
    order = [(0, index % len(clips)) for index in range(num_workers * batch_size)]
    loader = load(clips, order, batch_size, num_workers)
    for _ in loader:  # a batch of each worker
        pass
    order[:] = [(epochs * number + epoch, row) for epoch in range(epochs) for row in range(len(clips))]
    rows = (row for _, row in tuple(order))
    batches = ((batch["pixel_values"], set(batch["failed_rows"])) for batch in loader)
    arrived = ((next(rows), pixels, failed) for batch, failed in batches for pixels in batch)
    return ((row, pixels) for row, pixels, failed in arrived if row not in failed)


def load(clips: TrainingClips, order: Sequence[tuple[int, int]], batch_size: int, num_workers: int) -> Any:
    """A data loader over clips in a given order, whose workers stay from one pass to the next."""
    return DataLoader(
        clips, batch_size, sampler=order, num_workers=num_workers, collate_fn=collate, persistent_workers=True
    )
