"""Studies in Optuna's storage: the one door to it.

Layout of a study whose storage is the default: `RESULTS/STUDY/journal.log` (the record),
`RESULTS/STUDY/artifacts/DIGEST.onnx` or `.tflite` (files of front members),
`RESULTS/STUDY/drivers/TOKEN.*` (what each process that runs the study says of itself).
"""

import errno
import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import optuna
from optuna.storages import BaseStorage

from autoquant.errors import StorageError, StudyError
from autoquant.search.database import explain_failure, hide_password, open_database
from autoquant.search.header import StudyHeader
from autoquant.search.journal import BatchedStorage, FileLock, find_damage, repair
from autoquant.search.lease import find_drivers
from autoquant.search.presence import Presence, read_presence
from autoquant.search.record import Record, is_half_begun

__all__ = [
    "Location",
    "create_record",
    "find_presences",
    "hold_driver_lock",
    "is_held",
    "is_running",
    "is_study_name",
    "join_record",
    "list_studies",
    "load_record",
    "open_storage",
    "take_driver_lock",
    "translate_losses",
]

Warn = Callable[[str], None]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_JOURNAL = "journal.log"
_ELSEWHERE = "record-in-database.txt"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # the disk, or a share of it

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def is_study_name(name: str) -> bool:
    """Whether a study can be called so: no name leaves the results folder."""
    return _NAME.fullmatch(name) is not None


class Location:
    """Where one study lies.

    Args:
        results: folder that holds studies.
        name: the study's name: letters, digits, `.`, `_` and `-`.
        url: a database URL, or None for the journal in the study's folder.

    Raises:
        StudyError: a name that could leave the folder.
    """

    def __init__(self, results: Path, name: str, url: str | None = None) -> None:
        if not is_study_name(name):
            raise StudyError(
                f"'{name}' is no study name; use up to 64 letters, digits, '.', '_' and '-'"
            )
        self.results = results
        self.name = name
        self.url = url

    @property
    def folder(self) -> Path:
        """The study's own folder."""
        return self.results / self.name

    @property
    def journal(self) -> Path:
        """The record, where no database is named."""
        return self.folder / _JOURNAL

    @property
    def artifacts(self) -> Path:
        """Folder of kept files."""
        return self.folder / "artifacts"

    @property
    def checkpoints(self) -> Path:
        """Folder of what trainings go on from, and of what they ended with."""
        return self.folder / "checkpoints"

    @property
    def logs(self) -> Path:
        """Folder of what was said while each trial was evaluated."""
        return self.folder / "logs"

    @property
    def presence(self) -> Path:
        """Where a process that runs the study says what runs where."""
        return self.folder / "driver.json"

    @property
    def drivers(self) -> Path:
        """Folder in which each process that runs the study keeps what is its own."""
        return self.folder / "drivers"

    def exists(self) -> bool:
        """Whether the study has a record, with which it was begun."""
        if self.url is None:
            return self.journal.is_file()
        storage = open_storage(self)
        if self.name not in optuna.get_all_study_names(storage):
            return False
        return not is_half_begun(optuna.load_study(study_name=self.name, storage=storage))

    @property
    def is_others(self) -> bool:
        """Whether the folder is that of another study of this name, with its record elsewhere."""
        return (self.journal if self.url else self.folder / _ELSEWHERE).exists()

    def create_folder(self) -> None:
        """Make the folder; one for each study, since a search sweeps it.

        Raises:
            StorageError: it cannot be written.
            StudyError: it is that of another study of this name, with its record elsewhere.
        """
        if self.is_others:
            where = "there" if self.url else "in a database"
            raise StudyError(
                f"'{self.folder}' holds the files of another study '{self.name}', whose record "
                f"lies {where}; choose another --study or --results"
            )
        try:
            self.artifacts.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
            if self.url:
                (self.folder / _ELSEWHERE).write_text(
                    "The trials of this study are in a database.\n", encoding="utf-8"
                )
        except OSError as error:
            raise StorageError(
                f"cannot write to '{self.folder}' ({error.strerror}); choose another --results"
            ) from error


def open_storage(
    location: Location, *, warn: Warn | None = None, is_driver: bool = False
) -> BaseStorage:
    """Open the record of a study.

    Args:
        location: where it lies.
        warn: called with one line if a damaged tail was left out.
        is_driver: the caller holds the driver lock and may repair.

    Raises:
        StorageError: the storage cannot be opened; never shows a password.
    """
    try:
        if location.url is not None:
            return open_database(location.url)
        return BatchedStorage(_readable_journal(location.journal, warn, is_driver))
    except OSError as error:
        raise StorageError(f"cannot open '{location.journal}': {error.strerror}") from error
    except StorageError:
        raise
    except Exception as error:  # SQLAlchemy and its drivers
        url = location.url or str(location.journal)
        shown, reason = hide_password(url), explain_failure(url, error)
        raise StorageError(f"cannot open storage '{shown}': {reason}") from None


@contextmanager
def translate_losses(location: Location) -> Iterator[None]:
    """Say it in one line if the storage goes away within, or the disk is full.

    Raises:
        StorageError: it does not answer any more, or takes nothing more.
    """
    try:
        if location.url is None:
            yield
        else:
            with _translate_database(location):
                yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        where = error.filename or location.folder
        raise StorageError(
            f"cannot write to '{where}' any more ({error.strerror}); everything finished is kept: "
            f"make room, and autoquant resume {location.name} goes on"
        ) from None


@contextmanager
def _translate_database(location: Location) -> Iterator[None]:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise StorageError(
            f"storage '{hide_password(str(location.url))}' does not answer any more "
            f"({explain_failure(str(location.url), cause)}); everything finished is kept: "
            f"autoquant resume {location.name} goes on"
        ) from None


def _readable_journal(journal: Path, warn: Warn | None, is_driver: bool) -> Path:
    if not is_driver:
        return _cut_journal(journal, warn, is_driver=False)
    lock = FileLock(journal)
    lock.acquire()  # who has joined the study may be in the middle of a line
    try:
        return _cut_journal(journal, warn, is_driver=True)
    finally:
        lock.release()


def _cut_journal(journal: Path, warn: Warn | None, *, is_driver: bool) -> Path:
    damage = find_damage(journal) if journal.exists() else None
    if damage is None:
        return journal
    lines = "1 record" if damage.dropped_lines == 1 else f"{damage.dropped_lines} records"
    text = f"{journal}: {lines} at the end ({damage.dropped_bytes} bytes) damaged and dropped"
    if is_driver:
        text += f"; the original is kept as {repair(journal, damage).name}"
        readable = journal
    else:
        readable = Path(tempfile.mkdtemp(prefix="autoquant-")) / journal.name
        shutil.copyfile(journal, readable)
        with readable.open("r+b") as file:
            file.truncate(damage.whole_bytes)
    if warn is not None:
        warn(text)
    return readable


def list_studies(results: Path, url: str | None = None) -> list[str]:
    """Names of the studies in a results folder, or in a database."""
    if url is not None:
        storage = open_storage(Location(results, "any", url))
        return sorted(optuna.get_all_study_names(storage))
    if results.exists() and not results.is_dir():
        raise StorageError(f"--results {results}: is a file; name a folder")
    return sorted(path.parent.name for path in results.glob(f"*/{_JOURNAL}"))


def take_driver_lock(location: Location, timeout_s: float = 0.0) -> filelock.BaseFileLock:
    """Become the lead of this study, as far as its folder tells.

    Args:
        location: where it lies; its folder exists.
        timeout_s: longest wait.

    Raises:
        StudyError: another process leads it.
    """
    lock = filelock.FileLock(location.folder / "driver.lock", timeout=timeout_s)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise StudyError(
            f"study '{location.name}' is being run by another process; wait for it, stop it, or "
            f"take part in it: autoquant resume {location.name} --join"
        ) from None
    return lock


@contextmanager
def hold_driver_lock(location: Location) -> Iterator[None]:
    """Be the lead of this study within; see `take_driver_lock`."""
    lock = take_driver_lock(location)
    try:
        yield
    finally:
        lock.release()


def is_running(location: Location) -> bool:
    """Whether a process runs the study, on this machine or with its record in a database."""
    if location.url is not None:
        return bool(find_drivers(load_record(location).study.user_attrs))
    return _is_led(location) or any(map(is_held, location.drivers.glob("*.lock")))


def _is_led(location: Location) -> bool:
    if not (location.folder / "driver.lock").exists():
        return False
    try:
        with hold_driver_lock(location):
            return False
    except StudyError:
        return True


def is_held(path: Path) -> bool:
    """Whether a process holds this lock; one that it has died with is free."""
    if not path.exists():
        return False
    lock = filelock.FileLock(path, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        return True
    lock.release()
    return False


def find_presences(location: Location) -> list[Presence]:
    """Who runs the study, the lead first, and what runs where, as far as that is known."""
    if location.url is not None:
        drivers = find_drivers(load_record(location).study.user_attrs)
        return [Presence.from_dict(driver) for driver in drivers]
    paths = [location.presence] if _is_led(location) else []
    locks = sorted(location.drivers.glob("*.lock"))
    paths += [path.with_suffix(".json") for path in locks if is_held(path)]
    return [presence for path in paths if (presence := read_presence(path)) is not None]


def load_record(location: Location, *, warn: Warn | None = None, is_driver: bool = False) -> Record:
    """Open the record of a study; see `open_storage`."""
    return Record.load(open_storage(location, warn=warn, is_driver=is_driver), location.name)


def join_record(location: Location) -> Record:
    """Open the record of a study that another process runs, to write to it as well.

    That process has made its journal whole, and still writes to it.

    Raises:
        StorageError: the storage cannot be opened, or its journal is damaged.
    """
    if location.url is not None:
        return load_record(location)
    try:
        return Record.load(BatchedStorage(location.journal), location.name)
    except json.JSONDecodeError as error:
        raise StorageError(
            f"'{location.journal}' is damaged: stop who runs the study; "
            f"autoquant resume {location.name} cuts it back to its whole part"
        ) from error


def create_record(location: Location, header: StudyHeader) -> Record:
    """Begin a study; its folder must exist.

    A journal appears under its name only when the study's header is in it, so a process that
    dies here leaves nothing that looks like a study.
    """
    if location.url is not None:
        return Record.create(open_storage(location), location.name, header)
    beginning = location.journal.with_suffix(".new")
    beginning.unlink(missing_ok=True)
    Record.create(BatchedStorage(beginning), location.name, header)
    beginning.replace(location.journal)
    return load_record(location)
