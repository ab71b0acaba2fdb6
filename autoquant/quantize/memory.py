"""Keep freed memory for the next step of training, in place of handing it back to the system."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["keeping_memory"]

# Of <malloc.h>, the GNU C library's; see mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
# To set one of them ends the library's own adjusting of thresholds, so afterwards they get the
# most that it would have come to, and not the defaults that it begins with.
_AFTERWARDS = {_M_TRIM_THRESHOLD: 64 * 2**20, _M_MMAP_THRESHOLD: 32 * 2**20, _M_MMAP_MAX: 65536}
_KEEP = {_M_TRIM_THRESHOLD: 2**31 - 1, _M_MMAP_MAX: 0}


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
