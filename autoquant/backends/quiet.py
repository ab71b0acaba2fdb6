"""A quiet place to measure: one timing at a time on a machine, on cores of its own.

Two locks in a folder that all users of the machine share (`AUTOQUANT_LOCKS` names another), held
by the operating system and so released when a process dies: one that a timing holds alone, one
that every evaluating process shares, by which each can see whether it is the only one.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from autoquant.backends import machine
from autoquant.errors import StorageError

try:
    import fcntl
except ImportError:  # no such locks on Windows: timings there may overlap
    fcntl = None  # type: ignore[assignment]

__all__ = ["GuidedPlace", "QuietPlace"]

_COMMON = Path("/tmp")

_Affinities = dict[int, set[int]]


class QuietPlace:
    """The cores on which this machine's timings take turns.

    Args:
        threads: threads of a timed run; as many cores are reserved, the last ones.
        folder: where the locks lie; the same for every process that is to take turns.
    """

    def __init__(self, threads: int = 1, folder: Path | None = None) -> None:
        folder = folder or _lock_folder()
        self._timing = folder / "autoquant-timing.lock"
        self._working = folder / "autoquant-working.lock"
        self._descriptor: int | None = None  # of the working lock, while this process works
        self._is_shared = False
        self._neighbours: tuple[int, ...] = ()
        self._every = frozenset(machine.usable_cores())
        self.cores = frozenset(sorted(self._every)[-threads:])
        self.other_cores = self._every - self.cores

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the machine's timing lock, then hold it, every thread on the timing cores.

        Raises:
            StorageError: the lock cannot be opened.
        """
        descriptor = _open(self._timing)
        try:
            _lock(descriptor)
            with self._others_away(), _pinned(self.cores):
                yield
        finally:
            os.close(descriptor)  # and with it the lock
            self.look_around()

    @contextmanager
    def keeping_away(self, neighbours: Sequence[int]) -> Iterator[None]:
        """Let these processes, by id, keep off the timing cores during each turn within."""
        self._neighbours = tuple(neighbours)
        try:
            yield
        finally:
            self._neighbours = ()

    @contextmanager
    def _others_away(self) -> Iterator[None]:
        if not (self._neighbours and self.other_cores):
            yield
            return
        for process in self._neighbours:
            _pin(self.other_cores, process)
        try:
            yield
        finally:
            for process in self._neighbours:
                _pin(self._every, process)

    @contextmanager
    def work(self) -> Iterator[bool]:
        """Do what is not timed; off the timing cores while other processes evaluate here too.

        May be nested. Who comes and goes meanwhile is noticed after each turn and whenever
        `look_around` is called.

        Yields:
            Whether this process keeps to the other cores, to begin with.
        """
        if self._descriptor is not None:
            yield self.look_around()
            return
        before = _affinities()
        self._descriptor = _open(self._working)
        try:
            yield self.look_around()
        finally:
            os.close(self._descriptor)
            self._descriptor, self._is_shared = None, False
            _restore(before)

    def look_around(self) -> bool:
        """While working: keep off the timing cores, or use all, as others are there or not.

        Returns:
            Whether this process keeps to the other cores now.
        """
        if self._descriptor is None:
            return False
        was_shared = self._is_shared
        is_alone = _is_alone(self._descriptor)
        self._is_shared = bool(self.other_cores) and not is_alone
        if self._is_shared:
            _pin(self.other_cores)  # threads that began since then, too
        elif was_shared:
            _pin(self._every)
        return self._is_shared


class GuidedPlace(QuietPlace):
    """The place of a process that a timing process of the same search keeps out of its way.

    Others on the machine see that it works; it uses every core that it is granted until a
    timing begins, which moves it (`QuietPlace.keeping_away`).
    """

    @contextmanager
    def work(self) -> Iterator[bool]:
        """Let others see that this process works; it stays on the cores where it was put."""
        if self._descriptor is not None:
            yield False
            return
        self._descriptor = _open(self._working)
        try:
            _is_alone(self._descriptor)  # shares the lock from here on
            yield False
        finally:
            os.close(self._descriptor)
            self._descriptor = None

    def look_around(self) -> bool:
        """Stay there."""
        return False


def _lock_folder() -> Path:
    """One for all users of a machine, whatever temporary folder each of them has."""
    named = os.environ.get("AUTOQUANT_LOCKS")
    if named:
        return Path(named)
    return _COMMON if _COMMON.is_dir() else Path(tempfile.gettempdir())


def _open(path: Path) -> int:
    # in a folder that everybody may write to, a link could lead anywhere
    flags = getattr(os, "O_NOFOLLOW", 0)
    try:
        return _open_own(path, flags)
    except PermissionError:  # made by another user: a lock needs no more than reading
        return _open_for_reading(path, flags)
    except OSError as error:
        raise _refusal(path, error) from error


def _open_own(path: Path, flags: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
    with suppress(OSError, AttributeError):  # the mask has taken other users' rights away
        os.fchmod(descriptor, 0o666)
    return descriptor


def _open_for_reading(path: Path, flags: int) -> int:
    try:
        return os.open(path, os.O_RDONLY | flags)
    except OSError as error:
        raise _refusal(path, error) from error


def _refusal(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"cannot open the lock '{path}' ({error.strerror}); remove it, or let AUTOQUANT_LOCKS "
        "name another folder"
    )


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
        _restore(before)


def _restore(before: _Affinities) -> None:
    for thread in _threads():  # one that began meanwhile is to be as free as the others
        _set_affinity(thread, before.get(thread, set(machine.usable_cores())))


def _affinities() -> _Affinities:
    found: _Affinities = {}
    for thread in _threads():
        with suppress(OSError):
            found[thread] = os.sched_getaffinity(thread)
    return found


def _pin(cores: frozenset[int], process: int | None = None) -> None:
    for thread in _threads(process):
        _set_affinity(thread, set(cores))


def _threads(process: int | None = None) -> list[int]:
    """Every thread of a process, by default this one; none where the system knows no affinity."""
    folder = Path(f"/proc/{process or 'self'}/task")
    if not hasattr(os, "sched_setaffinity"):
        return []
    try:
        return [int(path.name) for path in folder.iterdir()]
    except OSError:  # no such process any more, or no such folder on this system
        return []


def _set_affinity(thread: int, cores: set[int]) -> None:
    with suppress(OSError):  # a thread that has ended, or a system that does not allow it
        os.sched_setaffinity(thread, cores)
