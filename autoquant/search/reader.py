"""`StudyReader`: a study's journal as it grows, for those who only look.

Optuna replays a journal with every parameter of every trial, seconds for thousands of them. What
a reader wants lies in a few of its operations; the others are passed over unread, and of a
journal that has grown only the new end is read.
"""

import gc
import itertools
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, BinaryIO

from pydantic_core import from_json

from autoquant.errors import StorageError
from autoquant.search.snapshot import RUNNING, Entry, Snapshot, compose_snapshot, is_finished
from autoquant.search.storage import Location

__all__ = ["StudyReader", "peek_task"]

# Optuna's numbers of the operations that matter; see `optuna.storages.journal`.
_STUDY_ATTRIBUTE, _CREATE, _STATE, _ATTRIBUTE = 2, 4, 6, 8
_SKIPPED = (b'{"op_code":5,', b'{"op_code":9,', b'{"op_code":7,')
# A recipe also stands in the record: alone it is wanted of trials that are under way.
_RECIPE = re.compile(rb'"trial_id":(\d+),"user_attr":\{"recipe":')
_TAIL_BYTES = 256
_HEAD_LINES = 16


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
        self._entries: dict[int, Entry] = {}
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
                self._snapshot = compose_snapshot(
                    self.location.name, self._attributes, self._entries, self._broken
                )
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
        entry = Entry(operation.get("state", RUNNING), began, attributes)
        entry.ended = _to_time(operation.get("datetime_complete"))
        self._entries[len(self._entries)] = entry

    @staticmethod
    def _change(entry: Entry, operation: Mapping[str, Any]) -> None:
        if is_finished(entry.state):
            return
        if operation["op_code"] == _ATTRIBUTE:
            entry.attributes.update(operation["user_attr"])
            return
        entry.state = operation["state"]
        entry.began = _to_time(operation.get("datetime_start")) or entry.began
        entry.ended = _to_time(operation.get("datetime_complete"))


def peek_task(location: Location) -> str | None:
    """The task of a study by the first lines of its journal; None if they do not tell."""
    try:
        with location.journal.open("rb") as file:
            for line in itertools.islice(file, _HEAD_LINES):
                if b'"user_attr":{"header":' in line:
                    return str(from_json(line)["user_attr"]["header"]["definition"]["task"])
    except (OSError, ValueError, TypeError, KeyError):
        pass
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


def _to_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
