"""Drop path, dropout before the head and small heads, against the formulas written out."""

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth
from transformers import AutoModelForVideoClassification, set_seed

from test_loading import SIZES, TINY
from test_trainer import build_model, weights
from vidtune.errors import InputError
from vidtune.models.blocks import find_blocks
from vidtune.models.configurations import ZooConfig
from vidtune.models.regularisation import drop_path_rates, scale_head, set_drop_path, set_head_dropout

BRANCHES = {  # what each of the two branches of a block adds, before anything is dropped
    "videomae": (
        lambda block, x: block.attention(block.layernorm_before(x)),
        lambda block, x: block.output.dense(block.intermediate(block.layernorm_after(x))),
    ),
    "vivit": (
        lambda block, x: block.attention(block.layernorm_before(x))[0],
        lambda block, x: block.mlp(block.layernorm_after(x)),
    ),
    "vjepa2": (
        lambda block, x: block.attention(block.norm1(x))[0],
        lambda block, x: block.mlp(block.norm2(x)),
    ),
}


def clips(model_type, count=2):
    size = SIZES[model_type]
    return torch.rand(count, 4, 3, size, size, generator=torch.Generator().manual_seed(0))


def logits(model, model_type, count=2):
    with torch.no_grad():
        return model(**{model.main_input_name: clips(model_type, count)}).logits


def dropped(model):
    return [module.p for module in model.modules() if isinstance(module, StochasticDepth)]


# Drop path


def test_rates_rise_linearly():
    assert drop_path_rates(0.2, 5) == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])
    assert drop_path_rates(0.1, 12)[6] == pytest.approx(0.6 / 11)
    assert drop_path_rates(0.3, 1) == [0.0]


@pytest.mark.parametrize("model_type", BRANCHES)
def test_each_clip_skips_each_branch_on_its_own(model_type):
    """A block gives x, with or without attention / keep, and that, with or without MLP / keep."""
    model = build_model(model_type)
    block = list(find_blocks(model).values())[-1]
    first, second = BRANCHES[model_type]
    x = torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(1))
    expected = []
    with torch.no_grad():
        for kept_first in (0, 1):
            y = x + kept_first * first(block, x) / 0.75
            expected += [y + kept_second * second(block, y) / 0.75 for kept_second in (0, 1)]
    set_drop_path(model, 0.25)
    block.train()
    set_seed(0)
    with torch.no_grad():
        found = block(x.expand(400, -1, -1))
    found = found[0] if isinstance(found, tuple) else found
    distances = torch.stack([(found - one).abs().amax((1, 2)) for one in expected])
    assert distances.min(0).values.max() < 1e-5
    counts = torch.bincount(distances.argmin(0), minlength=4) / 400
    assert counts.tolist() == pytest.approx([1 / 16, 3 / 16, 3 / 16, 9 / 16], abs=0.08)


@pytest.mark.parametrize("model_type", TINY)
def test_drop_path_acts_in_training_only_and_leaves_the_weights(model_type, tmp_path):
    model = build_model(model_type).eval()
    plain, before = logits(model, model_type, 8), weights(model)
    set_drop_path(model, 0.5)
    assert torch.equal(logits(model, model_type, 8), plain)
    assert weights(model).keys() == before.keys()
    branches = 2 if model_type == "videomae" else 1  # modules; elsewhere one module ends both branches
    assert dropped(model) == pytest.approx([0.0] * branches + [0.5] * branches)
    model.train()
    set_seed(0)
    assert not torch.allclose(logits(model, model_type, 8), plain)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForVideoClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(loaded, model_type, 8), plain)


def test_drop_path_replaces_that_of_a_configuration():
    model = build_model("vjepa2")
    set_drop_path(model, 0.4)
    set_drop_path(model, 0.2)
    assert dropped(model) == pytest.approx([0.0, 0.2])


@pytest.mark.parametrize("architecture", ["mvit_base_16x4", "mvit_v2_s", "swin3d_t"])
def test_drop_path_of_networks_of_other_libraries(architecture):
    with torch.device("meta"):
        model = AutoModelForVideoClassification.from_config(ZooConfig(architecture=architecture))
    set_drop_path(model, 0.3)
    rates = dropped(model)
    assert rates == pytest.approx(drop_path_rates(0.3, len(rates))) and len(rates) == len(find_blocks(model))


@pytest.mark.parametrize("architecture", ["x3d_xs", "r3d_18"])
def test_networks_without_branches_to_skip_are_refused(architecture):
    with torch.device("meta"):
        model = AutoModelForVideoClassification.from_config(ZooConfig(architecture=architecture))
    with pytest.raises(
        InputError, match=f"^drop_path: 0.3: {architecture} has no residual branches .*; leave it out$"
    ):
        set_drop_path(model, 0.3)


# Head


@pytest.mark.parametrize("model_type", TINY)
def test_dropout_before_the_head(model_type):
    """Of features that are dropped, the head gives its bias; of the others, twice what they give."""
    model = build_model(model_type)
    with torch.no_grad():
        model.classifier.weight.fill_(0)
        model.classifier.weight[:, 0] = 1
        model.classifier.bias.fill_(3)
    features = []
    model.classifier.register_forward_pre_hook(lambda head, inputs: features.append(inputs[0]))
    model.eval()
    plain = logits(model, model_type, 64).flatten(1)
    set_head_dropout(model, 0.5)
    assert torch.equal(logits(model, model_type, 64).flatten(1), plain)
    for module in model.modules():  # the head alone is in training
        module.training = module is model.classifier
    set_seed(0)
    found = logits(model, model_type, 64).flatten(1)[:, 0]
    is_dropped = torch.isclose(found, torch.tensor(3.0))
    assert 0.25 < is_dropped.float().mean() < 0.75
    assert torch.allclose(found[~is_dropped] - 3, 2 * (plain[:, 0] - 3)[~is_dropped], atol=1e-5)


def test_dropout_that_a_model_has_before_its_head_is_set():
    model = AutoModelForVideoClassification.from_config(
        ZooConfig(architecture="r3d_18", arguments={"layers": [1, 1, 1, 1]}, num_frames=4, image_size=32)
    )
    set_head_dropout(model, 0.7)
    assert model.dropout.p == 0.7 and not model.classifier._forward_pre_hooks


@pytest.mark.parametrize("model_type", TINY)
def test_the_head_starts_at_a_scale(model_type):
    model = build_model(model_type)
    with torch.no_grad():
        model.classifier.bias.fill_(2)
    before = weights(model)
    scale_head(model, 0.001)
    after = weights(model)
    for name, value in before.items():
        assert torch.equal(after[name], value * 0.001 if name.startswith("classifier.") else value), name


@pytest.mark.parametrize("change", [scale_head, set_head_dropout])
def test_a_model_without_a_known_head_is_refused(change):
    with pytest.raises(InputError, match="the head of Linear is not known; leave it out"):
        change(nn.Linear(2, 2), 0.5)
