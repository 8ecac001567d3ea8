"""The processes of a run, and what they must agree on between two steps."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


class Processes:
    """Speaks between the processes of a run over their CPUs, so that no GPU is waited for.

    All processes must make one, and call its methods in the same order.

    Args:
        count: How many there are, >= 1.
        timeout: How long one waits for the others, which torch would not take from the group of all; None: half an
            hour.
    """

    def __init__(self, count: int, timeout: timedelta | None = None) -> None:
        several = count > 1 and dist.is_initialized()
        self.group: Any = dist.new_group(backend="gloo", timeout=timeout) if several else None

    def largest(self, *values: int) -> list[int]:
        """Give the largest of each value over all processes."""
        if self.group is None:
            return list(values)
        tensor = torch.tensor(values)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, self.group)
        result: list[int] = tensor.tolist()
        return result

    def gathered(self, value: Any) -> list[Any]:
        """Give the values of all processes, in their order."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(values, value, self.group)
        return values


def spread(values: Sequence[float], process: int, count: int) -> float:
    """Take a process' own of values that were gathered, or their mean where there were other processes."""
    return values[process] if len(values) == count else sum(values) / len(values)
