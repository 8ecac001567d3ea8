"""Workers of a data loader: which video each has in hand, and how they end."""

import multiprocessing
import re
import signal
from collections.abc import Callable, Collection
from functools import partial
from multiprocessing import context, resource_tracker

import torch
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from vidtune.children import kill_children
from vidtune.data.clips import Item
from vidtune.errors import RunError

NOTHING = -1
SIGNALS = (signal.SIGTERM, signal.SIGINT)
DEAD_WORKER = re.compile(r"DataLoader worker \(pid")
STALLED = "DataLoader timed out"


class WatchedRows(TorchDataset[Item]):
    """A dataset whose workers note which row they have in hand, in memory that the main process sees.

    Args:
        clips: Clips of `videos`, by row or by (epoch, row, ...).
        num_workers: Workers of its data loader.
    """

    def __init__(self, clips: TorchDataset[Item], num_workers: int) -> None:
        self.clips = clips
        self.in_hand = torch.full((num_workers,), NOTHING)
        self.in_hand.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.clips)  # type: ignore[arg-type]

    def __getitem__(self, index: int | tuple[int, ...]) -> Item:
        """Return the item, and have noted for as long as that takes that it is in hand."""
        worker = get_worker_info()
        if worker is None:
            return self.clips[index]
        self.in_hand[worker.id] = index if isinstance(index, int) else index[1]
        item = self.clips[index]
        self.in_hand[worker.id] = NOTHING
        return item

    def videos_in_hand(self) -> list[str]:
        """Paths, or ids, of the videos that workers began to read and have not finished."""
        videos = self.clips.videos  # type: ignore[attr-defined]
        rows = [videos[row] for row in self.in_hand.tolist() if row != NOTHING]
        return [row["video"]["path"] or row["video_id"] for row in rows]


def _start_shielded(start: Callable[[], None]) -> None:
    """Start a process that leaves signals pending until `start_worker`: torch has it die of SIGTERM before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class ForkedWorker(context.ForkProcess):
    """A worker that no signal reaches before it is ready."""

    def start(self) -> None:
        """Start it."""
        _start_shielded(super().start)


class SpawnedWorker(context.SpawnProcess):
    """A worker that no signal reaches before it is ready."""

    def start(self) -> None:
        """Start it."""
        resource_tracker.ensure_running()  # which lets signals through again where it has to start one
        _start_shielded(super().start)


class ForkContext(context.ForkContext):
    """Makes forked workers."""

    Process = ForkedWorker


class SpawnContext(context.SpawnContext):
    """Makes spawned workers."""

    Process = SpawnedWorker


CONTEXTS = {"fork": ForkContext, "spawn": SpawnContext}


def start_worker(worker_id: int, then: Callable[[int], None] | None = None) -> None:
    """Begin as a worker: leave signals that reach the whole group of processes to the main one.

    Args:
        worker_id: Number of the worker.
        then: What else begins with a worker.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if then:
        then(worker_id)


def watch_workers(loader: DataLoader[Item], timeout_seconds: float) -> None:
    """Have a data loader's workers outlive signals, and be given up where they hand over nothing for a time."""
    inner = getattr(loader, "base_dataloader", loader)  # accelerate's stands around another
    before = inner.worker_init_fn
    method = (inner.multiprocessing_context or multiprocessing).get_start_method()
    for part in {id(part): part for part in (inner, loader)}.values():
        part.worker_init_fn = partial(start_worker, then=before)
        part.timeout = timeout_seconds
        if method in CONTEXTS:
            part.multiprocessing_context = CONTEXTS[method]()


def loader_failure(error: RuntimeError, watched: Collection[WatchedRows], timeout_seconds: float) -> RunError | None:
    """Say in one line what became of a data loader's worker, and end the others.

    Args:
        error: What the data loader raised.
        watched: The datasets that were read.
        timeout_seconds: How long it was waited for.

    Returns:
        The line, with the videos in hand; None if the error is another one.
    """
    message = str(error)
    died, stalled = DEAD_WORKER.search(message), STALLED in message
    if not (died or stalled):
        return None
    videos = [path for rows in watched for path in rows.videos_in_hand()]
    kill_children()
    more = f" and {len(videos) - 4} more" if len(videos) > 4 else ""
    in_hand = f"in hand: {', '.join(videos[:4])}{more}" if videos else "with no video in hand"
    mend = ", or mend or remove that video" if videos else ""
    if stalled:
        return RunError(
            f"dataloader_timeout: no clip came for {timeout_seconds:g} s; {in_hand}; wait longer with "
            f"--dataloader_timeout{mend}"
        )
    return RunError(
        f"dataloader_num_workers: a worker died, as a lack of memory or a crash of the decoder ends one; {in_hand}; "
        f"start fewer workers{mend}"
    )
