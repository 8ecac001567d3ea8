"""The pieces of published recipes, through recipes/finetune.py, in this process on tiny videos and tiny models."""

import json
import re

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForVideoClassification

from run_recipe import finetune, load_recipe, words
from test_finetune import CLASSES, assert_refused, read_report
from video_files import write_folder_dataset

EVERYTHING = {
    "base_learning_rate": "0.1",
    "min_learning_rate": "1e-3",
    "lr_scheduler_type": "cosine",
    "warmup_steps": "0.2",
    "layer_decay": "0.75",
    "weight_decay": "0.05",
    "drop_path": "0.1",
    "head_dropout": "0.5",
    "head_init_scale": "0.001",
    "label_smoothing_factor": "0.1",
    "mixup": "0.8",
    "cutmix": "1.0",
    "random_erasing": "0.25",
    "rand_augment": "rand-m7-n4-mstd0.5-inc1",
    "num_sample": "2",
    "ema_decay": "0.9",
    "gradient_accumulation_steps": "2",
    "early_stopping_patience": "5",
    "load_best_model_at_end": "true",
    "class_weights": "{red: 2}",
    "focal_gamma": "1",
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three classes, eight videos each, not split."""
    return write_folder_dataset(tmp_path_factory.mktemp("data") / "colours", CLASSES, 8)


def test_all_pieces_at_once_and_again_from_config_yaml(dataset, tmp_path):
    report = finetune(dataset=dataset, output_dir=tmp_path / "run", **EVERYTHING)
    assert report["optimisation"]["total_batch"] == 8
    assert report["optimisation"]["learning_rate"] == pytest.approx(0.1 * 8 / 256)
    rates = [entry["learning_rate"] for entry in report["history"] if "learning_rate" in entry]
    # Three steps an epoch, two of six for warming up, cosine from 0.1 to 0.001 of 256 videos.
    assert rates[0] == 0 and max(rates) == pytest.approx(0.1 * 8 / 256)
    falling = 0.001 + (0.1 - 0.001) * 0.5 * (1 + np.cos(np.pi * np.arange(4) / 4))
    assert rates[2:] == pytest.approx(falling * 8 / 256)
    again = load_recipe("finetune").main(words(config=tmp_path / "run" / "config.yaml", output_dir=tmp_path / "again"))
    assert again["metrics"] == report["metrics"] and again["history"][0]["loss"] == report["history"][0]["loss"]
    first, second = (AutoModelForVideoClassification.from_pretrained(tmp_path / d) for d in ("run", "again"))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert not [path for path in (tmp_path / "run").glob("*") if "live" in path.name]


def test_balanced_sampling_and_steps_of_the_learning_rate(dataset, tmp_path):
    report = finetune(
        dataset=dataset,
        output_dir=tmp_path / "run",
        balanced_sampling="true",
        learning_rate_steps="[1]",
        optim="sgd",
        optim_args="momentum=0.9",
        learning_rate="0.01",
    )
    rates = [entry["learning_rate"] for entry in report["history"] if "learning_rate" in entry]
    assert rates == pytest.approx([0.01] * 5 + [0.001] * 5)


def test_videos_of_several_labels_are_trained_on_and_scored(dataset, tmp_path):
    with open(tmp_path / "videos.jsonl", "w") as file:
        for path in sorted(dataset.rglob("*.mp4")):
            labels = [path.parent.name] + (["early"] if int(path.stem) < 4 else [])
            file.write(json.dumps({"video": str(path), "labels": labels}) + "\n")
    report = finetune(
        dataset=tmp_path / "videos.jsonl",
        video_root=dataset,
        output_dir=tmp_path / "run",
        load_best_model_at_end="true",
        mixup="0.8",
        class_weights="balanced",
        balanced_sampling="false",
    )
    assert report["labels"] == ["blue", "early", "green", "red"]
    scores = report["metrics"]["test"]
    assert 0 <= scores["mean_average_precision"] <= 1 and scores["confusion_matrix"] is None
    assert set(scores["per_class"]["early"]) == {"precision", "recall", "f1", "support", "average_precision"}
    assert any("eval_mean_average_precision" in entry for entry in report["history"])
    model = AutoModelForVideoClassification.from_pretrained(tmp_path / "run")
    assert model.config.problem_type == "multi_label_classification"
    assert read_report(tmp_path / "run")["metrics"]["test"]["videos"] == scores["videos"]


# Tuning modes


def test_a_linear_probe_and_the_last_block_leave_the_rest_as_it_was(dataset, tiny_checkpoint, tmp_path):
    for options, trained in (
        ({"tuning": "linear_probe"}, ("classifier.",)),
        ({"tuning": "partial", "unfreeze_layers": 1}, ("classifier.", "fc_norm.", "videomae.encoder.layer.1.")),
    ):
        output_dir = tmp_path / options["tuning"]
        before = finetune(
            dataset=dataset,
            output_dir=tmp_path / f"{options['tuning']}-0",
            max_steps=1,
            learning_rate="0",
            model_name_or_path=tiny_checkpoint,
            **options,
        )
        assert before["model"]["trainable_parameters"] < before["model"]["parameters"]
        finetune(
            dataset=dataset, output_dir=output_dir, learning_rate="0.01", model_name_or_path=tiny_checkpoint, **options
        )
        first, second = (
            AutoModelForVideoClassification.from_pretrained(folder).state_dict()
            for folder in (tmp_path / f"{options['tuning']}-0", output_dir)
        )
        for name, value in first.items():
            assert torch.equal(value, second[name]) != name.startswith(trained), name


@pytest.mark.parametrize("merge", ["false", "true"])
def test_lora_saves_what_it_is_asked_to_and_is_resumed_to_the_bit(merge, dataset, tiny_checkpoint, tmp_path):
    options = {"dataset": dataset, "model_name_or_path": tiny_checkpoint, "tuning": "lora", "merge_lora": merge}
    options |= {"learning_rate": "0.01", "ema_decay": "0.5", "load_best_model_at_end": "true"}
    whole = finetune(output_dir=tmp_path / "run", **options)
    assert whole["model"]["trainable_parameters"] < whole["model"]["parameters"] / 2
    files = {path.name for path in (tmp_path / "run").iterdir() if path.is_file()}
    adapter = tmp_path / "run" / "adapter" if merge == "true" else tmp_path / "run"
    assert (adapter / "adapter_model.safetensors").is_file() and (adapter / "config.json").is_file()
    assert ("model.safetensors" in files) == (merge == "true")
    assert ("adapter_config.json" in files) == (merge == "false")

    weights = (adapter / "adapter_model.safetensors").read_bytes()
    again = finetune(output_dir=tmp_path / "run", **options, resume_from_checkpoint=tmp_path / "run" / "checkpoint-5")
    assert again["metrics"] == whole["metrics"]
    assert (adapter / "adapter_model.safetensors").read_bytes() == weights
    if merge == "true":
        model = AutoModelForVideoClassification.from_pretrained(tmp_path / "run")
        assert model.config.id2label == dict(enumerate(CLASSES))
        rerun = finetune(
            dataset=dataset, output_dir=tmp_path / "next", model_name_or_path=tmp_path / "run", max_steps=1
        )
        assert rerun["model"]["newly_initialised"] == []


def test_the_best_of_a_grid_of_attentive_probes_is_kept(dataset, tiny_checkpoint, tmp_path):
    options = {
        "dataset": dataset,
        "model_name_or_path": tiny_checkpoint,
        "tuning": "attentive_probe",
        "probe_blocks": 2,
    }
    options |= {"probe_learning_rates": "[1e-2, 1e-6]", "probe_weight_decays": "[0.01, 0.4]"}
    options |= {"load_best_model_at_end": "true", "num_train_epochs": "3"}
    report = finetune(output_dir=tmp_path / "run", **options)
    assert report["optimisation"]["best_probe"] in [(1e-2, 0.01), (1e-2, 0.4), (1e-6, 0.01), (1e-6, 0.4)]
    best = [entry["eval_accuracy"] for entry in report["history"] if "eval_accuracy" in entry]
    assert report["metrics"]["validation"]["accuracy"] == max(best)
    model = AutoModelForVideoClassification.from_pretrained(tmp_path / "run")
    assert model.config.num_probes == 1
    again = finetune(output_dir=tmp_path / "again", **options)
    assert again["metrics"] == report["metrics"]
    resumed = finetune(
        output_dir=tmp_path / "run", **options, resume_from_checkpoint=tmp_path / "run" / "checkpoint-10"
    )
    assert resumed["metrics"] == report["metrics"]


def test_attentive_probes_without_an_evaluation_are_judged_at_the_end(dataset, tiny_checkpoint, tmp_path):
    report = finetune(
        dataset=dataset,
        output_dir=tmp_path / "run",
        model_name_or_path=tiny_checkpoint,
        tuning="attentive_probe",
        probe_blocks=1,
        probe_learning_rates="[1e-3]",
        probe_weight_decays="[0.01, 0.4]",
        eval_strategy="no",
        save_strategy="no",
        max_steps=2,
    )
    (scores,) = [entry for entry in report["history"] if "eval_best_probe" in entry]
    assert report["metrics"]["validation"]["accuracy"] == scores["eval_accuracy"]


# The card


@pytest.mark.slow
def test_the_snippet_of_a_card_runs_for_what_transformers_does_not_know(
    dataset, tiny_checkpoint, tmp_path, monkeypatch, capsys
):
    frames = {"config_name": "vit", "num_frames": 4}
    frames["config_overrides"] = "{image_size: 32, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}"
    probe = {"probe_learning_rates": "[1e-3]", "probe_weight_decays": "[0]", "probe_blocks": 1}
    runs = {
        "video_zoo": {"config_name": "x3d_xs", "config_overrides": "{}", "num_frames": 2, "image_size": 64},
        "frame_classifier": frames,
        "videomae_interpolated": {"model_name_or_path": tiny_checkpoint, "num_frames": 8},
        "attentive_probe": {"model_name_or_path": tiny_checkpoint, "tuning": "attentive_probe"} | probe,
        "videomae": {"model_name_or_path": tiny_checkpoint, "tuning": "lora"},
    }
    (tmp_path / "video.mp4").symlink_to(next(dataset.rglob("*.mp4")))
    monkeypatch.chdir(tmp_path)
    for model_type, options in runs.items():
        report = finetune(
            dataset=dataset, output_dir=tmp_path / model_type, max_steps=1, eval_strategy="no", **options
        )
        assert report["model"]["type"] == model_type
        assert report["optimisation"]["best_probe"] == ((1e-3, 0.0) if "probe" in model_type else None)
        card = (tmp_path / model_type / "README.md").read_text()
        (snippet,) = re.findall(r"```python\n(.*?)\n```", card, flags=re.DOTALL)
        assert "vidtune" in snippet
        capsys.readouterr()
        exec(snippet.replace("path/to/this/folder", model_type), {})
        printed = capsys.readouterr().out
        assert all(label in printed for label in CLASSES)


# Refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"class_weights": "{red: 2, pink: 1}"},
            "class_weights: pink is no label of the dataset; it has blue, green, red",
        ),
        ({"config_name": "x3d_xs", "drop_path": "0.1"}, "drop_path: 0.1: x3d_xs has no residual branches"),
        ({"weights": "nowhere.pth"}, "weights: nowhere.pth"),
        ({"optim": "lomo"}, "optim: lomo groups the parameters by itself"),
        (
            {"metric_for_best_model": "mean_average_precision", "load_best_model_at_end": "true"},
            "metric_for_best_model",
        ),
    ],
)
def test_pieces_that_do_not_fit_are_refused(options, message, dataset, tmp_path, capsys):
    tiny = yaml.safe_dump(
        {"num_frames": 4, "image_size": 32, "num_hidden_layers": 2, "hidden_size": 16}, default_flow_style=True
    )
    given = {"config_name": "videomae", "dataset": dataset, "output_dir": tmp_path / "run", "use_cpu": "true"}
    given |= {"eval_strategy": "epoch", "save_strategy": "epoch"} | options
    if given["config_name"] == "videomae":
        given["config_overrides"] = tiny.strip()[:-1] + ", num_attention_heads: 2, intermediate_size: 32}"
    assert_refused(words(**given), message, tmp_path, capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tuning": "partial", "unfreeze_layers": 9}, "unfreeze_layers: got 9; the model has 2 blocks; give 1 to 2"),
        ({"tuning": "lora", "lora_targets": "nowhere"}, "lora_targets: nowhere is no .* it has "),
        ({"tuning": "attentive_probe", "probe_heads": 3}, "probe_heads: got 3; give a divisor of 16"),
    ],
)
def test_tuning_that_does_not_fit_the_checkpoint_is_refused(
    options, message, dataset, tiny_checkpoint, tmp_path, capsys
):
    argv = words(dataset=dataset, output_dir=tmp_path / "run", model_name_or_path=tiny_checkpoint, use_cpu="true")
    assert_refused(argv + words(**options), message, tmp_path, capsys)


def test_a_head_that_is_kept_does_not_start_small(dataset, tmp_path, capsys):
    finetune(dataset=dataset, output_dir=tmp_path / "first", max_steps=1)
    argv = words(model_name_or_path=tmp_path / "first", head_init_scale="0.001", use_cpu="true")
    argv += words(dataset=dataset, output_dir=tmp_path / "run")
    assert_refused(argv, "head_init_scale: the checkpoint's head is kept, not initialised", tmp_path, capsys)


def test_a_flip_that_would_make_labels_wrong_is_refused(tmp_path, capsys):
    root = write_folder_dataset(tmp_path / "data", ["turn_left", "turn_right"], 4)
    argv = words(dataset=root, output_dir=tmp_path / "run", config_name="videomae", use_cpu="true")
    message = "horizontal_flip: 0.5: in the mirror 'turn_left' is 'turn_right'; set horizontal_flip: 0, or flip_guard"
    assert_refused(argv, message, tmp_path, capsys)
    for options in ({"horizontal_flip": "0"}, {"flip_guard": "false"}):
        finetune(dataset=root, output_dir=tmp_path / next(iter(options)), max_steps=1, **options)
