"""Probes: classifiers of frozen features, whose options are chosen without a look at the test videos.

Source: Kornblith et al. 2019, Do better ImageNet models transfer better?, and Caron et al. 2021 (DINO), for pictures.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from vidtune.data.clips import FAILED
from vidtune.errors import InputError
from vidtune.evaluation.calibration import fit_temperature
from vidtune.evaluation.scoring import Scores, split_metrics

Floats = NDArray[np.float64]

FOLDS = 5
"""Parts of train that options are chosen by where there is no validation split."""

GRIDS: dict[str, dict[str, list[Any]]] = {
    "knn": {"n_neighbors": [20, 10, 5, 3, 1]},
    "svm": {"C": [0.01, 0.1, 1.0, 10.0, 100.0]},
    "logistic": {"C": [0.001, 0.01, 0.1, 1.0, 10.0]},
    "xgboost": {"max_depth": [2, 4, 6], "n_estimators": [50, 200]},
}
"""What is tried of each, the smoothest first, which is taken of equals."""

LEAST = 1e-6
"""Probability that a probe gives at least, so that its logarithm is a number: neighbours know only shares."""


class Samples(NamedTuple):
    """Features of the videos of a split that could be read, a row a video, or a row a clip.

    Attributes:
        features: `(N, width)`.
        labels: Numbers of the labels, `(N,)`.
        groups: What group each is of, `(N,)`.
        videos: What video each is of, `(N,)`.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    groups: Sequence[str]
    videos: Sequence[str]


class Probe(NamedTuple):
    """A fitted probe."""

    pipeline: Any
    """A standard scaler and a classifier, of scikit-learn."""
    parameters: dict[str, Any]
    """Those that were chosen."""
    tried: list[dict[str, Any]]
    """`parameters` and `accuracy` of each choice."""
    temperature: float | None
    """What its log-probabilities are divided by; None where there was no validation split to fit it on."""


def check_packages(probes: Sequence[str]) -> None:
    """Check that what probes need is installed.

    Raises:
        InputError: If it isn't.
    """
    for package in ("skops", *(["xgboost"] if "xgboost" in probes else [])):
        if find_spec(package) is None:
            raise InputError(f"probe: {probes[0]}: needs the package {package}: pip install 'vidtune[probe]'")


def check_samples(train: Samples, names: Sequence[str], folds: int | None) -> None:
    """Check that a probe can be fitted.

    Args:
        train: What it is fitted on.
        names: Names of the labels.
        folds: Parts of train to choose by; None: a validation split.

    Raises:
        InputError: If there is one label only, or one has no videos or too few groups, or features are no numbers.
    """
    count = {
        name: len({group for group, label in zip(train.groups, train.labels, strict=True) if label == number})
        for number, name in enumerate(names)
    }
    present = [name for name in names if count[name]]
    if len(present) < 2:
        raise InputError(
            f"probe: train has videos of one label only, {present[0]!r}; a probe needs two or more"
            if present
            else "probe: train has no video that could be read; see report.json"
        )
    for name, groups in count.items():
        if not groups:
            raise InputError(f"probe: train has no video of {name!r} that could be read; add some, or drop the label")
        if folds and groups < folds:
            least = f"give {groups} or fewer" if groups > 1 else "add groups, or choose by a validation split"
            raise InputError(f"probe_folds: {folds} are too many: {name!r} has {groups} groups in train; {least}")
    if not np.isfinite(train.features).all():
        raise InputError("probe: some features are no finite numbers; the model overflows on these videos")


def fit_probe(
    name: str, train: Samples, validation: Samples | None, folds: int | None, seed: int = 0, num_threads: int = 1
) -> Probe:
    """Choose a probe's options, and fit it on train.

    Args:
        name: One of GRIDS.
        train: What it is fitted on.
        validation: What options are chosen by, and the temperature is fitted on; None if there is none.
        folds: Parts of train, by group, to choose by in place of it.
        seed: Seed of the folds and of the probe.
        num_threads: Of XGBoost.
    """
    from sklearn.model_selection import GridSearchCV

    if folds:
        samples, parts = train, group_folds(train, folds, seed)
    else:
        assert validation is not None  # nosec B101 # for the type checker
        samples = Samples(
            np.concatenate([train.features, validation.features]),
            np.concatenate([train.labels, validation.labels]),
            [*train.groups, *validation.groups],
            [*train.videos, *validation.videos],
        )
        whole = np.arange(len(samples.labels))
        parts = [(whole[: len(train.labels)], whole[len(train.labels) :])]
    grid = dict(GRIDS[name])
    if name == "knn":
        least = min(len(part) for part, _ in parts)
        grid["n_neighbors"] = [count for count in grid["n_neighbors"] if count <= least]
    search = GridSearchCV(
        new_pipeline(name, seed, num_threads),
        {f"probe__{option}": values for option, values in grid.items()},
        cv=parts,
        refit=False,
        error_score="raise",
    ).fit(samples.features, samples.labels)
    results = search.cv_results_
    tried: list[dict[str, Any]] = [
        {"parameters": _plain(parameters), "accuracy": float(accuracy)}
        for parameters, accuracy in zip(results["params"], results["mean_test_score"], strict=True)
    ]
    best = int(np.argmax([choice["accuracy"] for choice in tried]))
    pipeline = new_pipeline(name, seed, num_threads).set_params(**results["params"][best])
    pipeline.fit(train.features, train.labels)
    temperature = None
    if validation is not None:
        temperature = fit_temperature(*video_probabilities(pipeline, validation))
    return Probe(pipeline, tried[best]["parameters"], tried, temperature)


def new_pipeline(name: str, seed: int = 0, num_threads: int = 1) -> Any:
    """Make a probe that is not fitted yet: a pipeline of `scaler` and `probe`."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    if name == "knn":
        probe: Any = KNeighborsClassifier(algorithm="brute")  # trees don't help with so many features
    elif name == "svm":
        probe = SVC(break_ties=True)
    elif name == "logistic":
        probe = LogisticRegression(max_iter=5000)
    else:
        from xgboost import XGBClassifier

        probe = XGBClassifier(learning_rate=0.1, random_state=seed, n_jobs=num_threads)
    return Pipeline([("scaler", StandardScaler()), ("probe", probe)])


def group_folds(samples: Samples, folds: int, seed: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Divide samples into folds, no group in two of them, labels spread evenly: rows to fit and rows to try on.

    Raises:
        InputError: If a label is in one fold only.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    parts = list(splitter.split(samples.features, samples.labels, samples.groups))
    if any(set(samples.labels[fit]) != set(samples.labels) for fit, _ in parts):
        raise InputError(f"probe_folds: {folds}: all videos of a label fell into one fold; give another number")
    return parts


def log_probabilities(pipeline: Any, features: NDArray[np.float32]) -> Floats:
    """Give the logarithm of the probability of each label, `(N, num_labels)`.

    A support vector machine has none: its decision values stand in, and a temperature makes probabilities of them.
    """
    if hasattr(pipeline, "predict_proba"):
        logs: Floats = np.log(np.maximum(pipeline.predict_proba(features).astype(np.float64), LEAST))
    else:
        values = pipeline.decision_function(features)
        logs = np.stack([-values / 2, values / 2], axis=1) if values.ndim == 1 else values
    normalised: Floats = log_softmax(logs, axis=1)
    return normalised


def video_probabilities(pipeline: Any, samples: Samples) -> tuple[Floats, NDArray[np.int64]]:
    """Give the probabilities of videos, averaged over their clips, `(V, num_labels)`, and their labels, `(V,)`."""
    _, first, video = np.unique(np.asarray(samples.videos), return_index=True, return_inverse=True)
    each = np.exp(log_probabilities(pipeline, samples.features))
    sums = np.zeros((len(first), each.shape[1]))
    np.add.at(sums, video, each)
    order = np.argsort(first)  # as they come
    return (sums / np.bincount(video)[:, None])[order], samples.labels[first[order]]


def score_probe(probe: Probe, samples: Samples, names: Sequence[str], num_failed: int = 0) -> dict[str, Any]:
    """Score a probe on the videos of a split: what `split_metrics` says of a model.

    Args:
        probe: The probe.
        samples: Of the videos that could be read, at least one.
        names: Names of the labels, in order.
        num_failed: Videos that could not be read.
    """
    probabilities, labels = video_probabilities(probe.pipeline, samples)
    group_of = dict(zip(samples.videos, samples.groups, strict=True))
    groups = [group_of[video] for video in dict.fromkeys(samples.videos)] + [""] * num_failed
    scores = Scores(
        np.concatenate([probabilities, np.zeros((num_failed, len(names)))]),
        np.concatenate([labels, np.full(num_failed, FAILED)]),
    )
    return split_metrics(scores, groups, names, probe.temperature)


def _plain(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("probe__"): value for name, value in parameters.items()}
