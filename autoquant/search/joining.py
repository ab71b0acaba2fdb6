"""How a process comes to run a study, alone or with others: by its folder, or by its database."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import filelock

from autoquant.errors import StudyError
from autoquant.search.database import explain_failure, hide_password
from autoquant.search.header import StudyHeader
from autoquant.search.lease import Lease, Listener
from autoquant.search.membership import SharedMembership, Warn
from autoquant.search.patience import PATIENCE_S, waiting
from autoquant.search.storage import Location, create_record, is_held, join_record, load_record
from autoquant.search.together import is_shareable

__all__ = ["take_part"]


class FolderMembership(SharedMembership):
    """In a study whose record is a journal: every process holds a lock in its folder."""

    def __init__(self, location: Location) -> None:
        super().__init__(location)
        self._path = location.drivers / f"{self.token}.lock"
        self._life = filelock.FileLock(self._path)
        self._life.acquire()
        while not self._path.exists():  # somebody took it for what a dead process has left
            self._life.release()
            self._life.acquire()

    def begin(self, header: StudyHeader, warn: Warn, *, joins: bool) -> None:
        """Whoever leads makes the journal whole, so that is settled before it is opened."""
        self.lead_or_join(joins=joins)
        if not self._location.exists():
            if not self.leads:
                raise StudyError(f"study '{self._location.name}' is only just begun: try again")
            self.record = create_record(self._location, header)
        elif self.leads:
            self.record = load_record(self._location, warn=warn, is_driver=True)
        else:
            self.record = join_record(self._location)

    def lives(self, token: str) -> bool:
        """Whether it holds its lock."""
        return token == self.token or is_held(self._location.drivers / f"{token}.lock")

    def end(self) -> None:
        """Run the study no more."""
        self._path.unlink(missing_ok=True)
        self._life.release()
        super().end()


class DatabaseMembership(SharedMembership):
    """In a study whose record is in a database: every process has a lease in it."""

    _lease: Lease | None = None

    def __init__(self, location: Location) -> None:
        super().__init__(location)
        self._listener = Listener()

    def begin(self, header: StudyHeader, warn: Warn, *, joins: bool) -> None:
        """Who leads stands in the record, so that is opened first."""
        with filelock.FileLock(
            self._location.folder / "begin.lock"
        ):  # or two would begin the study
            if self._location.exists():
                self.record = load_record(self._location)
            else:
                self.record = create_record(self._location, header)
        self.lead_or_join(joins=joins)

    def lead(self, timeout_s: float = 0.0) -> None:
        """Take the lock of the folder, which others sweep, and the lease."""
        super().lead(timeout_s)
        try:
            with self.record.together():
                self._change(Lease(self.record.study, self._describe, self.token))
        except StudyError:
            self.leads = False
            assert self._seat is not None
            self._seat.release()
            self._seat = None
            raise

    def join(self) -> None:
        """Have a lease beside that of the lead."""
        if not is_shareable(self.record.study):
            raise StudyError(
                f"study '{self._location.name}' cannot be joined: its database has no lock; "
                "a journal, SQLite and PostgreSQL have one"
            )
        super().join()
        self._change(Lease(self.record.study, self._describe, self.token, is_lead=False))

    def lives(self, token: str) -> bool:
        """Whether it was heard of lately."""
        return token == self.token or self._listener.hears(self.record.study.user_attrs, token)

    def take_over(self, *, at_last: bool) -> bool:
        """Lead the study if nothing is heard of whoever did."""
        if not self.leads and self._listener.hears_lead(self.record.study.user_attrs):
            return False
        return super().take_over(at_last=at_last)

    def check(self) -> None:
        """See that nobody else leads a study that this process leads.

        Raises:
            StudyError: somebody took it for dead.
        """
        if self._lease is not None:
            self._lease.check()

    def renew(self) -> None:
        """Say at once that this process runs the study, after a silence; see `Lease.renew`."""
        self._listener.forget()
        if self._lease is not None:
            self._lease.renew()

    def end(self) -> None:
        """Run the study no more."""
        if self._lease is not None:
            self._lease.end()
        super().end()

    def _change(self, lease: Lease) -> None:
        lease.begin()
        if self._lease is not None:
            self._lease.end()
        self._lease = lease

    def _describe(self) -> dict[str, Any]:
        return self.announcement.presence.to_dict()


@contextmanager
def take_part(
    location: Location, header: StudyHeader, warn: Warn, *, joins: bool
) -> Iterator[SharedMembership]:
    """Run a study, together with others where that is asked for; its record is open within.

    A database that goes away within is waited for.

    Args:
        location: where it lies; its folder exists.
        header: what it is, if it is to begin.
        warn: called with one line if a damaged tail of the record was cut off, when a database
            goes away, and when it is back.
        joins: take part in it if another process runs it.

    Raises:
        StudyError: another process runs it.
    """
    is_folder = location.url is None
    member = FolderMembership(location) if is_folder else DatabaseMembership(location)
    try:
        member.begin(header, warn, joins=joins)
        member.record.token = member.token
        if isinstance(member, FolderMembership):
            yield member
            return
        with waiting(_telling(str(location.url), warn), member.renew):
            yield member
    finally:
        member.end()


def _telling(url: str, warn: Warn) -> Callable[[Exception | None], None]:
    def tell(cause: Exception | None) -> None:
        shown = f"storage '{hide_password(url)}'"
        if cause is None:
            warn(f"{shown} answers again: the search goes on")
            return
        warn(
            f"{shown} does not answer ({explain_failure(url, cause)}): waiting for it, "
            f"{PATIENCE_S / 60:g} minutes at most; nothing finished is lost"
        )

    return tell
