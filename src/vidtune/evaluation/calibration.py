"""Whether a model is as often right as it is sure: reliability, temperature scaling, and what abstaining gains.

Source: On Calibration of Modern Neural Networks, Guo et al. 2017. Probabilities are averaged over the views of a video
before they are scaled (pool, then calibrate: Rahaman and Thiery 2021), so that the label they predict stays the same.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, logit, softmax
from scipy.stats import binned_statistic

from vidtune.evaluation.metrics import has_failed
from vidtune.training.checkpoints import write_text

Floats = NDArray[np.float64]

BINS = 15
"""Of equal width, as in Guo et al. 2017."""

TEMPERATURES = (0.05, 20.0)
"""Where the best temperature is looked for."""

THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def with_temperature(probabilities: Floats, temperature: float | None, multi_label: bool = False) -> Floats:
    """Scale probabilities by a temperature: above 1 makes them less sure.

    Args:
        probabilities: Of each label, averaged over the views of a video, `(N, num_labels)`.
        temperature: > 0; None or 1: as they are.
        multi_label: Whether a video may have several labels: each is scaled by itself.

    Returns:
        `(N, num_labels)`.
    """
    if temperature in (None, 1):
        return probabilities
    if multi_label:
        scaled: Floats = expit(logit(probabilities) / temperature)
    else:
        scaled = softmax(_log(probabilities) / temperature, axis=1)
    return scaled


def fit_temperature(probabilities: Floats, labels: NDArray[np.int64]) -> float | None:
    """Find the temperature at which the labels are likeliest.

    Args:
        probabilities: As of `with_temperature`, of validation videos.
        labels: True labels, `(N,)`, or whether a video has each, `(N, num_labels)`; negative where the video failed.

    Returns:
        The temperature, in TEMPERATURES; None without a scored video, and where all are right, since then the surer
        the likelier, and no temperature is best.
    """
    probabilities, labels = _scored(probabilities, labels)
    if labels.ndim == 2:
        signed = np.where(labels == 1, 1, -1) * _log_odds(probabilities)
        all_right = bool((signed > 0).all())
    else:
        logs, row = _log(probabilities), np.arange(len(labels))
        all_right = bool((probabilities.argmax(1) == labels).all())
    if not len(labels) or all_right:
        return None

    def loss(log_temperature: float) -> float:
        temperature = np.exp(log_temperature)
        if labels.ndim == 2:
            return float(-log_expit(signed / temperature).mean())
        return float(-log_softmax(logs / temperature, axis=1)[row, labels].mean())

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def calibration(probabilities: Floats, labels: NDArray[np.int64], temperature: float | None) -> dict[str, Any]:
    """Say how well probabilities fit, before they are scaled by a temperature and after.

    Args:
        probabilities: As of `with_temperature`.
        labels: As of `fit_temperature`.
        temperature: One that other videos gave, or None.

    Returns:
        `temperature`, and `before` and `after` (None without a temperature), each with `expected_calibration_error`
        in [0, 1] and `bins`: `low`, `high`, mean `confidence`, `accuracy` (both None in an empty one) and `videos`.
        Where a video may have several labels, its decisions on each count one by one.
    """
    several = labels.ndim == 2
    probabilities, labels = _scored(probabilities, labels)
    before = after = None
    if len(labels):
        before = _reliability(probabilities, labels)
        if temperature is not None:
            after = _reliability(with_temperature(probabilities, temperature, several), labels)
    return {"temperature": temperature, "before": before, "after": after}


def coverage(probabilities: Floats, labels: NDArray[np.int64]) -> list[dict[str, float | None]]:
    """Say how accurate a model is on the videos that it is sure of.

    Args:
        probabilities: As of `with_temperature`; scaled, if there is a temperature.
        labels: As of `fit_temperature`.

    Returns:
        For each of THRESHOLDS `threshold`, `coverage` (share of the videos whose confidence is at least that) and
        `accuracy` on these (None where there is none). Where a video may have several labels, its decisions on each
        count one by one. Nothing without a scored video.
    """
    confidence, right = _confidence(*_scored(probabilities, labels))
    table: list[dict[str, float | None]] = []
    for threshold in THRESHOLDS if len(right) else ():
        sure = confidence >= threshold
        accuracy = float(right[sure].mean()) if sure.any() else None
        table.append({"threshold": threshold, "coverage": float(sure.mean()), "accuracy": accuracy})
    return table


def save_temperature(folder: Path, temperature: float | None) -> None:
    """Keep a temperature in a saved model's config.json, beside what its clips are, or take an older one out."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    record = {name: value for name, value in config.get("vidtune", {}).items() if name != "temperature"}
    config["vidtune"] = record if temperature is None else record | {"temperature": temperature}
    write_text(path, json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _reliability(probabilities: Floats, labels: NDArray[np.int64]) -> dict[str, Any]:
    confidence, right = _confidence(probabilities, labels)
    values = [confidence, right.astype(np.float64), np.ones(len(right))]
    sums, edges, _ = binned_statistic(confidence, values, "sum", bins=BINS, range=(0, 1))
    bins = [
        {
            "low": float(low),
            "high": float(high),
            "confidence": float(sure / count) if count else None,
            "accuracy": float(hits / count) if count else None,
            "videos": int(count),
        }
        for low, high, (sure, hits, count) in zip(edges, edges[1:], sums.T, strict=False)
    ]
    return {"expected_calibration_error": float(np.abs(sums[0] - sums[1]).sum() / len(right)), "bins": bins}


def _confidence(probabilities: Floats, labels: NDArray[np.int64]) -> tuple[Floats, NDArray[np.bool_]]:
    """How sure each decision is, and whether it is right."""
    if labels.ndim == 2:
        sure, right = np.maximum(probabilities, 1 - probabilities), (probabilities > 0.5) == (labels == 1)
        return sure.ravel(), right.ravel()
    return probabilities.max(1, initial=0), probabilities.argmax(1) == labels


def _scored(probabilities: Floats, labels: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
    kept = ~has_failed(labels)
    return probabilities[kept], labels[kept]


def _log(probabilities: Floats) -> Floats:
    logs: Floats = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    return logs


def _log_odds(probabilities: Floats) -> Floats:
    return _log(probabilities) - _log(1 - probabilities)
