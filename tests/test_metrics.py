import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import evaluate
import numpy as np
import pytest

from vidtune.data.clips import FAILED
from vidtune.errors import InputError
from vidtune.evaluation.metrics import (
    Accuracy,
    AveragePrecision,
    ConfusionMatrix,
    MacroF1,
    PerClass,
    TopKAccuracy,
    scalar_metrics,
    video_metrics,
)

# Label 0: three videos, two found. Label 1: two, one found. Label 2: one, found, and one of label 1 taken for it.
REFERENCES = [0, 0, 0, 1, 1, 2]
PREDICTIONS = [0, 0, 1, 1, 2, 2]


def one_hot(labels, num_labels):
    return np.eye(num_labels)[labels]


def accuracy_of_many(seed):
    """Called in threads and processes of their own."""
    labels = np.random.default_rng(seed).integers(0, 3, 200)
    return Accuracy().compute(predictions=np.roll(labels, 1), references=labels)["accuracy"], float(
        (np.roll(labels, 1) == labels).mean()
    )


def test_every_metric_is_one_of_evaluate():
    for metric in (Accuracy, AveragePrecision, TopKAccuracy, MacroF1, PerClass, ConfusionMatrix):
        assert issubclass(metric, evaluate.Metric) and metric().description


def test_accuracy_by_hand():
    assert Accuracy().compute(predictions=PREDICTIONS, references=REFERENCES) == {"accuracy": 4 / 6}


def test_top_k_accuracy_by_hand():
    ranked = [[2, 0, 1], [0, 1, 2], [1, 2, 0]]
    assert TopKAccuracy().compute(predictions=ranked, references=[2, 1, 0], k=1) == {"top1_accuracy": 1 / 3}
    assert TopKAccuracy().compute(predictions=ranked, references=[2, 1, 0], k=2) == {"top2_accuracy": 2 / 3}
    assert TopKAccuracy().compute(predictions=ranked, references=[2, 1, 0]) == {"top5_accuracy": 1.0}


def test_macro_f1_by_hand():
    # F1: 0: precision 1, recall 2/3: 4/5. 1: 1/2 and 1/2: 1/2. 2: 1/2 and 1: 2/3.
    expected = (4 / 5 + 1 / 2 + 2 / 3) / 3
    assert MacroF1().compute(predictions=PREDICTIONS, references=REFERENCES)["macro_f1"] == pytest.approx(expected)


def test_macro_f1_passes_over_labels_that_do_not_occur():
    assert MacroF1().compute(predictions=[0, 7], references=[0, 7]) == {"macro_f1": 1.0}


def test_the_table_by_class_by_hand():
    table = PerClass().compute(predictions=PREDICTIONS, references=REFERENCES, num_labels=4)
    assert table["precision"] == pytest.approx([1, 1 / 2, 1 / 2, 0])
    assert table["recall"] == pytest.approx([2 / 3, 1 / 2, 1, 0])
    assert table["f1"] == pytest.approx([4 / 5, 1 / 2, 2 / 3, 0])
    assert table["support"] == [3, 2, 1, 0]


def test_the_confusion_matrix_by_hand():
    found = ConfusionMatrix().compute(predictions=PREDICTIONS, references=REFERENCES, num_labels=4)
    assert found == {"confusion_matrix": [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]}


def test_videos_are_scored_by_their_most_probable_label():
    metrics = video_metrics(one_hot(PREDICTIONS, 3), np.array(REFERENCES), ["a", "b", "c"])
    assert metrics["videos"] == 6 and metrics["failed"] == 0
    assert metrics["accuracy"] == 4 / 6
    assert metrics["macro_f1"] == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    assert metrics["per_class"]["b"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert list(metrics["per_class"]) == ["a", "b", "c"]
    assert metrics["confusion_matrix"] == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert metrics["top5_accuracy"] is None


def test_the_loss_is_the_mean_negative_log_likelihood():
    probabilities = np.array([[0.5, 0.5], [0.2, 0.8]])
    loss = video_metrics(probabilities, np.array([0, 1]), ["a", "b"])["loss"]
    assert loss == pytest.approx(-(np.log(0.5) + np.log(0.8)) / 2)


def test_a_perfect_score_has_no_loss_and_a_hopeless_one_a_finite_one():
    perfect = video_metrics(one_hot([0, 1], 2), np.array([0, 1]), ["a", "b"])
    assert str(perfect["loss"]) == "0.0" and perfect["accuracy"] == perfect["macro_f1"] == 1.0
    hopeless = video_metrics(one_hot([1, 0], 2), np.array([0, 1]), ["a", "b"])
    assert np.isfinite(hopeless["loss"]) and hopeless["accuracy"] == hopeless["macro_f1"] == 0.0


def test_two_labels_are_scored_as_any_number_is():
    metrics = video_metrics(one_hot([0, 0, 1, 1], 2), np.array([0, 1, 1, 1]), ["no", "yes"])
    assert metrics["accuracy"] == 0.75
    # no: precision 1/2, recall 1; yes: 1 and 2/3.
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert metrics["confusion_matrix"] == [[1, 0], [1, 2]]


def test_top_5_counts_from_six_labels_on():
    names = list("abcdef")
    # The true label is, in turn, the first, the fifth and the last.
    probabilities = np.array([[0.3, 0.25, 0.2, 0.15, 0.07, 0.03]] * 3)
    metrics = video_metrics(probabilities, np.array([0, 4, 5]), names)
    assert metrics["top5_accuracy"] == pytest.approx(2 / 3)
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert video_metrics(one_hot([0], 5), np.array([0]), names[:5])["top5_accuracy"] is None


def test_failed_videos_are_counted_and_left_out():
    labels = np.array([0, FAILED, 1, FAILED])
    metrics = video_metrics(one_hot([0, 0, 0, 1], 2), labels, ["a", "b"])
    assert metrics["videos"] == 2 and metrics["failed"] == 2
    assert metrics["accuracy"] == 0.5
    assert metrics["confusion_matrix"] == [[1, 0], [1, 0]]
    assert metrics["per_class"]["a"]["support"] == 1


def test_without_a_scored_video_there_are_no_scores():
    metrics = video_metrics(one_hot([0, 1], 2), np.array([FAILED, FAILED]), ["a", "b"])
    assert metrics["videos"] == 0 and metrics["failed"] == 2
    names = ("loss", "accuracy", "top5_accuracy", "macro_f1", "per_class", "confusion_matrix")
    assert all(metrics[name] is None for name in names)
    assert set(metrics) == set(video_metrics(one_hot([0], 2), np.array([0]), ["a", "b"]))


def test_probabilities_that_are_no_numbers_are_no_result():
    probabilities = np.array([[0.5, 0.5], [np.nan, np.nan], [1.0, 0.0]])
    with pytest.raises(InputError, match="diverged, 1 of 3 videos"):
        video_metrics(probabilities, np.array([0, 1, 0]), ["a", "b"])


# Several labels a video

TRUTH = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]], dtype=np.float32)
SCORES = np.array([[0.9, 0.2, 0.1], [0.4, 0.8, 0.1], [0.6, 0.7, 0.1], [0.1, 0.9, 0.6]])


def test_average_precision_by_hand():
    # Label 0, best first: a hit, a miss, a hit: (1/1 + 2/3) / 2. Label 1: a miss, two hits: (1/2 + 2/3) / 2.
    found = AveragePrecision().compute(predictions=SCORES, references=TRUTH.astype(int))["average_precision"]
    assert found[:2] == pytest.approx([5 / 6, 7 / 12]) and np.isnan(found[2])


def test_videos_with_several_labels_by_hand():
    metrics = video_metrics(SCORES, TRUTH, ["a", "b", "c"])
    assert metrics["mean_average_precision"] == pytest.approx((5 / 6 + 7 / 12) / 2)  # c occurs nowhere
    assert metrics["accuracy"] == 1 / 4  # the first video
    # a: found 1 of 2, and 1 wrong one; b: 2 of 2, and 1 wrong one.
    assert metrics["macro_f1"] == pytest.approx((1 / 2 + 4 / 5) / 2)
    row = metrics["per_class"]["b"]
    assert (row["precision"], row["recall"], row["support"]) == (pytest.approx(2 / 3), 1.0, 2)
    assert row["average_precision"] == pytest.approx(7 / 12)
    right = [0.9, 0.8, 0.9, 0.4, 0.8, 0.9, 0.4, 0.7, 0.9, 0.9, 0.1, 0.4]
    assert metrics["loss"] == pytest.approx(-np.log(right).mean())
    assert metrics["top5_accuracy"] is None and metrics["confusion_matrix"] is None


def test_a_perfect_video_with_several_labels():
    metrics = video_metrics(TRUTH, TRUTH, ["a", "b", "c"])
    assert str(metrics["loss"]) == "0.0"
    assert metrics["accuracy"] == metrics["mean_average_precision"] == metrics["macro_f1"] == 1.0


def test_failed_videos_with_several_labels_are_left_out():
    truth, scores = np.vstack([TRUTH, np.full((1, 3), FAILED)]), np.vstack([SCORES, np.zeros((1, 3))])
    whole = video_metrics(SCORES, TRUTH, ["a", "b", "c"])
    metrics = video_metrics(scores, truth, ["a", "b", "c"])
    assert (metrics["videos"], metrics["failed"], metrics["loss"]) == (4, 1, whole["loss"])
    nothing = video_metrics(scores[4:], truth[4:], ["a", "b", "c"])
    assert nothing.keys() == whole.keys() and nothing["mean_average_precision"] is None


def test_a_dataset_of_one_label_that_videos_have_or_not():
    metrics = video_metrics(SCORES[:, :1], TRUTH[:, :1], ["a"])
    assert metrics["mean_average_precision"] == pytest.approx(5 / 6) and metrics["accuracy"] == 0.5


# Several heads


def test_the_best_of_several_heads_is_the_most_accurate_then_the_least_unsure():
    labels = np.array([0, 1, 1, FAILED])
    heads = [[0.9, 0.9, 0.1, 0.5], [0.9, 0.4, 0.4, 0.5], [0.6, 0.4, 0.4, 0.5], [0.9, 0.4, 0.4, 0.5]]  # of label 0
    first = np.array(heads).T
    probabilities = np.stack([first, 1 - first], axis=-1)
    assert probabilities.shape == (4, 4, 2)
    metrics = scalar_metrics(probabilities, labels, ["a", "b"])
    assert metrics == scalar_metrics(probabilities[:, 1], labels, ["a", "b"]) | {"best_probe": 1}
    assert metrics["accuracy"] == 1.0 and metrics["videos"] == 3


def test_the_best_of_several_heads_with_several_labels_has_the_highest_average_precision():
    metrics = scalar_metrics(np.stack([1 - SCORES, SCORES], axis=1), TRUTH, ["a", "b", "c"])
    assert metrics["best_probe"] == 1
    assert metrics["mean_average_precision"] == pytest.approx((5 / 6 + 7 / 12) / 2)


def test_heads_without_a_scored_video_have_no_scores():
    metrics = scalar_metrics(np.full((2, 3, 2), 0.5), np.array([FAILED, FAILED]), ["a", "b"])
    assert metrics == {"videos": 0, "failed": 2, "best_probe": 0}


def test_metrics_write_nothing(tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", home)
    accuracy_of_many(0)
    video_metrics(one_hot([0, 1], 2), np.array([0, 1]), ["a", "b"])
    assert not home.exists()


def test_metrics_work_in_two_threads_at_once():
    with ThreadPoolExecutor(2) as pool:
        for found, expected in pool.map(accuracy_of_many, range(20)):
            assert found == pytest.approx(expected)


def test_metrics_work_in_two_processes_at_once():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        for found, expected in pool.map(accuracy_of_many, range(8), chunksize=4):
            assert found == pytest.approx(expected)
