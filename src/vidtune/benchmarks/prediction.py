"""Prediction, and its two halves alone: decoding the videos, and running the model on them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from vidtune.benchmarks.timing import Clips
from vidtune.benchmarks.training import NewModel
from vidtune.data.clips import ClipFormat
from vidtune.evaluation.classifier import Classifier
from vidtune.evaluation.inference import VideoParts, batched_logits, predict_videos


def make_classifier(new: NewModel, clip: ClipFormat, device: torch.device) -> Classifier:
    """A classifier of a new model."""
    model, mean, std = new
    model.to(device).eval()
    return Classifier(lambda pixels: model(pixels).logits, model.config, clip, mean, std, device)


def decoded_views(files: Sequence[Path], clip: ClipFormat, decoder: str, num_workers: int, number: int) -> Clips:
    """The clips of videos as they arrive from workers."""
    parts = VideoParts(files, clip, decoder=decoder)
    loader: Any = DataLoader(
        parts, batch_size=None, collate_fn=lambda item: item, num_workers=num_workers, in_order=False
    )
    return ((part.row, views) for part, views in loader if part.error is None)


def model_logits(
    classifier: Callable[[], Classifier], files: Sequence[Path], decoder: str, batch_size: int, number: int
) -> Clips:
    """Logits of as many clips as there are videos, those of the first batch again and again, ready in memory."""
    loaded = classifier()
    ready = [views for _, views in VideoParts(files[:batch_size], loaded.clip, decoder=decoder)]
    parts = ((row, ready[row % len(ready)]) for row in range(len(files)))
    return batched_logits(loaded, parts, batch_size)


def predictions(
    classifier: Callable[[], Classifier],
    files: Sequence[Path],
    decoder: str,
    batch_size: int,
    num_workers: int,
    number: int,
) -> Clips:
    """Probabilities of each video, as recipes/predict.py has them."""
    scores = predict_videos(classifier(), files, batch_size=batch_size, num_workers=num_workers, decoder=decoder)
    return ((row, torch.tensor(video.probabilities[0])) for row, video in enumerate(scores) if video.error is None)
