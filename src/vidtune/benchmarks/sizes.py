"""What a training step computes and keeps in memory, counted on models whose values are never computed."""

import copy
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from vidtune.models.blocks import find_blocks
from vidtune.models.loading import load_model, read_config

MODELS: dict[str, tuple[str, dict[str, int]]] = {
    "videomae_small": ("videomae", {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}),
    "videomae_base": ("videomae", {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}),
    "videomae_large": ("videomae", {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}),
    "videomae_huge": ("videomae", {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16}),
    "timesformer_base": ("timesformer", {}),
    "vivit_base": ("vivit", {}),
    "x3d_s": ("x3d_s", {}),
}
"""By config in recipes/configs/kinetics400: the architecture, and in what a model differs from its default."""


def count_sizes(name: str, num_frames: int, image_size: int, num_labels: int = 400) -> dict[str, Any]:
    """Count what a model of MODELS has, computes and keeps for the backward pass; attention is the fused one.

    Args:
        name: Of MODELS.
        num_frames: Frames of a clip.
        image_size: Height and width of a clip, pixels.
        num_labels: Labels that its head tells apart.

    Returns:
        `parameters`; `largest_block`, the parameters of one; `forward_gflop` of one clip, a multiply-add being two;
        and `clip_mb` in `fp32`, in `bf16`, and in bf16 where blocks are computed twice, `checkpointed`, whose backward
        pass holds the activations of one block besides.
    """
    config_name, overrides = MODELS[name]
    if overrides:
        overrides = overrides | {"intermediate_size": 4 * overrides["hidden_size"], "use_mean_pooling": True}
    labels = [str(number) for number in range(num_labels)]
    config = read_config(None, config_name, overrides, labels, num_frames, image_size)
    made, _ = load_model(config, None)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        with FakeCopyMode(mode):
            model = copy.deepcopy(made).train()
        shape = (num_frames, 3, image_size, image_size)
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, *shape))
        blocks = [sum(p.numel() for p in block.parameters()) for block in find_blocks(made).values()]
        kept = {"fp32": _clip_mb(model, shape, torch.float32), "bf16": _clip_mb(model, shape, torch.bfloat16)}
        if model.supports_gradient_checkpointing:
            model.gradient_checkpointing_enable()
            kept["checkpointed"] = _clip_mb(model, shape, torch.bfloat16)
    return {
        "parameters": sum(parameter.numel() for parameter in made.parameters()),
        "largest_block": max(blocks, default=0),
        "forward_gflop": counter.get_total_flops() / 1e9,
        "clip_mb": kept,
    }


def _clip_mb(model: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> float:
    """What two clips make autograd keep more than one does, so without weights that are cast once a step."""
    one, two = (_kept_bytes(model, torch.zeros(count, *shape), dtype) for count in (1, 2))
    return (two - one) / 1e6


def _kept_bytes(model: nn.Module, clips: torch.Tensor, dtype: torch.dtype) -> int:
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype, enabled=dtype != torch.float32),
    ):
        output = model(clips)
    del output  # whose graph kept what is counted
    return sum(storage.nbytes() for storage in kept.values())
