"""Memory that is kept between the steps of training."""

import ctypes
import resource
import sys

import pytest
import torch

from autoquant.quantize.memory import keeping_memory

_BLOCK = 64 * 2**20  # bytes, more than the C library ever takes from its own heap by itself


def _count_faults(times: int) -> int:
    """Pages that the system hands out while a large block is taken and freed again and again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.empty(_BLOCK // 4).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(
    not (sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")),
    reason="another C library",
)
def test_keeping_memory_takes_pages_once_and_hands_them_back() -> None:
    outside = _count_faults(8)
    with keeping_memory():
        _count_faults(8)  # the heap grows until a block that was freed is large enough to be aligned
        within = _count_faults(8)
    after = _count_faults(8)
    assert within < outside / 4
    assert after > outside / 2
