import json

import numpy as np
import pytest
from scipy.special import softmax

from vidtune.evaluation.calibration import calibration, coverage, fit_temperature, save_temperature, with_temperature

FAILED = -100


def drawn(temperature, num_videos=20_000, num_labels=4, seed=0):
    """Probabilities that are too sure by a temperature, and labels drawn from what is right."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(num_videos, num_labels))
    right = softmax(logits, axis=1)
    labels = (rng.random((num_videos, 1)) > right.cumsum(1)).sum(1).clip(max=num_labels - 1)
    return softmax(logits * temperature, axis=1), labels


def test_two_thirds_for_one_of_two_labels_at_temperature_two():
    # 0.8 and 0.2 are odds of 4; at temperature 2 of 2: 2/3 and 1/3. Of several labels each has its own odds.
    assert with_temperature(np.array([[0.8, 0.2]]), 2.0)[0] == pytest.approx([2 / 3, 1 / 3])
    found = with_temperature(np.array([[0.8, 0.1, 0.0, 1.0]]), 2.0, multi_label=True)
    assert found[0] == pytest.approx([2 / 3, 1 / 4, 0, 1])
    assert with_temperature(np.array([[1.0, 0.0]]), 2.0)[0] == pytest.approx([1, 0])


@pytest.mark.parametrize("temperature", [None, 1])
def test_without_a_temperature_probabilities_stay_as_they_are(temperature):
    probabilities = np.array([[0.3, 0.7]])
    assert with_temperature(probabilities, temperature) is probabilities


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_spoiled_the_probabilities_is_found(temperature):
    probabilities, labels = drawn(temperature)
    assert fit_temperature(probabilities, labels) == pytest.approx(temperature, rel=0.03)


def test_the_temperature_of_several_labels_is_found():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3))
    labels = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(int)
    assert fit_temperature(1 / (1 + np.exp(-3 * logits)), labels) == pytest.approx(3, rel=0.03)


def test_no_temperature_is_best_where_all_videos_are_right_or_there_is_none():
    assert fit_temperature(np.array([[0.6, 0.4], [0.1, 0.9]]), np.array([0, 1])) is None
    assert fit_temperature(np.array([[0.6, 0.4]]), np.array([[1, 0]])) is None
    assert fit_temperature(np.array([[0.6, 0.4]]), np.array([FAILED])) is None
    assert fit_temperature(np.zeros((0, 2)), np.zeros(0, int)) is None


def test_failed_videos_do_not_count():
    probabilities, labels = drawn(2.0, num_videos=300)
    more = np.concatenate([probabilities, np.full((50, 4), 0.25)]), np.concatenate([labels, np.full(50, FAILED)])
    assert fit_temperature(*more) == fit_temperature(probabilities, labels)
    assert calibration(*more, 2.0) == calibration(probabilities, labels, 2.0)
    assert coverage(*more) == coverage(probabilities, labels)


def test_the_calibration_error_by_hand():
    # Bins are 1/15 wide: 0.62 and 0.65 fall into [0.6, 0.667) with one of two right, 0.9 into [0.867, 0.933), right.
    probabilities = np.array([[0.62, 0.38], [0.35, 0.65], [0.9, 0.1]])
    found = calibration(probabilities, np.array([0, 0, 0]), None)
    assert found["temperature"] is None and found["after"] is None
    bins = [row for row in found["before"]["bins"] if row["videos"]]
    assert len(found["before"]["bins"]) == 15 and len(bins) == 2
    assert (bins[0]["low"], bins[0]["high"]) == pytest.approx((9 / 15, 10 / 15))
    assert (bins[0]["confidence"], bins[0]["accuracy"], bins[0]["videos"]) == pytest.approx((0.635, 0.5, 2))
    assert (bins[1]["confidence"], bins[1]["accuracy"], bins[1]["videos"]) == pytest.approx((0.9, 1.0, 1))
    error = (2 * abs(0.635 - 0.5) + abs(0.9 - 1)) / 3
    assert found["before"]["expected_calibration_error"] == pytest.approx(error)


def test_scaling_mends_the_calibration_error():
    probabilities, labels = drawn(3.0)
    found = calibration(probabilities, labels, fit_temperature(probabilities, labels))
    assert found["before"]["expected_calibration_error"] > 0.1
    assert found["after"]["expected_calibration_error"] < 0.02


def test_a_certain_video_stands_in_the_last_bin():
    found = calibration(np.array([[1.0, 0.0]]), np.array([1]), None)["before"]
    assert found["bins"][-1]["videos"] == 1 and found["expected_calibration_error"] == 1


def test_coverage_and_accuracy_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.2, 0.8], [0.55, 0.45], [0.6, 0.4]])
    rows = {row["threshold"]: row for row in coverage(probabilities, np.array([0, 1, 1, 0]))}
    assert (rows[0.0]["coverage"], rows[0.0]["accuracy"]) == (1.0, 0.75)
    assert (rows[0.6]["coverage"], rows[0.6]["accuracy"]) == (0.75, 1.0)
    assert (rows[0.9]["coverage"], rows[0.9]["accuracy"]) == (0.25, 1.0)
    assert (rows[0.99]["coverage"], rows[0.99]["accuracy"]) == (0.0, None)


def test_decisions_on_several_labels_count_one_by_one():
    probabilities, labels = np.array([[0.9, 0.2]]), np.array([[1, 1]])
    found = calibration(probabilities, labels, None)["before"]
    assert sum(row["videos"] for row in found["bins"]) == 2
    assert found["expected_calibration_error"] == pytest.approx((0.1 + 0.8) / 2)
    assert coverage(probabilities, labels)[0] == {"threshold": 0.0, "coverage": 1.0, "accuracy": 0.5}


def test_a_split_without_a_scored_video_has_no_calibration():
    nothing = np.zeros((1, 2)), np.array([FAILED])
    assert calibration(*nothing, 2.0) == {"temperature": 2.0, "before": None, "after": None}
    assert coverage(*nothing) == []


def test_the_temperature_is_kept_beside_the_clips_of_the_model(tmp_path):
    path = tmp_path / "config.json"
    labels = {str(number): f"label {number}" for number in range(12)}
    path.write_text(json.dumps({"id2label": labels, "vidtune": {"sampling": "dense", "fps": 7.5}}))
    save_temperature(tmp_path, 1.5)
    found = json.loads(path.read_text())
    assert found["vidtune"] == {"sampling": "dense", "fps": 7.5, "temperature": 1.5}
    assert list(found["id2label"].items()) == list(labels.items())  # in their order
    save_temperature(tmp_path, None)
    assert "temperature" not in json.loads(path.read_text())["vidtune"]
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
