"""Networks of pytorchvideo and torchvision, and frame models, against the libraries' own; and our small one."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorchvideo.models import csn, hub, r2plus1d, resnet, slowfast, vision_transformers, x3d
from torch import nn
from torchvision.models import get_model_weights
from torchvision.models import video as torchvision_models
from torchvision.models.video.mvit import MSBlockConfig
from torchvision.models.video.resnet import (
    BasicBlock,
    BasicStem,
    Conv2Plus1D,
    Conv3DNoTemporal,
    Conv3DSimple,
    R2Plus1dStem,
)
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
    set_seed,
)
from transformers.video_utils import load_video

from run_recipe import finetune, load_recipe, refused, words
from video_files import write_folder_dataset
from vidtune.models.configurations import ARCHITECTURES
from vidtune.models.loading import clip_settings, load_model, load_trained, read_config
from vidtune.models.processors import load_processors, normalisation
from vidtune.models.tuning import apply_tuning
from vidtune.models.zoo import slow_pathway
from vidtune.training.optimization import layer_ids

LABELS = ["a", "b", "c"]
MVIT = {
    "depth": 3,
    "patch_embed_dim": 8,
    "embed_dim_mul": [[1, 2.0]],
    "atten_head_mul": [[1, 2.0]],
    "pool_q_stride_size": [[1, 1, 2, 2]],
    "pool_kv_stride_adaptive": [1, 2, 2],
    "pool_kvq_kernel": [3, 3, 3],
}
MVIT_V2_BLOCKS = [
    MSBlockConfig(1, 8, 8, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 8, 8]),
    MSBlockConfig(2, 8, 16, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 4, 4]),
    MSBlockConfig(2, 16, 16, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 4, 4]),
]
SWIN = {"embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": [2, 2, 2]}

# Frames, size and arguments of a tiny one.
TINY = {
    "x3d_xs": (4, 32, {"width_factor": 0.5, "depth_factor": 0.5, "head_dim_out": 16}),
    "slowfast_r50": (8, 32, {"model_depth": 18, "stem_dim_outs": [16, 2]}),
    "slow_r50": (4, 32, {"stem_dim_out": 4}),
    "csn_r101": (8, 32, {"model_depth": 50, "stem_dim_out": 4}),
    "r2plus1d_r50": (4, 32, {"stem_dim_out": 4}),
    "mvit_base_16x4": (4, 32, MVIT),
    "r3d_18": (4, 32, {"layers": [1, 1, 1, 1]}),
    "mc3_18": (4, 32, {"layers": [1, 1, 1, 1]}),
    "r2plus1d_18": (4, 32, {"layers": [1, 1, 1, 1]}),
    "s3d": (16, 224, {}),
    "mvit_v2_s": (4, 32, {"depths": [1, 2], "embed_dim": 8}),
    "swin3d_t": (4, 32, SWIN),
    "motion_cnn": (4, 32, {"width": 2}),
}
OURS = {"motion_cnn"}


def library_network(name, num_classes=3):
    """The same tiny network, as its library builds it."""
    frames, size, arguments = TINY[name]
    head = {"model_num_class": num_classes, "head_activation": None}
    layers = {"layers": [1, 1, 1, 1], "num_classes": num_classes}
    builders = {
        "x3d_xs": lambda: x3d.create_x3d(input_clip_length=frames, input_crop_size=size, **head, **arguments),
        "slowfast_r50": lambda: slowfast.create_slowfast(
            head_pool_kernel_sizes=((2, 1, 1), (8, 1, 1)), **head, **arguments
        ),
        "slow_r50": lambda: resnet.create_resnet(
            stem_conv_kernel_size=(1, 7, 7), head_pool_kernel_size=(4, 1, 1), **head, **arguments
        ),
        "csn_r101": lambda: csn.create_csn(
            stem_pool=nn.MaxPool3d, head_pool_kernel_size=(1, 1, 1), **head, **arguments
        ),
        "r2plus1d_r50": lambda: r2plus1d.create_r2plus1d(head_pool_kernel_size=(1, 1, 1), **head, **arguments),
        "mvit_base_16x4": lambda: vision_transformers.create_multiscale_vision_transformers(
            spatial_size=size, temporal_size=frames, head_num_classes=num_classes, **MVIT
        ),
        "r3d_18": lambda: torchvision_models.VideoResNet(BasicBlock, [Conv3DSimple] * 4, stem=BasicStem, **layers),
        "mc3_18": lambda: torchvision_models.VideoResNet(
            BasicBlock, [Conv3DSimple, *[Conv3DNoTemporal] * 3], stem=BasicStem, **layers
        ),
        "r2plus1d_18": lambda: torchvision_models.VideoResNet(
            BasicBlock, [Conv2Plus1D] * 4, stem=R2Plus1dStem, **layers
        ),
        "s3d": lambda: torchvision_models.s3d(num_classes=num_classes),
        "mvit_v2_s": lambda: torchvision_models.MViT(
            (size, size), frames, MVIT_V2_BLOCKS, True, False, True, True, num_classes=num_classes
        ),
        "swin3d_t": lambda: torchvision_models.SwinTransformer3d([2, 4, 4], num_classes=num_classes, **SWIN),
    }
    set_seed(0)
    network = builders[name]()
    with torch.no_grad():  # away from zeros and ones, which any new network has as well
        for tensor in [*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())]:
            tensor.add_(0.01 * torch.rand_like(tensor))
    return network.eval()


def tiny_config(name, labels=LABELS, **overrides):
    frames, size, arguments = TINY[name]
    if name == "s3d":
        frames, size = 8, 32
    return read_config(None, name, {"arguments": arguments, **overrides}, labels, frames, size)


def tiny_model(name, **overrides):
    set_seed(0)
    return load_model(tiny_config(name, **overrides), None)[0]


def clips(frames, size, count=2):
    return torch.randn(count, frames, 3, size, size, generator=torch.Generator().manual_seed(1))


def clips_of(model, count=2):
    return clips(model.config.num_frames, model.config.image_size, count)


def logits(model, pixels=None):
    with torch.no_grad():
        return model.eval()(clips_of(model) if pixels is None else pixels).logits


def save_run(model, folder):
    clip_settings(model.config, None, None)
    model.save_pretrained(folder)
    for processor in load_processors(None, model.config):
        processor.save_pretrained(folder)


# The networks are the libraries'

# Millions of parameters with 400 classes: pytorchvideo's model zoo, and num_params of torchvision's weights.
PUBLISHED = {
    "x3d_xs": 3.79,
    "x3d_s": 3.79,
    "x3d_m": 3.79,
    "x3d_l": 6.15,
    "slowfast_r50": 34.57,
    "slow_r50": 32.45,
    "csn_r101": 22.21,
    "r2plus1d_r50": 28.11,
    "mvit_base_16x4": 36.61,
    "r3d_18": 33.371472,
    "mc3_18": 11.695440,
    "r2plus1d_18": 31.505325,
    "s3d": 8.320048,
    "mvit_v2_s": 34.537744,
    "swin3d_t": 28.158070,
    "swin3d_s": 49.816678,
    "swin3d_b": 88.048984,
}


def test_every_architecture_is_tested():
    assert PUBLISHED.keys() == ARCHITECTURES.keys() - OURS
    assert ARCHITECTURES.keys() - TINY.keys() == {"x3d_s", "x3d_m", "x3d_l", "swin3d_s", "swin3d_b"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_full_network_has_the_tensors_of_its_library(name):
    config = read_config(None, name, {}, [str(number) for number in range(400)])
    model, _ = load_model(config, None)
    assert model.num_parameters() / 1e6 == pytest.approx(PUBLISHED[name], abs=0.005)
    library = getattr(torchvision_models, name, None) or getattr(hub, name)
    theirs = {key: value.shape for key, value in library().state_dict().items()}
    projection = ARCHITECTURES[name].projection
    ours = {key.removeprefix("backbone."): value.shape for key, value in model.state_dict().items()}
    for part in ("weight", "bias"):
        ours[f"{projection}.{part}"] = ours.pop(f"classifier.{part}")
        theirs[f"{projection}.{part}"] = theirs[f"{projection}.{part}"][: 2 if part == "weight" else 1]
    assert ours == theirs


@pytest.mark.parametrize("name", sorted(TINY.keys() - OURS))
def test_weights_of_the_library_give_its_logits(name, tmp_path):
    network = library_network(name)
    state = network.state_dict()
    is_torchvision = ARCHITECTURES[name].projection.split(".")[0] != "blocks" and name != "mvit_base_16x4"
    torch.save(state if is_torchvision else {"model_state": state}, tmp_path / "weights.pth")
    frames, size, arguments = TINY[name]
    config = read_config(None, name, {"arguments": arguments}, LABELS, frames, size)
    model, new = load_model(config, None, weights=str(tmp_path / "weights.pth"))
    assert new == []
    pixels = clips(frames, size)
    inputs = pixels.transpose(1, 2)
    if name == "slowfast_r50":
        inputs = [inputs[:, :, [0, 7]], inputs]
    with torch.no_grad():
        expected = network(inputs)
    assert expected.std() > 0
    assert torch.allclose(logits(model, pixels), expected, rtol=1e-5, atol=1e-6)


def test_a_head_for_another_number_of_labels_starts_fresh(tmp_path):
    network = library_network("x3d_xs", num_classes=5)
    torch.save({"model_state": network.state_dict()}, tmp_path / "weights.pyth")
    set_seed(3)
    model, new = load_model(tiny_config("x3d_xs"), None, weights=str(tmp_path / "weights.pyth"))
    assert new == ["classifier.bias", "classifier.weight"]
    assert model.classifier.weight.shape == (3, 16)
    assert model.classifier.weight.std().item() == pytest.approx(0.01, rel=0.5) and not model.classifier.bias.any()
    assert torch.equal(model.backbone.blocks[0].conv.conv_t.weight, network.blocks[0].conv.conv_t.weight)


def test_weights_that_do_not_fit_are_refused_and_the_tensor_named(tmp_path):
    path = tmp_path / "weights.pyth"

    def import_into(name="x3d_xs"):
        return refused(load_model, tiny_config(name), None, weights=str(path))

    assert import_into() == f"weights: {path}: is no file; give one of pytorchvideo's or torchvision's"
    for content in (b"no weights", pickle.dumps(TINY), b"\0\0\0 ftypisom"):
        path.write_bytes(content)
        assert import_into() == (
            f"weights: {path}: can't be read: it holds more than weights, or none; give a file of pytorchvideo's or "
            "torchvision's"
        )
    for content in ({}, {"model_state": {}}, {"epoch": 3}, [1]):
        torch.save(content, path)
        assert import_into().startswith(f"weights: {path}: holds no weights by name")
    whole = library_network("x3d_xs").state_dict()
    lost = "blocks.1.res_blocks.0.branch2.conv_a.weight"
    torch.save({"model_state": {name: value for name, value in whole.items() if name != lost}}, path)
    assert import_into().startswith(f"weights: {path}: lacks backbone.{lost}; give weights of x3d_xs with the same ")
    torch.save({"model_state": whole | {"more": torch.zeros(2)}}, path)
    assert import_into().startswith(f"weights: {path}: has, which the model lacks, backbone.more; ")
    torch.save({"model_state": whole | {lost: torch.zeros(2)}}, path)
    assert import_into().startswith(f"weights: {path}: has in another shape backbone.{lost}; ")
    torch.save({"model_state": whole}, path)
    assert import_into("slow_r50").startswith(f"weights: {path}: lacks backbone.blocks.0.conv.weight; ")


def test_weights_go_with_a_new_network_of_a_library_only(tmp_path):
    videomae = read_config(None, "videomae", {}, LABELS)
    expected = "weights: w.pth: goes with config_name: one of x3d_xs, "
    assert refused(load_model, videomae, None, weights="w.pth").startswith(expected)
    assert refused(load_model, tiny_config("x3d_xs"), "folder", weights="w.pth").startswith(expected)


# Our own


def test_the_motion_cnn_is_two_convolutions_and_two_residual_blocks_over_frame_differences():
    model = load_model(read_config(None, "motion_cnn", {}, LABELS), None)[0].eval()
    assert model.num_parameters() == 858_739  # 0.86 million with 3 labels
    with torch.no_grad():
        for tensor in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
            tensor.add_(0.01 * torch.rand_like(tensor))
    state = {name.removeprefix("backbone."): tensor for name, tensor in model.state_dict().items()}

    def convolution(features, place, norm, **options):
        features = F.conv3d(features, state[f"{place}.weight"], **options)
        mean, variance = (state[f"{norm}.running_{name}"] for name in ("mean", "var"))
        return F.batch_norm(features, mean, variance, state[f"{norm}.weight"], state[f"{norm}.bias"])

    pixels = clips(6, 32)
    features = (pixels[:, 1:] - pixels[:, :-1]).transpose(1, 2)
    features = convolution(features, "stem.0", "stem.1", stride=(1, 2, 2), padding=(1, 2, 2)).relu()
    features = convolution(features, "stem.3", "stem.4", stride=(1, 2, 2), padding=1).relu()
    for block in ("blocks.0", "blocks.1"):
        branch = convolution(features, f"{block}.conv1.0", f"{block}.conv1.1", stride=2, padding=1).relu()
        branch = convolution(branch, f"{block}.conv2.0", f"{block}.conv2.1", padding=1)
        shortcut = convolution(features, f"{block}.downsample.0", f"{block}.downsample.1", stride=2)
        features = (branch + shortcut).relu()
    expected = features.mean((2, 3, 4)) @ state["classifier.weight"].T + state["classifier.bias"]
    assert torch.allclose(logits(model, pixels), expected, rtol=1e-5, atol=1e-6)


def test_the_motion_cnn_sees_motion_alone():
    model = tiny_model("motion_cnn")
    pixels = clips_of(model)
    assert torch.allclose(logits(model, pixels + 3), logits(model, pixels), atol=1e-5)
    frozen = pixels[:, :1].expand_as(pixels)
    assert torch.equal(logits(model, frozen), logits(model, torch.zeros_like(pixels)))
    assert not torch.allclose(logits(model, pixels.flip(1)), logits(model, pixels), atol=1e-5)


def test_the_layers_of_the_motion_cnn_are_its_two_blocks():
    model = tiny_model("motion_cnn")
    ids = layer_ids(model)
    places = ("stem.0", "stem.4", "blocks.0.conv1.0", "blocks.0.downsample.0", "blocks.1.conv2.1")
    assert [ids[f"backbone.{place}.weight"] for place in places] == [0, 0, 1, 1, 2]
    assert ids["classifier.weight"] == ids["classifier.bias"] == 3
    apply_tuning(model, "partial", unfreeze_layers=1)
    assert {ids[name] for name, value in model.named_parameters() if value.requires_grad} == {2, 3}


# Models of transformers


@pytest.mark.parametrize("name", TINY)
def test_a_model_is_saved_and_loaded_exactly(name, tmp_path):
    old = tiny_model(name)
    with torch.no_grad():
        for tensor in [*old.parameters(), *(b for b in old.buffers() if b.is_floating_point())]:
            tensor.add_(0.01 * torch.rand_like(tensor))
    save_run(old, tmp_path)
    new = AutoModelForVideoClassification.from_pretrained(tmp_path)
    assert type(new) is type(old) and new.config.id2label == dict(enumerate(LABELS))
    state = old.state_dict()
    assert new.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in new.state_dict().items())
    assert torch.allclose(logits(new), logits(old), rtol=1e-5) and logits(new).shape == (2, 3)
    facts = ARCHITECTURES[name]
    for auto in (AutoImageProcessor, AutoVideoProcessor):
        mean, std = normalisation(auto.from_pretrained(tmp_path))
        assert mean == pytest.approx(facts.mean) and std == pytest.approx(facts.std)
    _, clip, mean, _ = load_trained(str(tmp_path))
    assert (clip["num_frames"], clip["image_size"]) == (old.config.num_frames, old.config.image_size)
    assert mean == pytest.approx(facts.mean)


def test_shape_and_normalisation_are_the_published_ones():
    shapes = {name: (facts.num_frames, facts.image_size) for name, facts in ARCHITECTURES.items()}
    assert [shapes[f"x3d_{size}"] for size in ("xs", "s", "m", "l")] == [(4, 160), (13, 160), (16, 224), (16, 312)]
    assert [shapes[name] for name in ("slowfast_r50", "slow_r50", "csn_r101")] == [(32, 224), (8, 224), (32, 224)]
    for name in ("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v2_s", "swin3d_t", "swin3d_s", "swin3d_b"):
        transform = get_model_weights(name).DEFAULT.transforms()
        facts = ARCHITECTURES[name]
        assert (list(facts.mean), list(facts.std)) == (transform.mean, transform.std)
        assert [facts.image_size] * 2 == transform.crop_size
    config = read_config(None, "x3d_s", {}, LABELS)
    assert (config.num_frames, config.image_size, config.head_dropout) == (13, 160, 0.5)
    assert read_config(None, "x3d_s", {"head_dropout": 0}, LABELS, 8, 64).num_frames == 8


def test_a_checkpoint_of_another_number_of_labels_gets_a_fresh_head(tmp_path):
    save_run(tiny_model("mvit_v2_s"), tmp_path)
    config = read_config(str(tmp_path), None, {}, ["x", "y"])
    assert load_model(config, str(tmp_path))[1] == ["classifier.bias", "classifier.weight"]
    config = read_config(str(tmp_path), None, {}, ["x", "y", "z"])
    model, new = load_model(config, str(tmp_path))
    assert new == ["classifier.bias", "classifier.weight"] and model.classifier.weight.std() < 0.03


def test_a_new_network_starts_as_its_library_starts_it():
    set_seed(0)
    network = torchvision_models.VideoResNet(BasicBlock, [Conv3DSimple] * 4, [1, 1, 1, 1], BasicStem, num_classes=1)
    model = tiny_model("r3d_18")
    ours = dict(model.backbone.named_parameters())
    assert all(torch.equal(value, ours[name]) for name, value in network.named_parameters() if name[:2] != "fc")


def test_weights_missing_from_a_checkpoint_are_refused_and_never_left_to_chance(tmp_path):
    model = tiny_model("x3d_xs")
    save_run(model, tmp_path)
    lost = "backbone.blocks.1.res_blocks.0.branch2.conv_a.weight"
    state = {name: value for name, value in model.state_dict().items() if name != lost}
    model.save_pretrained(tmp_path, state_dict=state)
    message = refused(load_model, read_config(str(tmp_path), None, {}, LABELS), str(tmp_path))
    assert lost in message and message.endswith("choose a checkpoint of a x3d_xs model")
    again = AutoModelForVideoClassification.from_pretrained(tmp_path)
    assert 0 < again.get_parameter(lost).std() < 0.1


@pytest.mark.parametrize("name", ["x3d_xs", "swin3d_t"])
def test_the_loss_is_the_cross_entropy_or_that_of_several_labels(name):
    model = tiny_model(name).eval()
    pixels, labels = clips_of(model), torch.tensor([2, 0])
    output = model(pixels, labels=labels)
    assert output.loss.item() == pytest.approx(F.cross_entropy(output.logits, labels).item())
    model.config.problem_type = "multi_label_classification"
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    output = model(pixels, labels=labels)
    assert output.loss.item() == pytest.approx(F.binary_cross_entropy_with_logits(output.logits, labels).item())


def test_the_slow_pathway_takes_every_fourth_frame_as_pytorchvideos_tutorial_does():
    frames = torch.arange(64).view(1, 1, 64, 1, 1)
    for count in range(4, 65, 4):
        expected = torch.linspace(0, count - 1, count // 4, dtype=torch.float64).long()
        assert slow_pathway(frames[:, :, :count]).flatten().tolist() == expected.tolist()
    assert slow_pathway(frames[:, :, :32]).flatten().tolist() == [0, 4, 8, 13, 17, 22, 26, 31]


@pytest.mark.parametrize("name", TINY)
def test_gradient_checkpointing_changes_neither_gradients_nor_statistics(name):
    results = []
    for enable in (False, True):
        model = tiny_model(name, head_dropout=0.2).train()
        if enable:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        set_seed(5)
        model(clips_of(model), labels=torch.tensor([0, 2])).loss.backward()
        results.append(({name: p.grad for name, p in model.named_parameters()}, dict(model.named_buffers())))
    for plain, checkpointed in zip(*results, strict=True):
        assert all(torch.equal(value, checkpointed[name]) for name, value in plain.items())
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


def kept_for_backward(model):
    """Numbers that a training step keeps between forward and backward, besides the weights."""
    tensors = {parameter.data_ptr(): torch.empty(0) for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: tensors.setdefault(t.data_ptr(), t), lambda t: t):
        model.train()(clips_of(model))
    return sum(tensor.numel() for tensor in tensors.values())


def test_gradient_checkpointing_keeps_less():
    model = tiny_model("r3d_18")
    without = kept_for_backward(model)
    model.gradient_checkpointing_enable()
    assert kept_for_backward(model) < without / 2


@pytest.mark.parametrize("name", ["mvit_base_16x4", "mvit_v2_s", "swin3d_t", "vit"])
def test_without_batch_normalisation_two_halves_have_the_gradient_of_the_whole(name):
    none = {"head_dropout": 0.0, "drop_path_rate": 0.0}
    model = tiny_frame_model() if name == "vit" else tiny_model(name, **none)
    pixels, labels = clips_of(model.train(), 8), torch.arange(8) % 3
    gradients = []
    for size in (8, 4):
        model.zero_grad()
        for part, label in zip(pixels.split(size), labels.split(size), strict=True):
            (F.cross_entropy(model(part).logits, label, reduction="sum") / 8).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert all(torch.allclose(value, gradients[1][name], atol=1e-6) for name, value in gradients[0].items())


def test_drop_path_and_head_dropout_come_from_the_configuration():
    model = tiny_model("swin3d_t", drop_path_rate=0.4, head_dropout=0.3)
    rates = [module.p for module in model.modules() if type(module).__name__ == "StochasticDepth"]
    assert max(rates) == pytest.approx(0.4) and model.dropout.p == 0.3
    assert tiny_model("mvit_base_16x4").config.drop_path_rate == 0.2
    for name in TINY:  # no other dropout stands in the head
        model = tiny_model(name)
        assert {module.p for module in model.backbone.modules() if isinstance(module, nn.Dropout)} <= {0.0}
        assert model.dropout.p == ARCHITECTURES[name].head_dropout


@pytest.mark.parametrize(
    ("name", "overrides", "shape", "message"),
    [
        ("x3d_z", {}, (), "config_name: x3d_z: no such model type or file; did you mean x3d_"),
        ("x3d_xs", {"width": 2}, (), "config_overrides: width: unknown to x3d_xs; it has "),
        ("x3d_xs", {"arguments": {"width": 2}}, (), "config_overrides: x3d_xs: can't be loaded: create_x3d() got an"),
        ("x3d_xs", {"arguments": 3}, (), "config_overrides: arguments: got 3: Field 'arguments' with value 3"),
        ("x3d_xs", {"architecture": "s3d"}, (), "config_overrides: architecture: unknown to x3d_xs; "),
        (
            "x3d_xs",
            {"drop_path_rate": 0.1},
            (),
            "config_overrides: x3d_xs: can't be loaded: drop_path_rate: x3d",
        ),
        (
            "x3d_xs",
            {"head_dropout": 1.5},
            (),
            "config_overrides: x3d_xs: can't be loaded: head_dropout: got 1.5",
        ),
        ("x3d_xs", {}, (4, 16), "config_overrides: x3d_xs: can't be loaded: Crop size doesn't match spatial stride!"),
        (
            "motion_cnn",
            {},
            (1, 32),
            "config_overrides: motion_cnn: can't be loaded: num_frames: got 1; motion_cnn comp",
        ),
        (
            "motion_cnn",
            {"arguments": {"width": 0}},
            (),
            "config_overrides: motion_cnn: can't be loaded: width: got 0;",
        ),
        ("slowfast_r50", {}, (30, 224), "num_frames: got 30; give a multiple of 4"),
        ("mvit_v2_s", {}, (16, 222), "image_size: got 222; give a multiple of 4"),
        ("s3d", {}, (10, 224), "num_frames: got 10; give a multiple of 8"),
        ("video_zoo", {}, (), "config_name: a video_zoo model reads no clips; choose one of videomae, "),
        ("frame_classifier", {}, (), "config_name: a frame_classifier model reads no clips; choose one of videomae, "),
    ],
)
def test_an_option_that_does_not_fit_is_named(name, overrides, shape, message):
    def build():
        load_model(read_config(None, name, overrides, LABELS, *shape), None)

    assert refused(build).startswith(message)


def test_a_configuration_of_an_unknown_architecture_is_refused(tmp_path):
    tiny_config("x3d_xs").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architecture": "x3d_z"}))
    assert "architecture: x3d_z: unknown; give one of x3d_xs, " in refused(
        read_config, str(tmp_path), None, {}, LABELS
    )


PROGRAM = """
import sys
import vidtune
assert not {{"torch", "transformers"}} & set(sys.modules)
{first}
from transformers import AutoConfig
print(type(AutoConfig.from_pretrained(sys.argv[1])).__name__)
from transformers import AutoModelForVideoClassification
print(type(AutoModelForVideoClassification.from_pretrained(sys.argv[1])).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("first", ["pass", "from transformers import VideoMAEForVideoClassification"])
def test_the_auto_classes_know_the_models_once_vidtune_is_imported(first, tmp_path):
    tiny_model("x3d_xs").save_pretrained(tmp_path)
    program = [sys.executable, "-c", PROGRAM.format(first=first), str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.stdout.split() == ["ZooConfig", "ZooForVideoClassification"], done.stderr
    assert "Warning" not in done.stderr


# Frame models

VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VIT |= {"image_size": 32, "patch_size": 16}


def tiny_frame_model(**options):
    set_seed(0)
    return load_model(read_config(None, "vit", VIT, LABELS, num_frames=4, **options), None)[0]


@pytest.fixture
def image_checkpoint(tmp_path):
    """An image classifier of four labels as the Hub has them, and its processor."""
    set_seed(0)
    folder = tmp_path / "image"
    model = ViTForImageClassification(ViTConfig(**VIT, num_labels=4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.4] * 3)
    processor.save_pretrained(folder)
    return folder


def test_a_frame_model_averages_the_logits_of_the_frames():
    model = tiny_frame_model().eval()
    pixels, labels = clips_of(model), torch.tensor([2, 0])
    with torch.no_grad():
        expected = torch.stack([model.image_model(clip).logits.mean(0) for clip in pixels])
        output = model(pixels, labels=labels)
    assert output.logits.shape == (2, 3)
    assert torch.allclose(output.logits, expected, atol=1e-6)
    assert output.loss.item() == pytest.approx(F.cross_entropy(expected, labels).item(), abs=1e-6)
    assert torch.allclose(logits(model, pixels.flip(1)), expected, atol=1e-6)  # blind to order


def test_a_frame_model_is_saved_and_loaded_exactly(tmp_path):
    old = tiny_frame_model()
    save_run(old, tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).image_config.hidden_size == 16
    new, clip, _, _ = load_trained(str(tmp_path))
    assert torch.equal(logits(new), logits(old)) and (clip["num_frames"], clip["image_size"]) == (4, 32)
    model, fresh = load_model(read_config(str(tmp_path), None, {}, LABELS), str(tmp_path))
    assert fresh == [] and torch.equal(logits(model), logits(old))
    model, fresh = load_model(read_config(str(tmp_path), None, {}, ["x", "y", "z"]), str(tmp_path))
    assert fresh == ["image_model.classifier.bias", "image_model.classifier.weight"]
    assert not torch.equal(model.classifier.weight, old.classifier.weight)


def test_a_checkpoint_of_images_becomes_a_frame_model(image_checkpoint, tmp_path):
    config = read_config(str(image_checkpoint), None, {}, LABELS, num_frames=6)
    assert (config.model_type, config.num_frames, config.image_size) == ("frame_classifier", 6, 32)
    model, new = load_model(config, str(image_checkpoint))
    assert new == ["image_model.classifier.bias", "image_model.classifier.weight"]
    assert model.config.id2label == dict(enumerate(LABELS))
    image_model = ViTForImageClassification.from_pretrained(image_checkpoint)
    ours = model.image_model.vit.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in image_model.vit.state_dict().items())
    processors = load_processors(str(image_checkpoint), config)
    assert [type(processor).__name__ for processor in processors] == ["VideoMAEImageProcessor"]
    assert normalisation(processors[0]) == (pytest.approx([0.5] * 3), pytest.approx([0.4] * 3))
    model.save_pretrained(tmp_path / "run")
    processors[0].save_pretrained(tmp_path / "run")
    for auto in (AutoImageProcessor, AutoVideoProcessor):
        assert auto.from_pretrained(tmp_path / "run").image_std == pytest.approx([0.4] * 3)
    assert torch.equal(logits(load_trained(str(tmp_path / "run"))[0]), logits(model))
    labels = ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]
    assert load_model(read_config(str(image_checkpoint), None, {}, labels), str(image_checkpoint))[1] == []


def test_a_vit_reads_frames_of_another_size_with_its_positions_interpolated(image_checkpoint):
    config = read_config(str(image_checkpoint), None, {}, LABELS, image_size=48)
    model, _ = load_model(config, str(image_checkpoint))
    with torch.no_grad():
        expected = model.image_model(clips(8, 48, 1)[0], interpolate_pos_encoding=True).logits.mean(0)
    assert torch.allclose(logits(model, clips(8, 48, 1))[0], expected, atol=1e-6)
    assert load_processors(str(image_checkpoint), config)[0].crop_size["height"] == 48


def test_a_new_model_of_images_of_another_size_is_built_for_it():
    model = tiny_frame_model(image_size=48)
    assert model.image_model.vit.embeddings.position_embeddings.shape[1] == 1 + 9
    resnet = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1]}
    config = read_config(None, "resnet", resnet, LABELS)
    assert (config.num_frames, config.image_size) == (8, 224)
    config = read_config(None, "resnet", resnet, LABELS, 2, 32)
    assert logits(load_model(config, None)[0]).shape == (2, 3)


def test_an_image_checkpoint_without_a_whole_backbone_or_processor_is_refused(image_checkpoint):
    config = read_config(str(image_checkpoint), None, {}, LABELS)
    model = ViTForImageClassification.from_pretrained(image_checkpoint)
    state = {name: value for name, value in model.state_dict().items() if "layernorm.bias" not in name}
    model.save_pretrained(image_checkpoint, state_dict=state)
    assert "1 weights of the backbone are missing or of another shape, image_model.vit.layernorm.bias" in refused(
        load_model, config, str(image_checkpoint)
    )
    (image_checkpoint / "preprocessor_config.json").unlink()
    assert "has no processor" in refused(read_config, str(image_checkpoint), None, {}, LABELS)


def test_a_resnet_of_images_keeps_its_statistics(tmp_path):
    model = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1]))
    model.resnet.embedder.embedder.normalization.running_mean.fill_(0.25)
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    model, new = load_model(read_config(str(tmp_path), None, {}, LABELS), str(tmp_path))
    assert new == ["image_model.classifier.1.bias", "image_model.classifier.1.weight"]
    assert (model.image_model.resnet.embedder.embedder.normalization.running_mean == 0.25).all()


def test_a_frame_model_checkpoints_gradients_where_its_model_of_images_does():
    model = tiny_frame_model().train()
    model.gradient_checkpointing_enable()
    model(clips_of(model)).logits.sum().backward()
    assert model.is_gradient_checkpointing


# In the recipes


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_folder_dataset(tmp_path_factory.mktemp("data") / "colours", ("blue", "red"), 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x3d_xs", "slowfast_r50", "mc3_18", "motion_cnn", "vit"])
def test_a_model_trains_is_published_and_predicts(name, dataset, tmp_path, capsys):
    run = tmp_path / "run"
    frames, size, overrides = (4, 32, VIT) if name == "vit" else TINY[name]
    overrides = overrides if name == "vit" else {"arguments": overrides}
    report = finetune(
        dataset=dataset,
        output_dir=run,
        config_name=name,
        config_overrides=json.dumps(overrides),
        num_frames=frames,
        image_size=size,
        load_best_model_at_end="true",
    )
    assert report["metrics"]["test"]["videos"] == 2
    capsys.readouterr()
    video = str(next(dataset.rglob("*.mp4")))
    load_recipe("predict").main(words(model=run, input=video))
    printed = capsys.readouterr().out
    assert printed.startswith(video) and "blue" in printed and "red" in printed
    classify = pipeline("video-classification", model=str(run), device="cpu")
    frames_of_it, _ = load_video(video, num_frames=frames, backend="pyav")
    answer = classify(np.stack(frames_of_it), num_frames=frames)
    assert {item["label"] for item in answer} == {"blue", "red"}
    assert sum(item["score"] for item in answer) == pytest.approx(1)


@pytest.mark.slow
def test_an_image_checkpoint_is_fine_tuned_frame_by_frame(dataset, image_checkpoint, tmp_path):
    report = finetune(dataset=dataset, output_dir=tmp_path / "run", model_name_or_path=image_checkpoint, num_frames=4)
    assert report["model"]["newly_initialised"] == ["image_model.classifier.bias", "image_model.classifier.weight"]
    assert report["clip"]["num_frames"] == 4
