"""`Database`: studies of a database, asked for in the background.

A page waits a moment for an answer and no longer, so that a server that is slow, or gone, takes
nothing else with it.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from autoquant.errors import AutoquantError, StorageError
from autoquant.search.database import hide_password
from autoquant.search.database_reader import DatabaseReader, name_database_studies
from autoquant.search.snapshot import Snapshot
from autoquant.search.storage import Location, is_study_name

__all__ = ["Database", "NotYetError"]

_PATIENCE_S, _REST_S, _LONG_S = 3.0, 1.0, 30.0
T = TypeVar("T")


class NotYetError(StorageError):
    """Asked for, and not answered yet."""


class _Question(Generic[T]):
    """One thing that is asked again and again, by one thread at a time.

    Args:
        ask: asks it; raises AutoquantError if it cannot be answered.
        shown: the database as it may be shown.
    """

    def __init__(self, ask: Callable[[], T], shown: str) -> None:
        self._ask = ask
        self._shown = shown
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._began: float | None = None  # None while nobody asks
        self._ended = -_REST_S
        self._answers: list[T] = []
        self._error: AutoquantError | None = None

    def answer(self, patience_s: float) -> T:
        """What is known after a moment.

        Raises:
            NotYetError: nothing yet.
            AutoquantError: why there is no answer.
        """
        with self._lock:
            is_idle = self._began is None
            if is_idle and time.monotonic() - self._ended >= _REST_S:
                self._began = time.monotonic()
                self._done.clear()
                threading.Thread(target=self._run, daemon=True).start()
            began = self._began
        if began is not None:
            self._done.wait(max(0.0, began + patience_s - time.monotonic()))
        return self._told()

    def _told(self) -> T:
        with self._lock:
            waited = 0.0 if self._began is None else time.monotonic() - self._began
            if waited > _LONG_S:
                raise StorageError(
                    f"storage '{self._shown}' has not answered for {waited:.0f} s: see that its "
                    "server runs and can be reached from here"
                )
            if self._error is not None:
                raise self._error
            if not self._answers:
                raise NotYetError(f"storage '{self._shown}' is being read")
            return self._answers[0]

    @property
    def is_pending(self) -> bool:
        """Whether it is being asked, and the page that asked has not waited for it."""
        return self._began is not None

    def _run(self) -> None:
        answers: list[T] = []
        error: AutoquantError | None = None
        try:
            answers.append(self._ask())
        except AutoquantError as found:
            error = found
        except Exception as found:  # nothing of a thread is ever heard of otherwise
            error = StorageError(f"storage '{self._shown}' failed: {type(found).__name__}")
        with self._lock:
            self._error = error
            if answers:
                self._answers = answers
            self._began, self._ended = None, time.monotonic()
            self._done.set()


class Database:
    """Studies of one database, for everyone who has the app open.

    Args:
        results: folder that holds what lies beside their records.
        url: of the database.
    """

    def __init__(self, results: Path, url: str) -> None:
        self.results = results
        self.url = url
        self.shown = hide_password(url)
        self._lock = threading.Lock()
        self._opening = threading.Lock()  # a new database gets its tables once
        self._readers: dict[str, DatabaseReader] = {}
        self._studies: dict[str, _Question[Snapshot]] = {}
        self._names = _Question(self._ask_names, self.shown)

    def names(self) -> list[str]:
        """Names of its studies, those that are no names of ours left out.

        Raises:
            StorageError: it does not answer.
        """
        return self._names.answer(self._patience_s)

    def read(self, name: str) -> Snapshot:
        """One of its studies; the same object until it changes.

        Raises:
            NotYetError: it has not been read yet.
            StorageError: the database does not answer.
            StudyError: nothing of it can be shown.
        """
        with self._lock:
            if name not in self._studies:
                reader = DatabaseReader(Location(self.results, name, self.url))
                self._readers[name] = reader
                self._studies[name] = _Question(reader.read, self.shown)
            question = self._studies[name]
        return question.answer(self._patience_s)

    def is_running(self, name: str) -> bool:
        """Whether somebody runs it, here or elsewhere, as far as it has been read."""
        reader = self._readers.get(name)
        return reader is not None and reader.is_running

    @property
    def _patience_s(self) -> float:
        """Nothing where another question is already waiting: one wait a page is enough."""
        with self._lock:
            is_waiting = any(question.is_pending for question in self._studies.values())
        return 0.0 if is_waiting or self._names.is_pending else _PATIENCE_S

    def _ask_names(self) -> list[str]:
        with self._opening:
            found = name_database_studies(Location(self.results, "any", self.url))
        return [name for name in found if is_study_name(name)]
