"""The options of a recipe, read from a YAML file and then from the command line.

Everything here answers at once: neither torch nor transformers is imported, so `--help` and a bad value
cost no waiting.
"""

import argparse
import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NoReturn, get_type_hints

from vidtune.contradictions import check_together
from vidtune.errors import InputError
from vidtune.schema import accepts, check_value, item_type, parse_word, read_yaml, shown, training_fields

LONGEST_NAME = 255
"""Bytes of the name of a file or a folder, on most disks."""

PATHS = set(
    "dataset video_root video prepared model_name_or_path config_name weights output_dir resume_from_checkpoint model "
    "compare output".split()
)
"""Options in which `~` is the home folder, in a YAML as on the command line."""

# Answered by us, or of no use in a run that is described by a file.
REFUSED_TRAINING_FIELDS = {
    "remove_unused_columns": "the trainer needs every column; leave it out",
    "label_names": "the label column is always `label`; leave it out",
    "do_train": "finetune always trains; leave it out",
    "do_eval": "finetune always evaluates; leave it out",
    "do_predict": "finetune always scores the test split; leave it out",
    "dataloader_drop_last": "it would drop videos from the scores, too; leave it out",
    "train_sampling_strategy": "videos are drawn in random order, the same on any number of processes; leave it out",
    "prediction_loss_only": "the scores need the predictions; leave it out",
    "batch_eval_metrics": "the videos of a split are scored together; leave it out",
    "eval_do_concat_batches": "the videos of a split are scored together; leave it out",
    "parallelism_config": "it is an object of accelerate's; choose a file of recipes/accelerate, and leave it out",
    "use_liger_kernel": "its kernels are of language models; leave it out",
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
    argv: Sequence[str] | None, description: str, sections: Mapping[str, type], training: bool | Sequence[str] = True
) -> SimpleNamespace:
    """Read the options of a recipe: defaults, then `--config FILE`, then the command line.

    Args:
        argv: Words of the command line, without the program's name; None for `sys.argv`.
        description: What `--help` says of the recipe.
        sections: Dataclasses of the recipe's options, by the name that the result gives them.
        training: Whether the fields of transformers.TrainingArguments are options of the recipe, too; or the names of
            those that are.

    Returns:
        One filled dataclass a section, under its name; `training`, the fields of TrainingArguments that were given,
        by name; and `config`, all of it as one flat mapping: writing it as YAML reproduces the run.

    Raises:
        InputError: If a key is unknown, or a value of the wrong type or out of range.
        SystemExit: After `--help`.
    """
    types = {name: hint for section in sections.values() for name, hint in _hints(section).items()}
    if training:
        fields = training_fields()
        types = (fields if training is True else {name: fields[name] for name in training}) | types
    words = list(sys.argv[1:] if argv is None else argv)
    _check_no_secret(word[2:].partition("=")[0] for word in words if word.startswith("--"))
    given, unknown = _parser(types, description, list(sections.values()), training).parse_known_args(words)
    if unknown:
        name = unknown[0].lstrip("-").split("=")[0]
        if not name or not unknown[0].startswith("-"):
            raise InputError(f"command line: {unknown[0]!r} belongs to no option; write --OPTION VALUE")
        raise InputError(_unknown_key(name, types, "command line"))
    command_line = vars(given)
    path = command_line.pop("config", None)
    values = {} if path is None else read_yaml(path)
    _check_no_secret(values)
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
        _check_path(name, values[name] or "")
    for name in ("input", "predictions"):
        for path in values.get(name) or []:
            _check_path(name, path)
    return _fill(sections, values)


def _check_no_secret(names: Iterable[str]) -> None:
    """Refuse options that would hold a token, which a command line shows to all users of a machine."""
    for name in names:
        if re.search(r"(^|_)(token|api_key|password|secret)$", name):
            raise InputError(
                f"{name}: can't be set: others would see it here, and it would be saved with the model; set the "
                "environment variable HF_TOKEN, or run `hf auth login`"
            )


def _check_path(name: str, path: str) -> None:
    longest = max(len(os.fsencode(part)) for part in path.split(os.sep))
    # Files are written under longer names until they are whole
    if longest > (LONGEST_NAME if name not in ("output", "output_dir") else LONGEST_NAME - 55) or len(path) > 4000:
        raise InputError(f"{name}: got {shown.repr(path)}; it is too long a name, give a shorter one")
    if path.startswith("~") and os.path.expanduser(path) == path:
        raise InputError(f"{name}: {path}: no user of this machine is called so; give a folder without ~")


def _hints(section: type) -> dict[str, Any]:
    return get_type_hints(section, include_extras=True)


def _from_command_line(text: str | list[str], hint: Any) -> Any:
    if isinstance(text, list):
        values = [parse_word(item) for item in text]
        if len(text) == 1 and isinstance(values[0], list) and text[0].startswith("["):
            return values[0]
        return text if accepts(item_type(hint), str) else values  # names may look like numbers, or like YAML
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


class _Once(argparse.Action):
    """An option whose first value would be forgotten, though both were meant."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        if hasattr(namespace, self.dest):
            remedy = "put the options into one file" if self.dest == "config" else f"write --{self.dest} ONE TWO"
            raise InputError(f"command line: {self.dest} is given twice, with {values!r} the second time; {remedy}")
        setattr(namespace, self.dest, values)


def _parser(
    types: dict[str, Any], description: str, sections: Sequence[type], training: bool | Sequence[str]
) -> argparse.ArgumentParser:
    parser = _Parser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [--config FILE] [--OPTION VALUE ...]",
        epilog="Every other field of transformers.TrainingArguments is an option too, under its own name."
        if training is True
        else None,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    told = "YAML file of options; the command line overrides it"
    parser.add_argument("--config", action=_Once, metavar="FILE", help=told)
    for section in sections:
        group = parser.add_argument_group((section.__doc__ or "").rstrip("."))
        for item in dataclasses.fields(section):
            default = item.default_factory() if callable(item.default_factory) else item.default
            told = "" if default is None or default is False or default in ({}, []) else f" (default: {default})"
            _add_option(group, item.name, types[item.name], item.metadata["help"].replace("%", "%%") + told)
    if training:
        group = parser.add_argument_group("Training (fields of transformers.TrainingArguments)")
        own = {item.name for section in sections for item in dataclasses.fields(section)}
        listed = SHOWN_TRAINING_FIELDS if training is True else training
        for name in listed:
            _add_option(group, name, types[name], "")
        for name in types.keys() - own - set(listed):
            _add_option(parser, name, types[name], argparse.SUPPRESS)
    return parser


def _add_option(group: Any, name: str, hint: Any, help: str) -> None:
    words: dict[str, Any] = {"help": help, "metavar": name.rsplit("_", 1)[-1].upper()}
    if accepts(hint, bool):
        words |= {"nargs": "?", "const": "true", "metavar": "true|false"}
    elif accepts(hint, list) and not accepts(hint, str):
        words |= {"nargs": "+", "action": _Once}
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
