"""From the logits of views to what a report says of a split: the same for finetune, evaluate and saved predictions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from vidtune.data.clips import FAILED
from vidtune.data.splits import label_names
from vidtune.evaluation.calibration import calibration, coverage, with_temperature
from vidtune.evaluation.intervals import CONFIDENCE, metric_intervals
from vidtune.evaluation.metrics import has_failed, most_frequent, video_metrics

Floats = NDArray[np.float64]


class Scores(NamedTuple):
    """What a model said of the videos of a split, N of them.

    Attributes:
        probabilities: Of each label, averaged over the views of a video, `(N, num_labels)`.
        labels: Numbers of the true labels among the model's, `(N,)`, or 0 and 1 for each, `(N, num_labels)`; FAILED
            where the video could not be decoded.
        clip_accuracy: Share of the views whose own label is right, of videos that were scored; None where the views
            are not known any more.
        videos_per_second: Of the whole pass; None likewise.
    """

    probabilities: Floats
    labels: NDArray[np.int64]
    clip_accuracy: float | None = None
    videos_per_second: float | None = None

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Which videos could not be decoded, `(N,)`."""
        return has_failed(self.labels)


def score_videos(trainer: Any, clips: Any, split: str, average: str = "probabilities") -> Scores:
    """Have a VideoTrainer's model look at all views of the videos of a split.

    Args:
        trainer: A VideoTrainer; its model's labels are those of the videos, or more, in any order.
        clips: EvaluationClips.
        split: Name of the split.
        average: As of `average_views`.
    """
    names, compute_metrics = model_labels(trainer.model.config), trainer.compute_metrics
    trainer.compute_metrics = None  # which would compare numbers of labels, not names
    try:
        output = trainer.predict(clips, metric_key_prefix=split)
    finally:
        trainer.compute_metrics = compute_metrics
    labels = renumbered(output.label_ids, label_names(clips.videos), names)
    return Scores(
        average_views(output.predictions, labels.ndim == 2, average),
        labels,
        clip_accuracy(output.predictions, labels),
        output.metrics[f"{split}_samples_per_second"],
    )


def model_labels(config: Any) -> list[str]:
    """Name the labels of a model, in the order of its logits; not that of `label2id`, which saving sorts."""
    return [str(config.id2label[number]) for number in range(len(config.id2label))]


def average_views(logits: NDArray[np.float32], multi_label: bool, average: str = "probabilities") -> Floats:
    """Turn the logits of views into the probabilities of videos.

    Args:
        logits: `(N, V, num_labels)`, or of several heads, `(N, V, heads, num_labels)`.
        multi_label: Whether a video may have several labels: sigmoid, else softmax.
        average: What is averaged over the views: `probabilities` (VideoMAE, Tong et al. 2022), or `logits`.

    Returns:
        float64 `(N, num_labels)`, or `(N, heads, num_labels)`.
    """

    def probabilities(values: Floats) -> Floats:
        result: Floats = expit(values) if multi_label else softmax(values, axis=-1)
        return result

    # Video by video, since views in float64 would take twice the memory of all that there is
    each = (video.astype(np.float64) for video in logits)
    if average == "logits":
        return np.stack([probabilities(video.mean(0)) for video in each])
    return np.stack([probabilities(video).mean(0) for video in each])


def clip_accuracy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float | None:
    """Share of the views whose own label is right (all of them, where a video may have several), in [0, 1].

    Args:
        logits: `(N, V, num_labels)`.
        labels: As of Scores.
    """
    scored = ~has_failed(labels)
    if not scored.any():
        return None
    logits, labels = logits[scored], labels[scored][:, None]
    right = ((logits > 0) == (labels == 1)).all(-1) if labels.ndim == 3 else logits.argmax(-1) == labels
    return float(right.mean())


def renumbered(labels: NDArray[Any], own: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    """Number labels as a model does.

    Args:
        labels: `(N,)`, numbers among `own`, or `(N, len(own))` of 0 and 1; negative where the video failed.
        own: Names of the dataset's labels.
        names: Names of the model's labels, in order; those of `own` are among them.

    Returns:
        `(N,)`, or `(N, len(names))`.
    """
    numbers = np.array([names.index(name) for name in own])
    failed = has_failed(labels)
    if labels.ndim == 1:
        return np.where(failed, FAILED, numbers[np.where(failed, 0, labels).astype(np.int64)])
    table = np.zeros((len(labels), len(names)), np.int64)
    table[:, numbers] = labels
    table[failed] = FAILED
    return table


def split_metrics(
    scores: Scores, groups: Sequence[str], names: Sequence[str], temperature: float | None
) -> dict[str, Any]:
    """Give all that a report says of a split.

    Args:
        scores: What the model said of its N videos.
        groups: What group each video is of, `(N,)`.
        names: Names of the labels, in order.
        temperature: Of the model, fitted on validation videos; None if there is none.

    Returns:
        What `video_metrics` returns, and `clip_accuracy`, `confidence` and `intervals` (of `metric_intervals`),
        `majority` (`label` and `accuracy` of the most frequent one as the answer for every video), `calibration`, and
        `coverage` (of probabilities scaled by the temperature).
    """
    probabilities, labels = scores.probabilities[~scores.failed], scores.labels[~scores.failed]
    majority = None
    if len(labels):
        label, right = most_frequent(labels, names)
        majority = {"label": label, "accuracy": float(right.mean())}
    groups = [group for group, failed in zip(groups, scores.failed, strict=True) if not failed]
    return video_metrics(scores.probabilities, scores.labels, names) | {
        "clip_accuracy": scores.clip_accuracy,
        "confidence": CONFIDENCE,
        "intervals": metric_intervals(probabilities, labels, groups),
        "majority": majority,
        "calibration": calibration(probabilities, labels, temperature),
        "coverage": coverage(with_temperature(probabilities, temperature, labels.ndim == 2), labels),
    }
