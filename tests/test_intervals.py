import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from vidtune.evaluation.intervals import (
    _Statistics,
    accuracy_interval,
    metric_intervals,
    paired_difference,
    resamples,
    weighted_average_precision,
)

RNG = np.random.default_rng(0)


def noisy(num_videos, num_labels, accuracy=0.7, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_labels, size=num_videos)
    probabilities = rng.dirichlet(np.ones(num_labels), size=num_videos)
    right = rng.random(num_videos) < accuracy
    probabilities[right] = 0.1 * probabilities[right] + 0.9 * np.eye(num_labels)[labels[right]]
    return probabilities, labels


def alone(num_videos):
    return [str(row) for row in range(num_videos)]


def test_groups_are_drawn_whole_and_as_many_as_there_are():
    counts = np.concatenate(list(resamples(["a", "b", "b", "c", "c", "c"])))
    assert counts.shape == (1000, 6)
    assert np.array_equal(counts[:, 1], counts[:, 2]) and np.array_equal(counts[:, 3], counts[:, 5])
    assert np.all(counts[:, [0, 1, 3]].sum(1) == 3)
    assert np.array_equal(counts, np.concatenate(list(resamples(["x", "y", "y", "z", "z", "z"]))))


def test_the_interval_of_independent_videos_is_that_of_the_normal_approximation():
    right = np.arange(400) % 4 != 0
    low, high = accuracy_interval(right, alone(400))
    assert (low, high) == pytest.approx((0.75 - 1.96 * 0.0217, 0.75 + 1.96 * 0.0217), abs=0.006)


def test_videos_that_are_copies_within_a_group_make_the_interval_no_narrower():
    right = np.arange(40) % 4 != 0
    copies, groups = np.repeat(right, 25), np.repeat(alone(40), 25).tolist()
    assert accuracy_interval(copies, groups) == pytest.approx(accuracy_interval(right, alone(40)), abs=0.05)
    low, high = accuracy_interval(copies, alone(1000))
    assert high - low < 0.06 < 0.2 < np.diff(accuracy_interval(copies, groups))[0]


def test_the_interval_holds_the_true_score_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        shares = rng.beta(3.5, 1.5, size=40)  # of each group's 5 videos; 0.7 on average
        right = rng.random((40, 5)) < shares[:, None]
        low, high = accuracy_interval(right.ravel(), np.repeat(alone(40), 5).tolist())
        hits += low <= 0.7 <= high
    assert 88 <= hits <= 99


def test_where_all_are_right_the_interval_is_the_exact_binomial_one_of_the_groups():
    # Of n of n, Clopper and Pearson's lower end is (alpha / 2) ** (1 / n).
    assert accuracy_interval(np.ones(30, bool), np.repeat(alone(10), 3).tolist()) == [pytest.approx(0.025**0.1), 1.0]
    found = metric_intervals(np.eye(2)[[0, 1] * 5], np.array([0, 1] * 5), alone(10))
    assert found == {"accuracy": [pytest.approx(0.025**0.1), 1.0], "macro_f1": None}


def test_one_group_says_nothing():
    probabilities, labels = noisy(10, 7)
    assert metric_intervals(probabilities, labels, ["a"] * 10) == {
        "accuracy": None,
        "macro_f1": None,
        "top5_accuracy": None,
    }
    assert accuracy_interval(labels == 0, ["a"] * 10) is None
    assert metric_intervals(np.zeros((0, 2)), np.zeros(0, int), []) == {"accuracy": None, "macro_f1": None}


@pytest.mark.parametrize("several", [False, True])
def test_the_metrics_of_a_resample_are_scikit_learns_of_its_videos(several):
    probabilities, labels = noisy(60, 8, accuracy=0.5)
    if several:
        probabilities, labels = np.round(RNG.random((60, 4)), 1), (RNG.random((60, 4)) < 0.3).astype(int)
    counts = np.stack([RNG.integers(0, 3, size=60) for _ in range(3)])
    counts[1, labels.reshape(60, -1)[:, 0] == 0] = 0
    statistics = _Statistics(probabilities, labels)
    for row, weights in enumerate(counts):
        scores, truth = np.repeat(probabilities, weights, axis=0), np.repeat(labels, weights, axis=0)
        if several:
            occurring = [column for column in range(4) if truth[:, column].any()]
            f1 = [f1_score(truth[:, column], scores[:, column] > 0.5) for column in occurring]
            precision = [average_precision_score(truth[:, column], scores[:, column]) for column in occurring]
            assert statistics.macro_f1(counts.astype(float))[row] == pytest.approx(np.mean(f1))
            found = statistics.mean_average_precision(counts.astype(float))[row]
            assert found == pytest.approx(np.mean(precision))
            accuracy = ((scores > 0.5) == truth).all(1).mean()
        else:
            f1 = f1_score(truth, scores.argmax(1), average="macro", zero_division=0)
            assert statistics.macro_f1(counts.astype(float))[row] == pytest.approx(f1)
            top5 = (np.argsort(-scores, axis=1)[:, :5] == truth[:, None]).any(1).mean()
            assert statistics.top5_accuracy(counts.astype(float))[row] == pytest.approx(top5)
            accuracy = (scores.argmax(1) == truth).mean()
        assert statistics.accuracy(counts.astype(float))[row] == pytest.approx(accuracy)


def test_average_precision_by_hand():
    # Best first: hit, miss, hit: (1 / 1 + 2 / 3) / 2; the second weighting leaves the miss out, the third all hits.
    truth, scores = np.array([1, 0, 1]), np.array([0.9, 0.8, 0.7])
    found = weighted_average_precision(truth, scores, np.array([[1.0, 1, 1], [1, 0, 1], [0, 1, 0]]))
    assert found[:2] == pytest.approx([5 / 6, 1.0]) and np.isnan(found[2])


def test_intervals_hold_the_score_and_are_the_same_at_every_call():
    probabilities, labels = noisy(80, 8)
    found = metric_intervals(probabilities, labels, alone(80))
    assert set(found) == {"accuracy", "macro_f1", "top5_accuracy"}
    assert found["accuracy"][0] < (probabilities.argmax(1) == labels).mean() < found["accuracy"][1]
    assert found == metric_intervals(probabilities, labels, alone(80))


def test_a_paired_difference_sees_what_two_intervals_do_not():
    theirs = np.arange(200) % 2 == 0
    ours = theirs | (np.arange(200) % 20 == 1)  # right wherever the other is, and on 10 videos more
    found = paired_difference(ours, theirs, alone(200))
    assert found["difference"] == pytest.approx(0.05)
    assert 0 < found["interval"][0] < 0.05 < found["interval"][1] and found["p_value"] < 0.01
    assert accuracy_interval(ours, alone(200))[0] < accuracy_interval(theirs, alone(200))[1]


def test_a_model_does_not_differ_from_itself_and_changing_sides_changes_the_sign():
    ours, theirs = RNG.random(50) < 0.8, RNG.random(50) < 0.5
    assert paired_difference(ours, ours, alone(50)) == {"difference": 0.0, "interval": [0.0, 0.0], "p_value": 1.0}
    one, other = paired_difference(ours, theirs, alone(50)), paired_difference(theirs, ours, alone(50))
    assert one["difference"] == -other["difference"] and one["p_value"] == other["p_value"]
    assert one["interval"] == pytest.approx([-other["interval"][1], -other["interval"][0]])
    assert paired_difference(ours, theirs, ["a"] * 50)["p_value"] is None
