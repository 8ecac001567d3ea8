"""What a run leaves to read: report.json, and a short table on the terminal."""

import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import subprocess  # nosec B404 # for git, see commit()
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vidtune.card import without_secrets
from vidtune.errors import Interrupted
from vidtune.printing import printable
from vidtune.training.checkpoints import write_text

PACKAGES = (
    "vidtune torch torchvision transformers datasets accelerate evaluate huggingface_hub torchcodec av pytorchvideo"
).split()

# An array without texts and further arrays; no text of a JSON holds a line break, so none is taken for one.
NUMBERS = re.compile(r'\[\n\s+([^\[\]{}"]*)\n\s*\]')


@contextmanager
def reported_when_stopped(
    output_dir: Path, is_first_process: bool, describe: Callable[[], dict[str, Any]]
) -> Iterator[None]:
    """Write report.json of a run that a signal stops, too; what stopped it stands there under `stopped`.

    Args:
        output_dir: Folder of the run.
        is_first_process: Whether this process is the one that writes.
        describe: Gives the report, without scores; every process calls it.
    """
    try:
        yield
    except Interrupted as error:
        report = describe() | {"stopped": str(error)}
        if is_first_process:
            write_text(output_dir / "report.json", without_secrets(to_json(report)))
        raise


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
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # nosec B603 # words of our own
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def to_json(report: Mapping[str, Any]) -> str:
    """Render a report: UTF-8, indented, one line an array of numbers; null for what is not a number."""
    text = json.dumps(_plain(report), indent=2, ensure_ascii=False, allow_nan=False, default=str)
    return NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def without_paths(report: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the paths of the videos that failed: they may name people, and the report is to be published."""
    data = {
        split: {**part, "failed": [{**video, "path": ""} for video in part["failed"]]}
        for split, part in report["data"].items()
    }
    return {**report, "data": data}


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

    shown = {"accuracy": "accuracy", "mean_average_precision": "mAP", "top5_accuracy": "top-5", "macro_f1": "macro F1"}
    parts = report["metrics"].values()
    shown = {name: title for name, title in shown.items() if any(part.get(name) is not None for part in parts)}
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("split", "videos", "failed", *shown.values(), "videos/s"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split, metrics in report["metrics"].items():
        scores = ["" if metrics.get(name) is None else f"{metrics[name]:.3f}" for name in shown]
        speed = f"{report['throughput'][f'{split}_videos_per_second']:.0f}"
        table.add_row(split, str(metrics["videos"]), str(metrics["failed"]), *scores, speed)
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    trained = report["throughput"]["train_videos_per_second"]
    speed = "nothing was left to train" if trained is None else f"trained at {trained:.1f} videos/s"
    console.print(f"{speed}, {report['seconds']:.0f} s in all", markup=False)
    for split, data in report["data"].items():
        for problem in data["failed"][:5]:
            line = f"left out of {split}: {problem['path']}: {problem['reason']}"
            console.print(printable(line), markup=False)
        if len(data["failed"]) > 5:
            console.print(f"left out of {split}: {len(data['failed']) - 5} more, see report.json", markup=False)
    console.print(f"saved:     {output_dir}", markup=False)
    console.print(printable(f"predict:   {predict_command}"), markup=False)


def print_scores(report: Mapping[str, Any], output_dir: Path) -> None:
    """Print the scores of an evaluation with their intervals, what its tests say, and where to look."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    for split, metrics in report["metrics"].items():
        counts = f"{metrics['videos']} videos scored, {metrics['failed']} failed"
        table = Table(box=box.SIMPLE_HEAD, title=f"{split}: {counts}", title_justify="left")
        for column in ("score", "value", f"{metrics['confidence']:.0%} interval"):
            table.add_column(column, justify="left" if column == "score" else "right")
        for name in ("accuracy", "clip_accuracy", "top5_accuracy", "macro_f1", "mean_average_precision", "loss"):
            if (value := metrics.get(name)) is not None:
                table.add_row(name.replace("_", " "), f"{value:.3f}", _interval(metrics["intervals"].get(name)))
        if majority := metrics["majority"]:
            title = escape(printable(f"accuracy of always {majority['label']}"))
            table.add_row(title, f"{majority['accuracy']:.3f}", "")
        for when in ("before", "after"):
            if calibration := metrics["calibration"][when]:
                value = f"{calibration['expected_calibration_error']:.3f}"
                table.add_row(f"calibration error {when} scaling", value, "")
        console.print(table)
    if shortcuts := report["shortcuts"]:
        console.print(printable(shortcuts["conclusion"]), markup=False)
    if comparison := report["comparison"]:
        left_out = len(comparison["only_here"]) + len(comparison["only_there"])
        console.print(
            f"against {comparison['with']}, on {comparison['videos']} videos of both ({left_out} are not): "
            f"{comparison['difference']:+.3f} {_interval(comparison['interval'])}",
            markup=False,
        )
    for split, data in report["data"].items():
        for problem in data["failed"][:5]:
            line = f"failed in {split}: {problem['path']}: {problem['reason']}"
            console.print(printable(line), markup=False)
        if len(data["failed"]) > 5:
            console.print(f"failed in {split}: {len(data['failed']) - 5} more, see report.json", markup=False)
    console.print(f"saved:     {output_dir}", markup=False)
    console.print(f"look:      xdg-open {shlex.quote(str(output_dir / 'report.html'))}", markup=False)


def _interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
