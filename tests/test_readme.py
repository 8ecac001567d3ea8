"""The commands that the documents show are commands that work."""

import re
import shlex

import pytest

from run_recipe import REPOSITORY
from vidtune.arguments import parse

DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
COMMANDS = [
    command
    for path in DOCUMENTS
    for block in re.findall(r"```bash\n(.*?)```", path.read_text(), re.DOTALL)
    for command in block.replace("\\\n", " ").splitlines()
    if "recipes/finetune.py" in command and "--help" not in command
]


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_every_finetune_command_parses(command, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    words = shlex.split(command, comments=True)
    parse(words[words.index("recipes/finetune.py") + 1 :], "")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_local_link_leads_somewhere(path):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 150
