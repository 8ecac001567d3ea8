"""What is trained of a model: all of it, its last blocks, a head over the frozen rest, or small matrices beside it."""

import copy
import json
import re
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from vidtune.errors import InputError, first_line
from vidtune.models.attentive_probe import attentive_probe
from vidtune.models.blocks import find_blocks
from vidtune.training.optimization import layer_ids

warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # it is peft that asks

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""Files by which a folder is known to hold what LoRA trained."""

LORA_TARGETS = (("query", "value"), ("q_proj", "v_proj"), ("q", "v"), ("mlp.0", "mlp.3"), ("qkv",))
"""Layers that get matrices, the first of these that a model has: of queries and values, as LoRA's paper has it; where
one layer makes queries, keys and values, that one; and Video Swin's MLP, whose attention reads the weights itself."""

UNSEEN = re.compile(r"ShiftedWindowAttention|MultiheadAttention$")
"""Classes that read the weights of the layers inside them, instead of calling them: matrices would have no effect."""


def apply_tuning(
    model: PreTrainedModel,
    tuning: str,
    *,
    new: Sequence[str] = (),
    unfreeze_layers: int | None = None,
    lora_rank: int = 8,
    lora_alpha: float = 16.0,
    lora_dropout: float = 0.05,
    lora_targets: Sequence[str] | None = None,
    base_model: str | None = None,
    revision: str | None = None,
    num_probes: int = 1,
    probe_blocks: int = 4,
    probe_heads: int | None = None,
) -> Any:
    """Freeze what is not to be trained, and add what is to be trained instead.

    What is frozen as a whole stays in evaluation mode when the model is set to train, so that dropout, drop path and
    batch normalisation in it do what they will do when the model is used. With LoRA, gradients pass through all of
    the network, so that dropout and drop path act as ever; only batch normalisation keeps its statistics, which an
    adapter doesn't hold.

    Args:
        model: A model of AutoModelForVideoClassification; changed in place.
        tuning: `full`; `partial`: head, final norm and the last blocks; `lora`: head and matrices beside some layers;
            `linear_probe`: the classifier; `attentive_probe`: heads that pool with attention in the place of its own.
        new: Names of the parameters that start from random numbers.
        unfreeze_layers: partial: number of blocks to train, >= 1.
        lora_rank: Rank of the matrices, >= 1.
        lora_alpha: Scale of the matrices, times the rank.
        lora_dropout: Share of their input that is dropped, in [0, 1).
        lora_targets: Ends of the names of the layers that get matrices; None: as LORA_TARGETS.
        base_model: lora: the checkpoint that the adapter belongs to.
        revision: lora: its branch, tag or commit.
        num_probes: attentive_probe: probes that are trained beside each other, from the same weights, >= 1.
        probe_blocks: attentive_probe: attention blocks of each.
        probe_heads: attentive_probe: attention heads of a block; None: as many as the backbone's.

    Returns:
        The model; with lora a `peft.PeftModel` around it, with attentive_probe an
        `AttentiveProbeForVideoClassification` of its backbone.

    Raises:
        InputError: If the model has no such blocks or layers, or a part that would stay frozen is random.
    """
    pooler = next((name for name in new if ".pooler." in name), None)  # of a model of texts
    if pooler and tuning in ("lora", "linear_probe"):
        raise InputError(f"tuning: {tuning}: {pooler} of the checkpoint is missing, and would stay random; use full")
    if tuning == "lora":
        return _with_lora(
            model, base_model, revision, lora_targets, r=lora_rank, lora_alpha=lora_alpha, lora_dropout=lora_dropout
        )
    if tuning == "attentive_probe":
        model = attentive_probe(model, num_probes, probe_blocks, probe_heads)
        trained = {name for name, _ in model.named_parameters() if name.startswith("probes.")}
    elif tuning == "linear_probe":
        trained = _classifier_parameters(model, new)
    elif tuning == "partial":
        trained = _last_parameters(model, unfreeze_layers or 0)
    else:
        trained = {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        # No prediction of a label uses V-JEPA 2's predictor: without gradients, it would stop DDP.
        parameter.requires_grad = name in trained and ".predictor." not in name
    if tuning != "full":
        for module in _frozen_modules(model):
            _keep_in_evaluation(module)
    return model


def head_modules(model: PreTrainedModel) -> list[str]:
    """Name the modules with weights that stand outside of a model's backbone: classifier, its norm, a pooler."""
    prefix = _backbone(model)
    parent = model.get_submodule(prefix.rpartition(".")[0])
    path = f"{prefix.rpartition('.')[0]}.".lstrip(".")
    return [
        f"{path}{name}.0" if isinstance(module, nn.ModuleList) else path + name  # the one attentive probe
        for name, module in parent.named_children()
        if path + name != prefix and next(module.parameters(), None) is not None
    ]


def adapter_base(folder: str) -> tuple[str, str | None] | None:
    """Tell which checkpoint, and which revision of it, an adapter belongs to; None if a folder holds none.

    Raises:
        InputError: If the record of the adapter is damaged.
    """
    path = Path(folder) / ADAPTER_CONFIG
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        base, revision = values["base_model_name_or_path"], values.get("revision")
    except (OSError, ValueError, KeyError, TypeError):
        base = None
    if not isinstance(base, str):
        raise InputError(f"model: {path}: names no base model of an adapter; copy the file anew")
    return base, revision


def with_adapter(model: PreTrainedModel, folder: str) -> PreTrainedModel:
    """Add an adapter to the weights of its base model.

    Args:
        model: The base model, with a head for the adapter's labels; changed in place.
        folder: What a run with lora saved.

    Returns:
        The plain model.

    Raises:
        InputError: If it is an adapter of another model.
    """
    from peft import PeftModel

    try:
        merged: PreTrainedModel = PeftModel.from_pretrained(model, folder).merge_and_unload()
    except Exception as error:  # whatever peft and torch raise
        raise InputError(f"model: {folder}: its adapter doesn't fit its base model: {first_line(error)}") from None
    return merged


def load_adapter(model: Any, folder: str) -> None:
    """Load the adapter of a checkpoint into a model with matrices of the same shapes, all of it.

    Raises:
        InputError: If the checkpoint is one of another model, or of other layers.
    """
    from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    weights, own = load_peft_weights(folder, device="cpu"), get_peft_model_state_dict(model)
    wrong = [name for name in sorted(own.keys() | weights.keys()) if name not in own or name not in weights] or [
        name for name in own if own[name].shape != weights[name].shape
    ]
    if wrong:
        raise InputError(
            f"resume_from_checkpoint: {folder}: holds another adapter: {wrong[0]} differs; set lora_* as there"
        )
    set_peft_model_state_dict(model, weights)


def merged_model(model: Any) -> PreTrainedModel:
    """Make a plain model of one with LoRA's matrices: a copy with the matrices added to the weights."""
    merged: PreTrainedModel = copy.deepcopy(model).merge_and_unload()
    return merged


def _backbone(model: PreTrainedModel) -> str:
    prefix: str = model.base_model_prefix
    image_model = getattr(model, "image_model", None)
    return f"{prefix}.{image_model.base_model_prefix}" if image_model is not None else prefix


def _classifier_parameters(model: PreTrainedModel, new: Sequence[str]) -> set[str]:
    classifier = getattr(model, "classifier", None)
    if classifier is None:
        raise InputError("tuning: linear_probe: the classifier of the model is not known; use full")
    own = {id(parameter) for parameter in classifier.parameters()}
    parameters = dict(model.named_parameters())
    trained = {name for name, parameter in parameters.items() if id(parameter) in own}
    backbone = f"{_backbone(model)}."
    for name in new:  # a new norm is as good as none, a new pooler is noise
        if name not in trained and not name.startswith(backbone) and parameters[name].ndim > 1:
            raise InputError(
                f"tuning: linear_probe: {name} of the checkpoint's head is missing, and would stay random; use "
                "attentive_probe"
            )
    return trained


def _last_parameters(model: PreTrainedModel, count: int) -> set[str]:
    num_blocks = len(find_blocks(model))
    ids = layer_ids(model) if num_blocks else {}
    last = max(ids.values(), default=0)
    if not 1 <= count < last:
        raise InputError(
            f"unfreeze_layers: got {count}; the model has {max(0, last - 1)} blocks; give 1 to {last - 1}"
            if last
            else "tuning: partial: the model has no blocks that are known; use full"
        )
    return {name for name, layer in ids.items() if layer >= last - count}


def _frozen_modules(module: nn.Module) -> list[nn.Module]:
    """Find the outermost modules with weights all of which are frozen."""
    parameters = list(module.parameters())
    if not parameters:
        return []
    if not any(parameter.requires_grad for parameter in parameters):
        return [module]
    return [frozen for child in module.children() for frozen in _frozen_modules(child)]


def _keep_in_evaluation(module: nn.Module) -> None:
    vars(module)["train"] = partial(_evaluate, module)  # `model.train()` calls it; a copy of the model has its own
    module.train()


def _evaluate(module: nn.Module, mode: bool = True) -> nn.Module:
    return nn.Module.train(module, False)


def _with_lora(
    model: PreTrainedModel, base_model: str | None, revision: str | None, targets: Sequence[str] | None, **options: Any
) -> Any:
    from peft import LoraConfig, get_peft_model

    layers = _adaptable_layers(model)
    known = (ends for ends in LORA_TARGETS if all(_ending(layers, end) for end in ends))
    chosen = tuple(targets or next(known, ()))
    names = {end: _ending(layers, end) for end in chosen}
    missing = next((end for end in chosen if not names[end]), None)
    if not layers:
        raise InputError("tuning: lora: the backbone has no linear layers to adapt; use partial or linear_probe")
    if missing or not chosen:
        kinds = sorted({re.sub(r"^.*\.(?=\D)", "", layer) for layer in layers})
        problem = f"{missing} is no linear layer of the backbone" if missing else "there is no default for this model"
        raise InputError(f"lora_targets: {problem}; it has {', '.join(kinds)}")
    model.requires_grad_(False)
    config = LoraConfig(
        target_modules=sorted({name for found in names.values() for name in found}),
        modules_to_save=head_modules(model),
        revision=revision,
        **options,
    )
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise InputError(f"lora_targets: {', '.join(chosen)}: {first_line(error)}") from None
    adapted.peft_config["default"].base_model_name_or_path = base_model
    # Else peft asks the Hub at each save whether the base model has a vocabulary.
    vars(adapted)["save_pretrained"] = partial(adapted.save_pretrained, save_embedding_layers=False)
    for module in adapted.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not any(
            p.requires_grad for p in module.parameters()
        ):
            _keep_in_evaluation(module)
    return adapted


def _ending(layers: dict[str, nn.Module], end: str) -> list[str]:
    return [name for name in layers if name == end or name.endswith(f".{end}")]


def _adaptable_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Find the linear layers of the backbone that matrices can stand beside, by name."""
    backbone = f"{_backbone(model)}."
    unseen = tuple(f"{name}." for name, module in model.named_modules() if UNSEEN.match(type(module).__name__))
    return {
        name: module
        for name, module in model.named_modules()
        if name.startswith(backbone)
        and ".predictor." not in name
        and not name.startswith(unseen)
        and isinstance(module, nn.Linear)  # peft can't merge what stands beside a Conv3d
    }
