"""The journal file: its lock, its batches, and what to do when its tail is damaged."""

import json
import os
import shutil
from collections.abc import Container, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, cast

import filelock
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

__all__ = ["BatchedStorage", "Damage", "FileLock", "find_damage", "repair"]

Log = dict[str, Any]
_POLL_S = 0.01
_FINISHED = [state for state in TrialState if state.is_finished()]
_BLOCK_BYTES = 4096


class FileLock:
    """A lock that the kernel releases when its holder dies.

    It has the two methods of Optuna's `BaseJournalFileLock`, which is not public.

    Optuna's own locks leave a file behind after `kill -9` and wait for a grace period.
    """

    def __init__(self, journal: Path) -> None:
        self._lock = filelock.FileLock(journal.with_suffix(".lock"), poll_interval=_POLL_S)

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._lock.acquire()
        return True

    def release(self) -> None:
        """Hand the lock back."""
        self._lock.release()


class BatchedFile(JournalFileBackend):
    """Optuna's journal file, which can be written in batches.

    Each operation alone costs a lock and a flush to the disk, and a trial of a network of fifty
    layers is sixty of them.
    """

    def __init__(self, journal: Path) -> None:
        self._own_lock = FileLock(journal)
        super().__init__(str(journal), lock_obj=cast(Any, self._own_lock))
        self._held: list[Log] | None = None
        self._before: int | None = None  # logs in the file while others are held back

    @contextmanager
    def together(self, *, is_durable: bool) -> Iterator[None]:
        """Hold back what is appended, and write all of it at the end; nobody else writes.

        Args:
            is_durable: it is to survive the end of the machine, and not of the process alone.
        """
        if self._held is not None:
            yield
            return
        self._own_lock.acquire()
        self._held, self._before = [], None
        try:
            yield
        finally:
            held, self._held = self._held, None
            try:
                self._write(held, is_durable=is_durable)
            finally:
                self._own_lock.release()

    def append_logs(self, logs: list[Log]) -> None:
        """Write, or hold back."""
        if self._held is not None:
            self._held.extend(logs)
            return
        with self.together(is_durable=True):
            self.append_logs(logs)

    def read_logs(self, log_number_from: int) -> Generator[Log, None, None]:
        """What is in the file, and behind it what is held back."""
        if self._held is None:
            yield from super().read_logs(log_number_from)
            return
        if self._before is None:
            found = list(super().read_logs(log_number_from))
            self._before = log_number_from + len(found)
            yield from found
            log_number_from = self._before
        yield from self._held[log_number_from - self._before :]

    def _write(self, logs: list[Log], *, is_durable: bool) -> None:
        if not logs:
            return
        lines = [json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs]
        _append(Path(self._file_path), b"".join(lines), is_durable=is_durable)
        self._note_offsets(lines)

    def _note_offsets(self, lines: list[bytes]) -> None:
        """Where the next reading begins: it would otherwise begin at the start of the file."""
        if self._before is None:
            return
        position = self._log_number_offset.get(self._before)
        for number, line in enumerate(lines, start=self._before + 1):
            if position is not None:
                position += len(line)
                self._log_number_offset[number] = position


def _append(path: Path, content: bytes, *, is_durable: bool) -> None:
    """Add to a file all of it or, where the disk is full, nothing: half a line is damage."""
    with path.open("a+b", buffering=0) as file:
        whole, rest = _cut_torn(file), memoryview(content)
        try:
            while rest:
                rest = rest[file.write(rest) :]
            if is_durable:
                os.fsync(file.fileno())
        except OSError:
            file.truncate(whole)
            raise


def _cut_torn(file: FileIO) -> int:
    """Cut off half a line, which one that was killed has left; returns the length of the rest.

    Whoever writes holds the lock, so nobody else is still at it. Readers pass half a line over.
    """
    end = length = file.seek(0, os.SEEK_END)
    while end:
        begin = max(0, end - _BLOCK_BYTES)
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            end = begin + found + 1
            break
        end = begin
    if end < length:
        file.truncate(end)
    return end


class BatchedStorage(JournalStorage):
    """Optuna's storage in a journal file that can be written in batches."""

    def __init__(self, journal: Path) -> None:
        self._file = BatchedFile(journal)
        super().__init__(self._file)
        self._seen: dict[int, int] = {}  # trials that were looked at, by study
        self._open: dict[int, list[int]] = {}  # those of them that were not finished

    @contextmanager
    def together(self, *, is_durable: bool) -> Iterator[None]:
        """See `BatchedFile.together`."""
        with self._file.together(is_durable=is_durable):
            yield

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Trials in some states; see `JournalStorage`.

        Optuna looks at every trial for those that wait, before each trial. What is finished
        stays so, and is looked at once.
        """
        if deepcopy or states is None or any(state in states for state in _FINISHED):
            return super().get_all_trials(study_id, deepcopy, states)
        with self._thread_lock:
            self._sync_with_backend()
            every = self._replay_result._study_id_to_trial_ids[study_id]
            recent = every[self._seen.get(study_id, 0) :]
            found = map(self._replay_result.get_trial, [*self._open.get(study_id, ()), *recent])
            unfinished = [trial for trial in found if not trial.state.is_finished()]
            self._seen[study_id] = len(every)
            self._open[study_id] = [trial._trial_id for trial in unfinished]
        return [trial for trial in unfinished if trial.state in states]

    def get_recent_trials(
        self, study_id: int, first: int, among: Iterable[int]
    ) -> list[FrozenTrial]:
        """Trials from a number on, and some before it, without looking at the others."""
        with self._thread_lock:
            self._sync_with_backend()
            every = self._replay_result._study_id_to_trial_ids[study_id]
            wanted = [*(every[number] for number in among), *every[first:]]
            return [self._replay_result.get_trial(trial_id) for trial_id in wanted]


@dataclass(frozen=True)
class Damage:
    """A journal that is whole only up to a point.

    Attributes:
        whole_bytes: length of the part that can be read.
        dropped_bytes: length of the rest.
        dropped_lines: lines in the rest, a torn one included.
    """

    whole_bytes: int
    dropped_bytes: int
    dropped_lines: int


def find_damage(journal: Path) -> Damage | None:
    """The first line that is no JSON object, and all that follows; None if all is whole.

    Operations build on each other, so nothing behind a damaged one can be trusted.
    """
    content = journal.read_bytes()
    position = 0
    for line in content.splitlines(keepends=True):
        if not _is_whole(line):
            rest = content[position:]
            return Damage(position, len(rest), len(rest.splitlines()))
        position += len(line)
    return None


def _is_whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def repair(journal: Path, damage: Damage) -> Path:
    """Cut the journal back to its whole part; the original is kept beside it.

    Returns:
        Where the original went.
    """
    kept = journal.with_suffix(".damaged")
    shutil.copyfile(journal, kept)
    with journal.open("r+b") as file:
        file.truncate(damage.whole_bytes)
    return kept
