"""What a run leaves to read: report.json, and a short table on the terminal."""

import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = (
    "vidtune torch torchvision transformers datasets accelerate evaluate huggingface_hub torchcodec av pytorchvideo"
).split()

# An array without texts and further arrays; no text of a JSON holds a line break, so none is taken for one.
NUMBERS = re.compile(r'\[\n\s+([^\[\]{}"]*)\n\s*\]')


def environment(processes: int = 1, precision: str = "fp32", decoder: str = "") -> dict[str, Any]:
    """Describe what a run ran on: versions, commit of vidtune, hardware.

    Args:
        processes: Processes that took part.
        precision: `fp32`, `bf16` or `fp16`.
        decoder: The decoder that read the videos.
    """
    import torch

    packages: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = None
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hardware": ", ".join([*gpus, f"{cpu_name()}, {os.cpu_count()} cores"]),
        "processes": processes,
        "precision": precision,
        "decoder": decoder,
        "packages": packages,
        "commit": commit(),
    }


def cpu_name() -> str:
    """Name the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str | None:
    """Give the commit of vidtune's own checkout, `-dirty` where files differ; None for an installed package."""
    folder = Path(__file__).resolve().parents[3]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def to_json(report: Mapping[str, Any]) -> str:
    """Render a report: UTF-8, indented, one line an array of numbers; null for what is not a number."""
    text = json.dumps(_plain(report), indent=2, ensure_ascii=False, allow_nan=False, default=str)
    return NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def _plain(value: Any) -> Any:
    """Turn NumPy's values into Python's, and NaN and infinity, which JSON doesn't know, into None."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_summary(report: Mapping[str, Any], output_dir: Path, predict_command: str) -> None:
    """Print the scores of each split, the speed, and what to do next."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in ("split", "videos", "failed", "accuracy", "top-5", "macro F1", "videos/s"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split, metrics in report["metrics"].items():
        scores = [metrics[name] for name in ("accuracy", "top5_accuracy", "macro_f1")]
        shown = ["" if score is None else f"{score:.3f}" for score in scores]
        speed = f"{report['throughput'][f'{split}_videos_per_second']:.0f}"
        table.add_row(split, str(metrics["videos"]), str(metrics["failed"]), *shown, speed)
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    trained = report["throughput"]["train_videos_per_second"]
    speed = "nothing was left to train" if trained is None else f"trained at {trained:.1f} videos/s"
    console.print(f"{speed}, {report['seconds']:.0f} s in all", markup=False)
    for split, data in report["data"].items():
        for problem in data["failed"][:5]:
            console.print(f"left out of {split}: {problem['path']}: {problem['reason']}", markup=False)
        if len(data["failed"]) > 5:
            console.print(f"left out of {split}: {len(data['failed']) - 5} more, see report.json", markup=False)
    console.print(f"saved:     {output_dir}", markup=False)
    console.print(f"predict:   {predict_command}", markup=False)
