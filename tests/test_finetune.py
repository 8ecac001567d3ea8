"""recipes/finetune.py, run in this process on tiny videos and tiny models."""

# ruff: noqa: F811
import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import AutoImageProcessor, AutoModelForVideoClassification, AutoVideoProcessor, pipeline

from hub_server import hub  # noqa: F401
from run_recipe import exit_code, finetune, load_recipe, words
from video_files import write_folder_dataset
from vidtune.errors import InputError, RunError

CLASSES = ("blue", "green", "red")
MODEL_FILES = {"config.json", "model.safetensors", "preprocessor_config.json", "training_args.bin"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three classes, eight videos each, not split."""
    return write_folder_dataset(tmp_path_factory.mktemp("data") / "colours", CLASSES, 8)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """A finished run from scratch."""
    output_dir = tmp_path_factory.mktemp("runs") / "scratch"
    finetune(dataset=dataset, output_dir=output_dir, load_best_model_at_end="true", seed=3)
    return output_dir


def read_report(output_dir):
    return json.loads((output_dir / "report.json").read_text())


def test_the_report_holds_what_a_reader_asks_for(run):
    report = read_report(run)
    assert report["recipe"] == "finetune"
    assert report["config"]["seed"] == 3
    assert report["labels"] == list(CLASSES)
    assert report["model"]["parameters"] == report["model"]["trainable_parameters"] > 1000
    assert "classifier.weight" in report["model"]["newly_initialised"]
    assert {split: part["videos"] for split, part in report["data"].items()} == {
        "train": 18,
        "validation": 3,
        "test": 3,
    }
    assert all(part["failed"] == [] for part in report["data"].values())
    for split in ("validation", "test"):
        metrics = report["metrics"][split]
        matrix = np.array(metrics["confusion_matrix"])
        assert matrix.sum() == metrics["videos"] == 3
        assert metrics["accuracy"] == pytest.approx(matrix.trace() / 3)
        assert set(metrics["per_class"]) == set(CLASSES)
        assert 0 <= metrics["macro_f1"] <= 1
        assert metrics["top5_accuracy"] is None  # of three labels
    assert report["split"]["how"] == "made by group: validation, test"
    assert report["split"]["splits"]["train"] == {"videos": 18, "groups": 18, "labels": dict.fromkeys(CLASSES, 6)}
    assert report["throughput"]["train_videos_per_second"] > 0
    assert report["environment"]["processes"] == 1
    assert report["environment"]["precision"] == "fp32"
    assert report["seconds"] > 0


def test_a_run_leaves_a_whole_model_and_nothing_unfinished(run):
    names = {path.name for path in run.iterdir()}
    assert MODEL_FILES | {"README.md", "report.json", "config.yaml"} <= names
    assert not [name for name in names if "unfinished" in name or name.startswith(".")]


def test_the_saved_model_loads_with_the_auto_classes_and_knows_its_labels(run):
    model = AutoModelForVideoClassification.from_pretrained(run)
    assert model.config.id2label == dict(enumerate(CLASSES))
    assert model.config.label2id == {label: index for index, label in enumerate(CLASSES)}
    for auto in (AutoImageProcessor, AutoVideoProcessor):
        assert auto.from_pretrained(run).image_mean == pytest.approx([0.485, 0.456, 0.406])


def test_config_yaml_reproduces_the_run_to_the_bit(run, tmp_path):
    report = load_recipe("finetune").main(words(config=run / "config.yaml", output_dir=tmp_path / "again"))
    assert report["metrics"] == read_report(run)["metrics"]
    first, again = (AutoModelForVideoClassification.from_pretrained(d) for d in (run, tmp_path / "again"))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_checkpoint_gets_a_fresh_head_and_keeps_its_processor(dataset, tiny_checkpoint, tmp_path):
    report = finetune(dataset=dataset, output_dir=tmp_path / "run", model_name_or_path=tiny_checkpoint)
    new = {"classifier.bias", "classifier.weight", "fc_norm.bias", "fc_norm.weight"}
    assert set(report["model"]["newly_initialised"]) == new
    assert AutoVideoProcessor.from_pretrained(tmp_path / "run").image_mean == pytest.approx([0.4, 0.5, 0.6])


def test_its_own_result_can_be_fine_tuned_again_with_the_head_kept(run, dataset, tmp_path):
    report = finetune(dataset=dataset, output_dir=tmp_path / "run", model_name_or_path=run)
    assert report["model"]["newly_initialised"] == []
    assert report["clip"] == read_report(run)["clip"]


def test_groups_of_a_table_never_cross_splits(dataset, tmp_path):
    with open(tmp_path / "videos.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["video", "label", "group"])
        for path in sorted(dataset.rglob("*.mp4")):
            table.writerow([path, path.parent.name, f"{path.parent.name}-{int(path.stem) // 2}"])
    report = finetune(dataset=tmp_path / "videos.csv", video_root=dataset, output_dir=tmp_path / "run", max_steps=1)
    assert all(part["videos"] % 2 == 0 for part in report["data"].values())


def test_a_fold_is_tested_with_groups_found_in_the_names(dataset, tmp_path):
    options = {"group_pattern": r"(\w+)/000([0-3])", "folds": 4, "fold": 1, "validation_fraction": 0.3, "max_steps": 1}
    with pytest.raises(InputError, match="group_pattern: .* is not found in 'blue/0004.mp4'"):
        finetune(dataset=dataset, output_dir=tmp_path / "run", **options)
    options["group_pattern"] = r"000([0-7])"
    report = finetune(dataset=dataset, output_dir=tmp_path / "run", **options)
    assert report["split"]["how"] == "fold 1 of 4 is test, validation made by group"
    assert {name: (part["videos"], part["groups"]) for name, part in report["split"]["splits"].items()} == {
        "train": (12, 4),
        "validation": (6, 2),
        "test": (6, 2),
    }
    assert report["metrics"]["test"]["videos"] == 6


def test_broken_videos_are_left_out_counted_and_named(tmp_path):
    root = write_folder_dataset(tmp_path / "data", CLASSES, 3, splits=["train", "validation", "test"])
    for split in ("train", "test"):
        (root / split / "red" / "0001.mp4").write_text("not a video")
    report = finetune(dataset=root, output_dir=tmp_path / "run", on_error="skip")
    for split in ("train", "test"):
        (problem,) = report["data"][split]["failed"]
        assert problem["path"].endswith(f"{split}/red/0001.mp4")
        assert problem["reason"]
    assert report["data"]["validation"]["failed"] == []
    assert (report["metrics"]["test"]["videos"], report["metrics"]["test"]["failed"]) == (8, 1)


def test_a_transform_of_the_users_own_replaces_the_augmentation(dataset, tmp_path, monkeypatch):
    (tmp_path / "my_transforms.py").write_text(
        "from torchvision.transforms import Compose, RandomCrop\n"
        "from pytorchvideo.transforms import RandAugment, RandomShortSideScale\n"
        "frames_first = lambda clip: clip.transpose(0, 1)\n"
        "train = Compose([lambda clip: clip / 255, RandomShortSideScale(36, 40), RandomCrop(32),\n"
        "                 frames_first, RandAugment(magnitude=2, num_layers=1), frames_first,\n"
        "                 lambda clip: clip.clamp(0, 1)])\n"
    )
    monkeypatch.chdir(tmp_path)
    report = finetune(dataset=dataset, output_dir=tmp_path / "run", train_transform="my_transforms:train", max_steps=2)
    assert report["metrics"]["validation"]["videos"] == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut", r"train_transform: returned shape \(3, 16, 7"),
        ("divide", r"train_transform: ZeroDivisionError: .*bad_transforms.py, line 4"),
    ],
)
def test_a_transform_that_fails_does_so_before_training(name, message, dataset, tmp_path, monkeypatch, capsys):
    (tmp_path / "bad_transforms.py").write_text(
        "def cut(clip):\n    return clip[:, :, :7]\ndef divide(clip):\n    return clip * (1 // 0)\n"
    )
    monkeypatch.chdir(tmp_path)
    argv = words(dataset=dataset, output_dir=tmp_path / "run", config_name="videomae", use_cpu="true")
    assert_refused([*argv, "--train_transform", f"bad_transforms:{name}"], message, tmp_path, capsys)


def test_several_views_are_scored_as_one_video(run, dataset, tmp_path):
    report = finetune(dataset=dataset, output_dir=tmp_path / "run", temporal_views=2, spatial_crops=3, max_steps=1)
    assert report["metrics"]["test"]["videos"] == 3


def test_a_run_is_resumed_only_when_asked_to_and_ends_like_an_uninterrupted_one(dataset, tmp_path):
    options = {"dataset": dataset, "num_train_epochs": 2, "seed": 5}
    finetune(**options, output_dir=tmp_path / "straight")
    finetune(**options, output_dir=tmp_path / "halted")
    halted = tmp_path / "halted"
    last = max(halted.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    with pytest.raises(InputError, match="holds another run"):
        finetune(**options, output_dir=halted)
    report = finetune(**options, output_dir=halted, resume_from_checkpoint="auto")
    assert report["metrics"] == read_report(tmp_path / "straight")["metrics"]
    straight, resumed = (AutoModelForVideoClassification.from_pretrained(tmp_path / d) for d in ("straight", "halted"))
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_run_that_was_killed_after_its_last_step_is_finished_without_another(dataset, tmp_path):
    options = {"dataset": dataset, "output_dir": tmp_path / "run", "max_steps": 3, "save_strategy": "steps"}
    finetune(**options, save_steps=3)
    (tmp_path / "run" / "model.safetensors").unlink()
    report = finetune(**options, save_steps=3, resume_from_checkpoint="auto")
    assert report["history"][-1]["step"] == 3
    finished, last = (
        AutoModelForVideoClassification.from_pretrained(folder).state_dict()
        for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-3")
    )
    assert all(torch.equal(finished[name], last[name]) for name in last)


def test_a_resume_that_is_refused_changes_nothing(run, dataset, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    wider = "{num_frames: 4, image_size: 32, patch_size: 16, hidden_size: 20, num_attention_heads: 2}"
    with pytest.raises(InputError, match="resume_from_checkpoint: .* holds another model"):
        finetune(dataset=dataset, output_dir=tmp_path / "run", resume_from_checkpoint="auto", config_overrides=wider)
    for name in ("config.yaml", "report.json", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes()


def test_a_run_that_diverges_is_no_result(dataset, tmp_path, capsys):
    with pytest.raises(RunError, match="max_nan_steps: 3: step 4: the loss is no finite number"):
        finetune(dataset=dataset, output_dir=tmp_path / "run", learning_rate=1e30)
    assert not (tmp_path / "run" / "report.json").exists()


def test_a_home_folder_is_one_folder_and_is_not_told(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").symlink_to(dataset)
    (tmp_path / "run.yaml").write_text("output_dir: ~/run\ndataset: ~/videos\n")
    finetune(config="run.yaml", max_steps=1, report_to="none")
    assert MODEL_FILES | {"report.json", "config.yaml"} <= {path.name for path in (tmp_path / "run").iterdir()}
    assert not (tmp_path / "~").exists()
    for name in ("report.json", "config.yaml", "README.md"):
        assert str(tmp_path) not in (tmp_path / "run" / name).read_text()


def test_overwrite_replaces_a_run_and_leaves_other_files_alone(run, dataset, tmp_path):
    finetune(dataset=dataset, output_dir=tmp_path / "run", max_steps=1)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    (tmp_path / "run" / "checkpoint-77").mkdir()
    finetune(dataset=dataset, output_dir=tmp_path / "run", max_steps=1, overwrite="true")
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "run" / "checkpoint-77").exists()


# Errors: one line, exit code 2, and nothing written.


def one_class(root):
    write_folder_dataset(root, ["red"], 4)


def unseen_label(root):
    write_folder_dataset(root, ["red", "blue"], 2, splits=["train"])
    write_folder_dataset(root, ["red", "green"], 1, splits=["validation"])


def text_as_video(root):
    write_folder_dataset(root, ["red", "blue"], 4)
    (root / "red" / "0002.mp4").write_text("this is no video")


def empty_videos(root):
    for label in ("red", "blue"):
        (root / label).mkdir(parents=True)
        for name in "abcd":
            (root / label / f"{name}.mp4").touch()


def leaking(root):
    for split, numbers in (("train", "01 02"), ("test", "02 03")):
        for label in ("red", "blue"):
            (root / split / label).mkdir(parents=True)
            for number in numbers.split():
                (root / split / label / f"v_{label}_g{number}_c{len(split)}.avi").touch()


def too_few(root):
    write_folder_dataset(root, ["red", "blue"], 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "dataset: .* does not exist"),
        (lambda root: root.mkdir(), "dataset: .* holds no videos"),
        (one_class, "one class only, 'red'"),
        (unseen_label, "label 'green' .* in validation is not in train"),
        (text_as_video, r"0002.mp4: .*on_error skip"),
        (empty_videos, "mp4: .* empty .and 7 more"),
        (leaking, r"group: 2 in more than one split: 'v_blue_g02' .train/blue/v_blue_g02_c5.avi in train and "),
        (too_few, "validation_fraction, test_fraction: .* leave no video"),
    ],
)
def test_a_dataset_that_cannot_be_trained_on(make, message, tmp_path, capsys):
    make(tmp_path / "data")
    argv = words(dataset=tmp_path / "data", output_dir=tmp_path / "run", config_name="videomae", use_cpu="true")
    argv += words(config_overrides="{num_frames: 2, image_size: 32, num_hidden_layers: 1, hidden_size: 12}")
    assert_refused(argv, message, tmp_path, capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_name_or_path": "no/such-model"}, r"model_name_or_path: no/such-model: .*hf download"),
        ({"model_name_or_path": "nothing here"}, "model_name_or_path: nothing here: does not exist"),
        ({"config_name": "videomea"}, "config_name: videomea: .* did you mean videomae"),
        ({"config_name": "bert"}, "config_name: a bert model reads no clips"),
        ({"config_name": "videomae", "report_to": "nowhere"}, "training arguments: nowhere is not supported"),
        ({"config_name": "videomae", "num_frames": 3}, "num_frames: got 3; give a multiple of 2"),
        ({"config_name": "videomae", "image_size": 100}, "image_size: got 100; give a multiple of 16"),
        ({"config_name": "videomae", "config_overrides": "{hiden_size: 3}"}, "hiden_size: .* hidden_size"),
        ({"config_name": "videomae", "config_overrides": "{hidden_size: 13}"}, "config_overrides: .*13"),
        ({"config_name": "videomae", "bf16": "true", "fp16": "true"}, "bf16: True and fp16: True exclude each other"),
        ({"config_name": "videomae", "train_transform": "nowhere:train"}, "train_transform: nowhere:train"),
        ({"config_name": "videomae", "save_strategy": "best", "metric_for_best_model": "f1"}, "macro_f1"),
        ({"config_name": "videomae", "dataloader_drop_last": "true"}, "dataloader_drop_last: can't be set"),
        ({"config_name": "videomae", "max_steps": 0}, "max_steps: got 0"),
        ({"config_name": "videomae", "decoder": "decord"}, "decoder: got 'decord'"),
        ({"config_name": "videomae", "resume_from_checkpoint": "auto"}, "resume_from_checkpoint: .* holds no run"),
        ({"config_name": "videomae", "dataset": "no/such-dataset"}, "dataset: no/such-dataset: .*hf download"),
        ({"config_name": "videomae", "push_to_hub": "true", "hub_model_id": "a/b/c"}, "hub_model_id: "),
    ],
)
def test_options_that_cannot_work(options, message, dataset, tmp_path, capsys):
    argv = words(**{"dataset": dataset, "output_dir": tmp_path / "run", "use_cpu": "true"} | options)
    assert_refused(argv, message, tmp_path, capsys)


def assert_refused(argv, message, folder, capsys):
    capsys.readouterr()
    assert exit_code("finetune", argv) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("finetune.py: ")]
    assert re.search(message, line), line
    assert "Traceback" not in line
    assert not list((folder / "run").glob("*")), "something was written"


def test_a_folder_of_something_else_is_never_written_to(dataset, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("ten years")
    argv = words(dataset=dataset, output_dir=tmp_path / "run", config_name="videomae", overwrite="true")
    assert exit_code("finetune", argv) == 2
    assert "holds files of something else" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


# Publishing, over HTTP.


def test_the_published_model_is_the_trained_one_and_comes_in_one_commit(hub, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finetune(
        dataset=dataset, output_dir="run", max_steps=2, push_to_hub="true", hub_model_id="tester/colours",
        hub_private_repo="true", hub_license="apache-2.0",
    )  # fmt: skip
    repo = hub.repos["tester/colours"]
    assert repo.private
    assert len(repo.commits) == 2  # the empty one of its creation, and ours
    published = set(repo.commits[-1].files)
    assert published - {".gitattributes"} == {
        "README.md", "config.json", "config.yaml", "model.safetensors", "preprocessor_config.json", "report.json",
        "report.html", "curves.png", "per_class.png", "confusion.png",
    }  # fmt: skip

    page = Path("run/report.html").read_text(encoding="utf-8")
    assert "data:image" not in page and ".mp4" not in page and Path("run/predictions.parquet").is_file()

    clip = torch.rand(1, 4, 3, 32, 32)
    local = AutoModelForVideoClassification.from_pretrained(tmp_path / "run")
    remote = pipeline("video-classification", model="tester/colours")
    with torch.no_grad():
        assert torch.equal(local(clip).logits, remote.model(clip).logits)

    card = ModelCard.load("tester/colours")
    assert card.data.pipeline_tag == "video-classification"
    assert card.data.license == "apache-2.0"
    assert card.data.base_model is None
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert results["Accuracy"] == read_report(tmp_path / "run")["metrics"]["test"]["accuracy"]
    assert "recipes/finetune.py" in card.text


def test_a_model_of_the_hub_is_fine_tuned_and_named_as_the_base_of_the_next(hub, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    published = {"push_to_hub": "true", "max_steps": 1, "dataset": dataset}
    finetune(**published, output_dir="first", hub_model_id="tester/first", hub_videos="true")
    assert "predictions.parquet" in hub.repos["tester/first"].commits[-1].files
    assert "data:image/webp" in Path("first/report.html").read_text(encoding="utf-8")
    report = finetune(
        **published, output_dir="second", hub_model_id="tester/second", model_name_or_path="tester/first"
    )
    assert report["model"]["newly_initialised"] == []
    assert ModelCard.load("tester/second").data.base_model == "tester/first"


def test_a_refused_token_ends_the_run_before_training(hub, dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    argv = words(dataset=dataset, output_dir=tmp_path / "run", config_name="videomae", push_to_hub="true")
    assert_refused([*argv, "--hub_model_id", "tester/x"], "hub_model_id: .*401", tmp_path, capsys)


def test_a_push_that_never_passes_says_where_the_model_is_and_exits_with_1(
    hub, dataset, tmp_path, monkeypatch, capsys
):
    hub.fail(r"POST /api/models/tester/x/commit", 500)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    tiny = words(max_steps=1, dataset=dataset, output_dir=tmp_path / "run", use_cpu="true", dataloader_num_workers=0)
    tiny += words(config_name="videomae", config_overrides="{num_frames: 2, image_size: 32, hidden_size: 12}")
    assert exit_code("finetune", [*tiny, "--push_to_hub", "--hub_model_id", "tester/x"]) == 1
    error = capsys.readouterr().err
    assert f"everything is saved in {tmp_path / 'run'}" in error
    assert "hf upload tester/x" in error
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= MODEL_FILES and ".lock" not in names


# Predicting with the result.


def test_predict_gives_the_probabilities_of_the_report(run, dataset, capsys):
    video = next(iter(sorted(dataset.rglob("*.mp4"))))
    capsys.readouterr()
    load_recipe("predict").main(["--model", str(run), "--input", str(video), "--top_k", "3"])
    line = capsys.readouterr().out.strip().splitlines()[-1]
    probabilities = {label: float(value) for label, value in re.findall(r"(blue|green|red) (\d\.\d+)", line)}
    assert sum(probabilities.values()) == pytest.approx(1, abs=0.01)


def test_predict_names_what_it_cannot_read_and_goes_on(run, dataset, tmp_path, capsys):
    (tmp_path / "bad.mp4").write_text("no video")
    good = next(dataset.rglob("*.mp4"))
    assert exit_code("predict", ["--model", str(run), "--input", str(tmp_path / "bad.mp4"), str(good)]) == 1
    output = capsys.readouterr()
    assert str(good) in output.out
    assert "bad.mp4" in output.err


def test_configurations_of_the_run_are_plain_yaml(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["config_overrides"]["hidden_size"] == 16
