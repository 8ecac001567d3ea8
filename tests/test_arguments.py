"""Options from defaults, a config and the command line; every bad value is one line that says what to do."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from vidtune.arguments import REFUSED_TRAINING_FIELDS, SHOWN_TRAINING_FIELDS, parse
from vidtune.errors import InputError, exit_code
from vidtune.options import (
    BenchmarkArguments,
    DataArguments,
    ModelArguments,
    PrepareArguments,
    PublishArguments,
    SourceArguments,
    TuningArguments,
)
from vidtune.schema import RANGES, check_value, training_fields

ROOT = Path(__file__).parents[1]
SCRATCH = ["--config_name", "videomae"]
FINETUNE = {
    "source": SourceArguments,
    "data": DataArguments,
    "model": ModelArguments,
    "tuning": TuningArguments,
    "publish": PublishArguments,
}
PREPARE = {"source": SourceArguments, "prepare": PrepareArguments}


def read(*argv: str, config: str | None = None, folder: Path | None = None) -> SimpleNamespace:
    """Parse a command line after a config that is given as text."""
    words = list(argv)
    if config is not None and folder is not None:
        (folder / "run.yaml").write_text(config, encoding="utf-8")
        words = ["--config", str(folder / "run.yaml"), *words]
    return parse([*SCRATCH, *words], "A recipe.", FINETUNE)


def read_prepare(*argv: str) -> SimpleNamespace:
    """Parse the command line of a recipe that trains nothing."""
    return parse(argv, "A recipe.", PREPARE, training=False)


# Values


def test_defaults() -> None:
    options = read()
    assert options.source.dataset == "demo" and options.source.fold is None and options.source.split_number == 1
    assert options.data.crop_scale == [0.5, 1.0]
    assert options.data.num_frames is None and options.data.spatial_crops == 1
    assert options.model.config_name == "videomae" and options.model.config_overrides == {}
    assert options.publish.push_to_hub is False and options.publish.hub_private_repo is None
    assert options.training == {}


def test_defaults_are_not_shared_between_runs() -> None:
    read().data.crop_scale.append(2.0)
    assert read().data.crop_scale == [0.5, 1.0]


@pytest.mark.parametrize("section", [*FINETUNE.values(), PrepareArguments, BenchmarkArguments])
def test_every_default_fits_its_own_type(section: type) -> None:
    for name, value in dataclasses.asdict(section()).items():
        hint = {item.name: item for item in dataclasses.fields(section)}[name].type
        assert check_value(name, value, hint) == value


def test_the_command_line_overrides_the_config_and_the_config_the_defaults(tmp_path: Path) -> None:
    config = "num_frames: 8\nimage_size: 64\nlearning_rate: 1.0e-3\nseed: 1\n"
    options = read("--num_frames", "4", "--seed=2", config=config, folder=tmp_path)
    assert (options.data.num_frames, options.data.image_size, options.data.temporal_views) == (4, 64, 1)
    assert options.training == {"learning_rate": 1e-3, "seed": 2}


def test_the_last_of_an_option_given_twice_counts() -> None:
    assert read("--seed", "1", "--seed", "2").training["seed"] == 2


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("learning_rate: 5e-5", "learning_rate", 5e-5),
        ("learning_rate: '5e-5'", "learning_rate", 5e-5),
        ("learning_rate: 1", "learning_rate", 1.0),
        ("num_frames: '8'", "num_frames", 8),
        ("num_frames: 8.0", "num_frames", 8),
        ("num_frames: null", "num_frames", None),
        ("num_frames:", "num_frames", None),
        ("push_to_hub: off", "push_to_hub", False),
        ("hub_private_repo: yes", "hub_private_repo", True),
        ("crop_scale: [0.3, 1]", "crop_scale", [0.3, 1.0]),
        ("crop_scale:\n- 0.3\n- 1", "crop_scale", [0.3, 1.0]),
        ("config_overrides:\n  num_frames: 4", "config_overrides", {"num_frames": 4}),
        ("config_overrides: {layer_norm_eps: 1e-6}", "config_overrides", {"layer_norm_eps": 1e-6}),
        ("eval_strategy: no", "eval_strategy", "no"),
        ("eval_strategy: 'no'", "eval_strategy", "no"),
        ("eval_strategy: epoch", "eval_strategy", "epoch"),
        ("report_to: [wandb, tensorboard]", "report_to", ["wandb", "tensorboard"]),
        ("report_to: none", "report_to", "none"),
        ("warmup_steps: 0.1", "warmup_steps", 0.1),
        ("lr_scheduler_kwargs: {num_cycles: 2}", "lr_scheduler_kwargs", {"num_cycles": 2}),
        ("dataset: Überwachung/日本", "dataset", "Überwachung/日本"),
        ("dataset: '123'", "dataset", "123"),
        ("dataset_revision: 12e4567", "dataset_revision", "12e4567"),
        ("learning_rate: 1e1", "learning_rate", 10.0),
        ("tuning: full", "tuning", "full"),
        ("class_weights: balanced", "class_weights", "balanced"),
        ("class_weights: {fight: 2, noFight: 1}", "class_weights", {"fight": 2.0, "noFight": 1.0}),
        ("class_weights:", "class_weights", None),
        ("drop_path: 0", "drop_path", 0.0),
        ("learning_rate_steps: [11, 14]\nnum_train_epochs: 15", "learning_rate_steps", [11.0, 14.0]),
        ("rand_augment: rand-m7-n4-mstd0.5-inc1", "rand_augment", "rand-m7-n4-mstd0.5-inc1"),
        ("flip_guard: no", "flip_guard", False),
        ("balanced_sampling: yes", "balanced_sampling", True),
    ],
)
def test_values_of_a_config(tmp_path: Path, text: str, name: str, value: Any) -> None:
    found = read(config=text, folder=tmp_path).config[name]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--learning_rate 5e-5", "learning_rate", 5e-5),
        ("--learning_rate=5e-5", "learning_rate", 5e-5),
        ("--eval_delay=-1e-3", "eval_delay", -1e-3),
        ("--max_steps -1", "max_steps", -1),
        ("--overwrite", "overwrite", True),
        ("--overwrite true", "overwrite", True),
        ("--overwrite false", "overwrite", False),
        ("--overwrite=False", "overwrite", False),
        ("--overwrite --seed 3", "overwrite", True),
        ("--gradient_checkpointing", "gradient_checkpointing", True),
        ("--crop_scale 0.3 1", "crop_scale", [0.3, 1.0]),
        ("--crop_scale|[0.3, 1]", "crop_scale", [0.3, 1.0]),
        ("--crop_scale=[0.3,1]", "crop_scale", [0.3, 1.0]),
        ("--config_overrides|{num_frames: 4}", "config_overrides", {"num_frames": 4}),
        ('--config_overrides|{"hidden_act": "gelu"}', "config_overrides", {"hidden_act": "gelu"}),
        ("--num_frames null", "num_frames", None),
        ("--num_frames None", "num_frames", None),
        ("--sampling null", "sampling", None),
        ("--eval_strategy no", "eval_strategy", "no"),
        ("--dataset 123", "dataset", "123"),
        ("--dataset yes", "dataset", "yes"),
        ("--dataset|a: b", "dataset", "a: b"),
        ("--dataset|with space", "dataset", "with space"),
        ("--dataset_revision 1e10", "dataset_revision", "1e10"),
        ("--report_to wandb", "report_to", "wandb"),
        ("--report_to|[wandb, tensorboard]", "report_to", ["wandb", "tensorboard"]),
        ("--include_for_metrics inputs loss", "include_for_metrics", ["inputs", "loss"]),
        ("--class_weights balanced", "class_weights", "balanced"),
        ("--class_weights|{a: 2, b c: 1}", "class_weights", {"a": 2.0, "b c": 1.0}),
        ("--weights x.pth --tuning lora --merge_lora --lora_targets query value", "lora_targets", ["query", "value"]),
        ("--weights x.pth --tuning lora --merge_lora --lora_targets query", "lora_targets", ["query"]),
        ("--weights x.pth --tuning lora --merge_lora --lora_alpha 32", "lora_alpha", 32.0),
        ("--weights x.pth --tuning partial --unfreeze_layers 2 --layer_decay 0.5", "unfreeze_layers", 2),
        ("--weights x.pth --tuning attentive_probe --probe_learning_rates 1e-3", "probe_learning_rates", [1e-3]),
        ("--weights x.pth --tuning attentive_probe --probe_weight_decays 0 0.1", "probe_weight_decays", [0.0, 0.1]),
        ("--base_learning_rate 1e-3 --lr_scheduler_type cosine --min_learning_rate 0", "min_learning_rate", 0.0),
        ("--mixup 0.8 --mix_probability 0.5", "mix_probability", 0.5),
        ("--early_stopping_patience 3 --load_best_model_at_end --eval_strategy steps", "early_stopping_patience", 3),
        ("--balanced_sampling|--class_weights|{a: 2}", "balanced_sampling", True),
        ("--weights x3d_s.pyth", "weights", "x3d_s.pyth"),
    ],
)
def test_values_of_the_command_line(words: str, name: str, value: Any) -> None:
    options = read(*words.split("|" if "|" in words else " "))
    given = options.config | dataclasses.asdict(options.publish)
    assert given[name] == value and type(given[name]) is type(value)


def test_attentive_probes_are_not_clipped_together(tmp_path: Path) -> None:
    options = read("--tuning", "attentive_probe", "--weights", "x.pth")
    assert options.training == {"max_grad_norm": 0.0}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(options.config))
    assert parse(["--config", str(tmp_path / "config.yaml")], "A recipe.", FINETUNE).config == options.config


def test_null_on_the_command_line_takes_back_what_the_config_says(tmp_path: Path) -> None:
    words = ["--config_name", "null", "--config_overrides", "{}", "--model_name_or_path", "user/model"]
    options = read(*words, config="config_overrides: {num_frames: 4}", folder=tmp_path)
    assert options.model.config_name is None and options.model.model_name_or_path == "user/model"
    assert options.model.config_overrides == {}
    assert "output_dir" not in read("--output_dir", "null", config="output_dir: a", folder=tmp_path).training


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "---\n"])
def test_a_config_may_be_empty(tmp_path: Path, text: str) -> None:
    assert read(config=text, folder=tmp_path) == read()


def test_the_config_of_a_run_reproduces_it(tmp_path: Path) -> None:
    words = [
        "--learning_rate",
        "5e-5",
        "--crop_scale",
        "0.3",
        "1",
        "--eval_strategy",
        "no",
        "--config_overrides",
        "{a: 1}",
    ]
    assert "overwrite" not in read(*words, "--overwrite").config
    options = read(*words, "--resume_from_checkpoint", "auto")
    assert not {"resume_from_checkpoint", "overwrite"} & options.config.keys()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(options.config))
    again = parse(["--config", str(tmp_path / "config.yaml")], "A recipe.", FINETUNE)
    assert again.config == options.config
    assert (again.source, again.data, again.model) == (options.source, options.data, options.model)


# Recipes with other sections


def test_a_recipe_that_trains_nothing_has_its_own_sections_only(tmp_path: Path) -> None:
    words = ["--dataset", "~/videos", "--folds", "5", "--output_dir", "~/prepared", "--quality", "95", "--overwrite"]
    options = read_prepare(*words)
    assert vars(options).keys() == {"source", "prepare", "training", "config"}
    assert options.training == {} and options.prepare.overwrite is True and options.prepare.seed == 42
    assert options.source.dataset == os.path.expanduser("~/videos")
    assert options.prepare.output_dir == os.path.expanduser("~/prepared")
    own = {item.name for section in PREPARE.values() for item in dataclasses.fields(section)}
    assert options.config.keys() == own - {"overwrite"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(options.config))
    again = read_prepare("--config", str(tmp_path / "config.yaml"))
    assert again.config == options.config and again.source == options.source


def test_the_help_of_a_recipe_shows_its_own_sections_only(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_prepare("--help")
    shown = capsys.readouterr().out
    assert "--short_side" in shown and "--group_pattern" in shown and "(default: 90)" in shown
    assert "--crop_scale" not in shown and "TrainingArguments" not in shown


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--learning_rate 1", ["learning_rate: unknown key"]),
        ("--crop_scale 1 1", ["crop_scale: unknown key"]),
        ("--hub_token hf_secret", ["hub_token: can't be set", "HF_TOKEN"]),
        ("--quality 0", ["quality: got 0", "greater than or equal to 1"]),
        ("--quality 101", ["quality: got 101", "less than or equal to 100"]),
        ("--codec hevc", ["codec: got 'hevc'", "'jpeg' or 'h264'"]),
        ("--num_proc 0", ["num_proc: got 0"]),
        ("--time_limit_seconds 0", ["time_limit_seconds: got 0", "greater than 0"]),
        ("--push_to_hub", ["hub_dataset_id: missing", "--hub_dataset_id user/name"]),
        ("--fold 5 --folds 5", ["fold: got 5", "0 to 4"]),
    ],
)
def test_bad_command_lines_of_a_recipe_that_trains_nothing(words: str, expected: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        read_prepare(*words.split())
    assert_one_line(caught.value, expected)
    assert "hf_secret" not in str(caught.value)


# Fields of transformers


def test_every_field_of_transformers_is_an_option_and_takes_its_own_default() -> None:
    from transformers import TrainingArguments

    fields = {item.name: item for item in dataclasses.fields(TrainingArguments)}
    assert training_fields().keys() == fields.keys()
    assert fields.keys() >= {*REFUSED_TRAINING_FIELDS, *RANGES, *SHOWN_TRAINING_FIELDS}
    for name, item in fields.items():
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        assert check_value(name, default, training_fields()[name]) == default, name


# Errors

BAD_COMMAND_LINES = [
    ("--learning_rat 1", ["learning_rat: unknown key", "did you mean learning_rate?"]),
    ("--learning-rate 1", ["learning-rate: unknown key", "did you mean learning_rate?"]),
    ("--learning 1", ["learning: unknown key", "learning_rate"]),
    ("--conf run.yaml", ["conf: unknown key"]),
    ("--dat demo", ["dat: unknown key"]),
    ("--xyzzy=1", ["xyzzy: unknown key", "--help"]),
    ("-x", ["x: unknown key"]),
    ("demo", ["'demo' belongs to no option", "--OPTION VALUE"]),
    ("--", ["'--' belongs to no option"]),
    ("--report_to wandb tensorboard", ["'tensorboard' belongs to no option"]),
    ("--learning_rate", ["--learning_rate: expected one argument", "--OPTION VALUE"]),
    ("--learning_rate -1e-3", ["--learning_rate: expected one argument", "--OPTION=VALUE"]),
    ("--dataset --seed 1", ["--dataset: expected one argument"]),
    ("--crop_scale 0.5 1 --crop_scale 0.2 1", ["crop_scale is given twice", "write --crop_scale ONE TWO"]),
    ("--crop_scale", ["--crop_scale: expected at least one argument"]),
    ("--config", ["--config: expected one argument"]),
    ("--learning_rate fast", ["learning_rate: got 'fast'", "valid number"]),
    ("--learning_rate -1", ["learning_rate: got -1", "greater than or equal to 0"]),
    ("--learning_rate true", ["learning_rate: got True", "give a number"]),
    ("--learning_rate nan", ["learning_rate: got 'nan'", "finite number"]),
    ("--learning_rate .inf", ["learning_rate: got inf", "finite number"]),
    ("--learning_rate=", ["learning_rate: got ''", "valid number"]),
    ("--learning_rate|a\nb", ["learning_rate: got 'a b'"]),
    ("--fps 0", ["fps: got 0", "greater than 0"]),
    ("--num_frames 0", ["num_frames: got 0", "greater than or equal to 1"]),
    ("--num_frames 8.5", ["num_frames: got 8.5", "valid integer"]),
    ("--num_frames=", ["num_frames: got ''", "valid integer"]),
    ("--num_frames|[8]", ["num_frames: got [8]", "valid integer"]),
    ("--image_size true", ["image_size: got True", "give a whole number"]),
    ("--spatial_crops 2", ["spatial_crops: got 2", "1 or 3"]),
    ("--sampling Dense", ["sampling: got 'Dense'", "'segments' or 'dense'"]),
    ("--decoder cuda", ["decoder: got 'cuda'", "'pyav'"]),
    ("--horizontal_flip 1.5", ["horizontal_flip: got 1.5", "less than or equal to 1"]),
    ("--validation_fraction 1", ["validation_fraction: got 1", "less than 1"]),
    ("--crop_scale 0.3", ["crop_scale: got [0.3]", "at least 2 items"]),
    ("--crop_scale 0.3 0.5 1", ["crop_scale: got [0.3, 0.5, 1]", "at most 2 items"]),
    ("--crop_scale 0 1", ["crop_scale: got [0, 1]", "greater than 0"]),
    ("--crop_scale 1 0.3", ["crop_scale: got [1.0, 0.3]", "smaller number first"]),
    ("--crop_scale [ 1", ["crop_scale: got ['[', 1]", "valid number"]),
    ("--crop_scale=0.3 1", ["'1' belongs to no option"]),
    ("--crop_ratio .nan 1", ["crop_ratio: got [nan, 1]", "finite number"]),
    ("--config_overrides num_frames=4", ["config_overrides: got 'num_frames=4'", "dictionary"]),
    ("--config_overrides {num_frames:", ["config_overrides: got '{num_frames:'", "dictionary"]),
    ("--config_overrides [1]", ["config_overrides: got [1]", "dictionary"]),
    ("--overwrite maybe", ["overwrite: got 'maybe'", "boolean"]),
    ("--push_to_hub none", ["push_to_hub: got 'none'", "boolean"]),
    ("--dataset=", ["dataset: got ''", "at least 1 character"]),
    ("--output_dir=", ["output_dir: got ''", "at least 1 character"]),
    ("--eval_strategy never", ["eval_strategy: got 'never'", "'no', 'steps' or 'epoch'"]),
    ("--optim adamw", ["optim: got 'adamw'", "'adamw_torch'"]),
    ("--seed -1", ["seed: got -1", "greater than or equal to 0"]),
    ("--seed 4294967296", ["seed: got 4294967296", "less than 4294967296"]),
    ("--max_steps 1.5", ["max_steps: got 1.5", "valid integer"]),
    ("--gradient_accumulation_steps 0", ["gradient_accumulation_steps: got 0", "greater than or equal to 1"]),
    ("--config=", ["config: got ''", "give a YAML file"]),
    # contradictions
    (
        "--model_name_or_path user/model",
        ["config_name: 'videomae'", "model_name_or_path: 'user/model'", "one of them"],
    ),
    ("--config_name null", ["model_name_or_path: missing", "--config_name videomae"]),
    ("--push_to_hub", ["hub_model_id: missing", "--hub_model_id user/name"]),
    ("--validation_fraction 0.5 --test_fraction 0.5", ["validation_fraction: 0.5", "test_fraction: 0.5", "smaller"]),
    ("--split_by_group scene --group_pattern x", ["group_pattern: 'x'", "split_by_group: 'scene'", "give one"]),
    ("--group_pattern _g(", ["group_pattern: got '_g('", "no regular expression", "mend it"]),
    ("--group_pattern=", ["group_pattern: got ''", "at least 1 character"]),
    ("--fold 5 --folds 5", ["fold: got 5; folds: 5 are numbered 0 to 4"]),
    ("--fold -1", ["fold: got -1", "greater than or equal to 0"]),
    ("--folds 1", ["folds: got 1", "greater than or equal to 2"]),
    ("--split_number 4", ["split_number: got 4", "1, 2 or 3"]),
    ("--dataset_format avi", ["dataset_format: got 'avi'", "'folder'", "'kinetics'"]),
    ("--fps 15 --sampling segments", ["fps: 15.0 goes with sampling: dense"]),
    ("--train_transform transforms.py", ["train_transform: got 'transforms.py'", "module:function"]),
    ("--precision fp32 --bf16", ["bf16: True contradicts precision: fp32", "one of them"]),
    ("--precision bf16 --fp16", ["fp16: True contradicts precision: bf16"]),
]


BAD_COMMAND_LINES += [
    ("--drop_path 1", ["drop_path: got 1", "less than 1"]),
    ("--head_dropout=-0.1", ["head_dropout: got -0.1", "greater than or equal to 0"]),
    ("--head_init_scale 0", ["head_init_scale: got 0", "greater than 0"]),
    ("--layer_decay 0", ["layer_decay: got 0", "greater than 0"]),
    ("--layer_decay 1.1", ["layer_decay: got 1.1", "less than or equal to 1"]),
    ("--mixup=-1", ["mixup: got -1", "greater than or equal to 0"]),
    ("--mixup 1 --mix_probability 2", ["mix_probability: got 2", "less than or equal to 1"]),
    ("--random_erasing 2", ["random_erasing: got 2", "less than or equal to 1"]),
    ("--rand_augment rand-m7", ["rand_augment: rand-m7: n is missing"]),
    ("--rand_augment augmix-m3-n4", ["rand_augment: augmix-m3-n4"]),
    ("--num_sample 0", ["num_sample: got 0", "greater than or equal to 1"]),
    ("--ema_decay 1", ["ema_decay: got 1", "less than 1"]),
    ("--ema_decay 0", ["ema_decay: got 0", "greater than 0"]),
    ("--class_weights balance", ["class_weights: got 'balance'; input should be 'balanced'"]),
    ("--class_weights {}", ["class_weights: got {}", "at least 1"]),
    ("--class_weights|{a: 0}", ["class_weights: got {'a': 0}", "greater than 0"]),
    ("--class_weights|{1: 2}", ["class_weights: got {1: 2}", "valid string"]),
    ("--focal_gamma=-1", ["focal_gamma: got -1", "greater than or equal to 0"]),
    ("--early_stopping_patience 0", ["early_stopping_patience: got 0", "greater than or equal to 1"]),
    ("--tuning adapter", ["tuning: got 'adapter'", "'lora'", "'partial'"]),
    ("--base_learning_rate 0", ["base_learning_rate: got 0", "greater than 0"]),
    ("--tuning lora --lora_rank 0", ["lora_rank: got 0"]),
    ("--tuning|lora|--lora_targets|[]", ["lora_targets: got []", "at least 1 item"]),
    ("--tuning attentive_probe --probe_learning_rates 0", ["probe_learning_rates: got [0]", "greater than 0"]),
    # contradictions
    ("--unfreeze_layers 2", ["unfreeze_layers: 2 goes with tuning: partial; it is full"]),
    ("--tuning partial", ["unfreeze_layers: missing", "how many of the last blocks"]),
    ("--lora_rank 4", ["lora_rank: 4 goes with tuning: lora; it is full"]),
    ("--tuning linear_probe --merge_lora", ["merge_lora: True goes with tuning: lora; it is linear_probe"]),
    ("--tuning lora --probe_blocks 1", ["probe_blocks: 1 goes with tuning: attentive_probe; it is lora"]),
    ("--tuning lora --layer_decay 0.5", ["layer_decay: 0.5 goes with tuning: full or partial; it is lora"]),
    ("--tuning linear_probe --drop_path 0.1", ["drop_path: 0.1 goes with tuning: full or partial or lora"]),
    ("--base_learning_rate 1 --learning_rate 1", ["base_learning_rate: 1.0 and learning_rate: 1.0", "one of them"]),
    ("--min_learning_rate 1e-6", ["min_learning_rate: 1e-06 goes with lr_scheduler_type: cosine"]),
    (
        "--lr_scheduler_type cosine --learning_rate 1e-3 --min_learning_rate 1e-2",
        ["min_learning_rate: 0.01 is above the learning rate, 0.001"],
    ),
    ("--base_learning_rate 1 --auto_find_batch_size", ["auto_find_batch_size: base_learning_rate is scaled by"]),
    ("--learning_rate_steps 3 2", ["learning_rate_steps: got [3.0, 2.0]", "ascending"]),
    ("--learning_rate_steps 3", ["learning_rate_steps: 3.0 is not before the end of training, num_train_epochs: 3"]),
    (
        "--learning_rate_steps 1 2 --lr_scheduler_type linear",
        ["learning_rate_steps: [1.0, 2.0] and lr_scheduler_type: linear exclude each other"],
    ),
    (
        "--tuning attentive_probe --learning_rate 1",
        ["learning_rate: 1.0: attentive probes have probe_learning"],
    ),
    ("--tuning attentive_probe --weight_decay 1", ["weight_decay: 1.0: attentive probes have"]),
    ("--tuning attentive_probe --max_grad_norm 1", ["max_grad_norm: 1.0: the norm of all attentive probes"]),
    (
        "--tuning attentive_probe --head_dropout 0.5",
        ["head_dropout: 0.5 goes with tuning: full or partial or lora or"],
    ),
    ("--tuning linear_probe", ["tuning: linear_probe trains a part", "would stay random", "model_name_or_path"]),
    ("--tuning lora --weights x.pth", ["merge_lora: False: an adapter needs a checkpoint", "model_name_or_path"]),
    ("--mixup 1 --per_device_train_batch_size 5", ["per_device_train_batch_size: got 5", "even number"]),
    ("--mixup 1 --mix_switch_probability 1", ["mix_switch_probability: 1.0 goes with both mixup and cutmix"]),
    ("--mix_probability 0.5", ["mix_probability: 0.5 goes with mixup and cutmix"]),
    ("--balanced_sampling --class_weights balanced", ["class_weights: balanced", "twice", "one of them"]),
    ("--early_stopping_patience 3", ["early_stopping_patience: needs load_best_model_at_end: true"]),
    ("--train_transform a:b --rand_augment rand-m7-n4-inc1", ["rand_augment: train_transform: a:b replaces it"]),
    ("--train_transform a:b --random_erasing 0.25", ["random_erasing: train_transform: a:b replaces it"]),
    (
        "--config_name|null|--model_name_or_path|a/b|--weights|x.pth",
        ["weights: x.pth goes with config_name; a checkpoint has its own"],
    ),
]


def assert_one_line(error: InputError, words: list[str]) -> None:
    message = str(error)
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"


@pytest.mark.parametrize(("words", "expected"), BAD_COMMAND_LINES, ids=[line for line, _ in BAD_COMMAND_LINES])
def test_bad_command_lines(words: str, expected: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        read(*words.split("|" if "|" in words else " "))
    assert_one_line(caught.value, expected)


BAD_CONFIGS = [
    ("learning_rat: 1", ["run.yaml: learning_rat: unknown key", "did you mean learning_rate?"]),
    ("data: {dataset: demo}", ["run.yaml: data: unknown key"]),
    ("1: 2", ["run.yaml: 1: unknown key"]),
    ("config: other.yaml", ["run.yaml: config: unknown key"]),
    ('"two\\nlines": 1', ["run.yaml: two lines: unknown key"]),
    ("num_frames: many", ["run.yaml: num_frames: got 'many'", "valid integer"]),
    ("num_frames: true", ["run.yaml: num_frames: got True", "give a whole number"]),
    ("num_frames: [8]", ["run.yaml: num_frames: got [8]"]),
    ("horizontal_flip: off", ["run.yaml: horizontal_flip: got False", "give a number"]),
    ("eval_strategy: yes", ["run.yaml: eval_strategy: got True", "one of no, steps, epoch"]),
    ("sampling: no", ["run.yaml: sampling: got False", "one of segments, dense"]),
    ("output_dir: no", ["run.yaml: output_dir: got False", "give a string"]),
    ("dataset: 123", ["run.yaml: dataset: got 123", "in quotes"]),
    ("dataset: 2025-01-01", ["run.yaml: dataset: got datetime.date(2025, 1, 1)", "in quotes"]),
    ("dataset:", ["run.yaml: dataset: got None", "valid string"]),
    ("dataset: [a, b]", ["run.yaml: dataset: got ['a', 'b']", "valid string"]),
    ("crop_scale: 0.5", ["run.yaml: crop_scale: got 0.5", "valid list"]),
    ("seed: null", ["run.yaml: seed: got None", "valid integer"]),
    ("config_overrides: [a]", ["run.yaml: config_overrides: got ['a']", "dictionary"]),
    ("seed: 1\nnum_frames: 8\nseed: 2", ["run.yaml, line 3: seed is given twice"]),
    ("config_overrides:\n  a: 1\n  a: 2", ["run.yaml, line 3: a is given twice"]),
    ("seed: 1\nnum_frames: [8", ["run.yaml, line 2: ", "one `key: value` a line"]),
    ("seed: 1\n\tnum_frames: 8", ["run.yaml, line 2: ", "cannot start any token"]),
    ("seed: 1\nnum_frames: 8: 9", ["run.yaml, line 2: mapping values are not allowed here"]),
    ("seed: 1\n---\nseed: 2", ["run.yaml, line 2: but found another document"]),
    ("seed: !!python/name:os.system", ["run.yaml, line 1: could not determine a constructor"]),
    ("seed: *nowhere", ["run.yaml, line 1: found undefined alias"]),
    ("? [a]\n: 1", ["run.yaml, line 1: found unhashable key"]),
    ("seed: 2025-13-01", ["run.yaml: ", "one `key: value` a line"]),
    ("seed: " + "9" * 5000, ["run.yaml: "]),
    ("[" * 500, ["run.yaml: "]),
    ("seed: \0", ["run.yaml: is not YAML"]),
    ("- seed", ["run.yaml: holds a list", "one `key: value` a line"]),
    ("seed", ["run.yaml: holds a str"]),
]


@pytest.mark.parametrize(("text", "expected"), BAD_CONFIGS, ids=[text[:30] for text, _ in BAD_CONFIGS])
def test_bad_configs(tmp_path: Path, text: str, expected: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        read(config=text, folder=tmp_path)
    assert_one_line(caught.value, expected)


def test_configs_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"dataset: caf\xe9")
    for name, expected in {
        "gone.yaml": ["No such file", "give a YAML file such as recipes/configs/demo.yaml"],
        ".": ["Is a directory", "give a YAML file"],
        "latin.yaml": ["is not a text file"],
    }.items():
        with pytest.raises(InputError) as caught:
            read("--config", str(tmp_path / name))
        assert_one_line(caught.value, [f"config: {tmp_path / name}: ", *expected])


@pytest.mark.parametrize("name", REFUSED_TRAINING_FIELDS)
def test_refused_fields_say_why_and_keep_their_value_to_themselves(tmp_path: Path, name: str) -> None:
    for words, config in (([f"--{name}", "hf_secret"], ""), ([], f"{name}: [hf_secret]")):
        with pytest.raises(InputError) as caught:
            read(*words, config=config, folder=tmp_path)
        assert_one_line(caught.value, [f"{name}: can't be set: "])
        assert "hf_secret" not in str(caught.value)


def test_an_error_is_one_line_on_stderr_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise InputError("video: two\nlines.mp4: is missing; fetch it")

    assert exit_code(fail) == 2
    assert capsys.readouterr().err == f"{Path(sys.argv[0]).name}: video: two lines.mp4: is missing; fetch it\n"


def test_an_error_of_a_data_loader_worker_is_shown_without_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    from torch._utils import ExceptionWrapper

    def fail() -> None:
        try:
            raise InputError("train_transform: gives 3 frames: want 4")
        except InputError:
            wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
        wrapped.reraise()

    assert exit_code(fail) == 2
    assert capsys.readouterr().err == f"{Path(sys.argv[0]).name}: train_transform: gives 3 frames: want 4\n"


# The launch itself


def finetune(*argv: str) -> tuple["subprocess.CompletedProcess[str]", list[str], set[str]]:
    """Run the recipe; what it printed to stderr, and which modules it imported."""
    command = [sys.executable, "-X", "importtime", "recipes/finetune.py", *argv]
    environment = {**os.environ, "COLUMNS": "100"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = result.stderr.splitlines()
    imports = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    return result, [line for line in lines if not line.startswith("import time:")], imports


def test_help_answers_without_importing_torch() -> None:
    result, errors, imports = finetune("--help")
    assert result.returncode == 0 and errors == []
    for word in (
        "--config FILE",
        "--dataset",
        "--crop_scale",
        "(default: [0.5, 1.0])",
        "--learning_rate",
        "Own videos",
    ):
        assert word in result.stdout
    assert "vidtune.arguments" in imports and not imports & {"torch", "transformers"}


def test_a_bad_config_answers_in_one_line_without_importing_torch(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("config_name: videomae\nlearning_rate: fast\n")
    result, errors, imports = finetune("--config", str(tmp_path / "run.yaml"))
    assert result.returncode == 2 and result.stdout == ""
    assert errors == [
        f"finetune.py: {tmp_path}/run.yaml: learning_rate: got 'fast'; "
        "input should be a valid number, unable to parse string as a number"
    ]
    assert "vidtune.arguments" in imports and not imports & {"torch", "transformers"}
