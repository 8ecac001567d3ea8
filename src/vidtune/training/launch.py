"""Whether what runs is what the launcher was asked for: accelerate starts less in several cases, and says nothing."""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import yaml

from vidtune.errors import InputError

CONFIGS = "recipes/accelerate/"


def check_launcher() -> None:
    """Check, before torch is imported, that `accelerate launch` started as many processes as it was asked for.

    Raises:
        InputError: If it didn't.
    """
    command: list[str] = []
    with suppress(psutil.Error):  # a launcher that can't be looked at is not judged
        command = psutil.Process(os.getppid()).cmdline()
    asked, running = processes_asked_for(command, sys.argv[0]), int(os.environ.get("WORLD_SIZE", "1"))
    if asked not in (None, running):
        raise InputError(
            f"num_processes: accelerate launch was asked for {asked} and started {running}; give it --multi_gpu, "
            f"without --cpu, or --config_file {CONFIGS}ddp.yaml, and a multiple of num_machines; on a machine without "
            "a GPU they run on its CPU"
        )


def processes_asked_for(command: Sequence[str], script: str) -> int | None:
    """How many processes, over all machines, an `accelerate launch` was asked for.

    Args:
        command: Words of a command line, whichever.
        script: Name of the recipe in it; what follows is the recipe's.

    Returns:
        None if it is no `accelerate launch` of the recipe, or says no number.
    """
    if script not in command or not _is_accelerate(command):
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--num_processes", "--num-processes", type=int)
    parser.add_argument("--config_file", "--config-file")
    parser.add_argument("--cpu", action="store_true")
    given, _ = parser.parse_known_args(command[: command.index(script)])
    if given.num_processes is not None or (given.cpu and given.config_file is None):
        return given.num_processes  # type: ignore[no-any-return]
    try:
        config = yaml.safe_load(Path(given.config_file or _default_config()).read_text(encoding="utf-8"))
        return int(config["num_processes"])
    except (OSError, KeyError, TypeError):  # no default config, or one of a single process
        return None


def _is_accelerate(command: Sequence[str]) -> bool:
    names = {Path(word).name for word in command[:3]}  # python, its option -m, and the launcher
    return bool(names & {"accelerate", "accelerate-launch", "accelerate.commands.launch"})


def _default_config() -> Path:
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME, "accelerate", "default_config.yaml")


def on_cpu(use_cpu: bool | None) -> bool:
    """Whether a run is on CPUs: if that was said, or where several processes find no accelerator.

    Accelerate makes of these one run only if it is told; else each is a run of its own.

    Args:
        use_cpu: What was said; None: nothing.
    """
    import torch

    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return several and not torch.accelerator.is_available() if use_cpu is None else use_cpu


def check_processes(running: int) -> None:
    """Check that the processes that a launcher started are one run.

    Args:
        running: How many processes the run has found itself to be.

    Raises:
        InputError: If each would be a run of its own.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if "LOCAL_RANK" in os.environ and started != running:  # else a cluster has set it, for another purpose
        raise InputError(
            f"num_processes: {started} were started, and each would be a run of its own on this device; give --use_cpu"
        )


def check_sharding(fsdp: bool, deepspeed: bool) -> None:
    """Check that weights are sharded as `accelerate launch` was asked for.

    Args:
        fsdp: Whether FSDP runs.
        deepspeed: Whether DeepSpeed does.

    Raises:
        InputError: If something else runs, as it does on CPUs.
    """
    for name, runs in {"FSDP": fsdp, "DeepSpeed": deepspeed}.items():
        if os.environ.get(f"ACCELERATE_USE_{name.upper()}", "").lower() == "true" and not runs:
            raise InputError(
                f"use_{name.lower()}: {name} was asked for, and would not run: it is for training on GPUs; launch "
                f"with {CONFIGS}ddp.yaml, or {CONFIGS}cpu_2_processes.yaml"
            )


def check_resumable(checkpoint: Path, fsdp: bool, deepspeed: bool) -> None:
    """Check that a checkpoint was saved by a run whose weights are sharded, or not, as here.

    Args:
        checkpoint: Its folder.
        fsdp: Whether FSDP runs here.
        deepspeed: Whether DeepSpeed does.

    Raises:
        InputError: If it wasn't: its optimiser could not be read.
    """
    kinds = {"FSDP": ("pytorch_model_fsdp*", fsdp), "DeepSpeed": ("global_step*", deepspeed)}
    saved = [name for name, (pattern, _) in kinds.items() if any(checkpoint.glob(pattern))]
    running = [name for name, (_, runs) in kinds.items() if runs]
    if saved != running:
        have, need = ("".join(names) or "neither FSDP nor DeepSpeed" for names in (running, saved))
        raise InputError(
            f"resume_from_checkpoint: {checkpoint}: was saved with {need}, and here runs {have}; launch as it was"
        )
