"""The commands that the documents show are commands that work."""

import re
import shlex

import pytest

from run_recipe import REPOSITORY, load_recipe
from vidtune.arguments import parse
from vidtune.data.findings import KINDS

DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
COMMANDS = [
    command
    for path in DOCUMENTS
    for block in re.findall(r"```bash\n(.*?)```", path.read_text(), re.DOTALL)
    for command in block.replace("\\\n", " ").splitlines()
    if re.search(r"recipes/(finetune|pretrain|prepare_data|benchmark)\.py", command) and "--help" not in command
]


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    words = shlex.split(command, comments=True)
    recipe = next(word for word in words if re.fullmatch(r"recipes/\w+\.py", word))
    words = words[words.index(recipe) + 1 :]
    module = load_recipe(recipe[len("recipes/") : -len(".py")])
    if recipe == "recipes/benchmark.py":
        assert words.pop(0) in module.COMMANDS
    parse(words, "", module.SECTIONS, training="model" in module.SECTIONS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_local_link_leads_somewhere(path):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_the_guide_lists_every_kind_of_finding():
    guide = (REPOSITORY / "docs" / "data.md").read_text()
    for kind, (meaning, remedy) in KINDS.items():
        assert f"| `{kind}` | {meaning} | {remedy} |" in guide


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 150
