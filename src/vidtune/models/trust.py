"""What of a checkpoint is believed: its numbers always, its code only on request, a pickle never.

A pickle runs whatever its author put there when it is opened, and so does code that a configuration names in
`auto_map`; safetensors and JSON hold values only.
"""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vidtune.errors import InputError

PICKLES = frozenset(".bin .ckpt .pickle .pkl .pt .pth .pyth".split())
"""Endings of files that torch.load reads."""

OF_TRAINING = re.compile(r"(training_args\.bin|optimizer\.(bin|pt)|scheduler\.(bin|pt)|scaler\.pt|rng_state\w*\.pth)")
"""Files beside the weights that no model is loaded from."""

CLASS_FIELDS = {
    "preprocessor_config.json": ("image_processor_type", "video_processor_type", "feature_extractor_type"),
    "video_preprocessor_config.json": ("video_processor_type",),
    "processor_config.json": ("processor_class",),
    "tokenizer_config.json": ("tokenizer_class",),
}
"""JSON files beside the configuration that may name code in `auto_map`, and their fields that name a class."""


def pickled_weights(names: Sequence[str]) -> list[str]:
    """Find the files of weights that are pickles, among the names of a checkpoint's files.

    Where there are some that transformers would read, only these.
    """
    found = [name for name in names if PurePosixPath(name).suffix in PICKLES and "/" not in name]
    found = sorted(name for name in found if not OF_TRAINING.fullmatch(name))
    whole = [name for name in found if re.fullmatch(r"pytorch_model(-\d+-of-\d+)?\.bin", name)]
    return whole or [name for name in found if name == "adapter_model.bin"] or found


def check_weights(names: Sequence[str], name: str, field: str, revision: str | None = None) -> None:
    """Check that the weights of a checkpoint, if it has any, are safetensors.

    Args:
        names: Of its files.
        name: Folder or Hub id.
        field: What errors call it.
        revision: Branch, tag or commit that was asked for.

    Raises:
        InputError: If there are only pickles; it has the command that converts them.
    """
    pickles = pickled_weights(names)
    if not pickles or any(file.endswith(".safetensors") and "/" not in file for file in names):
        return
    folder = f"outputs/{Path(name).absolute().name}-safetensors"
    given = ["--model_revision", revision] if revision else []
    command = shlex.join(["python", "recipes/convert.py", "--model", name, *given, "--output_dir", folder])
    raise InputError(
        f"{field}: {name}: its weights are a pickle, {pickles[0]}, which could run code when opened; convert them "
        f"with: {command} and give --{field} {folder}"
    )


def check_code(folder: Path, name: str, field: str, trust_remote_code: bool, config: str = "config.json") -> None:
    """Check that a checkpoint needs no code of its own, or may run it.

    Where transformers has the class itself, that one is taken, whatever code lies beside it, unless that is trusted.

    Args:
        folder: That holds its files.
        name: Folder or Hub id.
        field: What errors call it.
        trust_remote_code: Whether its own code may be run.
        config: The file of its configuration.

    Raises:
        InputError: If it may not, or lies in another repository, where no revision pins it.
    """
    for file in (config, *CLASS_FIELDS):
        for reference in code_of(folder / file, trust_remote_code):
            if not trust_remote_code:
                raise untrusted(name, field, f"{reference.rpartition('.')[0]}.py, as its {file} says")
            if "--" in reference:
                raise InputError(
                    f"{field}: {name}: {file} names code of another repository, {reference.partition('--')[0]}, which "
                    "no revision pins; put the code beside the weights, into a folder of yours"
                )


def untrusted(name: str, field: str, code: str) -> InputError:
    """Say that a checkpoint has code, and how to allow it."""
    return InputError(
        f"{field}: {name}: needs code of its own, {code}, and that is not run; read it, and if you trust it add "
        "--trust_remote_code"
    )


def code_of(file: Path, trust_remote_code: bool = False) -> list[str]:
    """List the `module.Class` that transformers would run for a JSON file of a checkpoint.

    None where it has the class itself; but with `trust_remote_code` it prefers the code to its own class.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # what is wrong with it is said by what reads it
        return []
    auto_map = values.get("auto_map") if isinstance(values, dict) else None
    if isinstance(auto_map, list):  # as older tokenizers have it
        auto_map = {"AutoTokenizer": auto_map}
    if not isinstance(auto_map, dict) or (not trust_remote_code and _is_known(file.name, values)):
        return []
    references = [item for value in auto_map.values() for item in (value if isinstance(value, list) else [value])]
    return [str(item) for item in references if item]


def _is_known(file: str, values: dict[str, Any]) -> bool:
    import transformers

    fields = CLASS_FIELDS.get(file, ("model_type",))  # a configuration may have any name
    named = [str(values[field]) for field in fields if values.get(field)]
    if fields == ("model_type",):
        return any(name in transformers.CONFIG_MAPPING for name in named)
    return any(hasattr(transformers, name) for name in named)
