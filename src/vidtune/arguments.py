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
from types import SimpleNamespace
from typing import Annotated, Any, Literal, NoReturn, get_type_hints

from pydantic import Field

from vidtune.contradictions import check_together
from vidtune.errors import InputError
from vidtune.schema import accepts, check_value, parse_word, read_yaml, training_fields

Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Area = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def option(default: Any, help: str) -> Any:
    """A dataclass field with its help text."""
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class SourceArguments:
    """The videos, and how they are split."""

    dataset: Text = option(
        "demo",
        "demo, demo-success, a folder class/*.mp4 or split/class/*.mp4, a table (.csv, .tsv, .jsonl, .parquet) "
        "with columns video, label and optionally split, group, start_seconds, end_seconds, a prepared dataset, "
        "the folder of a published dataset, or a Hub dataset id",
    )
    dataset_format: Literal["auto", "folder", "table", "hub", "ucf101", "hmdb51", "kinetics", "ssv2", "list"] = option(
        "auto", "how the dataset is laid out; auto: as its files tell"
    )
    dataset_config: Text | None = option(None, "which configuration of a Hub dataset that has several")
    dataset_revision: Text | None = option(None, "branch, tag or commit of a Hub dataset")
    split_number: Literal[1, 2, 3] = option(1, "which of the official splits of UCF101 or HMDB51")
    split_by_group: Text | None = option(None, "column of the dataset that holds the group (default: group)")
    group_pattern: Text | None = option(
        None, r"regular expression that finds a video's group in its id, such as '_g(\d+)_'"
    )
    validation_fraction: Fraction = option(
        0.15, "share of the training videos to validate on, where the dataset has no validation split"
    )
    test_fraction: Fraction = option(
        0.15, "share of the videos to test on, where the dataset has no split at all; folds have their own"
    )
    folds: Annotated[int, Field(ge=2)] | None = option(None, "divide the videos into so many parts of one size")
    fold: Annotated[int, Field(ge=0)] | None = option(None, "which of the folds to test on, from 0")
    allow_leakage: bool = option(False, "accept splits of the dataset's own that share a group, with a warning")


@dataclass
class DataArguments:
    """How clips are made of the videos."""

    num_frames: Count | None = option(None, "frames of a clip (default: the model's)")
    image_size: Count | None = option(None, "height and width of a clip (default: the model's)")
    sampling: Literal["segments", "dense"] | None = option(
        None,
        "segments: one frame of each of num_frames equal parts of the video; dense: consecutive frames at "
        "--fps (default: the model's, else segments)",
    )
    fps: Annotated[float, Field(gt=0)] | None = option(
        None, "frames per second of a dense clip (default: the model's, else 7.5)"
    )
    temporal_views: Count = option(1, "clips of each video that an evaluation averages")
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
    decoder: Literal["auto", "torchcodec", "pyav"] = option("auto", "auto: PyAV, which brings its own FFmpeg")
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
    weights: Text | None = option(
        None, "file of weights that the library of such a configuration publishes: x3d_s.pyth, r3d_18.pth"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "auto: what accelerate was launched with, else bf16 on a GPU that has it, else fp32"
    )


@dataclass
class TuningArguments:
    """What is trained of the model, and the pieces of published recipes."""

    tuning: Literal["full", "lora", "linear_probe", "attentive_probe", "partial"] = option(
        "full",
        "full: all of the model; partial: its last blocks; lora: small matrices beside its weights; linear_probe and "
        "attentive_probe: a head over the frozen rest",
    )
    unfreeze_layers: Count | None = option(None, "partial: how many of the last blocks to train with the head")
    lora_rank: Count = option(8, "rank of the matrices")
    lora_alpha: Positive = option(16.0, "scale of the matrices, times the rank")
    lora_dropout: Fraction = option(0.05, "dropout before the matrices")
    lora_targets: Annotated[list[Text], Field(min_length=1)] | None = option(
        None, "names of the layers that get matrices (default: those of the attention)"
    )
    merge_lora: bool = option(False, "save a plain checkpoint with the matrices added to the weights")
    probe_learning_rates: Annotated[list[Positive], Field(min_length=1)] = option(
        [5e-3, 3e-3, 1e-3, 3e-4, 1e-4], "attentive_probe: one head for each of these and each weight decay"
    )
    probe_weight_decays: Annotated[list[NotNegative], Field(min_length=1)] = option(
        [0.01, 0.1, 0.4, 0.8], "attentive_probe: one head for each of these and each learning rate"
    )
    probe_blocks: Count = option(4, "attentive_probe: attention blocks of a head, the last of which pools")
    probe_heads: Count | None = option(None, "attentive_probe: attention heads of a block (default: the model's)")

    base_learning_rate: Positive | None = option(
        None, "learning rate for a total batch of 256, scaled to this run's; instead of learning_rate"
    )
    min_learning_rate: NotNegative | None = option(
        None, "where cosine ends (default: 0); for a total batch of 256 if base_learning_rate is"
    )
    learning_rate_steps: Annotated[list[Positive], Field(min_length=1)] | None = option(
        None, "epochs at which the learning rate falls to a tenth, instead of lr_scheduler_type"
    )
    layer_decay: Area = option(1.0, "learning rate of each block over that of the next one; 1 is the same for all")

    drop_path: Fraction | None = option(
        None,
        "share of the clips that skip a branch of the last block, earlier blocks have less, linearly (default: the "
        "model's)",
    )
    head_dropout: Fraction | None = option(None, "dropout before the head (default: the model's)")
    head_init_scale: Positive = option(1.0, "factor on the random weights that a new head starts from")
    mixup: NotNegative = option(0.0, "alpha of the share in which two clips are blended; 0 is off")
    cutmix: NotNegative = option(0.0, "alpha of the share of one clip's picture that another's replaces; 0 is off")
    mix_probability: Share = option(1.0, "share of the pairs of clips that are mixed")
    mix_switch_probability: Share = option(0.5, "share of cutmix, where both mixup and cutmix are on")
    random_erasing: Share = option(0.0, "share of the training clips of which a box is replaced by noise")
    rand_augment: Text | None = option(None, "RandAugment, one draw a clip, as rand-m7-n4-mstd0.5-inc1")
    num_sample: Count = option(1, "clips of each training video from one decode, each augmented on its own")
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = option(
        None, "share that an average of the weights keeps at each step; the average is what is scored and saved"
    )

    class_weights: Annotated[dict[str, Positive], Field(min_length=1)] | Literal["balanced"] | None = option(
        None, "weight of each label's loss, as {fight: 2, noFight: 1}; balanced: one over its share of the videos"
    )
    balanced_sampling: bool = option(False, "draw videos so that each label is equally likely")
    focal_gamma: NotNegative = option(0.0, "how much less a video counts that the model is sure of; 0 is off")
    early_stopping_patience: Count | None = option(
        None, "evaluations without a better metric_for_best_model after which training ends"
    )
    flip_guard: bool = option(True, "refuse horizontal_flip where two labels differ by left and right only")


@dataclass
class PublishArguments:
    """Where the finished model goes."""

    push_to_hub: bool = option(False, "publish model, card and report when training is done")
    hub_model_id: Text | None = option(None, "repository to publish to: user/name")
    hub_private_repo: bool | None = option(None, "make that repository private if it is new")
    hub_license: Text | None = option(None, "licence of the model, as the Hub spells it: apache-2.0, mit, ...")
    overwrite: bool = option(False, "replace the run that output_dir already holds")


@dataclass
class PrepareArguments:
    """How the videos are inspected and stored."""

    output_dir: Text = option("outputs/prepared", "folder of the findings and of the prepared dataset")
    inspect_only: bool = option(False, "look at the videos, and store none")
    num_frames: Count = option(16, "frames of a clip; a video with fewer is reported")
    time_limit_seconds: Annotated[float, Field(gt=0)] = option(120.0, "longest that one file may take to inspect")
    codec: Literal["jpeg", "h264"] = option("jpeg", "jpeg: fastest to read; h264: smallest")
    short_side: Annotated[int, Field(ge=16)] = option(
        256, "pixels of the shorter side; smaller videos keep their size"
    )
    fps: Annotated[float, Field(gt=0)] | None = option(None, "frames per second to store (default: the source's)")
    quality: Annotated[int, Field(ge=1, le=100)] = option(90, "of the stored pictures, 100 is best")
    videos_per_shard: Count = option(128, "videos of one Parquet file")
    num_proc: Count | None = option(None, "worker processes (default: one a core)")
    decoder: Literal["auto", "torchcodec", "pyav"] = option("auto", "auto: PyAV, which brings its own FFmpeg")
    on_error: Literal["raise", "skip"] = option(
        "raise", "what a video that can't be decoded does: stop, or be left out and reported"
    )
    seed: Seed = option(42, "seed of the split")
    overwrite: bool = option(False, "replace the dataset that output_dir already holds")
    push_to_hub: bool = option(False, "publish the prepared dataset")
    hub_dataset_id: Text | None = option(None, "repository to publish to: user/name")
    hub_private_repo: bool | None = option(None, "make that repository private if it is new")
    hub_license: Text | None = option(None, "licence of the dataset, as the Hub spells it: cc-by-4.0, mit, ...")


@dataclass
class BenchmarkArguments:
    """What is measured, and on which videos."""

    dataset: Text = option("demo", "the videos, as finetune takes them: whole files of one label each")
    prepared: Text | None = option(None, "a prepared dataset of the same videos (default: it is made)")
    output_dir: Text | None = option(None, "folder of the report (default: outputs/benchmark/COMMAND)")
    num_videos: Count = option(60, "videos to measure on, evenly spread over the dataset")
    rounds: Count = option(5, "times that everything is measured; the median counts")
    num_frames: Count = option(16, "frames of a clip")
    image_size: Count | None = option(None, "height and width of a clip (default: 224, of epoch 112)")
    decoder: Literal["auto", "torchcodec", "pyav"] = option("auto", "auto: PyAV, which brings its own FFmpeg")
    batch_size: Count = option(4, "clips of a batch of epoch, workers and memory")
    num_proc: Count | None = option(
        None, "data-loader workers, and processes that make the prepared dataset (default: one a core)"
    )
    num_clips: Count = option(10_000, "clips of memory")
    seed: Seed = option(42, "seed of the choice of videos, of the augmentation and of the model")


PATHS = set("dataset prepared model_name_or_path config_name weights output_dir resume_from_checkpoint".split())
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
    "max_grad_norm optim optim_args gradient_checkpointing torch_compile dataloader_num_workers eval_strategy "
    "save_strategy save_total_limit load_best_model_at_end metric_for_best_model logging_steps report_to "
    "resume_from_checkpoint seed use_cpu"
).split()


def parse(
    argv: Sequence[str] | None, description: str, sections: Mapping[str, type], training: bool = True
) -> SimpleNamespace:
    """Read the options of a recipe: defaults, then `--config FILE`, then the command line.

    Args:
        argv: Words of the command line, without the program's name; None for `sys.argv`.
        description: What `--help` says of the recipe.
        sections: Dataclasses of the recipe's options, by the name that the result gives them.
        training: Whether the fields of transformers.TrainingArguments are options of the recipe, too.

    Returns:
        One filled dataclass a section, under its name; `training`, the fields of TrainingArguments that were given,
        by name; and `config`, all of it as one flat mapping: writing it as YAML reproduces the run.

    Raises:
        InputError: If a key is unknown, or a value of the wrong type or out of range.
        SystemExit: After `--help`.
    """
    types = {name: hint for section in sections.values() for name, hint in _hints(section).items()}
    if training:
        types = training_fields() | types
    words = list(sys.argv[1:] if argv is None else argv)
    given, unknown = _parser(types, description, list(sections.values()), training).parse_known_args(words)
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
    return _fill(sections, values)


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


def _parser(
    types: dict[str, Any], description: str, sections: Sequence[type], training: bool
) -> argparse.ArgumentParser:
    parser = _Parser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [--config FILE] [--OPTION VALUE ...]",
        epilog="Every other field of transformers.TrainingArguments is an option too, under its own name."
        if training
        else None,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of options; the command line overrides it")
    for section in sections:
        group = parser.add_argument_group((section.__doc__ or "").rstrip("."))
        for item in dataclasses.fields(section):
            default = item.default_factory() if callable(item.default_factory) else item.default
            shown = "" if default is None or default is False or default == {} else f" (default: {default})"
            _add_option(group, item.name, types[item.name], item.metadata["help"].replace("%", "%%") + shown)
    if training:
        group = parser.add_argument_group("Training (fields of transformers.TrainingArguments)")
        own = {item.name for section in sections for item in dataclasses.fields(section)}
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


def _fill(sections: Mapping[str, type], values: dict[str, Any]) -> SimpleNamespace:
    filled = {}
    for key, section in sections.items():
        own = {item.name for item in dataclasses.fields(section)}
        filled[key] = section(**{name: value for name, value in values.items() if name in own})
    flat = {name: value for section in filled.values() for name, value in dataclasses.asdict(section).items()}
    training = {name: value for name, value in values.items() if name not in flat}
    if training.get("max_steps") == 0:
        raise InputError("max_steps: got 0; give 1 or more, or leave it out to train for num_train_epochs")
    if training.get("output_dir") is None:  # `null` is what leaving it out is
        training.pop("output_dir", None)
    check_together(filled, training)
    if filled.get("tuning") and filled["tuning"].tuning == "attentive_probe":
        training["max_grad_norm"] = 0.0
    config = flat | training
    for name in ("overwrite", "resume_from_checkpoint"):
        config.pop(name, None)
    return SimpleNamespace(**filled, training=training, config=config)
