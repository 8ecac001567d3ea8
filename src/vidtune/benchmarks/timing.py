"""Timing pieces of work against each other: in turns, each in a process of its own, and the median of some rounds."""

import multiprocessing
import os
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from vidtune.errors import InputError

Clips = Iterator[tuple[int, Any]]
"""Row and clip, one after the other, of each video that can be read."""

Task = Callable[[int], dict[str, Any]]
"""What is measured: takes the number of the round; most return `per_second`, how many, and `output`."""


def on_one_thread(name: str, start: Callable[[int], Clips], files: Sequence[str], number: int) -> dict[str, Any]:
    """Time clips, with this process held to one thread of one core."""
    hold_to_one_core()
    return timed(name, start, files, number)


def hold_to_one_core() -> None:
    """Hold this process to one thread of one core, whatever its libraries would use."""
    import torch

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def timed(name: str, start: Callable[[int], Clips], files: Sequence[str], number: int) -> dict[str, Any]:
    """Take all clips, and say how fast they came and what one is.

    Raises:
        InputError: If there is none of one of the files: what is measured would not be the same.
    """
    clips = start(number)
    rows, clip = [], None
    started = time.perf_counter()
    for taken in clips:
        row, clip = taken
        rows.append(row)
    seconds = time.perf_counter() - started
    missing = sorted(set(range(len(files))).difference(rows))
    if missing:
        raise InputError(f"dataset: {files[missing[0]]}: {name} can't read it ({len(missing)} in all); leave it out")
    output = None if clip is None else f"{str(clip.dtype).removeprefix('torch.')} {tuple(clip.shape)}"
    return {"per_second": len(rows) / seconds, "output": output}


def in_rounds(tasks: Mapping[str, Task], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Run tasks in turns, each in its own process: once to warm up, which isn't kept, then `rounds` times."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    results: dict[str, list[dict[str, Any]]] = {name: [] for name in tasks}
    with ExitStack() as processes, tqdm(total=(rounds + 1) * len(tasks), disable=None) as progress:
        run = {name: processes.enter_context(own_process(task)) for name, task in tasks.items()}
        for number in range(rounds + 1):
            for name in tasks:
                progress.set_description(f"{name}, {f'round {number}' if number else 'warm-up'}")
                results[name].append(run[name](number))
                progress.update()
    return {name: kept[1:] for name, kept in results.items()}


@contextmanager
def own_process(task: Task) -> Iterator[Task]:
    """Run a task in a process of its own, which waits in between, and add its `peak_memory_mb` to the results."""
    context = multiprocessing.get_context("fork")  # the task needn't be pickled
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(task, theirs, ours))
    process.start()
    theirs.close()

    def run(number: int) -> dict[str, Any]:
        ours.send(number)
        try:
            answer = ours.recv()
        except EOFError:
            process.join()
            raise RuntimeError(f"a process ended with exit code {process.exitcode}") from None
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    try:
        yield run
    finally:
        ours.close()
        process.join(timeout=5)
        process.kill()


def serve(task: Task, pipe: Any, other_end: Any) -> None:
    """Answer each number that comes through the pipe with a task's result, until its other end is closed."""
    other_end.close()  # the copy that this process inherited
    while True:
        try:
            number = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            answer: Any = task(number)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes, on macOS bytes
            answer["peak_memory_mb"] = peak / (1e6 if sys.platform == "darwin" else 1e3)
        except InputError as error:
            answer = error
        except Exception:
            answer = RuntimeError(traceback.format_exc())
        pipe.send(answer)


def summary(
    results: Mapping[str, Sequence[Mapping[str, Any]]], pairs: Sequence[tuple[str, str]], unit: str = "clips"
) -> dict[str, Any]:
    """Medians over the rounds, the rounds themselves, and quotients of the medians of `pairs`."""
    rounds = {name: [result["per_second"] for result in kept] for name, kept in results.items()}
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    return {
        f"{unit}_per_second": medians,
        "rounds": rounds,
        "ratios": {f"{first} / {second}": medians[first] / medians[second] for first, second in pairs},
        "peak_memory_mb": {name: max(result["peak_memory_mb"] for result in kept) for name, kept in results.items()},
        "output": {name: kept[-1]["output"] for name, kept in results.items()},
    }


def paired_summary(
    results: Mapping[str, Sequence[Mapping[str, Any]]], pairs: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Medians of `ms` and `cpu_ms` over the rounds, and of the quotients of `pairs`, round by round.

    What slows the machine down for longer than a round slows both of a pair, so that it cancels.
    """
    kinds = ("ms", "cpu_ms")
    rounds = {kind: {name: [result[kind] for result in kept] for name, kept in results.items()} for kind in kinds}
    ratios = {
        f"{first} / {second}" + (", of CPU time" if kind == "cpu_ms" else ""): statistics.median(
            over / under for over, under in zip(rounds[kind][first], rounds[kind][second], strict=True)
        )
        for kind in kinds
        for first, second in pairs
    }
    return {
        **{kind: {name: statistics.median(values) for name, values in rounds[kind].items()} for kind in kinds},
        "rounds": rounds["ms"],
        "cpu_rounds": rounds["cpu_ms"],
        "ratios": ratios,
        "peak_memory_mb": {name: max(result["peak_memory_mb"] for result in kept) for name, kept in results.items()},
    }
