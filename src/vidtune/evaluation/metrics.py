"""Metrics by video, as `evaluate.Metric`s that need no download."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)

from vidtune.errors import InputError

LOGGED_METRICS = ("loss", "accuracy", "mean_average_precision", "top5_accuracy", "macro_f1")
"""What each evaluation of a training run logs, and the best checkpoint can be chosen by."""

_LABELS = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
_RANKED = datasets.Features(
    {"predictions": datasets.Sequence(datasets.Value("int64")), "references": datasets.Value("int64")}
)


class _Metric(evaluate.Metric):  # type: ignore[misc]
    features = _LABELS

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)  # no file in a cache that processes would fight over

    def _build_data_dir(self) -> str:
        return ""  # nor a folder for it, which a read-only home would refuse

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=self.__doc__, citation="", features=self.features)


class Accuracy(_Metric):
    """Share of the videos whose predicted label is the true one, in [0, 1]."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class TopKAccuracy(_Metric):
    """Share of the videos whose true label is among the first k of the predicted ones, best first, in [0, 1]."""

    features = _RANKED

    def _compute(
        self, predictions: Sequence[Sequence[int]], references: Sequence[int], k: int = 5
    ) -> dict[str, float]:
        hits = np.asarray(predictions)[:, :k] == np.asarray(references)[:, None]
        return {f"top{k}_accuracy": float(hits.any(1).mean())}


class MacroF1(_Metric):
    """Mean over the labels that occur of the F1 score, in [0, 1]."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0))}


class PerClass(_Metric):
    """Precision, recall and F1, in [0, 1], and the number of videos of each label."""

    def _compute(
        self, predictions: Sequence[int], references: Sequence[int], num_labels: int = 2
    ) -> dict[str, list[float]]:
        names = ("precision", "recall", "f1", "support")
        values = precision_recall_fscore_support(references, predictions, labels=range(num_labels), zero_division=0)
        return {name: value.tolist() for name, value in zip(names, values, strict=True)}


class ConfusionMatrix(_Metric):
    """Videos by true label (rows) and predicted label (columns)."""

    def _compute(
        self, predictions: Sequence[int], references: Sequence[int], num_labels: int = 2
    ) -> dict[str, list[list[int]]]:
        return {"confusion_matrix": confusion_matrix(references, predictions, labels=range(num_labels)).tolist()}


class AveragePrecision(_Metric):
    """Area under precision over recall of each label, in [0, 1]; NaN of a label that no video has."""

    features = datasets.Features(
        {
            "predictions": datasets.Sequence(datasets.Value("float64")),
            "references": datasets.Sequence(datasets.Value("int64")),
        }
    )

    def _compute(
        self, predictions: Sequence[Sequence[float]], references: Sequence[Sequence[int]]
    ) -> dict[str, list[float]]:
        scores, truth = np.asarray(predictions), np.asarray(references)
        values = [
            float(average_precision_score(column, score)) if column.any() else float("nan")
            for column, score in zip(truth.T, scores.T, strict=True)
        ]
        return {"average_precision": values}


def video_metrics(
    probabilities: NDArray[np.float64], labels: NDArray[Any], label_names: Sequence[str]
) -> dict[str, Any]:
    """Score the videos of a split; those that could not be decoded are counted and left out.

    Args:
        probabilities: Of each label, averaged over the views of a video, `(N, num_labels)`.
        labels: True labels, `(N,)`, or whether a video has each, `(N, num_labels)`; negative where the video failed.
        label_names: Names of the labels, in order.

    Returns:
        `videos` scored, `failed`, `loss` (mean negative log-likelihood, nats), `accuracy`, `top5_accuracy` (None with
        five labels or fewer), `macro_f1`, `per_class` (by name) and `confusion_matrix`. Where a video may have several
        labels, one is predicted where its probability is over 0.5; `mean_average_precision` is over the labels that
        occur, `accuracy` is the share of the videos of which all labels are right, and `top5_accuracy` and
        `confusion_matrix` are None. Without a scored video the metrics are None.

    Raises:
        InputError: If a probability is no finite number.
    """
    several = labels.ndim == 2
    scored = ~has_failed(labels)
    counts = {"videos": int(scored.sum()), "failed": int((~scored).sum())}
    probabilities, labels = np.asarray(probabilities, dtype=np.float64)[scored], labels[scored].astype(np.int64)
    if not len(labels):
        names = ("loss", "accuracy", "top5_accuracy", "macro_f1", "per_class", "confusion_matrix")
        return counts | dict.fromkeys((*names, "mean_average_precision") if several else names)
    if not np.isfinite(probabilities).all():
        raise InputError(
            f"learning_rate: the model has diverged, {int((~np.isfinite(probabilities).all(1)).sum())} of "
            f"{len(labels)} videos have scores that are no numbers; make it smaller, or set max_grad_norm"
        )
    return counts | (_several_labels if several else _one_label)(probabilities, labels, label_names)


def _one_label(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], label_names: Sequence[str]
) -> dict[str, Any]:
    num_labels = len(label_names)
    pairs = {"predictions": probabilities.argmax(1), "references": labels}
    own = np.maximum(probabilities[np.arange(len(labels)), labels], np.finfo(np.float64).tiny)
    table = PerClass().compute(**pairs, num_labels=num_labels)
    ranked = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    top5 = TopKAccuracy().compute(predictions=ranked, references=labels, k=5) if num_labels > 5 else {}
    return {
        "loss": float(-np.log(own).mean()) + 0.0,  # a perfect score is 0, not -0
        **Accuracy().compute(**pairs),
        "top5_accuracy": top5.get("top5_accuracy"),
        **MacroF1().compute(**pairs),
        "per_class": {
            name: {column: values[index] for column, values in table.items()} for index, name in enumerate(label_names)
        },
        **ConfusionMatrix().compute(**pairs, num_labels=num_labels),
    }


def _several_labels(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], label_names: Sequence[str]
) -> dict[str, Any]:
    predicted = (probabilities > 0.5).astype(np.int64)
    own = np.maximum(np.where(labels == 1, probabilities, 1 - probabilities), np.finfo(np.float64).tiny)
    precision = AveragePrecision().compute(predictions=probabilities, references=labels)["average_precision"]
    table = {}
    for index, name in enumerate(label_names):
        row = PerClass().compute(predictions=predicted[:, index], references=labels[:, index], num_labels=2)
        table[name] = {column: values[1] for column, values in row.items()} | {"average_precision": precision[index]}
    occurring = [row for row in table.values() if row["support"]]
    mean = {name: sum(row[name] for row in occurring) / max(len(occurring), 1) for name in ("average_precision", "f1")}
    return {
        "loss": float(-np.log(own).mean()) + 0.0,
        "accuracy": float((predicted == labels).all(1).mean()),
        "mean_average_precision": mean["average_precision"],
        "top5_accuracy": None,
        "macro_f1": mean["f1"],
        "per_class": table,
        "confusion_matrix": None,
    }


def has_failed(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Which videos could not be decoded, by their labels, as of `video_metrics`: `(N,)`."""
    failed: NDArray[np.bool_] = (labels < 0 if labels.ndim == 1 else (labels < 0).any(1)).astype(bool)
    return failed


def is_right(probabilities: NDArray[np.float64], labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether the label of each video, or each of its labels where it may have several, was predicted: `(N,)`."""
    if labels.ndim == 2:
        right: NDArray[np.bool_] = ((probabilities > 0.5) == (labels == 1)).all(1)
    else:
        right = probabilities.argmax(1) == labels
    return right


def most_frequent(labels: NDArray[Any], label_names: Sequence[str]) -> tuple[str, NDArray[np.bool_]]:
    """Find the answer that is right most often if it is given to every video.

    Args:
        labels: As of `video_metrics`, of one video or more, none of which failed.
        label_names: Names of the labels, in order.

    Returns:
        The label, or labels joined by a comma where a video may have several, and on which videos it is right, `(N,)`.
    """
    answers, counts = np.unique(labels, axis=0, return_counts=True)
    best = answers[counts.argmax()]
    chosen = [int(best)] if labels.ndim == 1 else np.flatnonzero(best).tolist()
    right: NDArray[np.bool_] = (labels == best).reshape(len(labels), -1).all(1)
    return ", ".join(label_names[index] for index in chosen), right


def scalar_metrics(
    probabilities: NDArray[np.float64], labels: NDArray[Any], label_names: Sequence[str]
) -> dict[str, float]:
    """Give what an evaluation of a training run logs.

    Args:
        probabilities: As of `video_metrics`; or of several heads, `(N, heads, num_labels)`, of which the best counts:
            by accuracy, or by mean average precision where a video may have several labels, then by loss.
        labels: As of `video_metrics`.
        label_names: Names of the labels, in order.

    Returns:
        Those of LOGGED_METRICS that there are, `videos`, `failed`, and `best_probe`, if there are several heads.
    """
    if probabilities.ndim == 3:
        rank = "mean_average_precision" if labels.ndim == 2 else "accuracy"
        heads = [scalar_metrics(head, labels, label_names) for head in probabilities.swapaxes(0, 1)]
        best = min(range(len(heads)), key=lambda head: (-heads[head].get(rank, 0), heads[head].get("loss", 0)))
        return heads[best] | {"best_probe": best}
    metrics = video_metrics(probabilities, labels, label_names)
    return {name: metrics[name] for name in (*LOGGED_METRICS, "videos", "failed") if metrics.get(name) is not None}
