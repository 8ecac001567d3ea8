"""What training can do with each architecture: VideoMAE, TimeSformer, ViViT, V-JEPA 2 and VideoPrism, tiny."""

import gc
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from run_recipe import finetune, load_recipe, words
from test_loading import SIZES, TINY
from test_trainer import MEAN, STD, Noise, assert_same, build, build_model, weights
from video_files import write_folder_dataset
from vidtune.models.loading import load_trained

LABELS = ["a", "b", "c"]


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


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_folder_dataset(tmp_path_factory.mktemp("data") / "colours", ("blue", "red"), 4)


def one_step(folder, model_type, failed=(), **options):
    """Take one step over 8 videos with a learning rate of 1: the gradients, which are what the weights lost."""
    model = build_model(model_type, LABELS)
    before = weights(model)
    trainer = build(
        folder,
        model,
        Noise(8, SIZES[model_type], failed=failed, num_labels=3),
        labels=LABELS,
        trainer_options={"on_error": "skip"},
        **{"per_device_train_batch_size": 8, "optim": "sgd", "learning_rate": 1.0, "weight_decay": 0.0} | options,
    )
    trainer.train()
    assert trainer.state.global_step == 1
    return {name: before[name] - value for name, value in weights(trainer.model).items()}, trainer


def gradients_by_hand(model_type, failed=(), label_smoothing=0.0):
    """The gradients of the mean loss over the videos that count, without a Trainer."""
    model = build_model(model_type, LABELS).train()
    rows = [row for row in range(8) if row not in failed]
    items = [Noise(8, SIZES[model_type], num_labels=3)[0, row] for row in rows]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    clips = torch.stack([(item["pixel_values"] / 255 - mean) / std for item in items])
    logits = model(**{model.main_input_name: clips}).logits.flatten(1)
    F.cross_entropy(
        logits, torch.tensor([item["labels"] for item in items]), label_smoothing=label_smoothing
    ).backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
    }


def similarity(first, second):
    """Cosine between two sets of gradients."""
    first, second = (torch.cat([values[name].flatten() for name in sorted(values)]) for values in (first, second))
    return F.cosine_similarity(first, second, dim=0).item()


# Steps


@pytest.mark.parametrize("failed", [(), (1, 2, 3, 6)], ids=["whole", "failed"])
@pytest.mark.parametrize("model_type", TINY)
def test_a_step_of_8_and_of_4_times_2_have_the_gradient_of_a_plain_loop(tmp_path, model_type, failed):
    expected = gradients_by_hand(model_type, failed, label_smoothing=0.1)
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-2
    for batch, accumulation in ((8, 1), (2, 4)):
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        gradients, trainer = one_step(tmp_path, model_type, failed, label_smoothing_factor=0.1, **options)
        assert trainer.failed_rows == set(failed)
        assert_same({name: gradients[name] for name in expected}, expected, tolerance=1e-5)


@pytest.mark.parametrize("model_type", TINY)
def test_gradient_checkpointing_computes_twice_and_changes_no_gradient(tmp_path, model_type, monkeypatch):
    calls = []
    forward = torch.nn.Linear.forward
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: calls.append(self) or forward(self, x))
    plain, _ = one_step(tmp_path, model_type)
    once, calls[:] = len(calls), []
    again, _ = one_step(tmp_path, model_type, gradient_checkpointing=True)
    assert len(calls) > 1.5 * once
    assert_same(again, plain, tolerance=1e-6)


@pytest.mark.parametrize("model_type", TINY)
def test_bf16_gives_nearly_the_same_gradients_and_leaves_the_weights_in_fp32(tmp_path, model_type):
    plain, _ = one_step(tmp_path, model_type)
    half, trainer = one_step(tmp_path, model_type, bf16=True)
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert similarity(half, plain) > 0.99 and not torch.equal(half["classifier.weight"], plain["classifier.weight"])
    output = trainer.predict(Noise(3, SIZES[model_type], views=2))
    assert output.predictions.dtype == np.float32 and output.predictions.shape == (3, 2, len(LABELS))


@pytest.mark.slow
@pytest.mark.parametrize("model_type", TINY)
def test_a_compiled_model_trains_scores_and_is_saved_as_the_plain_one(tmp_path, model_type):
    # TorchDynamo's part; what its own compiler makes of the graph takes minutes on a CPU
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, _ = one_step(tmp_path, model_type)
    compiled, trainer = one_step(tmp_path, model_type, torch_compile=True, torch_compile_backend="eager")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
    assert_same(compiled, plain, tolerance=1e-6)
    evaluation = Noise(3, SIZES[model_type], views=2)
    scores = trainer.predict(evaluation).predictions
    trainer.save_model()
    saved, info = type(trainer.model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert_same(weights(saved), weights(trainer.model))
    again = build(tmp_path / "again", saved, labels=LABELS).predict(evaluation).predictions
    assert np.allclose(scores, again, atol=1e-5)


@pytest.mark.parametrize("model_type", sorted(TINY.keys() - {"videomae", "vivit"}))  # those are in test_trainer
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path, model_type):
    size = SIZES[model_type]
    options = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "linear"}
    whole = build(tmp_path, build_model(model_type), Noise(10, size), **options)
    whole.train()
    again = build(tmp_path / "again", build_model(model_type, seed=9), Noise(10, size), **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert again.state.global_step == 6
    assert_same(weights(again.model), weights(whole.model))


# The recipe


@pytest.mark.parametrize("model_type", TINY)
def test_the_recipe_trains_scores_with_views_and_leaves_what_predicts(dataset, tmp_path, model_type, capsys):
    report = finetune(
        dataset=dataset,
        output_dir=tmp_path / "run",
        config_name=model_type,
        config_overrides=json.dumps(TINY[model_type]),
        load_best_model_at_end="true",
        num_train_epochs=1,
        gradient_accumulation_steps=2,
        per_device_train_batch_size=2,
        temporal_views=2,
        spatial_crops=3,
    )
    assert report["model"]["type"] == model_type
    assert np.isfinite([entry["loss"] for entry in report["history"] if "loss" in entry]).all()
    assert report["metrics"]["validation"]["videos"] == report["metrics"]["test"]["videos"] == 1
    model, clip, *_ = load_trained(str(tmp_path / "run"))
    assert clip["num_frames"] == 4 and clip["image_size"] == SIZES[model_type]
    assert list(model.config.label2id) == ["blue", "red"]
    capsys.readouterr()
    load_recipe("predict").main(words(model=tmp_path / "run", input=dataset / "blue"))
    assert capsys.readouterr().out.count(".mp4") == 4
