"""Options that contradict each other: what no single value can tell."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vidtune.errors import InputError

if TYPE_CHECKING:
    from vidtune.options import DataArguments, ModelArguments, SourceArguments, TuningArguments

GOES_WITH = {
    "unfreeze_layers": ("partial",),
    "lora_rank": ("lora",),
    "lora_alpha": ("lora",),
    "lora_dropout": ("lora",),
    "lora_targets": ("lora",),
    "merge_lora": ("lora",),
    "probe_learning_rates": ("attentive_probe",),
    "probe_weight_decays": ("attentive_probe",),
    "probe_blocks": ("attentive_probe",),
    "probe_heads": ("attentive_probe",),
    "layer_decay": ("full", "partial"),
    "drop_path": ("full", "partial", "lora"),
    "head_dropout": ("full", "partial", "lora", "linear_probe"),
    "head_init_scale": ("full", "partial", "lora", "linear_probe"),
}
"""Options that only some choices of `tuning` give a meaning."""


def check_together(sections: Mapping[str, Any], training: Mapping[str, Any]) -> None:
    """Check the options of a recipe against each other.

    Args:
        sections: The filled dataclasses, by the names that `parse` was given.
        training: Fields of transformers.TrainingArguments that were given.

    Raises:
        InputError: If two options contradict each other.
    """
    if source := sections.get("source"):
        _check_source(source)
    if data := sections.get("data"):
        _check_data(data)
    if model := sections.get("model"):
        _check_model(model, training)
    if tuning := sections.get("tuning"):
        _check_tuning(tuning, training)
        _check_learning_rate(tuning, training)
        if tuning.tuning == "attentive_probe":
            _check_probes(tuning, training)
    if model and tuning and tuning.tuning != "full" and not model.model_name_or_path:
        if not model.weights:
            raise InputError(
                f"tuning: {tuning.tuning} trains a part, and the rest of a new model would stay random; give "
                "model_name_or_path, or use full"
            )
        if tuning.tuning == "lora" and not tuning.merge_lora:
            raise InputError(
                "merge_lora: False: an adapter needs a checkpoint that it is loaded onto; add --merge_lora, or give "
                "model_name_or_path"
            )
    if data and tuning and data.train_transform:
        for name in ("rand_augment", "random_erasing"):
            if getattr(tuning, name):
                raise InputError(f"{name}: train_transform: {data.train_transform} replaces it; give one of them")
    for name, identifier in (("publish", "hub_model_id"), ("prepare", "hub_dataset_id")):
        section = sections.get(name)
        if section and section.push_to_hub and not getattr(section, identifier):
            raise InputError(f"{identifier}: missing; push_to_hub needs the repository: --{identifier} user/name")


def _check_source(source: "SourceArguments") -> None:
    if source.validation_fraction + source.test_fraction >= 1:
        raise InputError(
            f"validation_fraction: {source.validation_fraction} and test_fraction: {source.test_fraction} "
            "leave no video to train on; make them smaller"
        )
    if source.split_by_group and source.group_pattern:
        raise InputError(
            f"group_pattern: {source.group_pattern!r} and split_by_group: {source.split_by_group!r} both say what a "
            "group is; give one of them"
        )
    try:
        re.compile(source.group_pattern or "")
    except re.error as error:
        raise InputError(
            f"group_pattern: got {source.group_pattern!r}, which is no regular expression ({error}); mend it"
        ) from None
    if source.folds is not None and source.fold is not None and source.fold >= source.folds:
        raise InputError(f"fold: got {source.fold}; folds: {source.folds} are numbered 0 to {source.folds - 1}")


def _check_data(data: "DataArguments") -> None:
    for name in ("crop_scale", "crop_ratio"):
        low, high = getattr(data, name)
        if low > high:
            raise InputError(f"{name}: got [{low}, {high}]; give the smaller number first")
    if data.fps is not None and data.sampling == "segments":
        raise InputError(f"fps: {data.fps} goes with sampling: dense; segments span the whole video")
    if data.train_transform and ":" not in data.train_transform:
        raise InputError(f"train_transform: got {data.train_transform!r}; write module:function")


def _check_model(model: "ModelArguments", training: Mapping[str, Any]) -> None:
    if model.model_name_or_path and model.config_name:
        raise InputError(
            f"config_name: {model.config_name!r} trains from scratch, model_name_or_path: "
            f"{model.model_name_or_path!r} fine-tunes; give one of them"
        )
    if not model.model_name_or_path and not model.config_name:
        raise InputError("model_name_or_path: missing; give a checkpoint to fine-tune, or --config_name videomae")
    if model.config_overrides and not model.config_name:
        raise InputError("config_overrides: goes with config_name; a checkpoint keeps its own configuration")
    for name in ("bf16", "fp16"):
        if training.get(name) and model.precision not in ("auto", name):
            raise InputError(f"{name}: {training[name]} contradicts precision: {model.precision}; give one of them")
    if model.weights and not model.config_name:
        raise InputError(f"weights: {model.weights} goes with config_name; a checkpoint has its own weights")


def _check_tuning(tuning: "TuningArguments", training: Mapping[str, Any]) -> None:
    defaults = type(tuning)()
    for name, modes in GOES_WITH.items():
        value = getattr(tuning, name)
        if value != getattr(defaults, name) and tuning.tuning not in modes:
            raise InputError(f"{name}: {value} goes with tuning: {' or '.join(modes)}; it is {tuning.tuning}")
    if tuning.tuning == "partial" and tuning.unfreeze_layers is None:
        raise InputError("unfreeze_layers: missing; tuning: partial needs how many of the last blocks to train")
    if tuning.rand_augment:
        from vidtune.data.rand_augment import parse_rand_augment

        parse_rand_augment(tuning.rand_augment)
    if not (tuning.mixup and tuning.cutmix) and tuning.mix_switch_probability != defaults.mix_switch_probability:
        raise InputError(
            f"mix_switch_probability: {tuning.mix_switch_probability} goes with both mixup and cutmix; one is 0"
        )
    if tuning.mixup or tuning.cutmix:
        batch = training.get("per_device_train_batch_size", 8)
        if batch % 2:
            raise InputError(
                f"per_device_train_batch_size: got {batch}; give an even number, since mixup and cutmix mix pairs"
            )
    elif tuning.mix_probability != defaults.mix_probability:
        raise InputError(f"mix_probability: {tuning.mix_probability} goes with mixup and cutmix; both are 0")
    if tuning.balanced_sampling and tuning.class_weights == "balanced":
        raise InputError(
            "class_weights: balanced and balanced_sampling: True would make up for the same twice; give one of them"
        )
    if tuning.early_stopping_patience and not training.get("load_best_model_at_end"):
        raise InputError(
            "early_stopping_patience: needs load_best_model_at_end: true, and eval_strategy and save_strategy with it"
        )


def _check_learning_rate(tuning: "TuningArguments", training: Mapping[str, Any]) -> None:
    base, given = tuning.base_learning_rate, training.get("learning_rate")
    if base is not None and given is not None:
        raise InputError(
            f"base_learning_rate: {base} and learning_rate: {given} are two ways to say it; give one of them"
        )
    if base is not None and training.get("auto_find_batch_size"):
        raise InputError("auto_find_batch_size: base_learning_rate is scaled by the batch size; give one of them")
    schedule, least = training.get("lr_scheduler_type"), tuning.min_learning_rate
    if least is not None:
        if schedule != "cosine":
            raise InputError(f"min_learning_rate: {least} goes with lr_scheduler_type: cosine; add it")
        if least > (base or given or 5e-5):
            raise InputError(f"min_learning_rate: {least} is above the learning rate, {base or given or 5e-5}")
    steps = tuning.learning_rate_steps
    if steps is not None:
        if schedule is not None:
            raise InputError(f"learning_rate_steps: {steps} and lr_scheduler_type: {schedule} exclude each other")
        if steps != sorted(set(steps)):
            raise InputError(f"learning_rate_steps: got {steps}; give epochs in ascending order")
        epochs = training.get("num_train_epochs", 3)
        if steps[-1] >= epochs:
            raise InputError(
                f"learning_rate_steps: {steps[-1]} is not before the end of training, num_train_epochs: {epochs}"
            )


def _check_probes(tuning: "TuningArguments", training: Mapping[str, Any]) -> None:
    for name, value in (
        ("base_learning_rate", tuning.base_learning_rate),
        ("min_learning_rate", tuning.min_learning_rate),
        ("learning_rate", training.get("learning_rate")),
        ("weight_decay", training.get("weight_decay")),
    ):
        if value is not None:
            raise InputError(
                f"{name}: {value}: attentive probes have probe_learning_rates and probe_weight_decays; leave it out"
            )
    if training.get("max_grad_norm"):
        raise InputError(
            f"max_grad_norm: {training['max_grad_norm']}: the norm of all attentive probes would make one depend on "
            "the others; leave it out"
        )
