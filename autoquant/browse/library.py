"""`Library`: the studies of a results folder, each read once and again only when it has changed."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Literal

import pandas as pd

from autoquant.browse.process import find_process, is_prepared, read_log
from autoquant.browse.table import build_table
from autoquant.core.trial import Trial
from autoquant.errors import AutoquantError, InputError, StorageError
from autoquant.search.choice import Advice, FrontView, advise, view_front
from autoquant.search.reader import StudyReader
from autoquant.search.snapshot import Snapshot
from autoquant.search.storage import Location, is_running

__all__ = ["Library", "StudyCard", "StudyState", "StudyView"]

StudyState = Literal["starting", "running", "done", "stopped", "not begun", "unreadable"]


@dataclass(frozen=True)
class StudyView:
    """A study as it is shown; everything but the snapshot is derived, once, when asked for.

    Attributes:
        snapshot: what its journal says.
    """

    snapshot: Snapshot

    @cached_property
    def front(self) -> FrontView:
        """Its front within its constraints."""
        header = self.snapshot.header
        return view_front(self.snapshot.trials, header.objectives, header.bounds)

    @cached_property
    def table(self) -> pd.DataFrame:
        """Its complete trials; see `build_table`."""
        return build_table(self.snapshot.name, self.snapshot.trials, self.front.members)

    @cached_property
    def advice(self) -> list[Advice]:
        """What is recommended, and why."""
        return advise(self.front.choices, self.front.reference)

    @cached_property
    def by_number(self) -> dict[int, Trial]:
        """Trials by number."""
        return {trial.number: trial for trial in self.snapshot.trials}

    def count(self, state: str) -> int:
        """How many trials are in a state."""
        return sum(trial.state == state for trial in self.snapshot.trials)


@dataclass(frozen=True)
class StudyCard:
    """A study in the list.

    Attributes:
        name: of the study.
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

    Args:
        results: folder that holds studies.
    """

    def __init__(self, results: Path) -> None:
        self.results = results
        self._lock = threading.Lock()
        self._readers: dict[str, StudyReader] = {}
        self._views: dict[str, StudyView] = {}

    @property
    def problem(self) -> str | None:
        """Why the folder cannot be read; None if it can."""
        if self.results.exists() and not self.results.is_dir():
            return f"{self.results} is a file; start the app with --results FOLDER"
        return None

    def names(self) -> list[str]:
        """Every study that has begun, or was to begin from here."""
        if not self.results.is_dir():
            return []
        found = [path.name for path in self.results.iterdir() if self._is_study(path)]
        return sorted(found)

    def _is_study(self, folder: Path) -> bool:
        try:
            location = Location(self.results, folder.name)
            return location.exists() or is_prepared(location)
        except (InputError, OSError):
            return False

    def location(self, name: str) -> Location:
        """Where a study lies.

        Raises:
            StudyError: a name that could leave the folder.
        """
        return Location(self.results, name)

    def view(self, name: str) -> StudyView:
        """A study; the same object until it changes.

        Raises:
            StorageError: it is gone, or cannot be read.
            StudyError: a bad name, or nothing of it can be shown.
        """
        with self._lock:
            if name not in self._readers:
                self._readers[name] = StudyReader(self.location(name))
            try:
                snapshot = self._readers[name].read()
            except AutoquantError:
                del self._readers[name]
                raise
            known = self._views.get(name)
            if known is None or known.snapshot is not snapshot:
                self._views[name] = StudyView(snapshot)
            return self._views[name]

    def card(self, name: str) -> StudyCard:
        """What the list shows of a study; never raises for what is wrong with it."""
        location = self.location(name)
        is_ours = find_process(location) is not None
        try:
            view = self.view(name)
        except StorageError:
            return self._card_without_record(location, is_ours=is_ours)
        except AutoquantError as error:
            return StudyCard(name, "unreadable", str(error), None, is_ours, _changed(location))
        snapshot = view.snapshot
        full = len(snapshot.trials) >= snapshot.header.trials
        is_busy = is_ours or is_running(location)
        state: StudyState = "running" if is_busy else "done" if full else "stopped"
        problem = _describe(snapshot)
        return StudyCard(name, state, problem, view, is_ours, _changed(location))

    def _card_without_record(self, location: Location, *, is_ours: bool) -> StudyCard:
        if is_ours:
            return StudyCard(location.name, "starting", None, None, True, None)
        log = read_log(location, 1)
        problem = f"{log[-1] if log else 'it left no log'}: mend that and start it again"
        return StudyCard(location.name, "not begun", problem, None, False, None)

    def cards(self) -> list[StudyCard]:
        """All studies, the latest first."""
        cards = [self.card(name) for name in self.names()]
        return sorted(cards, key=lambda card: -(card.changed.timestamp() if card.changed else 1e12))

    def studies_of(self, task: str) -> list[StudyView]:
        """Every readable study of a task."""
        views = [card.view for card in self.cards() if card.view is not None]
        return [view for view in views if view.snapshot.header.task == task]


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
