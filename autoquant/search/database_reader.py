"""`DatabaseReader`: a study of a database as it grows, for those who only look.

Optuna's cache asks a database only for trials that were not finished when it last asked.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from autoquant.errors import StorageError, StudyError
from autoquant.search.database import describe_loss
from autoquant.search.lease import find_drivers, without_leases
from autoquant.search.snapshot import Entry, Snapshot, compose_snapshot
from autoquant.search.storage import Location, open_storage

__all__ = ["DatabaseReader", "name_database_studies"]


@contextmanager
def _translating(location: Location) -> Iterator[None]:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        raise StorageError(describe_loss(location.url or "", error)) from None


def name_database_studies(location: Location) -> list[str]:
    """Names of the studies in a database, whoever wrote them.

    Args:
        location: any in it.

    Raises:
        StorageError: it cannot be opened, or does not answer.
    """
    with _translating(location):
        return sorted(optuna.get_all_study_names(open_storage(location)))


class DatabaseReader:
    """Reads one study of a database, again and again.

    Args:
        location: of the study.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._study: optuna.Study | None = None
        self._entries: dict[int, Entry] = {}
        self._attributes: Mapping[str, Any] = {}
        self._seen: object = None
        self._snapshot: Snapshot | None = None

    @property
    def is_running(self) -> bool:
        """Whether somebody ran it when it was last read, and has been heard of lately."""
        return bool(find_drivers(self._attributes))

    def read(self) -> Snapshot:
        """The study as it is now; the same object as before while nothing has changed.

        Raises:
            StorageError: the database does not answer.
            StudyError: it is not there, was not written by autoquant, or cannot be shown.
        """
        try:
            with _translating(self.location):
                study = self._study or self._open()
                self._attributes = study.user_attrs
                found = study.get_trials(deepcopy=False)
        except KeyError:  # it was deleted meanwhile
            self._begin_anew()
            raise StudyError(f"there is no study '{self.location.name}' any more") from None
        seen = self._take(found)
        if self._snapshot is None or seen != self._seen:
            attributes = without_leases(self._attributes)
            self._snapshot = compose_snapshot(self.location.name, attributes, self._entries)
            self._seen = seen
        return self._snapshot

    def _open(self) -> optuna.Study:
        storage = open_storage(self.location)
        self._study = optuna.load_study(study_name=self.location.name, storage=storage)
        return self._study

    def _take(self, found: list[FrozenTrial]) -> object:
        """Note what is new; what is returned differs where something is."""
        open_ones = []
        for frozen in found:
            known = self._entries.get(frozen.number)
            if known is not None and known.is_read:
                continue
            self._entries[frozen.number] = _to_entry(frozen)
            if not frozen.state.is_finished():
                open_ones.append((frozen.number, frozen.state, "recipe" in frozen.user_attrs))
        return len(found), open_ones, without_leases(self._attributes)


def _to_entry(frozen: FrozenTrial) -> Entry:
    began, ended = _to_time(frozen.datetime_start), _to_time(frozen.datetime_complete)
    return Entry(int(frozen.state), began, dict(frozen.user_attrs), ended)


def _to_time(moment: datetime | None) -> datetime | None:
    """Optuna writes times of the clock on the wall."""
    return None if moment is None else moment.astimezone()
