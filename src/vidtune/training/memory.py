"""Memory of training on a CPU."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc refuses more


def keep_freed_memory() -> None:
    """Have this process keep memory that it frees, for the next step to use again; not known to other C libraries.

    glibc gives free memory at the end of its heap back to the system, and a step of training frees most of what it
    used: the next one then spends time on page faults. Source: mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
