"""Losses of videos with one label or several; a step's loss is the same however it is cut into batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vidtune.data.clips import FAILED
from vidtune.errors import InputError


def soft_targets(labels: Tensor, num_labels: int) -> Tensor:
    """Write labels as shares of each.

    Args:
        labels: int64 `(B,)`, or already float `(B, num_labels)`.
        num_labels: Number of labels.

    Returns:
        float32 `(B, num_labels)`; all FAILED in the rows of videos that failed.
    """
    if labels.ndim == 2:
        return labels
    failed = labels == FAILED
    return F.one_hot(labels.masked_fill(failed, 0), num_labels).float().masked_fill(failed[:, None], FAILED)


def classification_loss(
    outputs: Any,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    *,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
    focal_gamma: float = 0.0,
    multi_label: bool = False,
) -> Tensor:
    """Cross-entropy, or binary cross-entropy of each label, summed and divided by the videos of the whole step.

    So a step of 2 batches of 4 has the loss, and the gradient, of one batch of 8, for every architecture.

    Sources: label smoothing, Szegedy et al. 2016, section 7; focal loss, Lin et al. 2017, section 3.

    Args:
        outputs: With `logits`, `(B, num_labels)` or `(B, heads, num_labels)`; of several heads, the losses are added.
        labels: int64 `(B,)`, or shares of each label, float `(B, num_labels)`; FAILED where a video failed.
        num_items_in_batch: Labels of the batches that make a step, over all processes, as Trainer counts them: one a
            clip, or `num_labels` a clip if it may have several; None: of this batch.
        label_smoothing: Share of the targets that is spread evenly, over all labels or over yes and no, in [0, 1).
        weights: `(num_labels,)`, of each label; with several labels a video, of a label's presence.
        focal_gamma: Exponent of the doubt by which each term is multiplied, >= 0.
        multi_label: Whether a video may have several labels.

    Returns:
        Scalar, nats.
    """
    logits: Tensor = outputs["logits"].float()
    heads, num_labels = logits[0].numel() // logits.shape[-1], logits.shape[-1]
    logits = logits.reshape(-1, num_labels)
    targets = soft_targets(labels, num_labels).to(logits.device).repeat_interleave(heads, 0)
    counted = targets[:, 0] != FAILED
    evenly = label_smoothing / (2 if multi_label else num_labels)
    targets = targets * (1 - label_smoothing) + evenly
    present = logits.new_ones(()) if weights is None else weights
    if multi_label:
        terms = present * targets * _doubted(F.logsigmoid(logits), focal_gamma)
        terms = (terms + (1 - targets) * _doubted(F.logsigmoid(-logits), focal_gamma)) / num_labels
    else:
        terms = present * targets * _doubted(logits.log_softmax(-1), focal_gamma)
    total = -terms.sum(-1).masked_fill(~counted, 0.0).sum()
    if num_items_in_batch is None:
        return total * heads / counted.sum().clamp(min=1)
    count = torch.as_tensor(num_items_in_batch, device=total.device) / (num_labels if multi_label else 1)
    return total / count.clamp(min=1)


def _doubted(log_probabilities: Tensor, gamma: float) -> Tensor:
    """Multiply logarithms of probabilities p by (1 - p) to the power of gamma."""
    if gamma == 0:
        return log_probabilities
    return (-torch.expm1(log_probabilities)).clamp(min=1e-12) ** gamma * log_probabilities


def label_weights(
    wanted: str | Mapping[str, float], truth: NDArray[np.bool_], names: Sequence[str], multi_label: bool = False
) -> list[float]:
    """Turn what was asked for into a weight for each label.

    With one label a video the weights are scaled so that their mean over the videos is 1: they move the weight from
    one label to the other, and leave the learning rate what it is. With several labels a video, a weight is that of
    a label's presence against its absence, and stays as it is given.

    Args:
        wanted: `balanced` (one over a label's share of the videos; with several labels a video, its absences over its
            presences), or weights by name, 1 where one is left out.
        truth: Whether each training video has each label, `(N, num_labels)`.
        names: Names of the labels, in order.
        multi_label: Whether a video may have several labels.

    Raises:
        InputError: If a name is no label.
    """
    present = truth.sum(0)
    if isinstance(wanted, Mapping):
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise InputError(f"class_weights: {unknown[0]} is no label of the dataset; it has {', '.join(names[:10])}")
        weights = np.array([wanted.get(name, 1.0) for name in names])
    else:
        weights = (len(truth) - present if multi_label else len(truth)) / present.clip(min=1)
    scale = 1.0 if multi_label else (weights * present).sum() / len(truth)
    result: list[float] = (weights / scale).tolist()
    return result


def row_weights(truth: NDArray[np.bool_]) -> list[float]:
    """How likely each video is drawn, so that each label is equally likely; no label at all counts as one.

    Args:
        truth: Whether each training video has each label, `(N, num_labels)`.

    Returns:
        `(N,)`; of a video of several labels, the mean over these.
    """
    table = np.column_stack([truth, ~truth.any(1)])
    shares = table / table.sum(0).clip(min=1)
    weights: list[float] = (shares.sum(1) / table.sum(1)).tolist()
    return weights
