"""Memory that is kept between the steps of training."""

import ctypes
import resource
import sys
from pathlib import Path

import pytest
import torch

from autoquant.quantize.memory import estimate_step, keeping_memory
from tests.networks import Residual, seeded

_BLOCK = 64 * 2**20  # bytes, more than the C library ever takes from its own heap by itself

only_with_glibc = pytest.mark.skipif(
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


@only_with_glibc
def test_keeping_memory_takes_pages_once() -> None:
    outside = _use_blocks(8)
    with keeping_memory():
        # the heap grows until what was freed is large enough for a block and its alignment
        _use_blocks(16)
        assert _use_blocks(8) < outside / 4


@only_with_glibc
def test_keeping_memory_hands_pages_back_at_the_end() -> None:
    before = _resident_bytes()
    with keeping_memory():
        _use_blocks(4)
        assert _resident_bytes() > before + 0.9 * _BLOCK
    assert _resident_bytes() < before + 0.1 * _BLOCK


def test_what_a_step_takes_grows_by_the_sample() -> None:
    model, images = seeded(Residual), torch.zeros(2, 3, 64, 64)
    few, many = (estimate_step(model, images, count) for count in (10, 100))
    assert many == pytest.approx(10 * few, rel=0.05)
    stem = 8 * 62 * 62 * 4  # bytes of the first layer's outputs alone
    assert 100 * stem < many < 100 * 30 * stem
    with torch.no_grad():
        assert estimate_step(model, images, 100) == 0, "nothing is kept for a backward pass"
