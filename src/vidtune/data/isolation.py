"""Calls in worker processes that a crash or a hang can't take down with them.

Each worker has a pipe of its own, so that it is certain which call a dead one was at. Pools whose workers share a
queue (of the standard library, loky, pebble) lose the calls of others too, or break as a whole.
"""

import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple


class Lost(NamedTuple):
    """What became of a call that did not end: `crashed` or `time_limit`, and the detail."""

    kind: str
    detail: str


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_isolated(
    function: Callable[..., Any],
    tasks: Iterable[tuple[Any, tuple[Any, ...]]],
    processes: int,
    time_limit_seconds: float,
) -> Generator[tuple[Any, Any], None, None]:
    """Call a function in worker processes that may crash or hang in it; another process takes such a one's place.

    Args:
        function: What to call; of a module that a new process can import.
        tasks: What names the call, and its arguments; taken as workers get free.
        processes: Worker processes, >= 1.
        time_limit_seconds: Longest that a call may take, > 0; infinity for no limit.

    Yields:
        The name and the result of each call as it ends; `Lost` in place of the result of one that did not.

    Raises:
        Exception: What a call raised.
        RuntimeError: If a process ends before its first call.
    """
    tasks = iter(tasks)
    workers: list[_Worker] = []
    try:
        workers += (_Worker(function) for _ in range(processes))
        while workers:
            nearest = min(worker.deadline for worker in workers)
            seconds = None if nearest == math.inf else max(0.0, nearest - time.monotonic())
            wait([worker.connection for worker in workers], seconds)
            for place, worker in [*enumerate(workers)][::-1]:
                if worker.connection.poll():
                    result = worker.receive()
                elif worker.deadline < time.monotonic():
                    result = Lost("time_limit", f"not decoded within {time_limit_seconds:g} s")
                else:
                    continue
                name, was_busy = worker.name, worker.is_busy
                if isinstance(result, Lost):
                    worker.stop()
                    if not was_busy:
                        raise RuntimeError(f"a worker process can't start: {result.detail}")
                    workers[place] = _Worker(function)
                elif (task := next(tasks, None)) is not None:
                    worker.begin(*task, time_limit_seconds)
                else:
                    workers.pop(place).stop()
                if isinstance(result, Exception):
                    raise result
                if was_busy:
                    yield name, result
    finally:
        for worker in workers:
            worker.stop()


def _context(module: str) -> Any:
    """How processes start: from a server that has imported what they need, as a fork of this one might hang."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # What takes seconds to import, and what is wanted here is likely to be wanted there.
    context.set_forkserver_preload([module, *(name for name in ("torch", "datasets") if name in sys.modules)])
    return context


class _Worker:
    """A process that makes one call after another; it says so when it is ready for the first."""

    def __init__(self, function: Callable[..., Any]) -> None:
        context = _context(function.__module__)
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_answer_calls, args=(function, theirs), daemon=True)
        self.process.start()
        theirs.close()  # ours ends when the process does
        self.name: Any = None
        self.is_busy, self.deadline = False, math.inf

    def begin(self, name: Any, arguments: tuple[Any, ...], time_limit_seconds: float) -> None:
        self.name, self.is_busy, self.deadline = name, True, time.monotonic() + time_limit_seconds
        with suppress(OSError):  # of a process that is dead, which `receive` will tell
            self.connection.send(arguments)

    def receive(self) -> Any:
        """The result of the call, or what ended the process."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            reason = signal.Signals(-code).name if code < 0 else f"code {code}"
            return Lost("crashed", f"its process ended with {reason}")

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _answer_calls(function: Callable[..., Any], connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # that process has ended, and so does this one
        connection.send(None)
        while True:
            arguments = connection.recv()
            try:
                result = function(*arguments)
            except Exception as error:
                result = error
            connection.send(result)
