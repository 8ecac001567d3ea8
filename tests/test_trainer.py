import gc
import json
import math
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    EarlyStoppingCallback,
    ResNetConfig,
    Trainer,
    TrainerCallback,
    VideoMAEImageProcessor,
    set_seed,
)

from test_loading import SIZES, TINY
from vidtune.data.clips import FAILED, EvaluationClips, TrainingClips, collate
from vidtune.errors import InputError, VideoError
from vidtune.evaluation.metrics import scalar_metrics
from vidtune.evaluation.scoring import average_views
from vidtune.models.configurations import FrameClassifierConfig
from vidtune.models.frames import FrameClassifierForVideoClassification
from vidtune.models.loading import load_model, read_config
from vidtune.models.processors import load_processors, normalisation
from vidtune.models.regularisation import set_drop_path, set_head_dropout
from vidtune.training import resumable as resumable_module
from vidtune.training import settings as settings_module
from vidtune.training.mixing import Mixing, draw_mix, mix_clips
from vidtune.training.settings import training_arguments
from vidtune.training.trainer import VideoTrainer
from vidtune.training.weights import load_weights

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "drop_path_rate")


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_collect():
    """Spare each run half a second in which accelerate collects the garbage of all that was imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def one_environment(monkeypatch):
    """Which precision one run chose is not the next one's launcher."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


class Noise:
    """Clips of noise, tinted by their label; stands in for TrainingClips and EvaluationClips."""

    decoder = "auto"

    def __init__(self, num_rows, size=32, views=None, failed=(), num_labels=2):
        self.num_rows, self.size, self.views, self.failed, self.num_labels = num_rows, size, views, failed, num_labels
        self.seen = []
        self.videos = [
            {"video": {"path": f"/nowhere/{row}.mp4", "bytes": None}, "video_id": str(row)} for row in range(num_rows)
        ]

    def __len__(self):
        return self.num_rows

    def __getitem__(self, index):
        epoch, row = (0, index) if self.views else index[:2]
        self.seen.append((epoch, row))
        failed, label = row in self.failed, row % self.num_labels
        shape = ((self.views,) if self.views else ()) + (4, 3, self.size, self.size)
        pixels = np.random.default_rng([epoch, row]).integers(0, 128, shape) + 100 * label
        pixels = torch.from_numpy(pixels.astype(np.uint8)) * (not failed)
        item = {"pixel_values": pixels, "labels": FAILED if failed else label, "row": row, "failed": failed}
        return item if self.views else item | {"epoch": epoch}


class ManyLabels(Noise):
    """Each video has its own label, and the last one if its row is below 4."""

    def __getitem__(self, index):
        item = super().__getitem__(index)
        labels = torch.zeros(self.num_labels)
        labels[item["row"] % self.num_labels] = 1.0
        labels[-1] = float(item["row"] < 4)
        return item | {"labels": torch.full_like(labels, FAILED) if item["failed"] else labels}


def build_model(model_type="videomae", labels=("a", "b"), seed=0):
    config = read_config(None, model_type, TINY[model_type], labels)
    for name in DROPOUT:
        if hasattr(config, name):
            setattr(config, name, 0 if model_type == "timesformer" and name == "drop_path_rate" else 0.0)
    set_seed(seed)
    return load_model(config, None)[0]


def build(folder, model=None, train=None, evaluate=None, labels=("a", "b"), trainer_options=None, **arguments):
    options = {
        "output_dir": str(folder),
        "use_cpu": True,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "dataloader_num_workers": 0,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "max_grad_norm": 0.0,
        "num_train_epochs": 1,
        "seed": 3,
    }
    several = (trainer_options or {}).get("multi_label", False)
    trainer = VideoTrainer(
        build_model() if model is None else model,
        training_arguments(options | arguments, multi_label=several),
        image_mean=MEAN,
        image_std=STD,
        label_names=labels,
        train_dataset=train,
        eval_dataset=evaluate,
        **(trainer_options or {}),
    )
    return trainer


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(first, second, tolerance=0.0):
    assert first.keys() == second.keys()
    for name, value in first.items():
        if tolerance:
            assert torch.allclose(value, second[name], rtol=0, atol=tolerance), name
        else:
            assert torch.equal(value, second[name]), name


def checkpoints(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("checkpoint"))


# One step, one epoch


@pytest.mark.parametrize(("model_type", "smoothing"), [*((model_type, 0.0) for model_type in TINY), ("videomae", 0.1)])
def test_batch_8_equals_2_times_4_accumulated(tmp_path, model_type, smoothing):
    after = []
    for batch, accumulation in ((8, 1), (4, 2)):
        trainer = build(
            tmp_path,
            build_model(model_type),
            Noise(16, SIZES[model_type]),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            label_smoothing_factor=smoothing,
            logging_strategy="steps",
            logging_steps=1,
        )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        after.append((weights(trainer.model), losses))
    assert_same(after[0][0], after[1][0], tolerance=1e-6)
    assert len(after[0][1]) == 2 and after[0][1] == pytest.approx(after[1][1], abs=1e-5)


@pytest.mark.parametrize(
    ("dataset", "pieces"),
    [
        (Noise, {"mixing": Mixing(0.8, 1.0)}),
        (Noise, {"label_weights": [0.2, 1.8], "focal_gamma": 1.5}),
        (Noise, {"layer_decay": 0.5}),
        (ManyLabels, {"multi_label": True, "mixing": Mixing(0.8), "label_weights": [0.2, 1.8]}),
    ],
    ids=["mixed", "weighted and focal", "layer decay", "several labels"],
)
@pytest.mark.parametrize("failed", [[], [5]])
def test_batch_8_equals_2_times_4_accumulated_with_every_piece(tmp_path, dataset, pieces, failed):
    after = []
    for batch, accumulation in ((8, 1), (4, 2)):
        trainer = build(
            tmp_path,
            None,
            dataset(16, failed=failed),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            label_smoothing_factor=0.1,
            logging_strategy="steps",
            logging_steps=1,
            trainer_options=pieces | {"on_error": "skip"},
        )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        after.append((weights(trainer.model), losses))
    assert_same(after[0][0], after[1][0], tolerance=1e-6)
    assert len(after[0][1]) == 2 and after[0][1] == pytest.approx(after[1][1], abs=1e-5)


@pytest.mark.parametrize("model_type", TINY)
def test_gradient_checkpointing_takes_the_same_steps_and_drops_the_same_paths(tmp_path, model_type):
    after = []
    for checkpointing in (False, True):
        model = build_model(model_type)
        set_drop_path(model, 0.5)
        set_head_dropout(model, 0.5)
        trainer = build(
            tmp_path, model, Noise(16, SIZES[model_type]), optim="sgd", gradient_checkpointing=checkpointing
        )
        trainer.train()
        after.append(weights(model))
    assert_same(*after, tolerance=1e-6)


@pytest.mark.parametrize("model_type", TINY)
def test_a_step_of_each_architecture_moves_it_and_it_comes_back_from_its_folder(tmp_path, model_type):
    model = build_model(model_type, ["a", "b", "c"])
    before = weights(model)
    processors = load_processors(None, model.config)
    train, evaluate = (Noise(4, SIZES[model_type], views=views, num_labels=3) for views in (None, 2))
    trainer = build(
        tmp_path, model, train, evaluate, ["a", "b", "c"], {"processors": processors}, optim="sgd", learning_rate=0.5
    )
    result = trainer.train()
    assert math.isfinite(result.training_loss) and result.training_loss > 0
    assert not torch.equal(before["classifier.weight"], model.classifier.weight)
    trainer.save_model()
    config = read_config(str(tmp_path), None, {}, ["a", "b", "c"])
    loaded, new = load_model(config, str(tmp_path))
    assert new == []
    assert_same(weights(loaded), weights(model))
    again = build(tmp_path / "again", loaded, train, evaluate, ["a", "b", "c"])
    first, second = (runner.predict(evaluate).predictions for runner in (trainer, again))
    assert first.shape == (4, 2, 3) and np.array_equal(first, second)
    load_processors(str(tmp_path), config)


def test_a_model_learns(tmp_path):
    trainer = build(tmp_path, None, Noise(16), Noise(8, views=1), num_train_epochs=6, learning_rate=1e-3)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < before / 2 and after["eval_accuracy"] == 1.0 and after["eval_videos"] == 8


def test_every_epoch_sees_every_video_once_in_another_order(tmp_path):
    train = Noise(6)
    build(tmp_path, None, train, num_train_epochs=3).train()
    orders = [[row for epoch, row in train.seen if epoch == number] for number in range(3)]
    assert [sorted(order) for order in orders] == [list(range(6))] * 3
    assert len({tuple(order) for order in orders}) > 1 and len(train.seen) == 18


def test_the_model_is_in_training_at_each_step_also_after_an_evaluation(tmp_path):
    states = []

    class Watch(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            states.append({module.training for module in model.modules()})

    options = {"num_train_epochs": 3, "eval_strategy": "epoch"}
    trainer = build(tmp_path, None, Noise(8), Noise(2, views=1), trainer_options={"callbacks": [Watch()]}, **options)
    trainer.train()
    assert states == [{True}] * 6 and "train" not in vars(trainer.model)
    assert not trainer.model.training  # after the last evaluation


def test_a_model_that_is_wrapped_is_set_to_training_after_an_evaluation(tmp_path):
    """As DDP wraps it: an evaluation sets the model inside only."""

    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, **inputs):
            return self.module(**inputs)

    trainer = build(tmp_path, None, Noise(4))
    wrapper = Wrapper(trainer.model)
    trainer.model.eval()
    assert wrapper.training
    trainer.training_step(wrapper, collate([Noise(4)[0, row] for row in range(4)]))
    assert {module.training for module in wrapper.modules()} == {True}


def test_the_seed_of_the_data_can_be_another(tmp_path):
    seen = []
    for options in ({"data_seed": 5}, {"data_seed": 5, "seed": 4}, {"data_seed": 6}):
        train = Noise(10)
        build(tmp_path, None, train, **options).train()
        seen.append(train.seen)
    assert seen[0] == seen[1] != seen[2]


# Input


def test_pixels_are_normalised_as_the_processor_does(tmp_path):
    processor = VideoMAEImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_mean=MEAN, image_std=STD
    )
    trainer = build(tmp_path)
    frames = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    batch = collate([{"pixel_values": torch.from_numpy(frames), "labels": 1, "row": 0, "failed": False}])
    inputs = trainer._prepare_inputs(batch)
    assert set(inputs) == {"pixel_values", "labels"}
    theirs = processor(list(frames), return_tensors="pt", input_data_format="channels_first")["pixel_values"]
    assert torch.allclose(inputs["pixel_values"], theirs.reshape(1, 4, 3, 32, 32), atol=1e-5)


def test_the_input_has_the_name_that_the_model_gives_it(tmp_path):
    trainer = build(tmp_path, build_model("vjepa2"))
    batch = collate([Noise(1)[0, 0]])
    assert set(trainer._prepare_inputs(batch)) == {"pixel_values_videos", "labels"}


def test_training_clips_are_mixed_and_evaluated_ones_are_not(tmp_path):
    train, evaluate = Noise(4), Noise(4, views=1)
    plain, mixed = (
        build(tmp_path, None, train, evaluate, trainer_options=options) for options in ({}, {"mixing": Mixing(0.8)})
    )
    batch = collate([train[2, row] for row in range(4)])
    for trainer in (plain, mixed):
        trainer.model.train()
    before, after = (trainer._prepare_inputs(batch) for trainer in (plain, mixed))
    mix = draw_mix(Mixing(0.8), [0, 1, 2, 3], [False] * 4, (32, 32), seed=3, epoch=2)
    pixels, labels = mix_clips(before["pixel_values"], torch.eye(2)[[0, 1, 0, 1]], mix)
    assert torch.equal(after["pixel_values"], pixels) and torch.equal(after["labels"], labels)
    assert plain.evaluate()["eval_loss"] == mixed.evaluate()["eval_loss"]


def test_several_clips_of_a_video_count_as_one_video(tmp_path):
    class Twice(Noise):
        """Two clips of each video."""

        def __getitem__(self, index):
            item = super().__getitem__(index)
            return item | {"pixel_values": torch.stack([item["pixel_values"]] * 2)}

    trainer = build(tmp_path, None, Twice(8, failed=[1]), trainer_options={"mixing": Mixing(0.8), "on_error": "skip"})
    trainer.train()
    assert trainer.trained_videos == 7 and trainer.state.global_step == 2
    once, twice = (
        build(tmp_path, None, kind(4), optim="sgd", per_device_train_batch_size=4) for kind in (Noise, Twice)
    )
    once.train()
    twice.train()
    assert_same(weights(once.model), weights(twice.model), tolerance=1e-6)


def test_videos_are_drawn_by_their_weights(tmp_path):
    train = Noise(8)
    build(tmp_path, None, train, trainer_options={"row_weights": [1, 0, 0, 0, 0, 0, 0, 1]}, num_train_epochs=3).train()
    assert {row for _, row in train.seen} == {0, 7} and len(train.seen) == 24


# Several labels a video


def test_several_labels_are_learned_and_scored(tmp_path):
    names = ["a", "b", "c"]
    train, evaluate = ManyLabels(16, num_labels=3, failed=[15]), ManyLabels(8, num_labels=3, views=2, failed=[6])
    trainer = build(
        tmp_path,
        build_model(labels=names),
        train,
        evaluate,
        names,
        {"multi_label": True, "on_error": "skip"},
        num_train_epochs=2,
        load_best_model_at_end=True,
        **EVERY_EPOCH,
    )
    trainer.train()
    metrics = trainer.evaluate()
    assert (metrics["eval_videos"], metrics["eval_failed"]) == (7, 1)
    output = trainer.predict(evaluate)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        clips = (evaluate[0]["pixel_values"] / 255 - mean) / std
        expected = trainer.model(pixel_values=clips).logits.sigmoid().mean(0)
    probabilities = average_views(output.predictions, multi_label=True)
    assert probabilities[0] == pytest.approx(expected.numpy(), abs=1e-5)
    truth = np.stack([evaluate[row]["labels"].numpy() for row in range(8)])
    assert np.array_equal(output.label_ids, truth)
    kept = [0, 1, 2, 3, 4, 5, 7]
    right = np.where(truth[kept] == 1, probabilities[kept], 1 - probabilities[kept])
    assert metrics["eval_loss"] == pytest.approx(-np.log(right).mean(), rel=1e-4)
    assert 0 <= metrics["eval_mean_average_precision"] <= 1 and "eval_top5_accuracy" not in metrics


def test_what_chooses_the_best_checkpoint_goes_with_the_labels(tmp_path):
    given = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch", "use_cpu": True}
    given |= {"output_dir": str(tmp_path)}
    assert training_arguments(given, multi_label=True).metric_for_best_model == "mean_average_precision"
    for multi_label, metric in ((True, "top5_accuracy"), (False, "mean_average_precision")):
        with pytest.raises(InputError, match=f"^metric_for_best_model: got '{metric}'; give one of loss, accuracy, "):
            training_arguments(given | {"metric_for_best_model": metric}, multi_label=multi_label)


# Views


@pytest.mark.parametrize("model_type", TINY)
def test_the_probabilities_of_a_video_are_the_mean_over_its_views(tmp_path, model_type):
    model = build_model(model_type).eval()
    dataset = Noise(3, SIZES[model_type], views=4)
    trainer = build(tmp_path, model, evaluate=dataset, per_device_eval_batch_size=2)
    output = trainer.predict(dataset)
    probabilities = average_views(output.predictions, multi_label=False)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    for row in range(3):
        clips = (dataset[row]["pixel_values"] / 255 - mean) / std
        with torch.no_grad():
            each = [model(**{model.main_input_name: clip[None]}).logits.flatten().softmax(0) for clip in clips]
        assert probabilities[row] == pytest.approx(torch.stack(each).mean(0).numpy(), abs=1e-5)
    assert output.label_ids.tolist() == [0, 1, 0]
    assert probabilities.sum(1) == pytest.approx(1.0)


def test_the_scores_are_those_of_the_videos(tmp_path):
    probabilities = np.array([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1]])
    metrics = scalar_metrics(probabilities, np.array([0, 0, FAILED]), ["a", "b"])
    assert metrics["accuracy"] == 0.5 and metrics["videos"] == 2 and metrics["failed"] == 1
    assert metrics["loss"] == pytest.approx(-(math.log(0.8) + math.log(0.4)) / 2)
    assert "top5_accuracy" not in metrics and all(isinstance(value, int | float) for value in metrics.values())


def test_the_time_of_evaluations_is_counted(tmp_path):
    trainer = build(tmp_path, None, Noise(4), Noise(4, views=1))
    trainer.evaluate()
    once = trainer.evaluation_seconds
    trainer.evaluate()
    assert 0 < once < trainer.evaluation_seconds


# Failed videos


def test_a_failed_training_video_ends_the_run_with_its_path_and_reason(tmp_path):
    trainer = build(tmp_path, None, Noise(8, failed=[5]))
    with pytest.raises(VideoError) as caught:
        trainer.train()
    message = str(caught.value)
    assert message.startswith("/nowhere/5.mp4: there is no such file;") and "--on_error skip" in message
    assert "\n" not in message


def test_a_failed_training_video_can_be_left_out_and_is_listed(tmp_path):
    trainer = build(tmp_path, None, Noise(8, failed=[5, 6]), trainer_options={"on_error": "skip"}, num_train_epochs=2)
    trainer.train()
    assert trainer.failed_rows == {5, 6}


def test_a_video_that_is_left_out_leaves_no_trace_in_the_weights(tmp_path):
    class Batches(Noise):
        """Rows 0, 1 and 2, with or without a fourth that failed."""

        def __getitem__(self, index):
            return super().__getitem__((0, index[1]))

    after = []
    for num_rows, failed in ((3, []), (4, [3])):
        trainer = build(
            tmp_path, None, Batches(num_rows, failed=failed), optim="sgd", trainer_options={"on_error": "skip"}
        )
        trainer.train()
        assert trainer.state.global_step == 1
        after.append(weights(trainer.model))
    assert_same(*after, tolerance=1e-6)
    assert not torch.equal(after[0]["classifier.weight"], build_model().classifier.weight)


def test_an_epoch_of_failed_videos_moves_nothing(tmp_path):
    trainer = build(
        tmp_path, None, Noise(4, failed=range(4)), optim="sgd", weight_decay=0.0, trainer_options={"on_error": "skip"}
    )
    before = weights(trainer.model)
    trainer.train()
    assert_same(weights(trainer.model), before)


def test_failed_evaluation_videos_are_counted_and_left_out(tmp_path):
    trainer = build(tmp_path, evaluate=Noise(6, views=1, failed=[1, 4]))
    metrics = trainer.evaluate()
    assert metrics["eval_videos"] == 4 and metrics["eval_failed"] == 2
    assert trainer.failed_rows == set()
    whole = build(tmp_path, trainer.model, evaluate=Noise(6, views=1)).predict(Noise(6, views=1))
    kept = [0, 2, 3, 5]
    expected = (whole.predictions[kept, 0].argmax(1) == whole.label_ids[kept]).mean()
    assert metrics["eval_accuracy"] == pytest.approx(expected)


def test_validation_videos_that_all_fail_do_not_choose_a_checkpoint(tmp_path):
    options = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    trainer = build(tmp_path, None, Noise(4), Noise(3, views=1, failed=range(3)), **options)
    with pytest.raises(InputError, match="dataset: none of the 3 validation videos can be decoded"):
        trainer.train()
    assert build(tmp_path, evaluate=Noise(3, views=1, failed=range(3))).evaluate()["eval_failed"] == 3


def test_real_videos_from_end_to_end(tmp_path):
    from test_clips import CLIP, rows
    from video_files import moving_square, write_video

    paths = [write_video(tmp_path / f"{seed}.mp4", moving_square(12, 24, 32, seed), fps=12) for seed in range(4)]
    (tmp_path / "broken.mp4").write_text("no video")
    videos = rows([*paths, tmp_path / "broken.mp4"])
    clip = type(CLIP)(num_frames=4, image_size=32)
    trainer = build(
        tmp_path / "run",
        None,
        TrainingClips(videos, clip),
        EvaluationClips(videos, clip, temporal_views=2, spatial_crops=3),
        trainer_options={"on_error": "skip"},
        dataloader_num_workers=2,
        num_train_epochs=2,
    )
    trainer.train()
    assert trainer.failed_rows == {4}
    metrics = trainer.evaluate()
    assert metrics["eval_videos"] == 4 and metrics["eval_failed"] == 1


# Checkpoints

EVERY_EPOCH = {"eval_strategy": "epoch", "save_strategy": "epoch"}


class Worsen(TrainerCallback):
    """Keeps the weights of every step, and lets the first evaluation be the best."""

    def __init__(self):
        self.weights = {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights[state.global_step] = weights(model)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        metrics["eval_accuracy"] = 1 / state.global_step


@pytest.mark.parametrize("model_type", TINY)
def test_all_weights_of_the_best_checkpoint_come_back_to_the_bit(tmp_path, model_type):
    size, kept = SIZES[model_type], Worsen()
    trainer = build(
        tmp_path,
        build_model(model_type),
        Noise(4, size),
        Noise(2, size, views=1),
        trainer_options={"callbacks": [kept]},
        load_best_model_at_end=True,
        num_train_epochs=3,
        **EVERY_EPOCH,
    )
    trainer.train()
    assert trainer.state.best_global_step == 1 and trainer.state.global_step == 3
    assert_same(weights(trainer.model), kept.weights[1])
    changed = [name for name, value in kept.weights[3].items() if not torch.equal(value, kept.weights[1][name])]
    assert len(changed) > 0.5 * len(kept.weights[1])


@pytest.mark.parametrize(("model_type", "accumulation"), [("videomae", 1), ("videomae", 2), ("vivit", 1)])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path, model_type, accumulation):
    size = SIZES[model_type]
    options = {"num_train_epochs": 4, "gradient_accumulation_steps": accumulation, "lr_scheduler_type": "linear"}
    options |= EVERY_EPOCH

    straight = Noise(10, size)  # three batches an epoch, the last one smaller
    whole = build(tmp_path / "whole", build_model(model_type), straight, Noise(2, size, views=1), **options)
    whole.train()

    resumed = Noise(10, size)
    middle = max(2, whole.state.global_step // 2)
    again = build(tmp_path / "again", build_model(model_type, seed=9), resumed, Noise(2, size, views=1), **options)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{middle}"))
    assert_same(weights(again.model), weights(whole.model))
    assert resumed.seen == straight.seen[20:]
    losses = [
        [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
        for trainer in (whole, again)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_a_run_resumed_in_the_middle_of_an_epoch_sees_the_rest_of_it(tmp_path):
    options = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2}
    straight, resumed = Noise(12), Noise(12)
    whole = build(tmp_path / "whole", None, straight, **options)
    whole.train()
    assert checkpoints(tmp_path / "whole") == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    for step, seen in ((2, 8), (4, 16)):
        resumed.seen = []
        again = build(tmp_path / "again", build_model(seed=9), resumed, **options)
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert resumed.seen == straight.seen[seen:]
        assert_same(weights(again.model), weights(whole.model))


@pytest.mark.parametrize("workers", [0, 2])
def test_dropout_is_resumed_as_well(tmp_path, workers):
    options = {"num_train_epochs": 2, "save_strategy": "epoch", "dataloader_num_workers": workers}
    models = []
    for seed in (0, 9):
        model = build_model(seed=seed)
        model.config.hidden_dropout_prob = 0.3
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.3
        models.append(model)
    whole = build(tmp_path / "whole", models[0], Noise(8), **options)
    whole.train()
    again = build(tmp_path / "again", models[1], Noise(8), **options)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert_same(weights(again.model), weights(whole.model))


def test_each_step_and_each_process_has_random_numbers_of_its_own(tmp_path):
    each_step = next(
        callback for callback in build(tmp_path).callback_handler.callbacks if type(callback).__name__ == "EachStep"
    )

    def draw(step, rank=0, seed=3):
        arguments = SimpleNamespace(seed=seed, process_index=rank, device=torch.device("cpu"))
        each_step.on_step_begin(arguments, SimpleNamespace(global_step=step), None)
        return torch.rand(1).item()

    assert draw(1) == draw(1)
    assert len({draw(1), draw(2), draw(1, rank=1), draw(1, seed=4)}) == 4


STOP = EVERY_EPOCH | {"num_train_epochs": 9, "load_best_model_at_end": True}


def stopping(folder, seed=0, **options):
    callbacks = [Worsen(), EarlyStoppingCallback(2)]
    return build(
        folder,
        build_model(seed=seed),
        Noise(4),
        Noise(2, views=1),
        trainer_options={"callbacks": callbacks},
        **STOP | options,
    )


def test_training_ends_early_with_the_best_checkpoint(tmp_path):
    trainer = stopping(tmp_path)
    trainer.train()
    assert trainer.state.global_step == 3 and trainer.state.best_global_step == 1
    best = AutoModelForVideoClassification.from_pretrained(tmp_path / "checkpoint-1")
    assert_same(weights(trainer.model), weights(best))


@pytest.mark.parametrize(("step", "steps"), [(2, 3), (3, 3)])
def test_patience_is_resumed_as_well(tmp_path, step, steps):
    whole = stopping(tmp_path)
    whole.train()
    again = stopping(tmp_path, seed=9)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert again.state.global_step == steps
    assert_same(weights(again.model), weights(whole.model))


def test_patience_can_be_added_when_a_run_is_resumed(tmp_path):
    options = STOP | {"num_train_epochs": 5}
    first = build(tmp_path, None, Noise(4), Noise(2, views=1), trainer_options={"callbacks": [Worsen()]}, **options)
    first.train()
    again = stopping(tmp_path, num_train_epochs=5)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.state.global_step == 4  # two evaluations later


def test_a_checkpoint_holds_processors_and_loads_with_the_auto_classes(tmp_path):
    model = build_model()
    processors = load_processors(None, model.config)
    trainer = build(tmp_path, model, Noise(4), save_strategy="epoch", trainer_options={"processors": processors})
    trainer.train()
    checkpoint = tmp_path / "checkpoint-1"
    files = {path.name for path in checkpoint.iterdir()}
    assert files >= {"model.safetensors", "config.json", "preprocessor_config.json", "optimizer.pt"}
    assert files >= {"scheduler.pt", "rng_state.pth", "trainer_state.json", "training_args.bin"}
    loaded = AutoModelForVideoClassification.from_pretrained(checkpoint)
    assert_same(weights(loaded), weights(model))
    assert normalisation(AutoVideoProcessor.from_pretrained(checkpoint)) == normalisation(processors[0])
    assert checkpoints(tmp_path) == ["checkpoint-1"]


@pytest.mark.parametrize("broken", ["_save_rng_state", "_save_optimizer_and_scheduler", "_save"])
def test_a_crash_while_saving_leaves_no_checkpoint_and_the_earlier_one_whole(tmp_path, monkeypatch, broken):
    options = {"num_train_epochs": 2, "save_strategy": "epoch"}
    original = getattr(Trainer, broken)
    trainer = build(tmp_path, None, Noise(4), **options)

    def fail(self, *arguments, **keywords):
        if self.state.global_step == 2:
            raise OSError("disk full")
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(Trainer, broken, fail)
    with pytest.raises(OSError, match="disk full"):
        trainer.train()
    assert checkpoints(tmp_path) == ["checkpoint-1"]
    monkeypatch.undo()

    again = build(tmp_path, None, Noise(4), **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    again.save_model()
    assert checkpoints(tmp_path) == ["checkpoint-1", "checkpoint-2"]
    assert not (tmp_path / ".unfinished").exists()


def test_what_an_interrupted_run_left_is_not_mixed_into_a_checkpoint(tmp_path):
    for name in ("checkpoint-1", "model"):
        (tmp_path / ".unfinished" / name).mkdir(parents=True)
        (tmp_path / ".unfinished" / name / "pytorch_model_from_before.bin").touch()
    trainer = build(tmp_path, None, Noise(4), save_strategy="epoch")
    trainer.train()
    trainer.save_model()
    assert not list(tmp_path.rglob("*before*")) and not (tmp_path / ".unfinished").exists()


def test_a_model_that_cannot_be_saved_leaves_the_earlier_one(tmp_path, monkeypatch):
    trainer = build(tmp_path)
    trainer.save_model()
    before = (tmp_path / "model.safetensors").read_bytes()
    with torch.no_grad():
        trainer.model.classifier.bias.add_(1)

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(resumable_module, "move_files", fail)
    with pytest.raises(OSError, match="disk full"):
        trainer.save_model()
    assert (tmp_path / "model.safetensors").read_bytes() == before


def train_ever_worse(folder, **options):
    """Train with a checkpoint an epoch, the first of which is the best."""
    trainer = build(
        folder,
        None,
        Noise(4),
        Noise(2, views=1),
        trainer_options={"callbacks": [Worsen()]},
        load_best_model_at_end=True,
        **EVERY_EPOCH,
        **options,
    )
    trainer.train()


def test_the_state_names_the_best_checkpoint_where_it_is(tmp_path):
    train_ever_worse(tmp_path, num_train_epochs=3)
    best = str(tmp_path / "checkpoint-1")
    for step in (1, 2, 3):
        state = json.loads((tmp_path / f"checkpoint-{step}" / "trainer_state.json").read_text())
        assert state["best_model_checkpoint"] == best and state["best_metric"] == 1.0


def test_rotation_keeps_the_best_and_the_newest(tmp_path):
    train_ever_worse(tmp_path, num_train_epochs=5, save_total_limit=2)
    assert checkpoints(tmp_path) == ["checkpoint-1", "checkpoint-5"]


def test_only_better_checkpoints_can_be_kept(tmp_path):
    trainer = build(
        tmp_path,
        None,
        Noise(4),
        Noise(2, views=1),
        trainer_options={"callbacks": [Worsen()]},
        num_train_epochs=3,
        eval_strategy="epoch",
        save_strategy="best",
    )
    trainer.train()
    assert checkpoints(tmp_path) == ["checkpoint-1"]


def test_rotation_keeps_the_newest_ones(tmp_path):
    build(tmp_path, None, Noise(4), num_train_epochs=4, save_strategy="epoch", save_total_limit=2).train()
    assert checkpoints(tmp_path) == ["checkpoint-3", "checkpoint-4"]


def test_a_moved_run_still_finds_its_best_checkpoint(tmp_path):
    options = EVERY_EPOCH | {"load_best_model_at_end": True}
    kept = Worsen()
    first = build(
        tmp_path / "old",
        None,
        Noise(4),
        Noise(2, views=1),
        num_train_epochs=2,
        trainer_options={"callbacks": [kept]},
        **options,
    )
    first.train()
    (tmp_path / "old").rename(tmp_path / "new")
    again = build(
        tmp_path / "new",
        build_model(seed=9),
        Noise(4),
        Noise(2, views=1),
        num_train_epochs=3,
        trainer_options={"callbacks": [Worsen()]},
        **options,
    )
    again.train(resume_from_checkpoint=str(tmp_path / "new" / "checkpoint-2"))
    assert_same(weights(again.model), kept.weights[1])


@pytest.mark.parametrize("model_type", TINY)
def test_weights_come_back_whole_from_a_saved_model(tmp_path, model_type):
    saved, other = build_model(model_type), build_model(model_type, seed=9)
    with torch.no_grad():
        for parameter in saved.parameters():
            parameter.add_(torch.randn_like(parameter))
    saved.save_pretrained(tmp_path)
    load_weights(other, str(tmp_path))
    assert_same(weights(other), weights(saved))


def test_weights_of_another_model_are_refused(tmp_path):
    build_model(labels=["a", "b", "c"]).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="holds another model: .*size mismatch for classifier.weight") as caught:
        load_weights(build_model(), str(tmp_path))
    assert "\n" not in str(caught.value)


def test_weights_of_which_one_is_missing_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    build_model().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["fc_norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="it lacks fc_norm.weight"):
        load_weights(build_model(), str(tmp_path))


# Arguments


def arguments_for(tmp_path, precision="auto", **given):
    return training_arguments({"output_dir": str(tmp_path), "report_to": "none", **given}, precision)


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_a_cpu_trains_in_fp32(tmp_path, precision):
    arguments = arguments_for(tmp_path, precision, use_cpu=True)
    assert (arguments.bf16, arguments.fp16, arguments.mixed_precision) == (False, False, "no")


def test_bf16_can_be_asked_for(tmp_path):
    arguments = arguments_for(tmp_path, "bf16", use_cpu=True)
    assert arguments.bf16 and arguments.mixed_precision == "bf16"
    trainer = build(tmp_path, None, Noise(4), bf16=True)
    assert trainer.accelerator.mixed_precision == "bf16"
    assert math.isfinite(trainer.train().training_loss)


def test_what_accelerate_was_launched_with_holds_unless_a_precision_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert arguments_for(tmp_path, "auto", use_cpu=True).mixed_precision == "bf16"
    assert arguments_for(tmp_path, "fp32", use_cpu=True).mixed_precision == "no"
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "no"


@pytest.mark.parametrize(
    ("precision", "given", "message"),
    [
        ("auto", {"lr_scheduler_type": "nonsense"}, "training arguments: .*nonsense.* is not a valid"),
        ("auto", {"no_such_field": 1}, "training arguments: .*no_such_field"),
        ("auto", {"load_best_model_at_end": True, "save_strategy": "epoch"}, "training arguments: .*strategy"),
        ("auto", {"optim": "nonsense"}, "training arguments: .*nonsense"),
        ("auto", {"optim": "sgd", "optim_args": "momentum"}, "optim_args: got 'momentum'; write key=value"),
        ("auto", {"optim": "sgd", "optim_args": "momentum=-2"}, "optim: sgd, .*Invalid momentum value: -2.0"),
        ("auto", {"optim": "sgd", "optim_args": "momentun=0.9"}, "optim_args: momentun: sgd takes no such argument"),
        ("auto", {"optim_args": "momentum=0.9"}, "optim_args: momentum: adamw_torch.* takes no such argument"),
        ("auto", {"lr_scheduler_kwargs": {"a": 1}}, "lr_scheduler_type: linear, lr_scheduler_kwargs: .*'a'"),
    ],
)
def test_an_argument_that_is_refused_is_named_in_one_line(tmp_path, precision, given, message):
    with pytest.raises(InputError, match=f"^{message}") as caught:
        arguments_for(tmp_path, precision, use_cpu=True, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
@pytest.mark.parametrize(
    ("precision", "given", "message"),
    [
        ("bf16", {}, "training arguments: .*bf16"),
        ("fp16", {}, "precision: fp16 needs a GPU"),
        ("fp16", {"use_cpu": True}, "precision: fp16 needs a GPU"),
    ],
)
def test_a_machine_without_a_gpu_says_what_it_cannot_do(tmp_path, precision, given, message):
    with pytest.raises(InputError, match=f"^{message}") as caught:
        arguments_for(tmp_path, precision, **given)
    assert "\n" not in str(caught.value)


def test_a_model_without_blocks_to_compute_twice_is_refused(tmp_path):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])
    model = FrameClassifierForVideoClassification(FrameClassifierConfig(image_config=config, image_size=32))
    with pytest.raises(InputError, match="^gradient_checkpointing: True: the model has no blocks to compute twice"):
        build(tmp_path, model, gradient_checkpointing=True)


def test_a_launcher_that_asks_for_fp16_on_a_cpu_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        arguments_for(tmp_path, use_cpu=True)


def test_the_arguments_that_are_ours_are_set(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    given = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch", "use_cpu": True}
    arguments = arguments_for(tmp_path, **given)
    assert arguments.dataloader_num_workers == 3 and arguments.dataloader_pin_memory is False
    assert arguments.metric_for_best_model == "accuracy" and arguments.greater_is_better
    assert (arguments.push_to_hub, arguments.remove_unused_columns, arguments.label_names) == (
        False,
        False,
        ["labels"],
    )
    assert arguments_for(tmp_path, dataloader_num_workers=0, use_cpu=True).dataloader_num_workers == 0


def test_what_was_given_is_left_as_it_was(tmp_path):
    given = {"output_dir": str(tmp_path), "use_cpu": True}
    training_arguments(given)
    assert given == {"output_dir": str(tmp_path), "use_cpu": True}


def test_one_process_for_several_gpus_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(settings_module, "TrainingArguments", lambda **_: SimpleNamespace(n_gpu=2))
    with pytest.raises(InputError, match="one process was started for 2 GPUs"):
        arguments_for(tmp_path)
