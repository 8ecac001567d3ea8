"""Every config that ships is read as a recipe reads it, and says how it is launched."""

import re
import shlex
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from run_recipe import load_recipe
from vidtune.arguments import parse

ROOT = Path(__file__).parents[1]


def shipped(pattern: str) -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern))


CONFIGS = shipped("recipes/configs/**/*.yaml")
LAUNCHERS = ["accelerate_config.yaml", *shipped("recipes/accelerate/*.yaml")]


def comments(path: str) -> list[str]:
    """The comment that a file opens with, line by line."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return [line.removeprefix("#").strip() for line in re.match(r"(?:#.*\n)*", text)[0].splitlines()]


def recipe_of(path: str) -> str:
    """The script that a config is for, as its launch command names it."""
    (recipe,) = [word for word in shlex.split(comments(path)[0]) if word.endswith(".py")]
    return recipe


def test_there_are_configs() -> None:
    assert "recipes/configs/demo.yaml" in CONFIGS
    assert len(LAUNCHERS) > 1
    assert not list(ROOT.glob("recipes/**/*.yml"))  # would be passed over here


@pytest.mark.parametrize("path", CONFIGS)
def test_a_config_is_accepted_by_its_recipe(path: str) -> None:
    sections = load_recipe(Path(recipe_of(path)).stem).SECTIONS
    options = parse(["--config", str(ROOT / path)], "A recipe.", sections, training="model" in sections)
    assert options.config["output_dir"].startswith("outputs/")


@pytest.mark.parametrize("path", CONFIGS)
def test_a_config_opens_with_the_command_that_launches_it(path: str) -> None:
    words = shlex.split(comments(path)[0])
    assert words[:2] == ["accelerate", "launch"]
    assert words[words.index("--config") + 1] == path
    assert (ROOT / words[words.index("--config_file") + 1]).is_file()
    assert (ROOT / recipe_of(path)).is_file()


@pytest.mark.parametrize("path", LAUNCHERS)
def test_a_config_of_accelerate_is_read_by_its_own_loader(path: str) -> None:
    config = load_config_from_file(str(ROOT / path))  # an unknown key raises
    assert config.num_processes >= 1
    assert len(comments(path)) > 0
