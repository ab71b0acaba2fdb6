"""A quiet place to measure: one timing at a time on a machine, on cores of its own.

Two locks in the machine's temporary folder, held by the operating system and so released when
a process dies: one that a timing holds alone, one that every evaluating process shares, by
which each can see whether it is the only one.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from autoquant.backends import machine

try:
    import fcntl
except ImportError:  # no such locks on Windows: timings there may overlap
    fcntl = None  # type: ignore[assignment]

__all__ = ["QuietPlace"]

_Affinities = dict[int, set[int]]


class QuietPlace:
    """The cores on which this machine's timings take turns.

    Args:
        threads: threads of a timed run; as many cores are reserved, the last ones.
        folder: where the locks lie; the same for every process that is to take turns.
    """

    def __init__(self, threads: int = 1, folder: Path | None = None) -> None:
        folder = folder or Path(tempfile.gettempdir())
        self._timing = folder / "autoquant-timing.lock"
        self._working = folder / "autoquant-working.lock"
        every = sorted(machine.usable_cores())
        self.cores = frozenset(every[-threads:])
        self.other_cores = frozenset(every) - self.cores

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the machine's timing lock, then hold it, every thread on the timing cores."""
        descriptor = _open(self._timing)
        try:
            _lock(descriptor)
            with _pinned(self.cores):
                yield
        finally:
            os.close(descriptor)  # and with it the lock

    @contextmanager
    def work(self) -> Iterator[bool]:
        """Do what is not timed; off the timing cores if other processes evaluate here too.

        Yields:
            Whether this process keeps to the other cores.
        """
        descriptor = _open(self._working)
        try:
            is_shared = bool(self.other_cores) and not _is_alone(descriptor)
            with _pinned(self.other_cores) if is_shared else nullcontext():
                yield is_shared
        finally:
            os.close(descriptor)


def _open(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # made by another user: a lock needs no more than reading
        return os.open(path, os.O_RDONLY)
    with suppress(PermissionError):
        path.chmod(0o666)
    return descriptor


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _is_alone(descriptor: int) -> bool:
    """Whether nobody else shares the lock; shared by this process afterwards."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        is_alone = False
    else:
        is_alone = True
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return is_alone


@contextmanager
def _pinned(cores: frozenset[int]) -> Iterator[None]:
    before = _affinities()
    _pin(cores)
    try:
        yield
    finally:
        for thread in _threads():  # one that began meanwhile is to be as free as the others
            _set_affinity(thread, before.get(thread, set(machine.usable_cores())))


def _affinities() -> _Affinities:
    found: _Affinities = {}
    for thread in _threads():
        with suppress(OSError):
            found[thread] = os.sched_getaffinity(thread)
    return found


def _pin(cores: frozenset[int]) -> None:
    for thread in _threads():
        _set_affinity(thread, set(cores))


def _threads() -> list[int]:
    """Every thread of this process; none where the system knows no affinity."""
    folder = Path("/proc/self/task")
    if not hasattr(os, "sched_setaffinity") or not folder.is_dir():
        return []
    return [int(path.name) for path in folder.iterdir()]


def _set_affinity(thread: int, cores: set[int]) -> None:
    with suppress(OSError):  # a thread that has ended, or a system that does not allow it
        os.sched_setaffinity(thread, cores)
