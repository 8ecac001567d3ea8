"""How fast training goes, and what holds it up: time in steps, time waiting for clips, memory."""

import time

import psutil  # type: ignore[import-untyped]
import torch


class Throughput:
    """Counts clips and seconds from one log entry to the next.

    Attributes:
        clips: Clips of all processes since the last entry.
        waited: Seconds spent waiting for batches.
        elsewhere: Seconds spent on evaluation and checkpoints, which are no training.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin to count anew."""
        self.clips, self.waited, self.elsewhere = 0, 0.0, 0.0
        self._since = time.perf_counter()

    def entry(self, device: torch.device) -> dict[str, float]:
        """Say what happened since the last entry, and begin anew.

        Returns:
            `data_wait`, the share of the time of training in which it waited for clips, in [0, 1];
            `clips_per_second`; `memory_gb`, see `memory_gb`.
        """
        seconds = max(time.perf_counter() - self._since - self.elsewhere, 1e-9)
        entry = {"data_wait": min(1.0, self.waited / seconds), "clips_per_second": self.clips / seconds}
        self.restart()
        return {name: round(value, 4) for name, value in (entry | {"memory_gb": memory_gb(device)}).items()}


def memory_gb(device: torch.device) -> float:
    """Gigabytes (10^9 bytes): the most that tensors took on a GPU; on a CPU what process and workers hold now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    process = psutil.Process()
    held = 0
    for one in (process, *process.children(recursive=True)):
        try:
            held += one.memory_info().rss
        except psutil.Error:  # it has just ended
            continue
    return held / 1e9
