"""Memory that a step frees is there for the next one."""

import ctypes
import multiprocessing

import pytest
import torch

from vidtune.training.memory import keep_freed_memory


def faults_of_ten_steps() -> int:
    import resource

    keep_freed_memory()
    counts = []
    for _ in range(10):
        tensors = [torch.ones(30 * 2**18) for _ in range(3)]  # 30 MB each; more than glibc keeps by itself
        del tensors
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    return counts[-1] - counts[5]  # the first ones find room


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_freed_memory_is_used_again_without_page_faults():
    with multiprocessing.get_context("fork").Pool(1) as pool:  # what is set holds for the whole process
        assert pool.apply(faults_of_ten_steps) < 1000
