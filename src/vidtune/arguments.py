"""The options of the recipes: dataclasses, filled from a YAML file and then from the command line.

Everything here answers at once: neither torch nor transformers is imported, so `--help` and a bad value
cost no waiting.
"""

import argparse
import dataclasses
import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NoReturn, get_type_hints

from pydantic import Field

from vidtune.errors import InputError
from vidtune.schema import accepts, check_value, parse_word, read_yaml, training_fields

Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Area = Annotated[float, Field(gt=0, le=1)]
Text = Annotated[str, Field(min_length=1)]


def option(default: Any, help: str) -> Any:
    """A dataclass field with its help text."""
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class DataArguments:
    """The videos, and how clips are made of them."""

    dataset: Text = option(
        "demo",
        "demo, demo-success, a folder class/*.mp4 or split/class/*.mp4, a table (.csv, .tsv, .jsonl, .parquet) "
        "with columns video, label and optionally split, group, start_seconds, end_seconds, or a Hub dataset id",
    )
    validation_fraction: Fraction = option(
        0.15, "share of the training videos to validate on, where the dataset has no validation split"
    )
    test_fraction: Fraction = option(0.15, "share of the videos to test on, where the dataset has no split at all")
    num_frames: Annotated[int, Field(ge=1)] | None = option(None, "frames of a clip (default: the model's)")
    image_size: Annotated[int, Field(ge=1)] | None = option(None, "height and width of a clip (default: the model's)")
    sampling: Literal["segments", "dense"] | None = option(
        None,
        "segments: one frame of each of num_frames equal parts of the video; dense: consecutive frames at "
        "--fps (default: the model's, else segments)",
    )
    fps: Annotated[float, Field(gt=0)] | None = option(
        None, "frames per second of a dense clip (default: the model's, else 7.5)"
    )
    temporal_views: Annotated[int, Field(ge=1)] = option(1, "clips of each video that an evaluation averages")
    spatial_crops: Literal[1, 3] = option(1, "crops of each clip that an evaluation averages")
    crop_scale: Annotated[list[Area], Field(min_length=2, max_length=2)] = option(
        [0.5, 1.0], "least and greatest share of the picture that a training crop covers"
    )
    crop_ratio: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2)] = option(
        [0.75, 1.3333], "least and greatest width over height of a training crop"
    )
    horizontal_flip: Share = option(0.5, "share of the training clips that are mirrored")
    color_jitter: Share = option(0.0, "greatest change of brightness, contrast and saturation in training")
    train_transform: Text | None = option(
        None,
        "module:function that replaces crop, flip and jitter: takes a uint8 clip (C, T, H, W) as "
        "pytorchvideo's transforms do, returns (C, T, image_size, image_size), uint8 or float in [0, 1]",
    )
    decoder: Literal["auto", "torchcodec", "pyav"] = option("auto", "auto: torchcodec where it finds FFmpeg")
    on_error: Literal["raise", "skip"] = option(
        "raise", "what a video that can't be decoded does to training: stop it, or be left out and reported"
    )


@dataclass
class ModelArguments:
    """The model: a checkpoint, or a configuration to start from scratch."""

    model_name_or_path: Text | None = option(None, "checkpoint to fine-tune: Hub id or folder")
    model_revision: Text | None = option(None, "branch, tag or commit of a checkpoint on the Hub")
    config_name: Text | None = option(
        None, "train from scratch: a model type such as videomae, a folder or a JSON file"
    )
    config_overrides: dict[str, Any] = option({}, "fields of that configuration to change: {num_frames: 8}")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "auto: what accelerate was launched with, else bf16 on a GPU that has it, else fp32"
    )


@dataclass
class PublishArguments:
    """Where the finished model goes."""

    push_to_hub: bool = option(False, "publish model, card and report when training is done")
    hub_model_id: Text | None = option(None, "repository to publish to: user/name")
    hub_private_repo: bool | None = option(None, "make that repository private if it is new")
    hub_license: Text | None = option(None, "licence of the model, as the Hub spells it: apache-2.0, mit, ...")
    overwrite: bool = option(False, "replace the run that output_dir already holds")


@dataclass
class Arguments:
    """What a recipe was asked to do."""

    data: DataArguments
    model: ModelArguments
    publish: PublishArguments
    training: dict[str, Any]
    """Fields of transformers.TrainingArguments that were given, by name."""
    config: dict[str, Any]
    """Everything above as one flat mapping: writing it as YAML reproduces the run."""


SECTIONS: dict[str, type] = {"data": DataArguments, "model": ModelArguments, "publish": PublishArguments}

PATHS = {"dataset", "model_name_or_path", "config_name", "output_dir", "resume_from_checkpoint"}
"""Options in which `~` is the home folder, in a YAML as on the command line."""

# Answered by us, or of no use in a run that is described by a file.
REFUSED_TRAINING_FIELDS = {
    "hub_token": "it would be saved with the model; set the environment variable HF_TOKEN, or run `hf auth login`",
    "remove_unused_columns": "the trainer needs every column; leave it out",
    "label_names": "the label column is always `label`; leave it out",
    "do_train": "finetune always trains; leave it out",
    "do_eval": "finetune always evaluates; leave it out",
    "do_predict": "finetune always scores the test split; leave it out",
    "dataloader_drop_last": "it would drop videos from the scores, too; leave it out",
    "train_sampling_strategy": "videos are drawn in random order, the same on any number of processes; leave it out",
    "hub_strategy": "the finished model is published once, at the end; leave it out",
    "hub_always_push": "the finished model is published once, at the end; leave it out",
    "hub_revision": "the finished model is published to the main branch; leave it out",
}

SHOWN_TRAINING_FIELDS = (
    "output_dir num_train_epochs max_steps learning_rate lr_scheduler_type warmup_steps weight_decay "
    "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps label_smoothing_factor "
    "max_grad_norm optim gradient_checkpointing torch_compile dataloader_num_workers eval_strategy "
    "save_strategy save_total_limit load_best_model_at_end metric_for_best_model logging_steps report_to "
    "resume_from_checkpoint seed use_cpu"
).split()


def parse(argv: Sequence[str] | None, description: str) -> Arguments:
    """Read the options of a recipe: defaults, then `--config FILE`, then the command line.

    Args:
        argv: Words of the command line, without the program's name; None for `sys.argv`.
        description: What `--help` says of the recipe.

    Returns:
        The options, every value checked.

    Raises:
        InputError: If a key is unknown, or a value of the wrong type or out of range.
        SystemExit: After `--help`.
    """
    types = {name: hint for section in SECTIONS.values() for name, hint in _hints(section).items()}
    types |= {name: hint for name, hint in training_fields().items() if name not in types}
    words = list(sys.argv[1:] if argv is None else argv)
    given, unknown = _parser(types, description).parse_known_args(words)
    if unknown:
        name = unknown[0].lstrip("-").split("=")[0]
        if not name or not unknown[0].startswith("-"):
            raise InputError(f"command line: {unknown[0]!r} belongs to no option; write --OPTION VALUE")
        raise InputError(_unknown_key(name, types, "command line"))
    command_line = vars(given)
    path = command_line.pop("config", None)
    values = {} if path is None else read_yaml(path)
    for name in values:
        if name not in types:
            raise InputError(_unknown_key(name, types, path))
    for name, remedy in REFUSED_TRAINING_FIELDS.items():
        if name in values or name in command_line:
            raise InputError(f"{name}: can't be set: {remedy}")
    values = {name: check_value(name, value, types[name], source=path) for name, value in values.items()}
    for name, text in command_line.items():
        values[name] = check_value(name, _from_command_line(text, types[name]), types[name])
    for name in PATHS & values.keys():
        values[name] = values[name] and os.path.expanduser(values[name])
    return _arguments(values)


def _hints(section: type) -> dict[str, Any]:
    return get_type_hints(section, include_extras=True)


def _from_command_line(text: str | list[str], hint: Any) -> Any:
    if isinstance(text, list):
        values = [parse_word(item) for item in text]
        return values[0] if len(values) == 1 and isinstance(values[0], list) else values
    if text.lower() in ("none", "null") and accepts(hint, type(None)):
        return None
    is_free_text = accepts(hint, str) and not any(accepts(hint, kind) for kind in (bool, list, dict))
    return text if is_free_text else parse_word(text)


def _unknown_key(name: str, known: dict[str, Any], source: str) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    remedy = f"did you mean {near[0]}?" if near else "`--help` lists the known ones"
    return f"{source}: {name}: unknown key; {remedy}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(
            f"command line: {message}; write --OPTION VALUE, or --OPTION=VALUE where the value begins with -"
        )


def _parser(types: dict[str, Any], description: str) -> argparse.ArgumentParser:
    parser = _Parser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [--config FILE] [--OPTION VALUE ...]",
        epilog="Every other field of transformers.TrainingArguments is an option too, under its own name.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of options; the command line overrides it")
    for section in SECTIONS.values():
        group = parser.add_argument_group((section.__doc__ or "").rstrip("."))
        for item in dataclasses.fields(section):
            default = item.default_factory() if callable(item.default_factory) else item.default
            shown = "" if default is None or default is False or default == {} else f" (default: {default})"
            _add_option(group, item.name, types[item.name], item.metadata["help"].replace("%", "%%") + shown)
    group = parser.add_argument_group("Training (fields of transformers.TrainingArguments)")
    own = {item.name for section in SECTIONS.values() for item in dataclasses.fields(section)}
    for name in SHOWN_TRAINING_FIELDS:
        _add_option(group, name, types[name], "")
    for name in types.keys() - own - set(SHOWN_TRAINING_FIELDS):
        _add_option(parser, name, types[name], argparse.SUPPRESS)
    return parser


def _add_option(group: Any, name: str, hint: Any, help: str) -> None:
    words: dict[str, Any] = {"help": help, "metavar": name.rsplit("_", 1)[-1].upper()}
    if accepts(hint, bool):
        words |= {"nargs": "?", "const": "true", "metavar": "true|false"}
    elif accepts(hint, list) and not accepts(hint, str):
        words |= {"nargs": "+"}
    group.add_argument(f"--{name}", **words)


def _arguments(values: dict[str, Any]) -> Arguments:
    sections = {}
    for key, section in SECTIONS.items():
        own = {item.name for item in dataclasses.fields(section)}
        sections[key] = section(**{name: value for name, value in values.items() if name in own})
    flat = {name: value for section in sections.values() for name, value in dataclasses.asdict(section).items()}
    training = {name: value for name, value in values.items() if name not in flat}
    if training.get("max_steps") == 0:
        raise InputError("max_steps: got 0; give 1 or more, or leave it out to train for num_train_epochs")
    if training.get("output_dir") is None:  # `null` is what leaving it out is
        training.pop("output_dir", None)
    check_together(**sections, training=training)
    config = flat | training
    for name in ("overwrite", "resume_from_checkpoint"):
        config.pop(name, None)
    return Arguments(**sections, training=training, config=config)


def check_together(
    data: DataArguments, model: ModelArguments, publish: PublishArguments, training: Mapping[str, Any]
) -> None:
    """Check what no single value can tell.

    Raises:
        InputError: If two options contradict each other.
    """
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
    if publish.push_to_hub and not publish.hub_model_id:
        raise InputError("hub_model_id: missing; push_to_hub needs the repository: --hub_model_id user/name")
    for name in ("crop_scale", "crop_ratio"):
        low, high = getattr(data, name)
        if low > high:
            raise InputError(f"{name}: got [{low}, {high}]; give the smaller number first")
    if data.validation_fraction + data.test_fraction >= 1:
        raise InputError(
            f"validation_fraction: {data.validation_fraction} and test_fraction: {data.test_fraction} "
            "leave no video to train on; make them smaller"
        )
    if data.fps is not None and data.sampling == "segments":
        raise InputError(f"fps: {data.fps} goes with sampling: dense; segments span the whole video")
    if data.train_transform and ":" not in data.train_transform:
        raise InputError(f"train_transform: got {data.train_transform!r}; write module:function")
