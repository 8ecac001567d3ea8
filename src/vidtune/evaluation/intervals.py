"""How sure a score is: bootstrap over groups, since videos of one group are not independent of each other.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, 13.3: percentile intervals. Whole clusters, here
groups, are drawn: Davison and Hinkley, Bootstrap Methods and their Application, 1997, 3.8.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import binomtest

from vidtune.evaluation.metrics import is_right

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 1000
BATCH = 100
"""Resamples that are computed at once, which bounds memory."""

SHARES = ("accuracy", "top5_accuracy")
"""Metrics that are shares of the videos."""


def metric_intervals(
    probabilities: Floats, labels: NDArray[np.int64], groups: Sequence[str], confidence: float = CONFIDENCE
) -> dict[str, list[float] | None]:
    """Give the interval of each headline metric.

    Args:
        probabilities: Of the videos that were scored, `(N, num_labels)`.
        labels: True labels, `(N,)`, or whether a video has each, `(N, num_labels)`.
        groups: What group each video is of, `(N,)`.
        confidence: Share of such intervals that hold the true score, in (0, 1).

    Returns:
        `[low, high]` of `accuracy`, `macro_f1`, and `top5_accuracy` or `mean_average_precision` where there are such.
        Where all videos are right, or all wrong, resampling says nothing: a share has the exact binomial interval
        (Clopper and Pearson 1934) of as many trials as groups, and others have None. All are None with one group.
    """
    names = ["accuracy", "macro_f1"]
    if labels.ndim == 2:
        names.append("mean_average_precision")
    elif probabilities.shape[1] > 5:
        names.append("top5_accuracy")
    num_groups = len(set(groups))
    if num_groups < 2:
        return dict.fromkeys(names)
    statistics = _Statistics(probabilities, labels)
    samples = [[getattr(statistics, name)(weights) for name in names] for weights in resamples(groups)]
    return {
        name: _interval(values, num_groups, confidence) if name in SHARES or _varies(values) else None
        for name, values in zip(names, np.concatenate(samples, axis=1), strict=True)
    }


def accuracy_interval(
    right: NDArray[np.bool_], groups: Sequence[str], confidence: float = CONFIDENCE
) -> list[float] | None:
    """Give the interval of an accuracy, as `metric_intervals`, from whether each video is right, `(N,)`."""
    num_groups = len(set(groups))
    if num_groups < 2:
        return None
    values = np.concatenate([(weights @ right) / weights.sum(1) for weights in resamples(groups)])
    return _interval(values, num_groups, confidence)


def paired_difference(
    ours: NDArray[np.bool_], theirs: NDArray[np.bool_], groups: Sequence[str], confidence: float = CONFIDENCE
) -> dict[str, Any]:
    """Compare the accuracies of two models on the same videos.

    Args:
        ours: Whether the first model is right on each video, `(N,)`, N >= 1.
        theirs: The same of the second.
        groups: What group each video is of, `(N,)`.
        confidence: As of `metric_intervals`.

    Returns:
        `difference` of the accuracies (ours minus theirs), its `interval` and two-sided `p_value`, twice the share of
        resamples in which the difference has not the sign that it has; both None with one group.
    """
    change = ours.astype(np.float64) - theirs
    found: dict[str, Any] = {"difference": float(change.mean()), "interval": None, "p_value": None}
    if len(set(groups)) > 1:
        drawn = np.concatenate([(weights @ change) / weights.sum(1) for weights in resamples(groups)])
        # One more, for the sample itself, so that no p-value is 0
        tail = (min((drawn <= 0).sum(), (drawn >= 0).sum()) + 1) / (len(drawn) + 1)
        found |= {"interval": _percentiles(drawn, confidence), "p_value": float(min(1.0, 2 * tail))}
    return found


def resamples(groups: Sequence[str], seed: int = 0) -> Iterator[Floats]:
    """Draw as many groups as there are, with replacement, again and again.

    Yields:
        How often each video was drawn, `(BATCH, N)`; RESAMPLES rows in all, the same at every call.
    """
    rng = np.random.default_rng(seed)
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    for _ in range(RESAMPLES // BATCH):
        counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=BATCH)
        yield counts[:, group_of].astype(np.float64)


def weighted_average_precision(truth: NDArray[np.int64], scores: Floats, weights: Floats) -> Floats:
    """Compute scikit-learn's `average_precision_score` for many weightings of the videos at once.

    Args:
        truth: Whether each video has the label, `(N,)`.
        scores: Of each video, `(N,)`.
        weights: `(B, N)`, >= 0.

    Returns:
        `(B,)`; NaN where no video that has the label has a weight.
    """
    order = np.argsort(-scores, kind="stable")
    descending = -scores[order]
    last = np.searchsorted(descending, descending, side="right") - 1  # of the videos with the same score
    weights = weights[:, order]
    hits = weights * truth[order]
    seen = np.cumsum(weights, axis=1)[:, last]
    precision = np.cumsum(hits, axis=1)[:, last] / np.where(seen > 0, seen, 1)
    return _ratio((hits * precision).sum(1), hits.sum(1))


class _Statistics:
    """Metrics as functions of how often each video counts, `(B, N)` to `(B,)`."""

    def __init__(self, probabilities: Floats, labels: NDArray[np.int64]) -> None:
        self.probabilities, self.labels = probabilities, labels
        self.several = labels.ndim == 2
        predicted = probabilities > 0.5 if self.several else _one_hot(probabilities.argmax(1), probabilities.shape[1])
        truth = labels.astype(bool) if self.several else _one_hot(labels, probabilities.shape[1])
        self.right = is_right(probabilities, labels)
        # Videos that have a label, were said to, and both; transposed, as sparse matrices stand left of dense ones
        self.counts = [csr_array(table.T.astype(np.float64)) for table in (truth, predicted, truth & predicted)]

    def accuracy(self, weights: Floats) -> Floats:
        return _ratio(weights @ self.right, weights.sum(1))

    def top5_accuracy(self, weights: Floats) -> Floats:
        ranked = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :5]
        return _ratio(weights @ (ranked == self.labels[:, None]).any(1), weights.sum(1))

    def macro_f1(self, weights: Floats) -> Floats:
        true, said, both = (table @ weights.T for table in self.counts)
        occurs = true > 0 if self.several else true + said > 0
        f1 = 2 * both / np.where(true + said > 0, true + said, 1)
        return _ratio((f1 * occurs).sum(0), occurs.sum(0).astype(np.float64))

    def mean_average_precision(self, weights: Floats) -> Floats:
        columns = zip(self.labels.T, self.probabilities.T, strict=True)
        each = np.stack([weighted_average_precision(*column, weights) for column in columns])
        occurs = ~np.isnan(each)
        return _ratio(np.nansum(each, axis=0), occurs.sum(0).astype(np.float64))


def _one_hot(labels: NDArray[np.int64], num_labels: int) -> NDArray[np.bool_]:
    table: NDArray[np.bool_] = labels[:, None] == np.arange(num_labels)
    return table


def _ratio(part: Floats, whole: Floats) -> Floats:
    ratio: Floats = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return ratio


def _interval(values: Floats, num_groups: int, confidence: float) -> list[float]:
    if _varies(values):
        return _percentiles(values, confidence)
    exact = binomtest(round(values[0] * num_groups), num_groups).proportion_ci(confidence)
    return [float(exact.low), float(exact.high)]


def _varies(values: Floats) -> bool:
    return bool(np.nanmax(values) > np.nanmin(values))


def _percentiles(values: Floats, confidence: float) -> list[float]:
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return [float(low), float(high)]
