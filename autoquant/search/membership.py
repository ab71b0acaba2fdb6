"""`Membership`: this process among those that run a study, where there may be several.

One of them leads: it tries again what others died of, keeps the folder of files tidy and closes
the study at the end. The others have joined it, and one of them leads when it is gone. Who leads
holds the lock of the study's folder and, where the record is in a database, its lease. That it
lives everyone says in a way of its own: a lock in the folder, which ends with the process, or a
lease in the database.
"""

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import filelock

from autoquant.errors import StudyError
from autoquant.search.crash import read_crash
from autoquant.search.header import StudyHeader
from autoquant.search.presence import Announcement
from autoquant.search.record import Record
from autoquant.search.storage import Location, find_presences, take_driver_lock

__all__ = ["Membership", "SharedMembership", "Warn"]

_PROBE_S = 0.2  # whoever asks whether a study runs holds its lock for a moment
_OWN = ("*.lock", "*.json", "*.crash")

Warn = Callable[[str], None]


class Membership:
    """A process that runs a study, and that nobody can join.

    Attributes:
        token: what tells it from all others; None where there are none.
        leads: it leads the study.
    """

    token: str | None = None
    leads = True

    def lives(self, token: str) -> bool:
        """Whether the process that said so of itself still runs the study."""
        return False

    def take_over(self, *, at_last: bool) -> bool:
        """Lead the study if nobody does any more; whether that is new."""
        return False

    def check(self) -> None:
        """See that nobody else leads a study that this process leads."""

    def find_crash(self, token: str) -> str | None:
        """How a process that is dead crashed, in words; None if it was killed."""
        return None

    def tidy(self) -> None:
        """Remove what dead processes have left."""

    def describe_lead(self) -> str:
        """Who leads the study, in words."""
        return "this process"


class SharedMembership(Membership, ABC):
    """A process that runs a study and that others can join, or that has joined others.

    Args:
        location: where the study lies; its folder exists.

    Attributes:
        announcement: what runs where.
        record: the study, once this has begun.
    """

    token: str
    record: Record

    def __init__(self, location: Location) -> None:
        self.token = uuid.uuid4().hex
        self.leads = False
        self.announcement = Announcement(location.drivers / f"{self.token}.json")
        self._location = location
        self._seat: filelock.BaseFileLock | None = None
        location.drivers.mkdir(exist_ok=True)

    @property
    def crash(self) -> Path:
        """Where this process notes that it crashes."""
        return self._location.drivers / f"{self.token}.crash"

    @abstractmethod
    def begin(self, header: StudyHeader, warn: Warn, *, joins: bool) -> None:
        """Open the record, and lead the study or, if asked for and somebody does, join it.

        Raises:
            StudyError: somebody leads it, or it cannot be joined.
        """

    def lead(self, timeout_s: float = 0.0) -> None:
        """Lead the study.

        Args:
            timeout_s: longest wait for whoever does.

        Raises:
            StudyError: somebody does.
        """
        self._seat = take_driver_lock(self._location, timeout_s)
        self.leads = True

    def join(self) -> None:
        """Take part in a study that somebody leads."""
        self.announcement.see(())

    def take_over(self, *, at_last: bool) -> bool:
        """Lead the study if nobody does any more; whether that is new.

        Args:
            at_last: this process does not try again.
        """
        if self.leads:
            return False
        try:
            self.lead(_PROBE_S if at_last else 0.0)
        except StudyError:
            return False
        self.announcement.move(self._location.presence)
        return True

    def find_crash(self, token: str) -> str | None:
        """How a process that is dead crashed, in words; None if it was killed."""
        return read_crash(self._location.drivers / f"{token}.crash")

    def tidy(self) -> None:
        """Remove what dead processes have left."""
        paths = [path for kind in _OWN for path in self._location.drivers.glob(kind)]
        dead = {path.stem for path in paths if not self.lives(path.stem)}
        for path in paths:
            if path.stem in dead:
                self._remove(path)

    def _remove(self, path: Path) -> None:
        """Remove a file of a process that is dead, if it still is."""
        if path.suffix != ".lock":
            path.unlink(missing_ok=True)
            return
        # somebody may be about to take it, who would live without it ever after: while it is
        # held here, he finds it gone and makes another (see `FolderMembership`)
        lock = filelock.FileLock(path, timeout=0)
        with suppress(filelock.Timeout), lock:
            path.unlink(missing_ok=True)

    def describe_lead(self) -> str:
        """Who leads the study, in words."""
        found = find_presences(self._location)
        return f"the driver on {found[0].host} (process {found[0].pid})" if found else "its driver"

    def describe(self) -> str:
        """What this process is in the study, in words."""
        name = self._location.name
        if self.leads:
            return f"nobody runs study '{name}': this process leads it"
        return f"taking part in study '{name}', which {self.describe_lead()} leads"

    def end(self) -> None:
        """Run the study no more."""
        self.announcement.end()
        if self._seat is not None:
            self._seat.release()

    def lead_or_join(self, *, joins: bool) -> None:
        """Lead the study or, if asked for and somebody does, join it."""
        try:
            self.lead(_PROBE_S)
        except StudyError:
            if not joins:
                raise
            self.join()
        else:
            self.announcement.move(self._location.presence)
