"""`Library`: the studies of a results folder and of a database, each read again when it changed."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from autoquant.browse.database import Database, NotYetError
from autoquant.browse.process import find_process, is_prepared, read_log
from autoquant.browse.view import StudyView
from autoquant.errors import AutoquantError, StorageError, StudyError
from autoquant.search.reader import StudyReader, peek_task
from autoquant.search.snapshot import Snapshot
from autoquant.search.storage import Location, is_running, is_study_name

__all__ = ["Library", "StudyCard", "StudyState", "StudyView"]

StudyState = Literal["starting", "reading", "running", "done", "stopped", "not begun", "unreadable"]
_MARK = "@database"


@dataclass(frozen=True)
class StudyCard:
    """A study in the list.

    Attributes:
        name: its key; see `Library`.
        state: what it does.
        problem: what is wrong with it and what to do, in words; None if nothing is.
        view: what can be shown of it, or None.
        is_ours: the app started its process, and can stop it.
        changed: when its record last changed.
    """

    name: str
    state: StudyState
    problem: str | None
    view: StudyView | None
    is_ours: bool
    changed: datetime | None

    @property
    def best_drop(self) -> float | None:
        """Of the front, in points; None without one."""
        members = [] if self.view is None else self.view.front.members
        return min((100 * (m.accuracy_drop or 0.0) for m in members), default=None)

    @property
    def age(self) -> str:
        """Since the last change, in words."""
        if self.changed is None:
            return "-"
        seconds = max(0.0, time.time() - self.changed.timestamp())
        for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
            if seconds >= size:
                return f"{seconds / size:.0f} {unit} ago"
        return "now"


class Library:
    """Shared by everyone who has the app open.

    A study is known by its key: its name, and for one of the database `NAME@database`, since
    both may hold one of a name.

    Args:
        results: folder that holds studies.
        url: of a database that holds others, or None.
    """

    def __init__(self, results: Path, url: str | None = None) -> None:
        self.results = results
        self.database = None if url is None else Database(results, url)
        self._lock = threading.Lock()
        self._readers: dict[str, StudyReader] = {}
        self._views: dict[str, StudyView] = {}

    @property
    def problem(self) -> str | None:
        """Why the folder cannot be read; None if it can."""
        if self.results.exists() and not self.results.is_dir():
            return f"{self.results} is a file; start the app with --results FOLDER"
        return None

    @property
    def database_problem(self) -> str | None:
        """Why the database tells nothing; None if it does, or if there is none."""
        try:
            self._database_names()
        except StorageError as error:
            return str(error)
        return None

    def names(self) -> list[str]:
        """Keys of every study that has begun, or was to begin from here."""
        try:
            folders = [path.name for path in self.results.iterdir() if is_study_name(path.name)]
        except OSError:  # there is no folder yet, or no more
            folders = []
        found = [name for name in folders if _is_there(Location(self.results, name))]
        return sorted([*found, *self._database_keys(folders)])

    def _database_keys(self, folders: Sequence[str]) -> set[str]:
        """Those that the database knows, has told of before, or that begin right now."""
        if self.database is None:
            return set()
        try:
            names = set(self._database_names())
        except StorageError:
            names = {key.removesuffix(_MARK) for key in self._views if key.endswith(_MARK)}
        url = self.database.url
        names |= {name for name in folders if is_prepared(Location(self.results, name, url))}
        return {name + _MARK for name in names}

    def _database_names(self) -> list[str]:
        return [] if self.database is None else self.database.names()

    def location(self, key: str) -> Location:
        """Where a study lies.

        Raises:
            StudyError: a name that could leave the folder, or of a database that there is not.
        """
        if not key.endswith(_MARK):
            return Location(self.results, key)
        if self.database is None:
            raise StudyError(f"'{key}': the app was started without --storage")
        return Location(self.results, key.removesuffix(_MARK), self.database.url)

    @staticmethod
    def key_of(location: Location) -> str:
        """The inverse of `location`."""
        return location.name if location.url is None else location.name + _MARK

    def view(self, key: str) -> StudyView:
        """A study; the same object until it changes.

        Raises:
            StorageError: it is gone, or cannot be read.
            StudyError: a bad name, or nothing of it can be shown.
        """
        location = self.location(key)
        if location.url is None or self.database is None:
            with self._lock:
                return self._keep(key, self._read_journal(location))
        snapshot = self.database.read(location.name)  # it may have to be waited for
        with self._lock:
            return self._keep(key, snapshot)

    def _read_journal(self, location: Location) -> Snapshot:
        reader = self._readers.setdefault(location.name, StudyReader(location))
        try:
            return reader.read()
        except AutoquantError:
            del self._readers[location.name]
            raise

    def _keep(self, key: str, snapshot: Snapshot) -> StudyView:
        known = self._views.get(key)
        if known is None or known.snapshot is not snapshot:
            self._views[key] = StudyView(key, snapshot)
        return self._views[key]

    def card(self, key: str) -> StudyCard:
        """What the list shows of a study; never raises for what is wrong with it."""
        location = self.location(key)
        is_ours = find_process(location) is not None
        try:
            view = self.view(key)
        except NotYetError as error:
            return StudyCard(key, "reading", str(error), self._views.get(key), is_ours, None)
        except StorageError as error:
            if location.url is not None:
                return StudyCard(key, "unreadable", str(error), self._views.get(key), is_ours, None)
            return self._card_without_record(key, location, is_ours=is_ours)
        except AutoquantError as error:
            if is_ours or (location.url is not None and is_prepared(location)):
                return self._card_without_record(key, location, is_ours=is_ours)
            return StudyCard(key, "unreadable", str(error), None, is_ours, _changed(location))
        snapshot = view.snapshot
        full = len(snapshot.trials) >= snapshot.header.trials
        is_busy = is_ours or self._is_running(location)
        state: StudyState = "running" if is_busy else "done" if full else "stopped"
        changed = _changed(location) if location.url is None else view.changed
        return StudyCard(key, state, _describe(snapshot), view, is_ours, changed)

    def _is_running(self, location: Location) -> bool:
        if location.url is None or self.database is None:
            return is_running(location)
        return self.database.is_running(location.name)

    def _card_without_record(self, key: str, location: Location, *, is_ours: bool) -> StudyCard:
        if is_ours:
            return StudyCard(key, "starting", None, None, True, None)
        log = read_log(location, 1)
        problem = f"{log[-1] if log else 'it left no log'}: mend that and start it again"
        return StudyCard(key, "not begun", problem, None, False, None)

    def cards(self) -> list[StudyCard]:
        """All studies, the latest first."""
        cards = [self.card(name) for name in self.names()]
        return sorted(cards, key=lambda card: -(card.changed.timestamp() if card.changed else 1e12))

    def keys_of(self, task: str) -> list[str]:
        """Every study of a task; journals are not read for it but for their first lines."""
        return [key for key in self.names() if self._task_of(key) == task]

    def _task_of(self, key: str) -> str | None:
        location = self.location(key)
        if location.url is None:
            return peek_task(location)
        try:
            return self.view(key).snapshot.header.task
        except AutoquantError:
            return None


def _is_there(location: Location) -> bool:
    try:
        return location.exists() or is_prepared(location)
    except OSError:
        return False


def _describe(snapshot: Snapshot) -> str | None:
    if snapshot.is_newer:
        return (
            "a newer version of autoquant wrote this study: it is shown as far as this version "
            "knows it, and can only be read; update autoquant to go on with it"
        )
    return _join(snapshot.damaged)


def _join(texts: Sequence[str], keep: int = 3) -> str | None:
    more = f"; and {len(texts) - keep} more" if len(texts) > keep else ""
    return "; ".join(texts[:keep]) + more or None


def _changed(location: Location) -> datetime | None:
    try:
        return datetime.fromtimestamp(location.journal.stat().st_mtime).astimezone()
    except OSError:
        return None
