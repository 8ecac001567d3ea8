"""Where in its shards a streaming run stood, in its checkpoints: what a resumed run must find as it was."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidtune.errors import InputError
from vidtune.training.checkpoints import write_text

FILE = "sampler.json"


def sampler_state(
    videos: int, fingerprint: str, global_step: int, *, seed: int, shuffle_buffer: int, videos_per_step: int
) -> dict[str, Any]:
    """Say what the order of the videos depends on, and how far it has been gone through.

    Args:
        videos: How many there are.
        fingerprint: Which they are.
        global_step: Steps taken.
        seed: Seed of their order.
        shuffle_buffer: How many are shuffled among each other.
        videos_per_step: Videos of a step, of all processes and accumulated batches.

    Returns:
        The arguments but for the step, and `epoch` and `position`: how many videos of the epoch have been trained on.
    """
    steps = math.ceil(videos / videos_per_step)
    return {
        "videos": videos,
        "fingerprint": fingerprint,
        "seed": seed,
        "shuffle_buffer": shuffle_buffer,
        "videos_per_step": videos_per_step,
        "epoch": global_step // steps,
        "position": global_step % steps * videos_per_step,
    }


def save_sampler(checkpoint: str, state: Mapping[str, Any]) -> None:
    """Write the state into a checkpoint."""
    write_text(Path(checkpoint, FILE), json.dumps(state, indent=2) + "\n")


def check_sampler(checkpoint: str, state: Mapping[str, Any] | None) -> None:
    """Check that a run goes on with the videos that its checkpoint left off at.

    Args:
        checkpoint: Folder of the checkpoint.
        state: That of this run; None where it doesn't stream.

    Raises:
        InputError: If the videos, their order, or how many a step takes have changed.
    """
    file, where = Path(checkpoint, FILE), f"resume_from_checkpoint: {checkpoint}"
    if file.exists() != (state is not None):
        raise InputError(f"streaming: {where}: its run is {'' if file.exists() else 'not '}streaming; set it as there")
    if state is None:
        return
    saved = json.loads(file.read_bytes())
    for name, option in (("seed", "data_seed, seed"), ("shuffle_buffer", "shuffle_buffer")):
        if saved[name] != state[name]:
            raise InputError(f"{option}: {state[name]}: {where}: its run has {saved[name]}; set it as there")
    if saved["fingerprint"] != state["fingerprint"]:
        raise InputError(
            f"dataset: {where}: its run trains on {saved['videos']} other videos, or in other shards; give its "
            "dataset, or start afresh"
        )
    if saved["videos_per_step"] != state["videos_per_step"]:
        raise InputError(
            f"per_device_train_batch_size: {where}: its run takes {saved['videos_per_step']} videos a step (batch x "
            f"accumulation x processes), this one {state['videos_per_step']}; make it the same"
        )
