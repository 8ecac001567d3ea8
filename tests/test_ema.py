"""The average of the weights: its formula, and what a run evaluates, saves and resumes with it."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForVideoClassification, TrainerCallback

from test_trainer import (  # noqa: F401
    EVERY_EPOCH,
    Noise,
    Worsen,
    assert_same,
    build,
    build_model,
    few_objects_to_collect,
    one_environment,
    weights,
)
from vidtune.errors import InputError
from vidtune.models.regularisation import set_drop_path, set_head_dropout
from vidtune.training.ema import LIVE_WEIGHTS, WeightAverage
from vidtune.training.mixing import Mixing

EMA = {"ema_decay": 0.8}


class Follow(TrainerCallback):
    """Computes the average on its own, step by step, and keeps the live weights of each step."""

    def __init__(self, model, decay=0.8):
        self.average, self.decay, self.live = weights(model), decay, {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.live[state.global_step] = weights(model)
        for name, value in weights(model).items():
            self.average[name] = self.decay * self.average[name] + (1 - self.decay) * value


def small_model():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_the_average_by_hand():
    model = small_model()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    average = WeightAverage(model, 0.9)
    for value in (2.0, 5.0):
        with torch.no_grad():
            model[0].weight.fill_(value)
            model[1].running_mean.fill_(value)
        average.update(model)
    assert torch.allclose(average.weights["0.weight"], torch.tensor((1.0 * 0.9 + 2.0 * 0.1) * 0.9 + 5.0 * 0.1))
    assert torch.allclose(average.weights["1.running_mean"], torch.tensor(2.0 * 0.1 * 0.9 + 5.0 * 0.1))
    assert "1.num_batches_tracked" not in average.weights


def test_what_is_not_trained_is_not_averaged():
    model = small_model()
    model[0].weight.requires_grad = False
    assert "0.weight" not in WeightAverage(model, 0.9).weights


def test_swapping_twice_changes_not_a_bit():
    model = small_model()
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        model[0].weight.normal_()
    live, averaged = weights(model), {name: value.clone() for name, value in average.weights.items()}
    with average.in_place(model):
        assert torch.equal(model[0].weight, averaged["0.weight"])
        assert torch.equal(average.weights["0.weight"], live["0.weight"])
    assert_same(weights(model), live)
    assert_same(average.weights, averaged)


def test_an_error_puts_the_weights_back():
    model = small_model()
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        model[0].weight.normal_()
    live = weights(model)
    with pytest.raises(OSError, match="disk full"), average.in_place(model):
        raise OSError("disk full")
    assert_same(weights(model), live)


# In a run


def test_the_average_is_evaluated_and_saved_and_training_goes_on_without_it(tmp_path):
    model = build_model()
    follow = Follow(model)
    train, evaluate = Noise(8), Noise(6, views=1)
    options = EVERY_EPOCH | {"num_train_epochs": 2}
    trainer = build(tmp_path / "run", model, train, evaluate, trainer_options=EMA | {"callbacks": [follow]}, **options)
    trainer.train()
    assert_same(weights(model), follow.average, tolerance=1e-6)
    trainer.save_model()
    assert_same(weights(AutoModelForVideoClassification.from_pretrained(tmp_path / "run")), weights(model))

    plain_model = build_model()
    plain = build(tmp_path / "plain", plain_model, train, evaluate, **options)
    plain.train()
    assert_same(weights(plain_model), follow.live[4])  # the steps are those of a run without an average

    logged = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    again = build(tmp_path / "again", model, None, evaluate)
    assert again.evaluate()["eval_loss"] == logged[-1]
    output = trainer.predict(evaluate)
    assert np.array_equal(output.predictions, again.predict(evaluate).predictions)


def test_a_checkpoint_is_the_average_with_the_live_weights_beside(tmp_path):
    model = build_model()
    follow = Follow(model)
    trainer = build(tmp_path, model, Noise(8), save_strategy="epoch", trainer_options=EMA | {"callbacks": [follow]})
    trainer.train()
    checkpoint = tmp_path / "checkpoint-2"
    saved = AutoModelForVideoClassification.from_pretrained(checkpoint)
    assert_same(weights(saved), follow.average, tolerance=1e-6)
    assert_same(load_file(checkpoint / LIVE_WEIGHTS), follow.live[2])


def test_the_best_average_comes_back(tmp_path):
    model = build_model()
    options = EVERY_EPOCH | {"num_train_epochs": 3, "load_best_model_at_end": True}
    trainer = build(
        tmp_path, model, Noise(4), Noise(2, views=1), trainer_options=EMA | {"callbacks": [Worsen()]}, **options
    )
    trainer.train()
    assert trainer.state.best_global_step == 1
    best = AutoModelForVideoClassification.from_pretrained(tmp_path / "checkpoint-1")
    assert_same(weights(model), weights(best))


def test_validation_chooses_the_best_average(tmp_path):
    """A score that is logged is that of the checkpoint's model."""
    evaluate = Noise(6, views=1)
    trainer = build(tmp_path, None, Noise(8), evaluate, trainer_options=EMA, num_train_epochs=2, **EVERY_EPOCH)
    trainer.train()
    for step in (2, 4):
        folder = tmp_path / f"checkpoint-{step}"
        model = AutoModelForVideoClassification.from_pretrained(folder)
        state = json.loads((folder / "trainer_state.json").read_text())
        logged = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
        assert build(tmp_path / "other", model, None, evaluate).evaluate()["eval_loss"] == logged[-1]


def run_with_everything(folder, seed, accumulation=2, resume=None):
    """EMA, mixup and cutmix, accumulation, layer decay, drop path and dropout, at once."""
    model = build_model(seed=seed)
    set_drop_path(model, 0.3)
    set_head_dropout(model, 0.3)
    trainer = build(
        folder,
        model,
        Noise(20),
        Noise(2, views=1),
        trainer_options=EMA
        | {"mixing": Mixing(0.8, 1.0), "layer_decay": 0.7, "label_weights": [1.5, 0.5], "focal_gamma": 1.0},
        gradient_accumulation_steps=accumulation,
        lr_scheduler_type="cosine",
        warmup_steps=2,
        label_smoothing_factor=0.1,
        max_grad_norm=1.0,
        num_train_epochs=3,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
    )
    trainer.train(resume_from_checkpoint=resume and str(resume))
    return trainer


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_run_with_everything_is_resumed_to_the_bit(tmp_path, accumulation):
    whole = run_with_everything(tmp_path / "whole", 0, accumulation)
    last = whole.state.global_step
    for step in (2, 4):
        checkpoint = tmp_path / "whole" / f"checkpoint-{step}"
        again = run_with_everything(tmp_path / f"again-{step}", 9, accumulation, checkpoint)
        assert_same(weights(again.model), weights(whole.model))
        files = [tmp_path / name / f"checkpoint-{last}" / LIVE_WEIGHTS for name in ("whole", f"again-{step}")]
        assert files[0].read_bytes() == files[1].read_bytes()
        losses = [
            [entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry] for run in (whole, again)
        ]
        assert losses[0] == losses[1]


def test_a_run_without_an_average_does_not_go_on_with_one(tmp_path):
    options = {"save_strategy": "epoch", "num_train_epochs": 2}
    build(tmp_path / "plain", None, Noise(4), **options).train()
    checkpoint = str(tmp_path / "plain" / "checkpoint-1")
    with pytest.raises(InputError, match=r"^ema_decay: 0.8: .*checkpoint-1: is one of a run without ema_decay; leave"):
        build(tmp_path / "a", None, Noise(4), trainer_options=EMA, **options).train(resume_from_checkpoint=checkpoint)


def test_a_run_with_an_average_does_not_go_on_without(tmp_path):
    options = {"save_strategy": "epoch", "num_train_epochs": 2}
    build(tmp_path / "averaged", None, Noise(4), trainer_options=EMA, **options).train()
    checkpoint = str(tmp_path / "averaged" / "checkpoint-1")
    with pytest.raises(InputError, match=r"^resume_from_checkpoint: .*checkpoint-1: its run has ema_decay; set it"):
        build(tmp_path / "b", None, Noise(4), **options).train(resume_from_checkpoint=checkpoint)
