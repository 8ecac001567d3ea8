"""What is trained and what stays: bit by bit, against counts typed by hand and plain loops."""

import copy

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForVideoClassification, MobileViTConfig, ViTConfig, set_seed

from test_loading import SIZES, TINY
from test_trainer import assert_same, build_model, few_objects_to_collect, weights  # noqa: F401
from test_zoo import TINY as ZOO
from vidtune.errors import InputError
from vidtune.models.attentive_probe import AttentiveProbeForVideoClassification, probe_groups
from vidtune.models.configurations import FrameClassifierConfig, ZooConfig
from vidtune.models.loading import load_model, read_config
from vidtune.models.tuning import (
    adapter_base,
    apply_tuning,
    head_modules,
    load_adapter,
    merged_model,
    with_adapter,
)

ZOO_TYPES = ["x3d_xs", "slowfast_r50", "mvit_base_16x4", "mvit_v2_s", "swin3d_t", "r3d_18", "motion_cnn"]


def build_zoo(architecture, seed=0):
    frames, size, arguments = ZOO[architecture]
    config = ZooConfig(
        architecture=architecture, num_frames=frames, image_size=size, arguments=arguments, num_labels=2
    )
    set_seed(seed)
    return AutoModelForVideoClassification.from_config(config)


def build_frames():
    config = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32)
    set_seed(0)
    config = FrameClassifierConfig(image_config=config, num_frames=4, image_size=32)
    return AutoModelForVideoClassification.from_config(config)


def build_any(name):
    if name == "frames":
        return build_frames()
    return build_zoo(name) if name in ZOO else build_model(name)


def clips(name, batch=4):
    frames, size = ZOO[name][:2] if name in ZOO else (4, SIZES.get(name, 32))
    return torch.rand(batch, frames, 3, size, size, generator=torch.Generator().manual_seed(1))


def scores(model, name):
    with torch.no_grad():
        return model.eval()(**{model.main_input_name: clips(name)}).logits.flatten(1)


def steps(model, name, count=2, rate=0.1):
    """Train with plain SGD."""
    optimiser = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], rate)
    model.train()
    for _ in range(count):
        out = model(**{model.main_input_name: clips(name)}).logits.flatten(1)
        F.cross_entropy(out, torch.tensor([0, 1, 0, 1])).backward()
        optimiser.step()
        optimiser.zero_grad()
    return model


def trainable(model):
    return {name for name, value in model.named_parameters() if value.requires_grad}


EVERY = [*TINY, *ZOO_TYPES, "frames"]
LORA = [*TINY, "mvit_base_16x4", "mvit_v2_s", "swin3d_t", "frames"]
OPTIONS = {"partial": {"unfreeze_layers": 1}, "lora": {"lora_dropout": 0.0}}


@pytest.mark.parametrize("tuning", ["linear_probe", "partial"])
@pytest.mark.parametrize("name", EVERY)
def test_training_changes_what_is_trained_and_not_a_bit_of_the_rest(name, tuning):
    model = apply_tuning(build_any(name), tuning, **OPTIONS.get(tuning, {}))
    before, trained = weights(model), trainable(model)
    assert trained and len(trained) < len(before)
    after = weights(steps(model, name))
    for key, value in before.items():
        changed = not torch.equal(value, after[key])
        if key not in trained and key in dict(model.named_parameters()):
            assert not changed, key
    # statistics of batch normalisation in what is frozen, too
    frozen = {key.rpartition(".")[0] for key, value in model.named_parameters() if not value.requires_grad}
    for key, _ in model.named_buffers():
        if key.rpartition(".")[0] in frozen:
            assert torch.equal(before[key], after.get(key, before[key])), key
    assert {key for key in trained if not torch.equal(before[key], after[key])} >= {
        key for key in trained if key.endswith("classifier.weight")
    }


@pytest.mark.parametrize("name", TINY)
def test_a_linear_probe_trains_the_classifier_alone(name):
    model = apply_tuning(build_model(name), "linear_probe")
    assert trainable(model) == {"classifier.weight", "classifier.bias"}
    assert model.num_parameters(only_trainable=True) == 2 * 16 + 2


@pytest.mark.parametrize(
    ("name", "count", "blocks", "rest"),
    [
        # A block: 4 square matrices of attention, an MLP of 16 to 32 to 16, two norms; VideoMAE's keys have no bias,
        # TimeSformer's has attention over time, its norm and its projection besides. The head: 16 x 2 + 2.
        ("videomae", 1, 1, ["fc_norm", "classifier"]),
        ("videomae", 2, 2, ["fc_norm", "classifier"]),
        ("timesformer", 1, 1, ["timesformer.layernorm", "classifier"]),
        ("vivit", 1, 1, ["vivit.layernorm", "classifier"]),
    ],
)
def test_partial_trains_head_final_norm_and_the_last_blocks(name, count, blocks, rest):
    model = apply_tuning(build_model(name), "partial", unfreeze_layers=count)
    last = {"videomae": "videomae.encoder.layer", "timesformer": "timesformer.encoder.layer", "vivit": "vivit.layers"}
    places = [f"{last[name]}.{2 - number}." for number in range(1, blocks + 1)] + [f"{place}." for place in rest]
    expected = {key for key, _ in model.named_parameters() if key.startswith(tuple(places))}
    assert trainable(model) == expected
    square, wide = 16 * 16 + 16, 16 * 32 + 32 + 32 * 16 + 16
    block = {
        "videomae": 4 * square - 16 + wide + 2 * 32,
        "timesformer": (16 * 48 + 48 + square) * 2 + square + wide + 3 * 32,
        "vivit": 4 * square + wide + 2 * 32,
    }[name]
    assert model.num_parameters(only_trainable=True) == blocks * block + 32 + 34


@pytest.mark.parametrize("count", [0, 3, 12])
def test_partial_takes_no_more_blocks_than_there_are(count):
    with pytest.raises(InputError, match=f"^unfreeze_layers: got {count}; the model has 2 blocks; give 1 to 2$"):
        apply_tuning(build_model(), "partial", unfreeze_layers=count)


def test_frozen_parts_stay_in_evaluation_mode_in_a_copy_as_well():
    model = apply_tuning(build_zoo("r3d_18"), "partial", unfreeze_layers=1)
    twin = copy.deepcopy(model)
    model.eval()
    twin.train()
    assert not model.backbone.stem.training and not twin.backbone.stem[1].training
    assert twin.backbone.layer4[0].conv1.training and not model.backbone.layer4[0].conv1.training
    assert twin.dropout.training


def test_a_frozen_backbone_drops_nothing():
    model = build_model()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    features = []
    model.classifier.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    apply_tuning(model, "linear_probe").train()
    for _ in range(2):
        model(clips("videomae"))
    assert torch.equal(*features)


def test_full_trains_everything_but_what_no_label_depends_on():
    model = apply_tuning(build_model("vjepa2"), "full")
    assert {key for key, _ in model.named_parameters()} - trainable(model) == {
        key for key, _ in model.named_parameters() if key.startswith("vjepa2.predictor.")
    }


@pytest.mark.parametrize("name", ["timesformer", "vivit", "r3d_18"])
def test_a_linear_probe_is_logistic_regression_on_fixed_features(name):
    model = apply_tuning(build_any(name), "linear_probe")
    features = []
    hook = model.classifier.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].detach()))
    scores(model, name)
    hook.remove()
    weight, bias = (value.detach().double().clone() for value in (model.classifier.weight, model.classifier.bias))
    x, truth = features[0].double(), torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]], dtype=torch.float64)
    if hasattr(model, "dropout"):
        model.dropout.p = 0.0
    steps(model, name, count=5)
    for _ in range(5):
        error = (torch.softmax(x @ weight.T + bias, 1) - truth) / 4  # the gradient, by hand
        weight, bias = weight - 0.1 * error.T @ x, bias - 0.1 * error.sum(0)
    assert torch.allclose(model.classifier.weight.double(), weight, atol=1e-5)
    assert torch.allclose(model.classifier.bias.double(), bias, atol=1e-5)


def test_a_linear_probe_over_a_pooler_of_noise_is_refused():
    model = build_model("vjepa2")
    new = [key for key, _ in model.named_parameters() if key.startswith(("pooler", "classifier"))]
    with pytest.raises(InputError, match="^tuning: linear_probe: pooler.query_tokens .* use attentive_probe$"):
        apply_tuning(model, "linear_probe", new=new)


# LoRA


@pytest.mark.parametrize("name", LORA)
def test_lora_trains_the_head_and_small_matrices_and_merges_to_the_same(name, tmp_path):
    plain = build_any(name)
    untouched, before = weights(plain), scores(plain, name)
    heads = head_modules(plain)
    model = apply_tuning(plain, "lora", lora_dropout=0.0, lora_rank=4)
    assert torch.allclose(scores(model, name), before, atol=1e-6)  # the second matrix starts at 0
    trained = trainable(model)
    assert any("lora_B" in key for key in trained)
    assert all("lora_" in key or "modules_to_save" in key for key in trained)
    start = {key: value.detach().clone() for key, value in model.named_parameters()}
    steps(model, name, count=3, rate=0.5)
    for key, value in model.named_parameters():
        if key not in trained or "lora_A" not in key:  # whose gradients are as small as what B has become
            assert torch.equal(start[key], value) is (key not in trained), key
    merged = merged_model(model)
    assert type(merged).__name__ == type(plain).__name__
    assert weights(merged).keys() == untouched.keys()
    assert torch.allclose(scores(merged, name), scores(model, name), atol=1e-5)
    assert not torch.allclose(scores(merged, name), before, atol=1e-3)
    changed = {key for key, value in weights(merged).items() if not torch.equal(value, untouched[key])}
    assert any(not key.startswith(tuple(heads)) for key in changed)
    model.save_pretrained(tmp_path)
    again = with_adapter(build_any(name), str(tmp_path))
    assert_same(weights(again), weights(merged))
    merged.save_pretrained(tmp_path / "plain")
    loaded = AutoModelForVideoClassification.from_pretrained(tmp_path / "plain")
    assert torch.equal(scores(loaded, name), scores(merged, name))


def test_lora_goes_over_an_attentive_probe_that_was_trained(tmp_path):
    probe = apply_tuning(build_model(), "attentive_probe", probe_blocks=1)
    model = steps(apply_tuning(copy.deepcopy(probe), "lora", lora_dropout=0.0), "videomae")
    trained = trainable(model)
    assert any("lora_B" in key for key in trained) and any("probes.0" in key for key in trained)
    merged = merged_model(model)
    assert torch.allclose(scores(merged, "videomae"), scores(model, "videomae"), atol=1e-5)
    model.save_pretrained(tmp_path)
    assert_same(weights(with_adapter(probe, str(tmp_path))), weights(merged))


def test_an_adapter_continues_where_it_was_saved(tmp_path):
    model = steps(apply_tuning(build_model(), "lora", base_model="some/base", revision="v1"), "videomae")
    model.save_pretrained(tmp_path)
    assert adapter_base(str(tmp_path)) == ("some/base", "v1") and adapter_base(str(tmp_path.parent)) is None
    other = apply_tuning(build_model(seed=0), "lora")
    load_adapter(other, str(tmp_path))
    assert_same(weights(other), weights(model))
    for options in ({"lora_rank": 2}, {"lora_targets": ["key"]}):
        with pytest.raises(
            InputError, match="^resume_from_checkpoint: .* holds another adapter: .*differs; set lora_"
        ):
            load_adapter(apply_tuning(build_model(), "lora", **options), str(tmp_path))
    with pytest.raises(InputError, match="^model: .*its adapter doesn't fit its base model"):
        with_adapter(build_model(labels=("a", "b", "c")), str(tmp_path))


@pytest.mark.parametrize(
    ("name", "targets", "expected"),
    [
        ("videomae", ["qkv"], "lora_targets: qkv is no linear layer of the backbone; it has dense, key, "),
        ("videomae", ["query", "values"], "lora_targets: values is no linear layer of the backbone; it has "),
        (
            "vjepa2",
            ["fc3"],
            "lora_targets: fc3 is no linear layer of the backbone; it has fc1, fc2, key, proj, query, value",
        ),
        ("swin3d_t", ["qkv"], "lora_targets: qkv is no linear layer of the backbone; it has "),
        ("x3d_xs", None, "tuning: lora: the backbone has no linear layers to adapt; use partial or linear_probe"),
    ],
)
def test_targets_that_match_nothing_are_refused_with_a_list_of_what_there_is(name, targets, expected):
    with pytest.raises(InputError) as caught:
        apply_tuning(build_any(name), "lora", lora_targets=targets)
    assert str(caught.value).startswith(expected)


def test_with_lora_frozen_batch_statistics_stay_and_dropout_acts():
    config = MobileViTConfig(
        hidden_sizes=[8, 8, 8], neck_hidden_sizes=[4, 4, 4, 4, 4, 4, 8], num_attention_heads=2, image_size=32
    )
    set_seed(0)
    config = FrameClassifierConfig(image_config=config, num_frames=4, image_size=32)
    model = AutoModelForVideoClassification.from_config(config)
    for tuned, moves in ((apply_tuning(copy.deepcopy(model), "lora", lora_dropout=0.0), False), (model, True)):
        before = weights(tuned)
        steps(tuned, "frames")
        changed = {key for key, value in weights(tuned).items() if not torch.equal(before[key], value)}
        assert any("running" in key for key in changed) is moves
    model = apply_tuning(model, "lora", lora_dropout=0.0)
    model.train()
    assert all(module.training for module in model.modules() if isinstance(module, torch.nn.Dropout))
    assert not any(module.training for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))


def test_every_target_of_lora_has_a_gradient():
    for name in LORA:
        model = steps(apply_tuning(build_any(name), "lora", lora_dropout=0.0), name, count=1)
        zero = [key for key, value in model.named_parameters() if "lora_B" in key and not value.any()]
        assert not zero, (name, zero)


# Attentive probe

RATES, DECAYS = [0.1, 0.01], [0.0, 0.5]


def train_probe(name, rates, decays, count=3):
    set_seed(7)
    model = apply_tuning(
        build_model(name), "attentive_probe", num_probes=len(rates) * len(decays), probe_blocks=2, probe_heads=4
    )
    calls = []
    model.backbone.register_forward_hook(lambda *_: calls.append(1))
    optimiser = torch.optim.AdamW(probe_groups(model, rates, decays))
    model.train()
    for _ in range(count):
        out = model(**{model.main_input_name: clips(name)}).logits
        out = out if out.ndim == 3 else out[:, None]
        truth = torch.tensor([0, 1, 0, 1])
        sum(F.cross_entropy(out[:, head], truth) for head in range(out.shape[1])).backward()
        optimiser.step()
        optimiser.zero_grad()
    assert len(calls) == count
    return model


@pytest.mark.parametrize("name", TINY)
def test_a_grid_of_four_probes_is_four_runs_and_the_best_is_kept(name, tmp_path):
    backbone = {key: value for key, value in weights(build_model(name)).items() if key.startswith(name[:5])}
    grid = train_probe(name, RATES, DECAYS)
    assert all(torch.equal(weights(grid.backbone)[key.partition(".")[2]], backbone[key]) for key in backbone)
    before = scores(grid, name).unflatten(1, (4, 2))
    pairs = [(rate, decay) for rate in RATES for decay in DECAYS]
    for index, (rate, decay) in enumerate(pairs):
        alone = train_probe(name, [rate], [decay])
        assert_same(weights(grid.probes[index]), weights(alone.probes[0]), tolerance=1e-5)
        assert torch.allclose(scores(alone, name), before[:, index], atol=1e-5)
    assert len({round(float(value), 4) for value in before[0, :, 0]}) == 4
    grid.best_probe.fill_(2)
    grid.save_pretrained(tmp_path / "grid")  # a checkpoint knows all of them, and which was best
    again = AutoModelForVideoClassification.from_pretrained(tmp_path / "grid")
    assert int(again.best_probe) == 2
    assert_same(weights(again), weights(grid))
    again.keep_best()
    assert torch.equal(scores(again, name), before[:, 2])
    again.save_pretrained(tmp_path / "best")
    config = AutoConfig.from_pretrained(tmp_path / "best")
    assert (config.model_type, config.num_probes, config.num_frames) == ("attentive_probe", 1, 4)
    loaded, new = load_model(read_config(str(tmp_path / "best"), None, {}, ["a", "b"]), str(tmp_path / "best"))
    assert not new and type(loaded) is AttentiveProbeForVideoClassification
    assert torch.equal(scores(loaded, name), before[:, 2])


def test_a_probe_has_the_weights_that_its_shape_says():
    model = apply_tuning(build_model(), "attentive_probe", num_probes=3, probe_blocks=1)
    square, mlp = 16 * 16 + 16, 16 * 64 + 64 + 64 * 16 + 16
    one = 16 + 3 * square + mlp + 2 * 32 + (16 * 2 + 2)  # query, attention without projection, MLP, norms, classifier
    assert model.num_parameters(only_trainable=True) == 3 * one
    assert all(key.startswith("probes.") for key in trainable(model))


def test_groups_of_probes_have_their_rates_and_spare_what_takes_no_decay():
    model = apply_tuning(build_model(), "attentive_probe", num_probes=4)
    groups = probe_groups(model, RATES, DECAYS)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [
        *((0.1, 0.0), (0.1, 0.0), (0.1, 0.5), (0.1, 0.0)),
        *((0.01, 0.0), (0.01, 0.0), (0.01, 0.5), (0.01, 0.0)),
    ]
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(trainable(model))
    assert "probes.1.pooler.query_tokens" in groups[3]["names"]
    assert "probes.1.classifier.weight" in groups[2]["names"]


def test_probes_of_what_gives_no_tokens_or_of_odd_heads_are_refused():
    with pytest.raises(InputError, match="^tuning: attentive_probe: the backbone of x3d_xs gives no tokens"):
        apply_tuning(build_zoo("x3d_xs"), "attentive_probe")
    with pytest.raises(InputError, match="^probe_heads: got 3; give a divisor of 16"):
        apply_tuning(build_model(), "attentive_probe", probe_heads=3)
