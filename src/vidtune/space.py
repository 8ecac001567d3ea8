"""The files of a Space of the Hub that serves a model's page: this package, an app.py of a line, pinned versions."""

import shutil
import sys
from importlib import metadata
from pathlib import Path

import yaml
from packaging.requirements import Requirement

import vidtune
from vidtune.training.checkpoints import write_text


def write_space(
    folder: Path,
    model: str,
    revision: str | None = None,
    *,
    trust_remote_code: bool = False,
    window_seconds: float = 2.0,
    stride_seconds: float = 1.0,
    max_upload_mb: int = 100,
) -> list[str]:
    """Write the files of a Space, which also run here: `pip install -r requirements.txt`, `python app.py`.

    The code of vidtune goes along, so that the Space stays as it is tried here, whatever becomes of vidtune.

    Args:
        folder: An empty folder.
        model: Hub id of the model, which the Space loads when it starts.
        revision: Branch, tag or commit of it.
        trust_remote_code: As of `vidtune.app.launch`, likewise the following.
        window_seconds: Length of a window of the timeline.
        stride_seconds: From one window's start to the next one's.
        max_upload_mb: Largest file that is taken, megabytes.

    Returns:
        The names of all files, relative to the folder.
    """
    package = Path(vidtune.__file__).parent
    shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    options = f"revision={revision!r}, window_seconds={window_seconds!r}, stride_seconds={stride_seconds!r}"
    trust = f"trust_remote_code={trust_remote_code!r}"
    write_text(
        folder / "app.py",
        f'"""A page to try {model}."""\n\nfrom vidtune.app import launch\n\n'
        f"launch({model!r}, {options}, max_upload_mb={max_upload_mb!r}, {trust})\n",
    )
    write_text(folder / "requirements.txt", "".join(f"{line}\n" for line in pinned_requirements()))
    write_text(folder / "README.md", space_card(model))
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def pinned_requirements() -> list[str]:
    """List what vidtune and its page need, each as `name==version` of what is installed here."""
    needed = map(Requirement, metadata.requires("vidtune") or [])
    names = {item.name for item in needed if not item.marker or item.marker.evaluate({"extra": ""})} | {"gradio"}
    # Builds such as 2.15.0+cpu are not on PyPI
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in sorted(names, key=str.lower)]


def space_card(model: str) -> str:
    """Write the README.md of a Space: the Hub reads from its YAML how to build and to show it."""
    name = model.split("/")[-1]
    settings = {
        "title": name,
        "emoji": "🎬",
        "colorFrom": "indigo",
        "colorTo": "blue",
        "sdk": "gradio",
        "sdk_version": metadata.version("gradio"),
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        "pinned": False,
        "license": "apache-2.0",
        "models": [model],
        "tags": ["video-classification", "vidtune"],
    }
    text = f"A page to try [{model}](https://huggingface.co/{model}), a model that classifies videos."
    return f"---\n{yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)}---\n\n# {name}\n\n{text}\n"
