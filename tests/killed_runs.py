"""Real runs of recipes/finetune.py: launched, killed at chosen moments, restarted, and compared to the bit."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from run_recipe import REPOSITORY, TINY, words
from vidtune.training.checkpoints import STAGING

SAVE_STEPS = 4
OPTIONS = TINY | {
    "config_overrides": TINY["config_overrides"].replace("}", ", hidden_dropout_prob: 0.1}"),
    "num_train_epochs": "10",
    "eval_strategy": "steps",
    "eval_steps": SAVE_STEPS,
    "save_strategy": "steps",
    "save_steps": SAVE_STEPS,
    "save_total_limit": "3",
    "gradient_accumulation_steps": "2",
    "dataloader_num_workers": "2",
    "learning_rate": "1e-3",
    "lr_scheduler_type": "cosine",
    "mixup": "0.8",
    "cutmix": "1.0",
    "ema_decay": "0.9",
    "num_sample": "2",
    "rand_augment": "rand-m7-n2-mstd0.5-inc1",
    "disable_tqdm": "true",  # so that each entry of the log is a line of the output
}
"""All that a resumed run could get wrong."""

TIMES = re.compile("data_wait|clips_per_second|memory_gb|.*_runtime|.*_per_second")
"""Entries of the log that say how fast a run was, and are never the same twice."""

PARTS = ("model", "optimisation", "labels", "clip", "data", "metrics", "history")
"""Parts of report.json that must be the same; the others are times, versions, and how the run was started."""


@dataclass(frozen=True)
class Moment:
    """When a run is to be killed.

    Attributes:
        phase: `starting`, `training`, `evaluating`, `saving`, or `ending`: after the last step.
        steps: Steps since it was started, at least.
        seconds: So much later.
        signal: SIGKILL, or what a scheduler warns with.
    """

    phase: str
    steps: int = 1
    seconds: float = 0.0
    signal: int = signal.SIGKILL


@dataclass(frozen=True)
class Start:
    """What became of a start of a run.

    Attributes:
        resumed_from: Step of the checkpoint that it went on from; 0 without one.
        steps: The last step that it told of.
        phase: What it was doing when it was killed, as `Moment.phase`; `finished` if it came to its end first.
        signal: What it was killed with, or was to be.
        exit_code: Of the launcher; negative: of the signal that ended it.
    """

    resumed_from: int
    steps: int
    phase: str
    signal: int | None
    exit_code: int


def run_with_kills(
    output_dir: Path, dataset: Path, moments: Sequence[Moment] = (), *, processes: int = 1, **options: object
) -> Iterator[Start]:
    """Run to the end, killed at each moment that comes before it and restarted; yields what became of each start."""
    for moment in [*moments, None]:
        start = start_once(output_dir, dataset, moment, processes, options)
        yield start
        if start.phase == "finished":
            return


def start_once(
    output_dir: Path,
    dataset: Path,
    moment: Moment | None = None,
    processes: int = 1,
    options: dict[str, object] | None = None,
) -> Start:
    """Start or restart a run as a user would, and kill it with all its processes at a moment, if there is one."""
    resumed_from = max(steps_of_checkpoints(output_dir), default=0)
    again = {"resume_from_checkpoint": "auto"} if resumed_from else {}
    config = "accelerate_config.yaml" if processes == 1 else f"recipes/accelerate/cpu_{processes}_processes.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "recipes/finetune.py"]
    command += words(**OPTIONS | (options or {}) | again, dataset=dataset, output_dir=output_dir)
    command += [] if resumed_from else ["--overwrite"]
    log = output_dir.with_suffix(".log")
    watch = Watch(output_dir, log, resumed_from, time.time())
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    phase = "finished"
    try:
        while process.poll() is None and not (moment and watch.has_come(moment)):
            assert time.time() < watch.started + 300, f"no end in five minutes: {log.read_text()[-3000:]}"
            time.sleep(0.001)
        if process.poll() is None and moment:
            time.sleep(moment.seconds)
            if moment.signal == signal.SIGKILL:
                os.killpg(process.pid, signal.SIGSTOP)  # at once: what follows takes some milliseconds
            phase = watch.phase()
            kill(process, moment.signal)
    finally:
        kill(process, signal.SIGKILL)
    if process.returncode == 0:
        phase = "finished"
    assert phase != "finished" or process.returncode == 0, f"{process.returncode}: {log.read_text()[-3000:]}"
    return Start(resumed_from, watch.steps(), phase, moment and moment.signal, process.returncode)


def kill(process: subprocess.Popen[str], number: int) -> None:
    """Send a signal to all processes of a run at once, and wait for their end; torchrun gives each rank a group."""
    if process.poll() is not None:
        return
    family = psutil.Process(process.pid).children(recursive=True)
    groups = {process.pid}
    for member in family:
        with suppress(ProcessLookupError):  # it may just have ended
            groups.add(os.getpgid(member.pid))
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, number)
    process.wait(timeout=120)
    _, alive = psutil.wait_procs(family, timeout=120)
    assert not [member for member in alive if member.status() != psutil.STATUS_ZOMBIE], "a process outlived the run"


@dataclass(frozen=True)
class Watch:
    """Says from outside what a run is doing, by what it has written since it was started."""

    output_dir: Path
    log: Path
    resumed_from: int
    started: float

    def steps(self) -> int:
        """The last step that was logged."""
        return self.resumed_from + self.log.read_text().count("'loss':")

    def phase(self) -> str:
        """What it is doing, as `Moment.phase`."""
        text = self.log.read_text()
        steps = self.resumed_from + text.count("'loss':")
        if "'train_runtime'" in text:
            return "ending"
        if steps == self.resumed_from:
            return "starting"
        if steps % SAVE_STEPS or (self.output_dir / f"checkpoint-{steps}").is_dir():
            return "training"
        scored = "'eval_loss'" in text.rpartition("'loss':")[2]
        return "saving" if scored and (self.output_dir / STAGING / f"checkpoint-{steps}").is_dir() else "evaluating"

    def has_come(self, moment: Moment) -> bool:
        """Whether a moment has come, but for its seconds."""
        return self.phase() == moment.phase and (
            moment.phase in ("starting", "ending") or self.steps() >= self.resumed_from + moment.steps
        )


def steps_of_checkpoints(output_dir: Path) -> list[int]:
    """The steps of the checkpoints of a run."""
    return sorted(int(path.name.split("-")[1]) for path in output_dir.glob("checkpoint-*"))


def differences(one: Path, other: Path) -> list[str]:
    """Name what two finished runs, or two checkpoints, don't have in common to the bit."""
    values = [dict(contents(folder)) for folder in (one, other)]
    return sorted(name for name in values[0].keys() | values[1].keys() if values[0].get(name) != values[1].get(name))


def contents(run: Path) -> Iterator[tuple[str, Any]]:
    """Name and value of everything that a finished run has left and that two such runs must share.

    Of checkpoints, the last: a run that was warned has one more, so that others were removed.
    """
    last = run / f"checkpoint-{steps_of_checkpoints(run)[-1]}"
    files = [*last.iterdir(), *(run / name for name in ("model.safetensors", "config.json", "predictions.parquet"))]
    for path in files:
        if path.suffix in (".pt", ".pth"):
            yield from leaves(torch.load(path, weights_only=False), path.name)
        elif path.name == "trainer_state.json":
            yield from leaves(json.loads(path.read_text().replace(str(run), "")), path.name)
        elif path.name != "training_args.bin":  # holds the name of the folder
            yield path.relative_to(run).as_posix(), path.read_bytes()
    report = json.loads((run / "report.json").read_text())
    yield from leaves({name: report[name] for name in PARTS}, "report.json")


def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Name and value of everything in nested containers but times; of arrays type, shape and bytes."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not TIMES.fullmatch(str(key)):
                yield from leaves(item, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        yield f"{name}/length", len(value)
        for index, item in enumerate(value):
            yield from leaves(item, f"{name}/{index}")
    elif isinstance(value, torch.Tensor | np.ndarray):
        array = np.asarray(value)
        yield name, (str(array.dtype), array.shape, array.tobytes())
    else:
        yield name, repr(value)
