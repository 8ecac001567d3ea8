"""Runs a recipe in this process, as a user would from the command line, and says how it was refused."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from vidtune.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[1]

TINY = {
    "config_name": "videomae",
    "config_overrides": "{num_frames: 4, image_size: 32, patch_size: 16, hidden_size: 16, num_hidden_layers: 2, "
    "num_attention_heads: 2, intermediate_size: 32}",
    "num_train_epochs": "2",
    "per_device_train_batch_size": "4",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "logging_steps": "1",
    "dataloader_num_workers": "0",
    "use_cpu": "true",
}
"""Options of a run that takes a second."""


def load_recipe(name: str) -> ModuleType:
    """Import recipes/<name>.py."""
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", REPOSITORY / "recipes" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def refused(call: Callable[..., object], *arguments: object, **options: object) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def words(**options: object) -> list[str]:
    """Options as words of a command line."""
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def finetune(**options: object) -> dict:
    """Run recipes/finetune.py with the options of TINY and these; return its report."""
    tiny = {name: value for name, value in TINY.items() if name not in options}
    if "model_name_or_path" in options:
        tiny = {name: value for name, value in tiny.items() if not name.startswith("config_")}
    return load_recipe("finetune").main(words(**tiny, **options))


def exit_code(name: str, argv: list[str]) -> int:
    """Run a recipe as a program: its exit code."""
    from vidtune.errors import exit_code

    old, sys.argv = sys.argv, [f"recipes/{name}.py", *argv]
    try:
        return exit_code(load_recipe(name).main)
    except SystemExit as error:
        return int(error.code or 0)
    finally:
        sys.argv = old
