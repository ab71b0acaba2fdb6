"""Memory that is kept between the steps of training."""

import ctypes
import resource
import sys
from pathlib import Path

import pytest
import torch

from autoquant.quantize.memory import keeping_memory

_BLOCK = 64 * 2**20  # bytes, more than the C library ever takes from its own heap by itself

pytestmark = pytest.mark.skipif(
    not (sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")),
    reason="another C library",
)


def _use_blocks(times: int) -> int:
    """Take and free a large block again and again; how many pages the system cleared for it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.empty(_BLOCK // 4).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_keeping_memory_takes_pages_once() -> None:
    outside = _use_blocks(8)
    with keeping_memory():
        # the heap grows until what was freed is large enough for a block and its alignment
        _use_blocks(16)
        assert _use_blocks(8) < outside / 4


def test_keeping_memory_hands_pages_back_at_the_end() -> None:
    before = _resident_bytes()
    with keeping_memory():
        _use_blocks(4)
        assert _resident_bytes() > before + 0.9 * _BLOCK
    assert _resident_bytes() < before + 0.1 * _BLOCK
