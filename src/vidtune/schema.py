"""The types of options: read from YAML or a word, and checked, without importing torch or transformers."""

import ast
import importlib.util
import re
import reprlib
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from vidtune.errors import InputError

# transformers takes any number here and fails, or trains nothing, much later.
RANGES: dict[str, Any] = {
    "output_dir": Field(min_length=1),
    "learning_rate": Field(ge=0),
    "num_train_epochs": Field(gt=0),
    "max_steps": Field(ge=-1, lt=2**31),
    "per_device_train_batch_size": Field(ge=1, lt=2**31),
    "per_device_eval_batch_size": Field(ge=1, lt=2**31),
    "gradient_accumulation_steps": Field(ge=1, lt=2**31),
    "weight_decay": Field(ge=0),
    "adam_beta1": Field(ge=0, lt=1),
    "adam_beta2": Field(ge=0, lt=1),
    "warmup_steps": Field(ge=0),
    "max_grad_norm": Field(ge=0),
    "label_smoothing_factor": Field(ge=0, lt=1),
    "dataloader_num_workers": Field(ge=0, lt=2**31),
    "dataloader_prefetch_factor": Field(ge=1, lt=2**31),
    "logging_steps": Field(gt=0),
    "save_steps": Field(gt=0),
    "eval_steps": Field(gt=0),
    "eval_accumulation_steps": Field(ge=1, lt=2**31),
    "save_total_limit": Field(ge=1, lt=2**31),
    "log_level": Field(pattern="^(passive|detail|debug|info|warning|error|critical)$"),
    "log_level_replica": Field(pattern="^(passive|detail|debug|info|warning|error|critical)$"),
    "seed": Field(ge=0, lt=2**32),
    "data_seed": Field(ge=0, lt=2**32),
}


shown = reprlib.Repr()
"""Writes a value of any size in one line that can be read."""
shown.maxstring = shown.maxother = shown.maxlong = 100
shown.maxlist = shown.maxdict = 10


def read_yaml(path: str) -> dict[str, Any]:
    """Read a config file.

    Raises:
        InputError: If the file can't be read, is no YAML, or is no mapping.
    """
    if not path:
        raise InputError("config: got ''; give a YAML file such as recipes/configs/demo.yaml")
    try:
        values = _load_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not a text file"
        raise InputError(f"config: {path}: {reason}; give a YAML file such as recipes/configs/demo.yaml") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "is not YAML"
        raise InputError(f"config: {path}{where}: {problem}; write one `key: value` a line") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"config: {path}: holds a {type(values).__name__}; write one `key: value` a line")
    return {str(name): value for name, value in values.items()}


def check_value(name: str, value: Any, hint: Any, source: str | None = None) -> Any:
    """Check one value against its type and range; `5e-5` in YAML, a string, passes as a number.

    Raises:
        InputError: If the value doesn't fit.
    """
    if value is False and "no" in _choices(hint):
        value = "no"  # what YAML makes of `eval_strategy: no`
    prefix = f"{source}: {name}" if source else name
    texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
    if any(text.isspace() or "\0" in text for text in texts):
        raise InputError(f"{prefix}: got {shown.repr(value)}; give a name without NUL, not blank")
    if isinstance(value, bool) and not accepts(hint, bool):
        raise InputError(f"{prefix}: got {value!r}; give {_describe(hint)}")
    try:
        return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False)).validate_python(value)
    except ValidationError as error:
        # The first error is that of the first alternative in a union; a misspelt word is none of a mapping.
        errors = [e for e in error.errors() if e["type"] != "none_required"]
        words = [e for e in errors if e["type"] == "literal_error" and isinstance(value, str)]
        message = (words or errors)[0]["msg"]
        if isinstance(value, int | float | date) and accepts(hint, str):
            message += "; write it in quotes"
        raise InputError(f"{prefix}: got {shown.repr(value)}; {message[0].lower()}{message[1:]}") from None


@cache
def training_fields() -> dict[str, Any]:
    """Names and types of the fields of transformers.TrainingArguments.

    They are read from its source, since importing it takes several seconds.
    """
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("transformers: is not installed; run `pip install -e .` in the folder of vidtune")
    folder = Path(spec.submodule_search_locations[0])
    trees = [
        ast.parse((folder / name).read_text(encoding="utf-8")) for name in ("trainer_utils.py", "training_args.py")
    ]
    classes = {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}
    names: dict[str, Any] = {"Any": Any, "Literal": Literal} | {
        t.__name__: t for t in (int, float, bool, str, list, dict)
    }
    enums = {name: _enum_values(node) for name, node in classes.items() if _is_enum(node)}
    names |= {name: Literal[tuple(values)] for name, values in enums.items() if values}
    fields = {}
    for node in classes["TrainingArguments"].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            annotation = ast.unparse(node.annotation)
            if any(enum in annotation for enum in enums):
                # `IntervalStrategy | str` means one of the strings of IntervalStrategy.
                annotation = annotation.replace(" | str", "")
            name = node.target.id
            hint = eval(annotation, {}, _Names(names))  # nosec B307 # of transformers' own source, which is imported, too
            fields[name] = Annotated[hint, RANGES[name]] if name in RANGES else hint
    return fields


class _Names(dict[str, Any]):
    def __missing__(self, name: str) -> Any:
        return Any


def _is_enum(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id.endswith("Enum") for base in node.bases)


def _enum_values(node: ast.ClassDef) -> list[str]:
    constants = [item.value for item in node.body if isinstance(item, ast.Assign)]
    return [item.value for item in constants if isinstance(item, ast.Constant) and isinstance(item.value, str)]


def accepts(hint: Any, kind: type) -> bool:
    """Whether a value of the type may stand there, whatever the nesting of Annotated and unions."""
    if get_origin(hint) is Literal:
        return any(isinstance(value, kind) for value in get_args(hint))
    if get_origin(hint) is Annotated:
        return accepts(get_args(hint)[0], kind)
    if get_origin(hint) in (list, dict):
        return kind is get_origin(hint)
    return hint is kind or hint is Any or any(accepts(part, kind) for part in get_args(hint))


def item_type(hint: Any) -> Any:
    """The type of the items of a list, whatever the nesting of Annotated and unions; None where there is no list."""
    if get_origin(hint) is list:
        return get_args(hint)[0]
    return next((found for part in get_args(hint) if (found := item_type(part)) is not None), None)


def _choices(hint: Any) -> list[Any]:
    """The values of a Literal, whatever the nesting of Annotated and unions."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [choice for part in get_args(hint) for choice in _choices(part)]


def _describe(hint: Any) -> str:
    if choices := _choices(hint):
        return "one of " + ", ".join(map(str, choices))
    names = {int: "a whole number", float: "a number", str: "a string", list: "a list", dict: "a mapping"}
    return " or ".join(name for kind, name in names.items() if accepts(hint, kind))


def parse_word(text: str) -> Any:
    """Read a word as YAML does; what is no YAML, or nothing, stays text."""
    try:
        return text if not text.strip() else _load_yaml(text)
    except yaml.YAMLError:
        return text


class _Loader(yaml.SafeLoader):
    """YAML that also reads `5e-5` as a number, and refuses a key that is given twice, and an alias of a collection.

    `12e4567` stays text, as YAML has it: a commit may be called so. Aliases may hold themselves, or grow to any size.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            if isinstance(self.anchors.get(event.anchor), yaml.CollectionNode):
                problem = f"*{event.anchor} stands for a list or a mapping"
                raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in keys:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            keys.add(key.value if isinstance(key, yaml.ScalarNode) else key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE]-[0-9]+$"), list("-+0123456789")
)


def _load_yaml(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # nosec B506 # a SafeLoader
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a date in month 13
        raise yaml.YAMLError(str(error)) from None
