"""The memory of a data-loader worker."""

import multiprocessing

import psutil  # type: ignore[import-untyped]

from vidtune.benchmarks.pipelines import load
from vidtune.benchmarks.videos import paths
from vidtune.data.clips import TrainingClips
from vidtune.errors import InputError


def worker_memory(
    clips: TrainingClips, batch_size: int, warm_up_clips: int, num_clips: int, number: int
) -> dict[str, list[float]]:
    """Memory of a worker, megabytes, after the warm-up and after each tenth of the clips.

    To be called in a process that has no other children.

    Returns:
        `resident_mb`, all of it, and `own_mb`, what it shares with no other process; 11 numbers each.

    Raises:
        InputError: If a video can't be decoded.
    """
    order = [(index // len(clips), index % len(clips)) for index in range(warm_up_clips + num_clips)]
    marks = [warm_up_clips + num_clips * tenth // 10 for tenth in range(11)]
    memory: dict[str, list[float]] = {"resident_mb": [], "own_mb": []}
    seen = 0
    batches = iter(load(clips, order, batch_size, num_workers=1))
    (worker,) = multiprocessing.active_children()
    for batch in batches:
        if batch["failed_rows"]:
            name = paths(clips.videos)[batch["failed_rows"][0]]
            raise InputError(f"dataset: {name}: can't be decoded; leave it out")
        seen += len(batch["labels"])
        while marks and seen >= marks[0]:
            now = psutil.Process(worker.pid).memory_full_info()
            memory["resident_mb"].append(now.rss / 1e6)
            memory["own_mb"].append(now.uss / 1e6)
            marks.pop(0)
    return memory
