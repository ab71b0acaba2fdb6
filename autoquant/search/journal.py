"""The journal file: its lock, and what to do when its tail is damaged."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import filelock

__all__ = ["Damage", "FileLock", "find_damage", "repair"]


class FileLock:
    """A lock that the kernel releases when its holder dies.

    It has the two methods of Optuna's `BaseJournalFileLock`, which is not public.

    Optuna's own locks leave a file behind after `kill -9` and wait for a grace period.
    """

    def __init__(self, journal: Path) -> None:
        self._lock = filelock.FileLock(journal.with_suffix(".lock"))

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._lock.acquire()
        return True

    def release(self) -> None:
        """Hand the lock back."""
        self._lock.release()


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
