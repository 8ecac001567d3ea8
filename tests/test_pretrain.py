"""recipes/pretrain.py, run in this process on tiny videos and tiny models."""

# ruff: noqa: F811
import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value, Video
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForVideoClassification, VideoMAEConfig, VideoMAEForPreTraining, set_seed

from conftest import TINY_VIDEOMAE
from hub_server import hub  # noqa: F401
from run_recipe import REPOSITORY, TINY, exit_code, finetune, load_recipe, refused, words
from video_files import moving_square, write_folder_dataset, write_video
from vidtune.data.clips import FAILED
from vidtune.data.loading import load_splits
from vidtune.data.masking import draw_masks, to_patches
from vidtune.evaluation.reconstruction import GAP, GREY, WIDE_GAP, picture_strip, reconstruct
from vidtune.models.configurations import IMAGENET_MEAN, IMAGENET_STD
from vidtune.models.pretraining import load_autoencoder
from vidtune.training.pretraining import PretrainingTrainer, pixel_targets, reconstruction_loss
from vidtune.training.settings import training_arguments

OVERRIDES = {name: value for name, value in TINY_VIDEOMAE.items() if name != "tubelet_size"}
OPTIONS = TINY | {
    "config_overrides": json.dumps(OVERRIDES),
    "mask_ratio": "0.5",
    "learning_rate": "1e-3",
    "validation_fraction": "0.2",
}
GRID = (2, 2, 2)


def pretrain(**options):
    given = {name: value for name, value in OPTIONS.items() if name not in options}
    if "model_name_or_path" in options:
        given = {name: value for name, value in given.items() if not name.startswith("config_")}
    return load_recipe("pretrain").main(words(**given, **options))


def losses(report):
    return [entry["loss"] for entry in report["history"] if "loss" in entry]


def write_plain_videos(folder, count):
    for seed in range(count):
        write_video(folder / f"{seed}.mp4", moving_square(12, seed=seed), 12)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A folder of videos without class folders."""
    return write_plain_videos(tmp_path_factory.mktemp("data") / "plain", 10)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return write_folder_dataset(tmp_path_factory.mktemp("data") / "colours", ("blue", "red"), 8)


@pytest.fixture(scope="module")
def run(plain, tmp_path_factory):
    """A finished run of 2 epochs of 2 steps, on 8 videos."""
    folder = tmp_path_factory.mktemp("runs") / "pretrained"
    pretrain(dataset=plain, output_dir=folder, seed=3)
    return folder


def test_the_report_holds_what_a_reader_asks_for(run):
    report = json.loads((run / "report.json").read_text())
    assert report["recipe"] == "pretrain"
    assert report["masking"] == {"ratio": 0.5, "patches": 8, "hidden": 4}
    assert {name: part["videos"] for name, part in report["data"].items()} == {"train": 8, "validation": 2}
    assert "lies outside of a class folder" in report["split"]["labels_not_read"]
    score = report["metrics"]["validation"]
    assert (score["videos"], score["failed"]) == (2, 0)
    assert 0.3 < score["loss"] < 1.7  # normalised pixels have a variance of 1
    assert report["model"]["encoder_parameters"] < report["model"]["parameters"]
    assert len(losses(report)) == 4
    assert report["throughput"]["train_videos_per_second"] > 0


def test_the_run_leaves_a_model_a_card_and_a_picture(run):
    names = {path.name for path in run.iterdir()}
    files = (
        "config.json config.yaml model.safetensors preprocessor_config.json README.md reconstructions.png report.json"
    )
    assert set(files.split()) <= names
    assert not [name for name in names if name.startswith(".")]
    _, info = VideoMAEForPreTraining.from_pretrained(run, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert "which fine-tuning leaves out" in ModelCard.load(run / "README.md").text
    # 2 videos of 3 rows of 4 frames of 32 px
    side = 3 * 32 + 2 * GAP
    assert Image.open(run / "reconstructions.png").size == (4 * 32 + 3 * GAP, 2 * side + WIDE_GAP)


def test_fine_tuning_starts_from_its_encoder_with_a_new_head(run, labelled, tmp_path):
    report = finetune(
        dataset=labelled, model_name_or_path=run, output_dir=tmp_path / "run", learning_rate=0, max_steps=1
    )
    assert set(report["model"]["newly_initialised"]) == {
        "classifier.bias", "classifier.weight", "fc_norm.bias", "fc_norm.weight",
    }  # fmt: skip
    assert report["clip"] == json.loads((run / "report.json").read_text())["clip"]
    tuned = AutoModelForVideoClassification.from_pretrained(tmp_path / "run").videomae.state_dict()
    pretrained = VideoMAEForPreTraining.from_pretrained(run).videomae.state_dict()
    assert tuned.keys() == pretrained.keys()
    assert all(torch.equal(tuned[name], pretrained[name]) for name in tuned)


def test_pre_training_goes_on_from_a_checkpoint_and_learns(run, plain, tmp_path):
    again = pretrain(dataset=plain, output_dir=tmp_path / "run", model_name_or_path=run, learning_rate=0, max_steps=1)
    assert again["model"]["newly_initialised"] == []
    first = json.loads((run / "report.json").read_text())["metrics"]["validation"]["loss"]
    options = {"learning_rate": 1e-2, "max_steps": 60, "eval_strategy": "no", "lr_scheduler_type": "constant"}
    learned = pretrain(dataset=plain, output_dir=tmp_path / "more", model_name_or_path=run, **options)
    assert learned["metrics"]["validation"]["loss"] < first - 0.02


def test_a_resumed_run_equals_one_that_was_not_interrupted(run, plain, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    resumed = pretrain(dataset=plain, output_dir=tmp_path / "run", seed=3, resume_from_checkpoint="auto")
    assert losses(resumed) == losses(json.loads((run / "report.json").read_text()))
    one, other = (load_file(folder / "model.safetensors") for folder in (run, tmp_path / "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_accumulated_batches_and_repeated_clips(plain, tmp_path):
    options = {"dataset": plain, "num_sample": 2, "base_learning_rate": 0.01, "max_steps": 2}
    given = {name: value for name, value in OPTIONS.items() if name not in (*options, "learning_rate")}
    main = load_recipe("pretrain").main
    whole = main(words(**given, **options, output_dir=tmp_path / "whole"))
    given |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    parts = main(words(**given, **options, output_dir=tmp_path / "parts"))
    assert whole["optimisation"] == parts["optimisation"] == {"learning_rate": 0.01 * 4 / 256, "total_batch": 4}
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)


def test_test_videos_of_fine_tuning_are_never_seen(labelled, tmp_path):
    report = pretrain(dataset=labelled, output_dir=tmp_path / "run", max_steps=1)
    splits, description = load_splits(str(labelled), seed=42, validation_fraction=0.2)
    assert report["split"] == description | {"labels_not_read": None}
    assert report["data"]["train"]["videos"] == len(splits["train"]) < 16
    assert "test" not in report["data"]


def test_a_broken_video_is_left_out_and_named(tmp_path, capsys):
    folder = write_plain_videos(tmp_path / "data", 10)
    for seed in range(10):
        split = "train" if seed < 7 else "validation"
        (folder / split).mkdir(exist_ok=True)
        (folder / f"{seed}.mp4").rename(folder / split / f"{seed}.mp4")
    for path in ("train/2.mp4", "validation/8.mp4"):
        (folder / path).write_text("no video")
    argv = words(**OPTIONS, dataset=folder, output_dir=tmp_path / "run")
    assert exit_code("pretrain", argv) == 2
    assert re.search(r"pretrain.py: dataset: .*2.mp4: .*and 1 more.*--on_error skip", capsys.readouterr().err)
    report = pretrain(dataset=folder, output_dir=tmp_path / "run", on_error="skip")
    for split, name in (("train", "2.mp4"), ("validation", "8.mp4")):
        (problem,) = report["data"][split]["failed"]
        assert problem["path"].endswith(name)
    assert report["metrics"]["validation"]["videos"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": 0.1}, "mask_ratio: got 0.1, which hides 0 of the 4 patches of a frame; give more"),
        ({"mask_ratio": 1.5}, "mask_ratio: got 1.5"),
        ({"config_name": "vivit", "config_overrides": "{}"}, "config_name: a vivit model has no decoder"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor: 0.1: pre-training reads no labels"),
        ({"metric_for_best_model": "accuracy"}, "metric_for_best_model: got 'accuracy'"),
        ({"base_learning_rate": 1e-3}, "base_learning_rate: 0.001 and learning_rate: 0.001"),
        ({"dataset": "no/such-folder"}, "dataset: no/such-folder: "),
        ({"weights": "x3d.pyth"}, "weights: x3d.pyth: a new videomae"),
    ],
)
def test_options_that_cannot_work(options, message, plain, tmp_path, capsys):
    argv = words(**OPTIONS | {"dataset": plain, "output_dir": tmp_path / "run"} | options)
    assert exit_code("pretrain", argv) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pretrain.py: ")]
    assert re.search(message, line), line
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_other_clips_or_of_another_kind_is_refused(run, tmp_path):
    config = VideoMAEConfig.from_pretrained(run)
    config.num_frames = 8
    assert re.match(
        r"num_frames, image_size: \(8, 32\) are not the \(4, 32\)", refused(load_autoencoder, config, str(run))
    )
    set_seed(0)
    wider = VideoMAEConfig(**TINY_VIDEOMAE | {"num_hidden_layers": 3})
    assert "weights of the encoder are missing" in refused(load_autoencoder, wider, str(run))


def test_a_run_that_diverges_is_no_result(plain, tmp_path, capsys):
    argv = words(**OPTIONS | {"learning_rate": 1e30, "dataset": plain, "output_dir": tmp_path / "run"})
    assert exit_code("pretrain", argv) == 2
    assert "learning_rate: the model has diverged" in capsys.readouterr().err


def test_the_model_is_published_with_its_card_and_its_picture(hub, plain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pretrain(dataset=plain, output_dir="run", max_steps=1, push_to_hub="true", hub_model_id="tester/pretrained")
    published = set(hub.repos["tester/pretrained"].commits[-1].files)
    assert {"README.md", "reconstructions.png", "model.safetensors", "preprocessor_config.json"} <= published
    assert "--model_name_or_path tester/pretrained" in ModelCard.load("tester/pretrained").text


@pytest.mark.slow
def test_two_processes_pre_train_as_one_does(run, plain, tmp_path):
    launcher = ["accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu_2_processes.yaml"]
    options = OPTIONS | {"dataset": plain, "output_dir": tmp_path / "two", "seed": 3, "per_device_train_batch_size": 2}
    command = [sys.executable, "-m", *launcher, "recipes/pretrain.py", *words(**options)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads(Path(folder, "report.json").read_text()) for folder in (run, tmp_path / "two"))
    assert two["environment"]["processes"] == 2
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert two["metrics"]["validation"] == pytest.approx(one["metrics"]["validation"], rel=1e-4)


# Losses, and what they are computed of.


@pytest.mark.parametrize("normalised", [True, False])
def test_the_loss_is_that_of_the_model_itself(normalised, tmp_path):
    set_seed(0)
    model = VideoMAEForPreTraining(VideoMAEConfig(**TINY_VIDEOMAE, norm_pix_loss=normalised))
    args = training_arguments({"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", "seed": 5})
    statistics = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
    trainer = PretrainingTrainer(model, args, mask_ratio=0.5, **statistics)
    clips = torch.randint(0, 256, (3, 4, 3, 32, 32), dtype=torch.uint8)
    batch = {"labels": torch.tensor([0, FAILED, 0]), "rows": torch.tensor([4, 1, 9]), "failed_rows": []}
    pixels = (clips / 255 - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)

    model.train()
    loss = trainer.compute_loss(model, trainer._prepare_inputs(batch | {"pixel_values": clips, "epoch": 2}))
    masks = draw_masks([4, 1, 9], 1, GRID, 0.5, seed=5, epoch=2)
    own = model(pixels[[0, 2]], bool_masked_pos=masks[[0, 2]]).loss
    assert loss.item() == pytest.approx(own.item(), rel=1e-5)

    model.eval()
    _, errors, labels = trainer.prediction_step(model, batch | {"pixel_values": clips[:, None], "epoch": 0}, False)
    assert labels.tolist() == [0, FAILED, 0]
    masks = draw_masks([4, 1, 9], 1, GRID, 0.5, seed=5, purpose=2)
    for clip in range(3):
        own = model(pixels[[clip]], bool_masked_pos=masks[[clip]]).loss
        assert errors[clip].item() == pytest.approx(own.item(), rel=1e-5)


def test_targets_by_hand():
    # One frame of 2 x 2 patches of one pixel and one channel
    frames = torch.tensor([[[[[0.1, 0.2], [0.3, 0.4]]]]])
    masks = torch.tensor([[True, False, False, True]])
    targets = pixel_targets(frames, masks, (1, 2, 2), normalised=False)
    assert targets.flatten().tolist() == pytest.approx([0.1, 0.4])
    # Two frames that make one patch of two pixels: mean 0.2, standard deviation by n - 1 of 0.2 / sqrt(2)
    frames = torch.tensor([[[[[0.1, 0.9]]], [[[0.3, 0.9]]]]])
    targets = pixel_targets(frames, torch.tensor([[True, False]]), (1, 1, 2), normalised=True)
    assert targets.flatten().tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5], rel=1e-4)


def test_a_batch_counts_by_its_clips():
    outputs = {"loss": torch.tensor(3.0)}
    labels = torch.tensor([0, FAILED, 0, 0])
    assert reconstruction_loss(outputs, labels).item() == 3.0
    assert reconstruction_loss(outputs, labels, 12).item() == 3.0 * 3 / 12
    assert reconstruction_loss(outputs, torch.full((4,), FAILED)).item() == 0.0


# Pictures.


class Says(torch.nn.Module):
    """Predicts the same for each value of each hidden patch."""

    def __init__(self, value, normalised):
        super().__init__()
        self.value, self.config = value, VideoMAEConfig(norm_pix_loss=normalised)

    def forward(self, pixel_values, bool_masked_pos):
        patches = to_patches(pixel_values, GRID).flatten(2)[bool_masked_pos].unflatten(0, (len(pixel_values), -1))
        return type("Output", (), {"logits": torch.full_like(patches, self.value)})()


@pytest.mark.parametrize(("normalised", "value"), [(False, 0.25), (True, 0.0)])
def test_a_reconstruction_keeps_what_is_seen_and_fills_in_the_rest(normalised, value):
    frames = torch.randint(0, 256, (1, 4, 3, 4, 4), dtype=torch.uint8)
    masks = torch.tensor([[True, False, False, False] * 2])  # top left
    seen, filled = reconstruct(Says(value, normalised), frames, masks, GRID, IMAGENET_MEAN, IMAGENET_STD)
    pixels = frames / 255
    for version in (seen, filled):
        assert torch.equal(version[..., 2:, :], pixels[..., 2:, :])
        assert torch.equal(version[..., 2:], pixels[..., 2:])
    assert (seen[..., :2, :2] == GREY).all()
    for tubelet in (slice(0, 2), slice(2, 4)):
        corner = pixels[0, tubelet, :, :2, :2]
        expected = corner.mean((0, 2, 3), keepdim=True) if normalised else torch.tensor(value)
        assert torch.allclose(filled[0, tubelet, :, :2, :2], expected.expand_as(corner), atol=1e-6)


def test_a_strip_shows_versions_below_each_other():
    dark, bright = torch.zeros(2, 3, 3, 4, 4), torch.ones(2, 3, 3, 4, 4) * 0.5
    (bytes_,) = [picture_strip([dark, bright], most_frames=2)]
    import io

    picture = np.asarray(Image.open(io.BytesIO(bytes_)))
    assert picture.shape == (2 * (4 + GAP + 4) + WIDE_GAP, 4 + GAP + 4, 3)
    assert (picture[:4, :4] == 0).all() and (picture[4 + GAP : 8 + GAP, :4] == 128).all()
    assert (picture[4 : 4 + GAP] == 255).all()


# Videos without labels.


def test_a_table_needs_no_labels(plain, tmp_path):
    with open(tmp_path / "videos.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["video", "split"])
        for path, split in zip(sorted(plain.iterdir()), ["train"] * 7 + ["validation", "test", "test"], strict=True):
            table.writerow([path, split])
    assert "column 'label' is missing" in refused(
        load_splits, str(tmp_path / "videos.csv"), seed=0, video_root=str(plain)
    )
    splits, _ = load_splits(str(tmp_path / "videos.csv"), seed=0, labelled=False, video_root=str(plain))
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 7, "validation": 1, "test": 2}
    assert splits["train"].features["label"].names == ["unlabelled"]


def test_a_dataset_of_videos_alone_needs_no_labels(plain, tmp_path):
    columns = {"video": [str(path) for path in sorted(plain.iterdir())], "caption": list("abcdefghij")}
    rows = Dataset.from_dict(columns, features=Features({"video": Video(decode=False), "caption": Value("string")}))
    (tmp_path / "copy").mkdir()
    rows.to_parquet(tmp_path / "copy" / "train.parquet")
    assert "has no column of labels" in refused(load_splits, str(tmp_path / "copy"), seed=0)
    splits, _ = load_splits(str(tmp_path / "copy"), seed=0, labelled=False, video_root=str(plain))
    assert len(splits["train"]) + len(splits["validation"]) == 10
    assert "test" not in splits


def test_splits_of_a_folder_are_kept_without_labels(tmp_path):
    for name in ("train/a.mp4", "train/deep/down/b.mp4", "val/c.mp4", "test/d.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    splits, _ = load_splits(str(tmp_path), seed=0, labelled=False)
    assert {split: rows["video_id"][:] for split, rows in splits.items()} == {
        "train": ["train/a.mp4", "train/deep/down/b.mp4"],
        "validation": ["val/c.mp4"],
        "test": ["test/d.mp4"],
    }


# Few labels.


def test_as_many_videos_of_each_label_as_asked_for(labelled, tmp_path):
    splits, description = load_splits(str(labelled), seed=1, videos_per_label=3)
    assert description["splits"]["train"]["labels"] == {"blue": 3, "red": 3}
    everything, _ = load_splits(str(labelled), seed=1)
    assert set(splits["train"]["video_id"]) < set(everything["train"]["video_id"])
    assert splits["test"]["video_id"][:] == everything["test"]["video_id"][:]
    again, _ = load_splits(str(labelled), seed=1, videos_per_label=3)
    assert again["train"]["video_id"][:] == splits["train"]["video_id"][:]
    message = refused(load_splits, str(labelled), seed=1, videos_per_label=7)
    assert re.fullmatch(r"videos_per_label: got 7; train has 6 of 'blue'; give that or fewer", message)
    report = finetune(dataset=labelled, output_dir=tmp_path / "run", videos_per_label=2, max_steps=1)
    assert report["data"]["train"]["videos"] == 4
