"""Optimisation as published recipes have it: learning rates by layer and by batch, weight decay, steps."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from vidtune.errors import InputError
from vidtune.models.blocks import find_blocks

TABLES = re.compile(r"pos(ition)?(al)?_|time_embed|rel(ative)?_pos|(cls|class|mask)_token|query_token|attention_query")
"""Names of parameters that stand for positions or for tokens of their own: they take no weight decay."""


def scaled_learning_rate(base_learning_rate: float, total_batch: int) -> float:
    """Scale a learning rate that is given for 256 videos a step.

    Source: Accurate, Large Minibatch SGD, Goyal et al. 2017; the scripts of VideoMAE.

    Args:
        base_learning_rate: For a batch of 256.
        total_batch: Videos of a step over all processes and accumulated batches; repeated clips don't count.
    """
    return base_learning_rate * total_batch / 256


def layer_ids(model: nn.Module) -> dict[str, int]:
    """Number the layers: embeddings 0, block i at i + 1, final norm and head last.

    What stands between two blocks belongs to the one before; the parallel pathways of SlowFast count together.
    Source: `get_num_layer_for_vit` in optim_factory.py of MCG-NJU/VideoMAE.

    Args:
        model: A model of AutoModelForVideoClassification.

    Returns:
        A number for the name of each parameter.

    Raises:
        InputError: If the model has no blocks that are known.
    """
    blocks = list(dict.fromkeys(_depth(name) for name in find_blocks(model)))
    if not blocks:
        raise InputError(f"layer_decay: a {type(model).__name__} has no blocks that are known; leave it out")
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    ids, current = {}, 0
    for name, _ in model.named_parameters():
        block = next((index for index, block in enumerate(blocks) if _depth(name).startswith(f"{block}.")), None)
        if block is not None:
            current = block + 1
        is_final_norm = re.fullmatch(r"(layer)?norm\d*\.\w+", name.removeprefix(prefix)) is not None
        after_last = block is None and current == len(blocks)
        in_head = not name.startswith(prefix) or is_final_norm or after_last
        ids[name] = len(blocks) + 1 if in_head else current
    return ids


def _depth(name: str) -> str:
    return re.sub(r"multipathway_blocks\.\d+\.", "", f"{name}.").rstrip(".")


def takes_weight_decay(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay pulls a parameter to 0: not biases, norms, and tables of positions and tokens."""
    return parameter.ndim > 1 and not name.endswith("bias") and not TABLES.search(name)


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Divide the trainable parameters of a model for its optimiser.

    Source: `get_parameter_groups` in optim_factory.py of MCG-NJU/VideoMAE.

    Args:
        model: A model of AutoModelForVideoClassification, or what wraps one where `layer_decay` is 1.
        learning_rate: Of the head.
        weight_decay: Of the parameters that take any.
        layer_decay: Learning rate of each layer over that of the next one, in (0, 1].

    Returns:
        Groups with `params`, their `names`, `lr` and `weight_decay`, the highest learning rate first.

    Raises:
        InputError: If `layer_decay` is below 1 and the model has no blocks that are known.
    """
    ids: Mapping[str, int] = layer_ids(model) if layer_decay < 1 else {}
    last = max(ids.values(), default=0)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        distance, decays = last - ids.get(name, last), takes_weight_decay(name, parameter)
        new = {"lr": learning_rate * layer_decay**distance, "weight_decay": weight_decay if decays else 0.0}
        group = groups.setdefault((distance, not decays), {"params": [], "names": [], **new})
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def stepped(step: int, num_warmup_steps: int, falls: Sequence[int]) -> float:
    """Give the learning rate of a step over the highest: linear warm-up from 0, then a tenth less at each fall.

    Source: `steps_with_relative_lrs` of TimeSformer.

    Args:
        step: Number of steps that have been taken.
        num_warmup_steps: Steps of the warm-up.
        falls: Steps at which the rate falls, ascending.
    """
    if step < num_warmup_steps:
        return step / num_warmup_steps
    return float(0.1 ** sum(step >= fall for fall in falls))
