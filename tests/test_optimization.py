"""Layers, groups of parameters and schedules, against VideoMAE's numbers and a few lines of its own formulas."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForVideoClassification, VideoMAEConfig, VideoMAEForVideoClassification

from test_loading import SIZES, TINY
from test_trainer import Noise, build, build_model, few_objects_to_collect, one_environment, weights  # noqa: F401
from vidtune.errors import InputError
from vidtune.models.blocks import find_blocks
from vidtune.models.configurations import ZooConfig
from vidtune.training.optimization import (
    layer_ids,
    parameter_groups,
    scaled_learning_rate,
    stepped,
    takes_weight_decay,
)
from vidtune.training.settings import training_arguments

BLOCK = {
    "videomae": "videomae.encoder.layer.{}.attention.output.dense.weight",
    "timesformer": "timesformer.encoder.layer.{}.temporal_attention.attention.qkv.bias",
    "vivit": "vivit.layers.{}.mlp.fc2.weight",
    "vjepa2": "vjepa2.encoder.layer.{}.norm1.weight",
    "videoprism_vision_model": None,
}
EMBEDDINGS = ("patch_embeddings", "position_embeddings", "time_embeddings", "cls_token")


def base_model():
    """VideoMAE-B for Kinetics-400, without memory."""
    with torch.device("meta"):
        return VideoMAEForVideoClassification(VideoMAEConfig(num_labels=400))


def zoo(architecture, **arguments):
    with torch.device("meta"):
        return AutoModelForVideoClassification.from_config(ZooConfig(architecture=architecture, arguments=arguments))


# Layers


def test_the_layers_of_videomae_are_those_of_its_authors():
    ids = layer_ids(base_model())
    # What get_num_layer_for_vit gives for patch_embed, blocks.0, blocks.5, blocks.11, fc_norm and head, of 14 layers.
    assert ids["videomae.embeddings.patch_embeddings.projection.weight"] == 0
    for block, number in ((0, 1), (5, 6), (11, 12)):
        assert ids[f"videomae.encoder.layer.{block}.attention.attention.query.bias"] == number
        assert ids[f"videomae.encoder.layer.{block}.layernorm_after.weight"] == number
    assert {ids[name] for name in ("fc_norm.weight", "fc_norm.bias", "classifier.weight", "classifier.bias")} == {13}


@pytest.mark.parametrize("model_type", TINY)
def test_every_architecture_has_embeddings_first_and_norm_and_head_last(model_type):
    model = build_model(model_type)
    ids = layer_ids(model)
    assert ids.keys() == dict(model.named_parameters()).keys()
    assert max(ids.values()) == 3 and len(find_blocks(model)) == 2
    for name, number in ids.items():
        if any(word in name for word in EMBEDDINGS):
            assert number == 0, name
        if name.startswith(("classifier", "fc_norm", "pooler", "head")) or "layernorm1." in name:
            assert number == (3 if "encoder.layer" not in name else number), name
    if BLOCK[model_type]:
        assert [ids[BLOCK[model_type].format(block)] for block in (0, 1)] == [1, 2]


def test_spatial_layers_come_before_temporal_ones():
    ids = layer_ids(build_model("videoprism_vision_model"))
    assert ids["vision_model.spatial_layers.0.mlp.fc1.weight"] == 1
    assert ids["vision_model.temporal_layers.0.mlp.fc1.weight"] == 2


@pytest.mark.parametrize(
    ("architecture", "arguments", "expected"),
    [
        ("x3d_xs", {}, {"blocks.0.norm": 0, "blocks.1.res_blocks.0": 1, "blocks.4.res_blocks.6": 26, "blocks.5": 27}),
        ("r3d_18", {}, {"stem.0": 0, "layer1.0": 1, "layer4.1": 8}),
        ("motion_cnn", {}, {"stem.0": 0, "stem.4": 0, "blocks.0": 1, "blocks.1": 2}),
        ("swin3d_t", {}, {"patch_embed.norm": 0, "features.0.0": 1, "features.1.norm": 2, "norm": 13}),
        (
            "slowfast_r50",
            {},
            {
                "blocks.0": 0,
                "blocks.1.multipathway_blocks.0.res_blocks.2": 3,
                "blocks.1.multipathway_blocks.1.res_blocks.2": 3,
                "blocks.1.multipathway_fusion": 3,
                "blocks.4.multipathway_blocks.1.res_blocks.2": 16,
            },
        ),
    ],
)
def test_layers_of_networks_of_other_libraries(architecture, arguments, expected):
    ids = layer_ids(zoo(architecture, **arguments))
    for place, number in expected.items():
        found = {value for name, value in ids.items() if name.startswith(f"backbone.{place}.")}
        assert found == {number}, place
    assert ids["classifier.weight"] == max(ids.values())


def test_a_model_without_known_blocks_is_refused():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="^layer_decay: a Sequential has no blocks that are known; leave it out$"):
        parameter_groups(model, 1.0, 0.0, layer_decay=0.5)
    assert len(parameter_groups(model, 1.0, 0.1)) == 2


# Groups


def test_learning_rates_fall_from_the_head_to_the_embeddings():
    groups = parameter_groups(base_model(), learning_rate=1e-3, weight_decay=0.05, layer_decay=0.75)
    rates = {name: group["lr"] for group in groups for name in group["names"]}
    assert rates["classifier.weight"] == pytest.approx(1e-3)
    assert rates["videomae.encoder.layer.11.output.dense.weight"] == pytest.approx(1e-3 * 0.75)
    assert rates["videomae.encoder.layer.0.output.dense.weight"] == pytest.approx(1e-3 * 0.75**12)
    assert rates["videomae.embeddings.patch_embeddings.projection.bias"] == pytest.approx(1e-3 * 0.75**13)
    assert len(groups) == 28  # 14 layers, with weight decay and without
    assert [group["lr"] for group in groups] == sorted((group["lr"] for group in groups), reverse=True)


@pytest.mark.parametrize("model_type", TINY)
def test_every_trainable_parameter_is_in_one_group(model_type):
    model = build_model(model_type)
    model.classifier.bias.requires_grad = False
    for decay in (1.0, 0.5):
        groups = parameter_groups(model, 1e-3, 0.05, decay)
        found = [id(parameter) for group in groups for parameter in group["params"]]
        wanted = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
        assert len(found) == len(set(found)) and set(found) == set(wanted)


@pytest.mark.parametrize("model_type", TINY)
def test_no_weight_decay_on_biases_norms_and_tables(model_type):
    groups = parameter_groups(build_model(model_type), 1e-3, 0.05)
    decayed, spared = (
        {name for g in groups if g["weight_decay"] == value for name in g["names"]} for value in (0.05, 0.0)
    )
    assert all(name.endswith("weight") and "norm" not in name for name in decayed)
    assert any("embeddings.position_embeddings" in name for name in spared) == (
        model_type not in ("videomae", "vjepa2")
    )
    assert any("cls_token" in name for name in spared) == (model_type in ("timesformer", "vivit"))
    assert not any("dense.weight" in name or "fc1.weight" in name for name in spared)


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("mvit_base_16x4", "backbone.cls_positional_encoding.pos_embed_spatial"),
        ("mvit_v2_s", "backbone.blocks.0.attn.rel_pos_h"),
        ("swin3d_t", "backbone.features.0.0.attn.relative_position_bias_table"),
    ],
)
def test_no_weight_decay_on_tables_of_other_libraries(architecture, name):
    parameters = dict(zoo(architecture).named_parameters())
    assert parameters[name].ndim > 1 and not takes_weight_decay(name, parameters[name])
    assert takes_weight_decay("classifier.weight", parameters["classifier.weight"])


# One step of the trainer


@pytest.mark.parametrize("model_type", TINY)
def test_a_step_with_layer_decay_is_that_of_the_same_gradient_scaled(tmp_path, model_type):
    model = build_model(model_type)
    before, ids = weights(model), layer_ids(model)
    train = Noise(4, SIZES[model_type])
    plain = build(tmp_path, build_model(model_type), train, optim="sgd")
    plain.train()
    decayed = build(tmp_path, model, train, optim="sgd", trainer_options={"layer_decay": 0.5})
    decayed.train()
    after = {name: dict(trainer.model.named_parameters()) for name, trainer in (("one", plain), ("two", decayed))}
    for name, number in ids.items():
        step, scaled = (after[key][name].detach() - before[name] for key in ("one", "two"))
        assert torch.allclose(scaled, step * 0.5 ** (3 - number), rtol=1e-3, atol=1e-7), name


def test_adamw_pulls_by_the_weight_decay_of_each_group(tmp_path):
    """Without a gradient, AdamW multiplies by 1 - lr * decay."""
    model = build_model()
    with torch.no_grad():
        model.classifier.bias.fill_(1.0)
    before = weights(model)
    trainer = build(tmp_path, model, Noise(4, failed=range(4)), weight_decay=0.5, trainer_options={"on_error": "skip"})
    trainer.train()
    assert torch.allclose(model.classifier.weight, before["classifier.weight"] * (1 - 1e-2 * 0.5))
    assert torch.equal(model.classifier.bias, before["classifier.bias"])
    assert torch.equal(model.fc_norm.weight, before["fc_norm.weight"])


def test_sgd_takes_its_momentum_from_the_arguments(tmp_path):
    trainer = build(tmp_path, None, Noise(4), optim="sgd", optim_args="momentum=0.9")
    optimiser = trainer.create_optimizer()
    assert isinstance(optimiser, torch.optim.SGD)
    assert {group["momentum"] for group in optimiser.param_groups} == {0.9}
    assert trainer.create_optimizer() is optimiser and len(optimiser.param_groups) == 2


def test_optimisers_that_group_by_themselves_are_refused(tmp_path):
    with pytest.raises(InputError, match="^optim: lomo groups the parameters by itself; choose another$"):
        training_arguments({"output_dir": str(tmp_path), "use_cpu": True, "optim": "lomo"})


@pytest.mark.filterwarnings("error::FutureWarning")
def test_gradient_checkpointing_is_asked_for_without_a_warning(tmp_path):
    given = {"output_dir": str(tmp_path), "use_cpu": True}
    assert training_arguments(given | {"gradient_checkpointing": True}).gradient_checkpointing


# Learning rates


def test_the_learning_rate_is_scaled_by_the_videos_of_a_step(tmp_path):
    # ViT-L on Kinetics-400 with a total batch of 128: 2e-3 * 128 / 256.
    assert scaled_learning_rate(2e-3, 128) == pytest.approx(1e-3)
    given = {"output_dir": str(tmp_path), "use_cpu": True, "per_device_train_batch_size": 8}
    given |= {"gradient_accumulation_steps": 4, "lr_scheduler_type": "cosine"}
    arguments = training_arguments(given, base_learning_rate=1e-3, min_learning_rate=1e-6)
    assert arguments.learning_rate == pytest.approx(1e-3 * 32 / 256)
    assert arguments.lr_scheduler_kwargs["min_lr_rate"] == pytest.approx(1e-3)
    plain = training_arguments(given | {"learning_rate": 0.1}, min_learning_rate=0.02)
    assert plain.lr_scheduler_kwargs["min_lr_rate"] == pytest.approx(0.2)
    assert training_arguments(given, min_learning_rate=0.0).lr_scheduler_type == "cosine"


def rates_of(trainer, steps):
    """The learning rates, by group, with which each step would be taken."""
    optimiser = trainer.create_optimizer()
    schedule = trainer.create_scheduler(steps)
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimiser.param_groups])
        optimiser.step()
        schedule.step()
    return np.array(rates)


def test_cosine_warms_up_from_0_and_ends_at_the_least_rate_in_each_layer(tmp_path):
    trainer = build(tmp_path, None, Noise(4), trainer_options={"layer_decay": 0.5})
    given = {"output_dir": str(tmp_path), "use_cpu": True, "learning_rate": 0.1, "warmup_steps": 5}
    trainer.args = training_arguments(given | {"lr_scheduler_type": "cosine"}, min_learning_rate=0.01)
    rates = rates_of(trainer, 25)
    ramp = [0.1 * step / 5 for step in range(5)]
    fall = [0.01 + (0.1 - 0.01) * 0.5 * (1 + math.cos(math.pi * step / 20)) for step in range(20)]
    assert rates[:, 0] == pytest.approx([*ramp, *fall])
    assert rates[:, -1] == pytest.approx(rates[:, 0] / 8)  # of the embeddings, three layers below the head
    assert rates[0].max() == 0 and rates[:, 0].max() == pytest.approx(0.1)


def test_the_learning_rate_falls_at_given_epochs(tmp_path):
    assert [stepped(step, 2, [4, 6]) for step in range(8)] == pytest.approx([0, 0.5, 1, 1, 0.1, 0.1, 0.01, 0.01])
    options = {"num_train_epochs": 15, "learning_rate": 0.005}
    trainer = build(tmp_path, None, Noise(4), trainer_options={"learning_rate_steps": [11, 14]}, **options)
    rates = rates_of(trainer, 30)[:, 0]  # two steps an epoch
    assert rates == pytest.approx([0.005] * 22 + [0.0005] * 6 + [0.00005] * 2)


def test_the_log_shows_the_rate_of_the_head(tmp_path):
    options = {"logging_strategy": "steps", "logging_steps": 1, "learning_rate": 0.02}
    trainer = build(tmp_path, None, Noise(4), trainer_options={"layer_decay": 0.5}, **options)
    trainer.train()
    assert trainer.state.log_history[0]["learning_rate"] == pytest.approx(0.02)
