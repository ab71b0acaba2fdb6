"""What a step of training takes of memory, and keeping it from one step for the next."""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from autoquant.core.batching import split_inputs

__all__ = ["estimate_step", "keeping_memory"]

# Measured: EfficientNet-Lite0 takes 1.15 times what is kept for the backward pass.
_BESIDE = 1.25

# Of <malloc.h>, the GNU C library's; see mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
# To set one of them ends the library's own adjusting of thresholds, so afterwards they get the
# most that it would have come to, and not the defaults that it begins with.
_AFTERWARDS = {_M_TRIM_THRESHOLD: 64 * 2**20, _M_MMAP_THRESHOLD: 32 * 2**20, _M_MMAP_MAX: 65536}
_KEEP = {_M_TRIM_THRESHOLD: 2**31 - 1, _M_MMAP_MAX: 0}


def estimate_step(run: Callable[[Any], object], inputs: Any, samples: int) -> int:
    """Bytes that a forward and a backward pass take for a batch.

    On Linux a process that takes too much is killed, before torch could say that memory is
    short; so this has to be known beforehand. What a forward pass keeps for the backward one
    grows by the sample, and is counted for one and for two.

    Args:
        run: a forward pass of what is trained.
        inputs: a batch of two samples at least.
        samples: of the batch in question.
    """
    one, two = (_count_kept(run, next(split_inputs(inputs, count))) for count in (1, 2))
    return int(_BESIDE * ((two - one) * samples + max(0, 2 * one - two)))


def _count_kept(run: Callable[[Any], object], inputs: Any) -> int:
    """Bytes that autograd keeps, each storage once."""
    kept: list[Tensor] = []  # alive, so that no storage is used twice

    def keep(value: Tensor) -> Tensor:
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        outputs = run(inputs)
    sizes = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in kept}
    del outputs
    return sum(sizes.values())


@contextmanager
def keeping_memory() -> Iterator[None]:
    """Within, memory that is freed stays with the process; afterwards it is handed back.

    The GNU C library maps large blocks from the system one by one and unmaps them when they are
    freed. A step of training frees and takes hundreds of them, and the system clears every page
    anew, which is a large part of the time where batches are large. Other C libraries are left
    as they are.
    """
    library = _find_library()
    if library is None:
        yield
        return
    _set(library, _KEEP)
    try:
        yield
    finally:
        _set(library, _AFTERWARDS)
        library.malloc_trim(0)


def _find_library() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    names = ("gnu_get_libc_version", "mallopt", "malloc_trim")
    return library if all(hasattr(library, name) for name in names) else None


def _set(library: ctypes.CDLL, values: dict[int, int]) -> None:
    for parameter, value in values.items():
        library.mallopt(parameter, value)
