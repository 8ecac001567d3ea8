"""How a run ends that can't go on: in one line that names the cause and the knob, its last checkpoint whole."""

import errno
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from vidtune.data.workers import WatchedRows, loader_failure
from vidtune.errors import NO_ROOM, RunError, first_line

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
OTHER_PROCESS = ("Connection closed by peer", "Connection reset by peer", "NCCL communicator was aborted")
"""What gloo and NCCL say where a process has gone."""

FULL_DISK = (*map(os.strerror, NO_ROOM), "PytorchStreamWriter", "inline_container", "iostream error")
"""What safetensors (from Rust) and torch.save say, which raise no OSError."""


@contextmanager
def clear_end(watched: Collection[WatchedRows], timeout_seconds: float, smaller: str) -> Iterator[None]:
    """Turn what a data loader or a lack of memory ends a run with into one line.

    Args:
        watched: The datasets that are read.
        timeout_seconds: How long a batch is waited for.
        smaller: What takes less memory: options to set.

    Raises:
        RunError: In place of what was raised.
    """
    try:
        yield
    except RunError:
        raise
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if failure := loader_failure(error, watched, timeout_seconds):
            raise failure from None
        if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
            raise RunError(f"out of memory ({first_line(error)}); {smaller}") from None
        if any(words in str(error) for words in OTHER_PROCESS):
            raise RunError(
                f"another process of the run ended ({first_line(error)}), and says why; go on with "
                "--resume_from_checkpoint auto"
            ) from None
        raise


@contextmanager
def while_saving(name: str, output_dir: Path, go_on: str) -> Iterator[None]:
    """Turn a full disk and its like into one line.

    Args:
        name: What is saved.
        output_dir: Folder of the run.
        go_on: How to go on from its newest checkpoint; empty if it has none.

    Raises:
        RunError: In place of what was raised.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        full = isinstance(error, OSError) and error.errno in NO_ROOM
        if not full and not any(words in str(error) for words in FULL_DISK):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        if shutil.disk_usage(output_dir).free < 2**20:  # torch speaks of a position that it didn't expect
            reason = os.strerror(errno.ENOSPC)
        raise RunError(
            f"output_dir: {output_dir}: {name} can't be saved ({reason}); make room, or keep fewer checkpoints with "
            f"save_total_limit{go_on}"
        ) from error


def check_finite(model: nn.Module, name: str) -> None:
    """Check, before a checkpoint takes an older one's place, that the weights of the model are numbers.

    Raises:
        RunError: If they are not.
    """
    for parameter, value in model.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise RunError(
                f"learning_rate: {parameter} is no finite number any more, so {name} is not saved; make it smaller, "
                "set max_grad_norm, or take bf16 for fp16, and go on from an earlier checkpoint"
            )


def less_memory(batch: int, accumulation: int, has_checkpointing: bool, evaluation_batch: int, views: int) -> str:
    """Say which options take less memory, with values.

    Args:
        batch: Videos of a training batch on each device.
        accumulation: Batches of a step.
        has_checkpointing: Whether blocks can be computed twice, instead of kept, and are not yet.
        evaluation_batch: Videos of an evaluation batch on each device.
        views: Clips of a video in an evaluation.
    """
    knobs = []
    if batch > 1:
        half = f"per_device_train_batch_size {batch // 2}"
        knobs.append(f"{half} with gradient_accumulation_steps {2 * accumulation} (the same total batch)")
    if has_checkpointing:
        knobs.append("gradient_checkpointing true")
    if evaluation_batch > 1:
        knobs.append(f"per_device_eval_batch_size {evaluation_batch // 2} ({views} clips of each video), if it was in")
        knobs[-1] += " an evaluation"
    return "try " + ", or ".join([*knobs, "a smaller image_size or num_frames"])


def videos_named(paths: Sequence[str], most: int = 8) -> str:
    """Name some videos in a line."""
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more
