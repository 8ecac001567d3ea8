"""recipes/evaluate.py on tiny real videos and a tiny model, in this process and in two."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import yaml
from safetensors.torch import load_file, save_file

from run_recipe import REPOSITORY, exit_code, finetune, load_recipe, refused, words
from video_files import write_folder_dataset
from vidtune.evaluation.predictions import label_order, read_predictions, to_arrays, write_predictions

CLASSES = ("blue", "red")
QUICK = {"use_cpu": "true", "dataloader_num_workers": "0"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Eight videos of each class and split, the same file names in each folder; one broken, some mislabelled."""
    root = write_folder_dataset(tmp_path_factory.mktemp("data"), CLASSES, 8, splits=["train", "validation", "test"])
    (root / "test" / "red" / "0003.mp4").write_text("no video")
    for split in ("validation", "test"):  # so that no model is right on all
        shutil.copy(root / split / "red" / "0000.mp4", root / split / "blue" / "0007.mp4")
    return root


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """A model that was trained on it, and its report."""
    folder = tmp_path_factory.mktemp("run") / "model"
    report = finetune(dataset=dataset, output_dir=folder, learning_rate=3e-3, num_train_epochs=3, on_error="skip")
    return folder, report


def evaluate(output_dir, *flags, **options):
    return load_recipe("evaluate").main([*words(**QUICK | options, output_dir=output_dir), *flags])


@pytest.fixture(scope="module")
def evaluated(run, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "out"
    other = tmp_path_factory.mktemp("other") / "out"
    evaluate(other, model=run[0], dataset=dataset, temporal_views=2)
    return folder, evaluate(folder, "--shortcuts", model=run[0], dataset=dataset, compare=other / "report.json")


def test_finetune_leaves_predictions_intervals_and_a_temperature(run, dataset):
    folder, report = run
    found = report["metrics"]["test"]
    assert {"clip_accuracy", "intervals", "majority", "calibration", "coverage"} <= found.keys()
    table = read_predictions(folder)
    assert len(table) == 16 and sum(table["failed"].to_pylist()) == 1
    probabilities, labels = to_arrays(table)
    assert (probabilities.argmax(1) == labels)[labels >= 0].mean() == pytest.approx(found["accuracy"])
    record = json.loads((folder / "config.json").read_text())["vidtune"]
    assert record.get("temperature") == found["calibration"]["temperature"]
    assert report["metrics"]["validation"]["calibration"]["temperature"] == found["calibration"]["temperature"]


def test_an_evaluation_gives_the_scores_that_training_ended_with(run, evaluated):
    folder, report = evaluated
    assert report["metrics"]["test"] == run[1]["metrics"]["test"]
    assert read_predictions(folder).equals(read_predictions(run[0]))
    assert {path.name for path in folder.iterdir()} == {"report.json", "report.html", "predictions.parquet"}
    keys = "recipe command config model labels clip data metrics shortcuts comparison history throughput environment"
    saved = json.loads((folder / "report.json").read_text())
    assert set(saved) == set(keys.split()) | {"seconds"} and saved["recipe"] == "evaluate"
    assert saved["command"].startswith("python recipes/evaluate.py ") and saved["labels"] == ["blue", "red"]
    assert (saved["clip"]["num_frames"], saved["clip"]["sampling"]) == (4, "segments")


def test_a_failed_video_is_listed_and_namesakes_stay_apart(evaluated, dataset):
    folder, report = evaluated
    assert report["data"]["test"]["videos"] == 16 and report["metrics"]["test"]["videos"] == 15
    (failed,) = report["data"]["test"]["failed"]
    assert failed["path"] == str(dataset / "test" / "red" / "0003.mp4") and failed["reason"]
    table = read_predictions(folder).to_pydict()
    assert len(set(table["video_id"])) == 16 and table["video_id"][0] == "test/blue/0000.mp4"
    assert [row for row in range(16) if table["failed"][row]] == [11]
    assert table["probabilities"][11] is None and table["prediction"][11] is None and table["label"][11] == "red"


def test_shortcuts_and_a_comparison_are_part_of_the_report(evaluated):
    report = evaluated[1]
    assert set(report["shortcuts"]) == {"normal", "shuffled", "reversed", "frozen", "majority", "conclusion"}
    assert report["shortcuts"]["normal"]["accuracy"] == report["metrics"]["test"]["accuracy"]
    assert report["comparison"]["videos"] == 15 and report["comparison"]["with"].endswith("report.json")


def test_views_are_averaged_as_softmax_or_as_logits(run, dataset, tmp_path):
    views = {"temporal_views": 3, "spatial_crops": 3, "sampling": "segments"}
    tables = []
    for average in ("probabilities", "logits"):
        report = evaluate(tmp_path / average, model=run[0], dataset=dataset, average=average, **views)
        tables.append(to_arrays(read_predictions(tmp_path / average))[0])
        assert 0 < report["metrics"]["test"]["clip_accuracy"] < 1
    assert not np.array_equal(*tables) and np.allclose(*tables, atol=0.1)


def test_labels_are_matched_by_name_and_not_by_number(run, evaluated, dataset, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(run[0], model, ignore=shutil.ignore_patterns("checkpoint-*"))
    weights = load_file(model / "model.safetensors")
    weights |= {name: weights[name].flip(0) for name in ("classifier.weight", "classifier.bias")}
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    config |= {"id2label": {"0": "red", "1": "blue"}, "label2id": {"blue": 1, "red": 0}}  # sorted
    (model / "config.json").write_text(json.dumps(config))
    report = evaluate(tmp_path / "out", model=model, dataset=dataset)
    expected = evaluated[1]["metrics"]["test"]
    assert report["labels"] == ["red", "blue"] and report["metrics"]["test"]["per_class"].keys() == {"red", "blue"}
    for name in ("accuracy", "macro_f1", "clip_accuracy", "per_class"):
        assert report["metrics"]["test"][name] == expected[name]
    assert read_predictions(tmp_path / "out")["prediction"].equals(read_predictions(evaluated[0])["prediction"])


def test_a_temperature_is_fitted_on_validation_where_the_model_has_none(run, dataset, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(run[0], model, ignore=shutil.ignore_patterns("checkpoint-*"))
    fitted = run[1]["metrics"]["test"]["calibration"]["temperature"]
    assert fitted > 0
    for given, flags, found in ((3.0, [], 3.0), (3.0, ["--calibrate"], fitted), (None, [], fitted)):
        config = json.loads((model / "config.json").read_text())
        config["vidtune"] |= {"temperature": given}
        if given is None:
            del config["vidtune"]["temperature"]
        (model / "config.json").write_text(json.dumps(config))
        report = evaluate(tmp_path / "out", "--overwrite", *flags, model=model, dataset=dataset)
        assert report["metrics"].keys() == {"test"}
        assert report["metrics"]["test"]["calibration"]["temperature"] == found
        assert json.loads((model / "config.json").read_text())["vidtune"].get("temperature") == found
        assert report["metrics"]["test"]["accuracy"] == run[1]["metrics"]["test"]["accuracy"]


def test_weights_can_be_of_half_precision(run, evaluated, dataset, tmp_path):
    evaluate(tmp_path / "out", model=run[0], dataset=dataset, bf16_full_eval="true")
    found, expected = (to_arrays(read_predictions(folder))[0] for folder in (tmp_path / "out", evaluated[0]))
    assert not np.array_equal(found, expected) and np.allclose(found, expected, atol=0.05)


def test_folds_that_were_saved_are_scored_as_one(run, evaluated, dataset, tmp_path):
    evaluate(tmp_path / "validation", model=run[0], dataset=dataset, split="validation")
    pooled = load_recipe("evaluate").main(
        ["--predictions", str(tmp_path / "validation"), str(evaluated[0]), "--output_dir", str(tmp_path / "pooled")]
    )
    assert pooled["metrics"]["pooled"]["videos"] == 31 and pooled["metrics"]["pooled"]["failed"] == 1
    table = read_predictions(tmp_path / "pooled")
    probabilities, labels = to_arrays(table)
    assert label_order(table) == ["blue", "red"] and len(table) == 32
    assert pooled["metrics"]["pooled"]["accuracy"] == (probabilities.argmax(1) == labels)[labels >= 0].mean()
    assert "<h1><bdi>Predictions of several runs<" in (tmp_path / "pooled" / "report.html").read_text(encoding="utf-8")
    assert pooled["config"] == {"predictions": [str(tmp_path / "validation"), str(evaluated[0])]}


@pytest.mark.slow
def test_two_processes_count_each_video_once_to_the_bit(run, evaluated, dataset, tmp_path):
    # 16 videos in batches of 3: the last batch of one process is filled as that of the second one is
    options = QUICK | {"model": run[0], "dataset": dataset, "per_device_eval_batch_size": 3, "temporal_views": 2}
    evaluate(tmp_path / "one", **options)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "recipes/evaluate.py"]
    command += words(**options, output_dir=tmp_path / "two")
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two"))
    assert two["environment"]["processes"] == 2 and two["command"].startswith("torchrun --nproc_per_node 2 ")
    assert two["metrics"] == one["metrics"] and two["data"] == one["data"]
    assert read_predictions(tmp_path / "two").equals(read_predictions(tmp_path / "one"))


# Bad input


def broken_copy(run, tmp_path, change):
    model = tmp_path / "model"
    shutil.copytree(run[0], model, ignore=shutil.ignore_patterns("checkpoint-*"))
    change(model)
    return model


def renamed_labels(model):
    config = json.loads((model / "config.json").read_text())
    config |= {"id2label": {"0": "blue", "1": "green"}, "label2id": {"blue": 0, "green": 1}}
    (model / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: (model / "preprocessor_config.json").unlink(), "has no processor"),
        (renamed_labels, "dataset: 1 of its 2 labels are none of the model's: red; give a dataset with those of"),
        (
            lambda model: (model / "config.json").write_text('{"model_type": "bert"}'),
            "a bert model reads no videos",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_refused_in_one_line(run, dataset, tmp_path, capsys, change, message):
    model = broken_copy(run, tmp_path, change)
    words_given = words(**QUICK, model=model, dataset=dataset, output_dir=tmp_path / "out")
    assert exit_code("evaluate", words_given) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("evaluate.py: ") and message in lines[-1]
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "model: missing; give either --model, or --predictions"),
        ({"model": "m", "predictions": "p"}, "model: m; give either"),
        ({"model": "m", "fps": 5, "frame_stride": 4}, "fps: 5.0 and frame_stride: 4 are two ways to say it"),
        ({"model": "m", "frame_stride": 4, "sampling": "segments"}, "frame_stride: 4 goes with sampling: dense"),
        ({"predictions": "p", "shortcuts": "true"}, "shortcuts: True needs a model, not its predictions"),
        ({"predictions": "p", "temporal_views": 5}, "temporal_views: 5 needs a model"),
        ({"model": "m", "compare": "nowhere.json"}, "compare: nowhere.json: does not exist"),
        ({"model": "m", "learning_rate": 1}, "command line: learning_rate: unknown key"),
        ({"model": "m", "average": "votes"}, "average: got 'votes'"),
        ({"predictions": "nowhere"}, "predictions: nowhere: there is no such file"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, options, message):
    found = refused(load_recipe("evaluate").main, words(**options, output_dir=tmp_path / "out"))
    assert found.startswith(message)
    assert not (tmp_path / "out").exists()


def test_a_split_that_is_not_there_is_refused(run, dataset, tmp_path):
    found = refused(evaluate, tmp_path / "out", model=run[0], dataset=dataset, split="holdout")
    assert found == "split: holdout: is none of the dataset's; choose from train, validation, test"


def test_what_a_folder_holds_is_not_overwritten(run, evaluated, dataset, tmp_path):
    options = {"model": run[0], "dataset": dataset}
    assert "holds another evaluation; give another folder, or --overwrite" in refused(
        evaluate, evaluated[0], **options
    )
    (tmp_path / "mine.txt").touch()
    for folder, reason in ((run[0], "holds model"), (dataset, "lies in dataset"), (tmp_path, "holds mine.txt, of")):
        before = sorted(path.name for path in folder.iterdir())
        assert reason in refused(evaluate, folder, "--overwrite", **options)
        assert sorted(path.name for path in folder.iterdir()) == before
    assert "is a file" in refused(evaluate, run[0] / "config.json", **options)
    assert "can't be written" in refused(evaluate, run[0] / "config.json" / "out", **options)


def test_a_report_on_other_videos_is_refused_before_scoring(run, evaluated, dataset, tmp_path, monkeypatch):
    table = read_predictions(evaluated[0])
    other = pa.array([f"other/{number}" for number in range(len(table))])
    write_predictions(tmp_path / "predictions.parquet", table.set_column(0, "video_id", other))
    monkeypatch.setattr("vidtune.evaluation.scoring.score_videos", None)
    options = {"model": run[0], "dataset": dataset, "compare": tmp_path}
    assert refused(evaluate, tmp_path / "out", **options).endswith(
        "scored none of these videos; give a report on the same split"
    )


def test_an_exported_model_is_refused(run, dataset, tmp_path):
    (tmp_path / "model.onnx").touch()
    message = refused(evaluate, tmp_path / "out", model=tmp_path, dataset=dataset)
    assert message == f"model: {tmp_path}: is exported; give the model that it was made of"


def test_other_splits_than_in_training_are_warned_of(run, capsys):
    trained = yaml.safe_load((run[0] / "config.yaml").read_text())
    split = {name: trained[name] for name in ("dataset", "test_fraction", "folds")} | {"seed": 42}
    warn = load_recipe("evaluate").warn_of_other_split
    warn(run[0], split)
    warn(run[0], split | {"dataset": "other", "seed": 7})
    warn(run[0] / "nowhere", split | {"seed": 7})
    assert capsys.readouterr().err == ""
    warn(run[0], split | {"seed": 7})
    assert capsys.readouterr().err == (
        f"evaluate.py: seed: 7, and {run[0]} was trained with 42: it may know these videos; "
        "give the options of its config.yaml\n"
    )
