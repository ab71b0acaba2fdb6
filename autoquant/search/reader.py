"""`StudyReader`: a study's journal as it grows, for those who only look.

Optuna replays a journal with every parameter of every trial, seconds for thousands of them. What
a reader wants lies in a few of its operations; the others are passed over unread, and of a
journal that has grown only the new end is read.
"""

import gc
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, BinaryIO

from pydantic import ValidationError
from pydantic_core import from_json

from autoquant.core.recipe import Recipe
from autoquant.core.trial import Trial
from autoquant.errors import StorageError
from autoquant.search.recall import KNOWLEDGE
from autoquant.search.record import FORMAT, StudyHeader, amend_trial, check_header
from autoquant.search.storage import Location

__all__ = ["Snapshot", "StudyReader", "Underway"]

# Optuna's numbers of the operations that matter; see `optuna.storages.journal`.
_STUDY_ATTRIBUTE, _CREATE, _STATE, _ATTRIBUTE = 2, 4, 6, 8
_SKIPPED = (b'{"op_code":5,', b'{"op_code":9,', b'{"op_code":7,')
# A recipe also stands in the record: alone it is wanted of trials that are under way.
_RECIPE = re.compile(rb'"trial_id":(\d+),"user_attr":\{"recipe":')
_TAIL_BYTES = 256
_RUNNING, _COMPLETE, _FAIL = 0, 1, 3


@dataclass(frozen=True)
class Underway:
    """A trial that is not finished.

    Attributes:
        number: its number.
        recipe: what is evaluated.
        began: when, or None if the record does not tell.
    """

    number: int
    recipe: Recipe
    began: datetime | None


@dataclass(frozen=True)
class Snapshot:
    """A study as its journal had it at one moment.

    Attributes:
        name: of the study.
        header: what it was started with.
        is_newer: a later version of autoquant wrote it; what it added is left out.
        trials: finished ones that can be read, by number.
        ended: when each of them ended, by number.
        underway: trials that have begun.
        damaged: in words, what could not be read.
        notes: of the front as a whole.
        size_bytes: of the journal; another size is another snapshot.
        knowledge: what the search knew beside its trials; see `search.recall`. None in a study
            from before it was kept.
    """

    name: str
    header: StudyHeader
    is_newer: bool
    trials: tuple[Trial, ...]
    ended: Mapping[int, datetime]
    underway: tuple[Underway, ...]
    damaged: tuple[str, ...]
    notes: Mapping[str, str]
    size_bytes: int
    knowledge: object = None


@dataclass
class _Entry:
    """What the journal says of one trial."""

    state: int
    began: datetime | None
    attributes: dict[str, Any]
    ended: datetime | None = None
    trial: Trial | None = None
    damage: str | None = None
    recipe_line: bytes | None = None
    is_read: bool = field(default=False)


class StudyReader:
    """Reads one study that lies in a journal, again and again.

    Args:
        location: of the study.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._file: tuple[int, int] | None = None
        self._position = 0
        self._tail = b""
        self._attributes: dict[str, Any] = {}
        self._entries: list[_Entry] = []
        self._broken: str | None = None
        self._snapshot: Snapshot | None = None

    def read(self) -> Snapshot:
        """The study as it is now; the same object as before while nothing has changed.

        Raises:
            StorageError: the journal is gone, or cannot be read.
            StudyError: it was not written by autoquant, or nothing of it can be shown.
        """
        try:
            with self.location.journal.open("rb") as file:
                status = os.fstat(file.fileno())
                identity = status.st_dev, status.st_ino
                if self._file != identity or not self._goes_on(file):
                    self._begin_anew()
                    self._file = identity
                if status.st_size == self._position and self._snapshot is not None:
                    return self._snapshot
                file.seek(self._position)
                content = file.read()
        except OSError as error:
            raise StorageError(
                f"cannot read '{self.location.journal}': {error.strerror or error}"
            ) from error
        with _no_collection():
            if self._take(content) or self._snapshot is None:
                self._snapshot = self._compose()
        return self._snapshot

    def _goes_on(self, file: BinaryIO) -> bool:
        """Whether the file still ends, where it was read to, as it did; a repair cuts it."""
        file.seek(self._position - len(self._tail))
        return file.read(len(self._tail)) == self._tail

    def _take(self, content: bytes) -> bool:
        """Read whole lines; one that is still being written waits for the next time."""
        end = content.rfind(b"\n") + 1
        for line in content[:end].splitlines():
            if self._broken is not None:
                break
            if not line.startswith(_SKIPPED):
                self._take_line(line)
        if end:
            self._position += end
            self._tail = content[:end][-_TAIL_BYTES:]
        return end > 0

    def _take_line(self, line: bytes) -> None:
        try:
            found = _RECIPE.search(line, 0, 200)
            if found is not None:
                self._entries[int(found[1])].recipe_line = line
                return
            operation = from_json(line)
            code = operation["op_code"]
            if code == _STUDY_ATTRIBUTE:
                self._attributes.update(operation["user_attr"])
            elif code == _CREATE:
                self._create(operation)
            elif code in (_STATE, _ATTRIBUTE):
                self._change(self._entries[operation["trial_id"]], operation)
        except (ValueError, TypeError, KeyError, IndexError):
            number = len(self._entries)
            self._broken = f"the record is damaged after trial {max(number - 1, 0)}: the rest is "
            self._broken += "left out; autoquant resume cuts it off and goes on"

    def _create(self, operation: Mapping[str, Any]) -> None:
        began = _to_time(operation.get("datetime_start"))
        attributes = dict(operation.get("user_attrs") or {})
        entry = _Entry(operation.get("state", _RUNNING), began, attributes)
        entry.ended = _to_time(operation.get("datetime_complete"))
        self._entries.append(entry)

    @staticmethod
    def _change(entry: _Entry, operation: Mapping[str, Any]) -> None:
        if entry.state in (_COMPLETE, _FAIL):  # finished trials stay as they are
            return
        if operation["op_code"] == _ATTRIBUTE:
            entry.attributes.update(operation["user_attr"])
            return
        entry.state = operation["state"]
        entry.began = _to_time(operation.get("datetime_start")) or entry.began
        entry.ended = _to_time(operation.get("datetime_complete"))

    def _compose(self) -> Snapshot:
        header, is_newer = self._read_header()
        for number, entry in enumerate(self._entries):
            if entry.state in (_COMPLETE, _FAIL) and not entry.is_read:
                _read_entry(number, entry, is_newer=is_newer)
        known = [(number, entry) for number, entry in enumerate(self._entries) if entry.trial]
        trials = [amend_trial(entry.trial, self._attributes) for _, entry in known if entry.trial]
        damage = [entry.damage for entry in self._entries if entry.damage is not None]
        return Snapshot(
            self.location.name,
            header,
            is_newer,
            tuple(sorted(trials, key=lambda trial: trial.number)),
            {number: entry.ended for number, entry in known if entry.ended is not None},
            tuple(self._find_underway()),
            tuple([*damage, *([self._broken] if self._broken else [])]),
            dict(self._attributes.get("notes", {})),
            self._position,
            self._attributes.get(KNOWLEDGE),
        )

    def _read_header(self) -> tuple[StudyHeader, bool]:
        name = self.location.name
        version = self._attributes.get("format")
        is_newer = isinstance(version, int) and version > FORMAT
        if not is_newer:
            return check_header(name, self._attributes), False
        known = StudyHeader.__dataclass_fields__
        try:
            written = self._attributes["header"]
            header = StudyHeader(**{key: written[key] for key in known if key in written})
            assert header.objectives is not None
            assert header.task
        except (KeyError, TypeError, AssertionError):
            check_header(name, self._attributes)
            raise
        return header, True

    def _find_underway(self) -> list[Underway]:
        found = []
        for number, entry in enumerate(self._entries):
            recipe = _read_recipe(entry) if entry.state == _RUNNING else None
            if recipe is not None:
                found.append(Underway(number, recipe, entry.began))
        return found


def _read_recipe(entry: _Entry) -> Recipe | None:
    attributes = entry.attributes
    try:
        if entry.recipe_line is not None:
            attributes = from_json(entry.recipe_line)["user_attr"]
        return Recipe.model_validate(attributes["recipe"])
    except (ValueError, KeyError, TypeError):
        return None


@contextmanager
def _no_collection() -> Iterator[None]:
    """The collector would walk all that is being read, again and again, and find nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _read_entry(number: int, entry: _Entry, *, is_newer: bool) -> None:
    entry.is_read = True
    record = entry.attributes.pop("record", None)
    evidence = entry.attributes.pop("evidence", None)
    if record is None:  # a trial that was interrupted
        return
    if is_newer and isinstance(record, dict):
        record = {key: value for key, value in record.items() if key in Trial.model_fields}
    try:
        entry.trial = Trial.model_validate({**record, "evidence": evidence})
    except (ValidationError, TypeError) as error:
        errors = error.errors() if isinstance(error, ValidationError) else []
        where = ".".join(str(part) for part in errors[0]["loc"]) if errors else "record"
        entry.damage = f"the record of trial {number} is damaged at '{where}' and left out"


def _to_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
