"""What of a report is worth showing, whether on a page or in a picture."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vidtune.evaluation.charts import Line

MOST_LABELS = 40
"""Rows of the largest confusion matrix that is shown whole; of more labels, so many with the most mistakes."""

MOST_CONFUSIONS = 10
MOST_POINTS = 200

SCORES = {
    "accuracy": "Accuracy",
    "mean_average_precision": "Mean average precision",
    "top5_accuracy": "Top-5 accuracy",
    "macro_f1": "Macro F1",
    "clip_accuracy": "Accuracy by clip",
}
CURVES = {
    "Loss": {"training": "loss", "validation": "eval_loss"},
    "Scores on validation": {
        "accuracy": "eval_accuracy",
        "mean average precision": "eval_mean_average_precision",
        "macro F1": "eval_macro_f1",
    },
    "Learning rate": {"learning rate": "learning_rate"},
}


def scored_split(report: Mapping[str, Any]) -> str:
    """Name the split that a page is about: test, else validation, else the first that was scored."""
    return next((split for split in ("test", "validation", *report["metrics"]) if split in report["metrics"]), "")


def tiles(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Gather the headline numbers that there are: `name`, `value`, and the `low` and `high` of its interval.

    The first is the accuracy, or, where a video may have several labels, the mean average precision.
    """
    intervals = scores.get("intervals") or {}
    found: list[dict[str, Any]] = []
    for key, name in SCORES.items():
        if scores.get(key) is not None:
            low, high = intervals.get(key) or (None, None)
            found.append({"key": key, "name": name, "value": scores[key], "low": low, "high": high})
    return sorted(found, key=lambda tile: tile["key"] != "mean_average_precision")


def curves(history: Sequence[Mapping[str, Any]]) -> dict[str, list[Line]]:
    """Take the course of a training run from the Trainer's log, at most MOST_POINTS a line.

    Returns:
        The lines by the title of their chart, over epochs; of charts with two points or more.
    """
    charts = {}
    for title, keys in CURVES.items():
        lines = []
        for name, key in keys.items():
            points = [(entry["epoch"], entry[key]) for entry in history if entry.get(key) is not None]
            points = points[:: math.ceil(len(points) / MOST_POINTS) or 1]
            lines.append(Line(name, points, [f"{name}, epoch {x:.4g}: {y:.4g}" for x, y in points]))
        if any(len(line.points) > 1 for line in lines):
            charts[title] = [line for line in lines if line.points]
    return charts


def classes(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the labels, worst first, those without a video last: `name`, `score`, which is drawn, and the table's."""
    key = "f1" if scores.get("confusion_matrix") else "average_precision"
    rows = [{"name": name, "score": row.get(key)} | row for name, row in (scores.get("per_class") or {}).items()]
    return sorted(rows, key=lambda row: (not row["support"], row["score"] or 0.0))


def confusion(scores: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any] | None:
    """Choose what to show of a confusion matrix.

    Returns:
        `matrix` and `labels` as given, `shown`: the numbers of the labels to show, `totals`: videos of each label,
        `most`: the most frequent confusions, as (videos, true, predicted), and `mistakes`. None without a matrix.
    """
    matrix = scores.get("confusion_matrix")
    if not matrix:
        return None
    size = range(len(matrix))
    wrong = [(matrix[true][other], true, other) for true in size for other in size if true != other]
    mistakes = [0] * len(matrix)
    for count, true, other in wrong:
        mistakes[true] += count
        mistakes[other] += count
    worst = sorted(size, key=lambda label: -mistakes[label])[:MOST_LABELS]
    return {
        "matrix": matrix,
        "labels": labels,
        "shown": sorted(worst),
        "totals": [sum(row) for row in matrix],
        "most": sorted((pair for pair in wrong if pair[0]), key=lambda pair: -pair[0])[:MOST_CONFUSIONS],
        "mistakes": sum(count for count, _, _ in wrong),
    }


def unit(scores: Mapping[str, Any]) -> str:
    """Name what is given a probability: a video, or, where it may have several labels, the decision on each."""
    return "videos" if scores.get("confusion_matrix") else "decisions"
