"""Probes on features made by hand, chosen and scored as by hand, saved and loaded."""

import json

import numpy as np
import pytest
import skops.io

from run_recipe import refused
from vidtune.evaluation.probe_page import draw_map
from vidtune.evaluation.probing import (
    GRIDS,
    Samples,
    check_samples,
    fit_probe,
    group_folds,
    log_probabilities,
    score_probe,
    video_probabilities,
)
from vidtune.evaluation.saved_probe import load_probe, save_probe

NAMES = ["left", "right"]


def samples(values, labels, groups=None, videos=None):
    """Features of two numbers, the second of which says nothing."""
    features = np.array([[value, 0.0] for value in values], np.float32)
    ids = [str(number) for number in range(len(values))]
    return Samples(features, np.array(labels), groups or ids, videos or ids)


TRAIN = samples([-3, -2, -1, 1, 2, 3], [0, 0, 0, 1, 1, 1])
VALIDATION = samples([-2.5, -1.5, 1.5, 2.5], [0, 0, 1, 1])


@pytest.mark.parametrize("name", ["knn", "svm", "logistic"])
def test_every_probe_tells_left_from_right(name):
    probe = fit_probe(name, TRAIN, VALIDATION, None)
    probabilities, labels = video_probabilities(probe.pipeline, samples([-9, 9, -0.5, 0.6], [0, 1, 0, 1]))
    assert probabilities.argmax(1).tolist() == labels.tolist() == [0, 1, 0, 1]
    assert probabilities.sum(1) == pytest.approx(1)
    assert max(choice["accuracy"] for choice in probe.tried) == 1
    metrics = score_probe(probe, samples([-9, 9, 8, -2], [0, 1, 0, 0]), NAMES, num_failed=2)
    assert (metrics["accuracy"], metrics["videos"], metrics["failed"]) == (0.75, 4, 2)
    assert metrics["confusion_matrix"] == [[2, 1], [0, 1]]
    assert metrics["majority"] == {"label": "left", "accuracy": 0.75}


def test_xgboost_splits_where_the_labels_do():
    train = samples(np.linspace(-1, 1, 40).tolist(), [0] * 20 + [1] * 20)
    probe = fit_probe("xgboost", train, VALIDATION, None)
    assert log_probabilities(probe.pipeline, VALIDATION.features).argmax(1).tolist() == [0, 0, 1, 1]
    assert probe.parameters == {"max_depth": 2, "n_estimators": 50}  # all are right, and this is the smoothest


def test_options_are_chosen_by_validation():
    # Of the neighbours of 0 the nearest is right; five of them outvote it. There are six, so 10 and 20 aren't tried.
    train = samples([0, 1, 2, 3, 4, 5], [0, 1, 1, 1, 1, 1])
    probe = fit_probe("knn", train, samples([0.1, 5], [0, 1]), None)
    assert [choice["parameters"]["n_neighbors"] for choice in probe.tried] == [5, 3, 1]
    assert [choice["accuracy"] for choice in probe.tried] == [0.5, 0.5, 1.0]
    assert probe.parameters == {"n_neighbors": 1}


def test_folds_keep_groups_together():
    values = [sign * (1 + index) for index in range(6) for sign in (-1, 1)]
    train = samples(values, [int(value > 0) for value in values], groups=[f"g{index // 2}" for index in range(12)])
    for fit, score in group_folds(train, 3, seed=0):
        assert not {train.groups[row] for row in fit} & {train.groups[row] for row in score}
    probe = fit_probe("knn", train, None, 3)
    assert probe.temperature is None and probe.tried[0]["parameters"] == {"n_neighbors": 5}


def test_the_clips_of_a_video_are_averaged():
    probe = fit_probe("logistic", TRAIN, VALIDATION, None)
    kept = samples([3, 2, -3], [1, 1, 0], groups=["a", "a", "b"], videos=["y", "y", "x"])
    probabilities, labels = video_probabilities(probe.pipeline, kept)
    each = np.exp(log_probabilities(probe.pipeline, kept.features))
    assert labels.tolist() == [1, 0]  # as they come, not sorted
    assert np.allclose(probabilities, [each[:2].mean(0), each[2]])


def test_the_decision_values_of_an_svm_become_probabilities():
    probe = fit_probe("svm", TRAIN, VALIDATION, None)
    values = probe.pipeline.decision_function(VALIDATION.features)
    assert np.allclose(np.exp(log_probabilities(probe.pipeline, VALIDATION.features))[:, 1], 1 / (1 + np.exp(-values)))


def test_what_no_probe_can_be_fitted_on_is_refused():
    one = samples([1, 2], [1, 1])
    assert refused(check_samples, one, NAMES, None) == (
        "probe: train has videos of one label only, 'right'; a probe needs two or more"
    )
    few = samples([1, 2, 3, 4], [0, 0, 1, 1], groups=["a", "b", "c", "c"])
    assert refused(check_samples, few, NAMES, 2).startswith("probe_folds: 2 are too many: 'right' has 1 groups")
    assert "no video of 'up'" in refused(check_samples, TRAIN, [*NAMES, "up"], None)
    assert "no finite numbers" in refused(check_samples, samples([np.nan, 1], [0, 1]), NAMES, None)
    check_samples(few, NAMES, None)


@pytest.mark.parametrize("name", GRIDS)
def test_a_saved_probe_is_the_one_that_was_fitted(name, tmp_path):
    probe = fit_probe(name, TRAIN, VALIDATION, None)
    save_probe(tmp_path, probe, {"probe": name})
    from vidtune.evaluation import saved_probe

    loaded, _ = saved_probe._read_pipeline(tmp_path / "probe.skops", name)
    for pipeline in (probe.pipeline, loaded):
        assert list(pipeline.named_steps) == ["scaler", "probe"]
    assert np.array_equal(*(log_probabilities(each, VALIDATION.features) for each in (probe.pipeline, loaded)))


class Foreign:
    pass


def test_a_file_of_other_types_is_not_loaded(tmp_path):
    record = dict.fromkeys("model revision fingerprint pooling layer labels clip temperature".split())
    (tmp_path / "probe.json").write_text(json.dumps(record | {"probe": "knn"}))
    skops.io.dump({"probe": Foreign()}, tmp_path / "probe.skops")
    assert "Foreign, which no probe of ours does; it is not loaded" in refused(load_probe, str(tmp_path))
    (tmp_path / "probe.skops").write_bytes(b"nothing")
    assert "can't be read" in refused(load_probe, str(tmp_path))
    (tmp_path / "probe.json").write_text("{}")
    assert "is no record of a probe" in refused(load_probe, str(tmp_path))


def test_the_map_has_a_panel_a_split_whatever_the_width():
    for width in (1, 3):
        splits = {
            name: part._replace(features=np.repeat(part.features[:, :1], width, axis=1))
            for name, part in (("train", TRAIN), ("test", VALIDATION))
        }
        assert draw_map(splits, ["$left$", "_right"]).startswith(b"\x89PNG")
