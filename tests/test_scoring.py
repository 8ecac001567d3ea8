import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value, Video
from scipy.special import softmax

from run_recipe import refused
from vidtune.evaluation.comparison import compare, read_report
from vidtune.evaluation.predictions import (
    label_order,
    pool_predictions,
    predictions_table,
    read_predictions,
    to_arrays,
    write_predictions,
)
from vidtune.evaluation.scoring import Scores, average_views, clip_accuracy, renumbered, split_metrics
from vidtune.evaluation.shortcuts import frame_order, use_of_time

FAILED = -100


def rows(ids, labels, names=("a", "b"), groups=None):
    several = isinstance(labels[0], list)
    feature = ClassLabel(names=list(names))
    columns = {
        "video": [{"path": f"/videos/{video_id}", "bytes": None} for video_id in ids],
        "labels" if several else "label": labels,
        "video_id": ids,
        "group": groups or ids,
    }
    features = {
        "video": Video(decode=False),
        "labels" if several else "label": List(feature) if several else feature,
        "video_id": Value("string"),
        "group": Value("string"),
    }
    return Dataset.from_dict(columns, features=Features(features))


def table(ids, labels, right, names=("a", "b"), groups=None):
    """Predictions of videos with these labels, right or wrong; None: failed."""
    numbers = [label if ok else 1 - label for label, ok in zip(labels, right, strict=True)]
    truth = [FAILED if ok is None else label for label, ok in zip(labels, right, strict=True)]
    scores = Scores(0.2 + 0.6 * np.eye(2)[numbers], np.array(truth))
    return predictions_table(rows(ids, labels, names, groups), scores, names)


# Views


LOGITS = np.array([[[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[0.0, 0.0, 3.0], [0.0, 0.0, 1.0]]], np.float32)


def test_probabilities_are_averaged_over_the_views_or_logits_are():
    each = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    assert average_views(LOGITS, multi_label=False) == pytest.approx((each[:, 0] + each[:, 1]) / 2)
    # The first video's mean logits are 1, 0.5 and 0.
    found = average_views(LOGITS, multi_label=False, average="logits")[0]
    assert found == pytest.approx(np.exp([1, 0.5, 0]) / np.exp([1, 0.5, 0]).sum())
    assert average_views(np.zeros((1, 2, 3)), multi_label=True).tolist() == [[0.5, 0.5, 0.5]]
    assert average_views(np.zeros((1, 2, 4, 3)), multi_label=False).shape == (1, 4, 3)


def test_each_view_counts_in_the_clip_accuracy_and_none_of_a_failed_video():
    assert clip_accuracy(LOGITS, np.array([0, 2])) == 0.75
    assert clip_accuracy(LOGITS, np.array([1, FAILED])) == 0.5
    assert clip_accuracy(LOGITS, np.array([FAILED, FAILED])) is None
    assert clip_accuracy(LOGITS - 0.5, np.array([[1, 0, 0], [0, 0, 1]])) == 0.75


def test_labels_are_matched_by_name():
    names = ["c", "b", "a"]
    assert renumbered(np.array([0, 1, FAILED]), ["a", "b"], names).tolist() == [2, 1, FAILED]
    found = renumbered(np.array([[1.0, 0.0], [1.0, 1.0], [FAILED, FAILED]]), ["a", "c"], names)
    assert found.tolist() == [[0, 0, 1], [1, 0, 1], [FAILED] * 3]


# Metrics of a split


def test_a_split_is_scored_with_all_that_a_report_shows():
    logits = np.log([[[0.9, 0.1]], [[0.6, 0.4]], [[0.2, 0.8]], [[0.5, 0.5]]])
    scores = Scores(average_views(logits, False), np.array([0, 1, 1, FAILED]), 2 / 3, 10.0)
    found = split_metrics(scores, ["x", "y", "z", "x"], ["a", "b"], temperature=2.0)
    assert (found["videos"], found["failed"], found["accuracy"], found["clip_accuracy"]) == (3, 1, 2 / 3, 2 / 3)
    assert found["majority"] == {"label": "b", "accuracy": 2 / 3} and found["confidence"] == 0.95
    assert set(found["intervals"]) == {"accuracy", "macro_f1"}
    assert found["calibration"]["temperature"] == 2.0
    # At temperature 2 the odds 9, 1.5 and 4 become 3, 1.2 and 2: 0.75, 0.55, 0.67.
    covered = {row["threshold"]: row["coverage"] for row in found["coverage"]}
    assert (covered[0.5], covered[0.6], covered[0.7], covered[0.8]) == (1.0, 2 / 3, 1 / 3, 0.0)


def test_a_split_of_which_no_video_could_be_decoded_has_no_scores():
    found = split_metrics(Scores(np.zeros((2, 2)), np.full(2, FAILED)), ["x", "y"], ["a", "b"], None)
    assert (found["videos"], found["failed"], found["accuracy"], found["majority"]) == (0, 2, None, None)
    assert found["intervals"] == {"accuracy": None, "macro_f1": None} and found["coverage"] == []


def test_the_majority_of_several_labels_is_a_set_of_them():
    labels = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    found = split_metrics(Scores(np.full((3, 3), 0.4), labels), ["x", "y", "z"], ["a", "b", "c"], None)
    assert found["majority"] == {"label": "a, b", "accuracy": 2 / 3}


# Predictions


def test_predictions_come_back_as_they_were_written(tmp_path):
    written = table(["x/1.mp4", "y/1.mp4", "z.mp4"], [0, 1, 1], [True, False, None])
    write_predictions(tmp_path / "predictions.parquet", written)
    found = read_predictions(tmp_path)
    assert found.equals(written) and found.equals(read_predictions(tmp_path / "predictions.parquet"))
    assert found.column_names == "video_id path group label prediction probabilities failed".split()
    assert found["label"].to_pylist() == ["a", "b", "b"] and found["prediction"].to_pylist() == ["a", "a", None]
    assert found["path"].to_pylist()[0] == "/videos/x/1.mp4" and found["failed"].to_pylist() == [False, False, True]
    assert found["probabilities"].to_pylist()[2] is None and label_order(found) == ["a", "b"]
    probabilities, labels = to_arrays(found)
    assert probabilities.tolist() == [pytest.approx([0.8, 0.2]), pytest.approx([0.8, 0.2]), [0, 0]]
    assert labels.tolist() == [0, 1, FAILED]
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.parquet"]


def test_predictions_of_several_labels_are_lists(tmp_path):
    scores = Scores(np.array([[0.9, 0.6, 0.1], [0.2, 0.3, 0.4]]), np.array([[1, 1, 0], [FAILED] * 3]))
    found = predictions_table(rows(["x", "y"], [[0, 1], [2]], "abc"), scores, ["a", "b", "c"])
    assert found["label"].to_pylist() == [["a", "b"], ["c"]] and found["prediction"].to_pylist() == [["a", "b"], None]
    assert to_arrays(found)[1].tolist() == [[1, 1, 0], [FAILED] * 3]


def test_the_home_folder_is_not_written(monkeypatch):
    monkeypatch.setenv("HOME", "/videos")
    assert table(["x.mp4"], [0], [True])["path"].to_pylist() == ["~/x.mp4"]


def test_folds_are_pooled_and_no_video_counts_twice(tmp_path):
    folds = [table(["a1", "a2"], [0, 1], [True, True]), table(["b1"], [0], [False])]
    for number, fold in enumerate(folds):
        (tmp_path / str(number)).mkdir()
        write_predictions(tmp_path / str(number) / "predictions.parquet", fold)
    pooled = pool_predictions([tmp_path / "0", tmp_path / "1"])
    assert pooled["video_id"].to_pylist() == ["a1", "a2", "b1"] and label_order(pooled) == ["a", "b"]
    message = refused(pool_predictions, [tmp_path / "0", tmp_path / "1", tmp_path / "0"])
    assert message.startswith("predictions: a1, a2: scored more than once;")
    write_predictions(tmp_path / "other.parquet", table(["c1"], [0], [True], names=("a", "c")))
    message = refused(pool_predictions, [tmp_path / "0", tmp_path / "other.parquet"])
    assert "b, c are not labels of both" in message


@pytest.mark.parametrize("content", [None, b"no parquet", "another table"])
def test_a_file_without_predictions_is_refused(tmp_path, content):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "predictions.parquet"
    if content == "another table":
        pq.write_table(pa.table({"video_id": ["x"]}), path)
    elif content:
        path.write_bytes(content)
    problem = "holds no predictions" if content else "there is no such file"
    assert refused(read_predictions, tmp_path).startswith(f"predictions: {path}: {problem};")
    (tmp_path / "report.json").write_text("{}")
    assert refused(read_report, str(tmp_path / "report.json")).startswith(f"compare: {path}: {problem};")


# Comparison


def test_two_models_are_compared_on_the_videos_of_both():
    ids = [str(number) for number in range(20)]
    ours = table([*ids, "new", "broken"], [0] * 22, [True] * 21 + [None])
    theirs = table([*ids, "old", "broken"], [0] * 22, [False] * 10 + [True] * 12, names=("a", "b"))
    found = compare(ours, theirs, "outputs/other")
    assert (found["with"], found["videos"], found["difference"]) == ("outputs/other", 20, 0.5)
    assert (found["only_here"], found["only_there"]) == (["new"], ["broken", "old"])
    assert found["interval"][0] > 0 and found["p_value"] < 0.05


def test_models_of_other_videos_or_labels_are_not_compared():
    ours = table(["x"], [0], [True])
    assert "scored none of these videos" in refused(compare, ours, table(["y"], [0], [True]), "other")
    assert "x is labelled b there and a here" in refused(compare, ours, table(["x"], [1], [True]), "other")


# Shortcuts


def test_frames_are_put_into_another_order():
    assert frame_order("reversed", 4, "x").tolist() == [3, 2, 1, 0]
    assert frame_order("frozen", 5, "x").tolist() == [2] * 5
    assert frame_order("normal", 3, "x").tolist() == [0, 1, 2]
    shuffled = frame_order("shuffled", 16, "x").tolist()
    assert sorted(shuffled) == list(range(16)) and shuffled != list(range(16))
    assert shuffled == frame_order("shuffled", 16, "x").tolist() != frame_order("shuffled", 16, "y").tolist()


@pytest.mark.parametrize(
    ("right", "conclusion"),
    [
        ({"normal": 50, "shuffled": 50, "reversed": 50, "frozen": 50}, "Nothing can be said about time"),
        ({"normal": 95, "shuffled": 95, "reversed": 93, "frozen": 94}, "The model is not shown to use time"),
        ({"normal": 95, "shuffled": 93, "reversed": 95, "frozen": 60}, "The model uses several frames, but"),
        ({"normal": 95, "shuffled": 60, "reversed": 94, "frozen": 50}, "The model uses the order of the frames"),
        ({"normal": 95, "shuffled": 94, "reversed": 20, "frozen": 95}, "The model uses the order of the frames"),
    ],
)
def test_what_the_order_of_frames_does_is_said_in_words(right, conclusion):
    labels = np.arange(100) % 2
    ids = [str(number) for number in range(100)]

    def scores(count):
        order = np.random.default_rng(0).permutation(100)
        numbers = np.where(order < count, labels, 1 - labels)
        return Scores(softmax(np.eye(2)[numbers], axis=1), labels)

    found = use_of_time({name: scores(count) for name, count in right.items()}, ids, ["a", "b"])
    assert found["conclusion"].startswith(conclusion)
    assert {name: found[name]["accuracy"] for name in right} == {name: count / 100 for name, count in right.items()}
    assert found["majority"]["accuracy"] == 0.5 and found["frozen"]["interval"][0] <= right["frozen"] / 100
    assert (
        "All videos are of one group"
        in use_of_time({name: scores(count) for name, count in right.items()}, ["x"] * 100, ["a", "b"])["conclusion"]
    )


def test_a_video_that_failed_once_does_not_count():
    normal = Scores(np.eye(2)[[0, 1, 0]], np.array([0, 1, 0]))
    frozen = Scores(np.eye(2)[[0, 0, 0]], np.array([0, 1, FAILED]))
    found = use_of_time({"normal": normal, "shuffled": normal, "reversed": normal, "frozen": frozen}, "xyz", "ab")
    assert found["frozen"]["accuracy"] == 0.5 and found["normal"]["accuracy"] == 1.0
    nothing = Scores(normal.probabilities, np.full(3, FAILED))
    assert "no video of the split can be decoded" in refused(use_of_time, {"normal": nothing}, "xyz", "ab")
