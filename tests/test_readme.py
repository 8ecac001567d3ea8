"""The commands that the documents show are commands that work."""

import json
import re
import shlex
from pathlib import Path

import pytest

from run_recipe import REPOSITORY, load_recipe
from soak import with_table
from vidtune.arguments import parse
from vidtune.data.findings import KINDS

DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
COMMANDS = [
    command
    for path in DOCUMENTS
    for block in re.findall(r"```bash\n(.*?)```", path.read_text(), re.DOTALL)
    for command in block.replace("\\\n", " ").splitlines()
    if re.search(r"recipes/\w+\.py", command) and "--help" not in command
] + [
    command
    for path in DOCUMENTS
    for command in re.findall(r"`((?:python )?recipes/\w+\.py (?:\w+|--\w+ [^`]+))`", path.read_text())
    if "--help" not in command
]
TRAINING = {"finetune": True, "pretrain": True, "predict": ("use_cpu",), "extract_features": ("use_cpu",)}
"""By recipe, which fields of TrainingArguments are options of it, where it has no constant of this name."""


def test_every_recipe_has_a_command_in_the_documents():
    shown = {recipe for command in COMMANDS for recipe in re.findall(r"recipes/(\w+)\.py", command)}
    assert shown == {path.stem for path in (REPOSITORY / "recipes").glob("*.py")}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    words = shlex.split(command, comments=True)
    script = next(word for word in words if re.fullmatch(r"recipes/\w+\.py", word))
    words, recipe = words[words.index(script) + 1 :], Path(script).stem
    module = load_recipe(recipe)
    if recipe == "benchmark":
        assert words.pop(0) in module.COMMANDS
    parse(words, "", module.SECTIONS, training=TRAINING.get(recipe, getattr(module, "TRAINING", False)))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_local_link_leads_somewhere(path):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_the_guide_lists_every_kind_of_finding():
    guide = (REPOSITORY / "docs" / "data.md").read_text()
    for kind, (meaning, remedy) in KINDS.items():
        assert f"| `{kind}` | {meaning} | {remedy} |" in guide


def test_the_soak_in_the_guide_is_that_of_results():
    report = json.loads((REPOSITORY / "results" / "soak.json").read_text(encoding="utf-8"))
    guide = (REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert report["equal"] and with_table(guide, report) == guide


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 150
