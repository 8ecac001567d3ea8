"""Regularisation inside of a model: drop path, dropout before the head, and a head that starts small.

Nothing here has weights, so a model is saved and loaded as if it were not there.
"""

import torch
from torch import nn
from torchvision.ops import StochasticDepth

from vidtune.errors import InputError
from vidtune.models.blocks import find_blocks

RESIDUAL_ENDS = (("drop_path",), ("stochastic_depth",), ("attention.output.dropout", "output.dropout"), ("dropout",))
"""What the residual branches of a block pass last, before they are added; the first that a block has."""


def drop_path_rates(rate: float, num_blocks: int) -> list[float]:
    """Rates that rise linearly from 0 in the first block to `rate` in the last one.

    Source: Deep Networks with Stochastic Depth, Huang et al. 2016, section 4; timm and VideoMAE do the same.
    """
    return torch.linspace(0, rate, num_blocks, dtype=torch.float64).tolist()


def set_drop_path(model: nn.Module, rate: float) -> None:
    """Let clips skip residual branches in training, each branch of each block on its own; the others are scaled up.

    Args:
        model: A model of AutoModelForVideoClassification; changed in place.
        rate: Share of the clips that skip a branch of the last block, in [0, 1).

    Raises:
        InputError: If the blocks of the model have no branches that are known.
    """
    blocks = find_blocks(model)
    for block, own_rate in zip(blocks.values(), drop_path_rates(rate, len(blocks)), strict=True):
        names = {name for name, _ in block.named_modules()}
        ends = next((ends for ends in RESIDUAL_ENDS if names.issuperset(ends)), ())
        for name in ends:
            end = block.get_submodule(name)
            kept = end if isinstance(end, nn.Dropout) else nn.Identity()
            block.set_submodule(name, nn.Sequential(kept, StochasticDepth(own_rate, "row")).train(block.training))
        if not ends:
            blocks = {}
    if not blocks:
        raise InputError(
            f"drop_path: {rate}: {_name(model)} has no residual branches that can be skipped; leave it out"
        )


def set_head_dropout(model: nn.Module, rate: float) -> None:
    """Drop inputs of the head in training.

    Args:
        model: A model of AutoModelForVideoClassification; changed in place.
        rate: Share of the features, in [0, 1).

    Raises:
        InputError: If the model has no head that is known.
    """
    own = getattr(model, "dropout", None)
    if isinstance(own, nn.Dropout):
        own.p = rate
        return
    dropout = nn.Dropout(rate)

    def drop(head: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (dropout.train(head.training)(inputs[0]), *inputs[1:])

    _head(model, "head_dropout").register_forward_pre_hook(drop)


def scale_head(model: nn.Module, scale: float) -> None:
    """Multiply the weights of a new head, so that the first predictions are nearly even.

    Source: `init_scale` of VideoMAE's fine-tuning.

    Args:
        model: A model of AutoModelForVideoClassification; changed in place.
        scale: Factor, > 0.

    Raises:
        InputError: If the model has no head that is known.
    """
    with torch.no_grad():
        for parameter in _head(model, "head_init_scale").parameters():
            parameter.mul_(scale)


def _head(model: nn.Module, field: str) -> nn.Module:
    head = getattr(model, "classifier", None)
    if not isinstance(head, nn.Module):
        raise InputError(f"{field}: the head of {_name(model)} is not known; leave it out")
    return head


def _name(model: nn.Module) -> str:
    config = getattr(model, "config", None)
    return str(getattr(config, "architecture", None) or getattr(config, "model_type", type(model).__name__))
