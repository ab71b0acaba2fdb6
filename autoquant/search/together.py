"""`together`: what is asked of a study's record and written to it while nobody else does.

Several drivers of one study must agree on who tries what, and Optuna's storages have no lock for
that. A journal is locked anyway while it is written; SQLite's file has a lock beside it; and
PostgreSQL has advisory locks, which end with the connection of whoever holds one.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

from autoquant.search.journal import BatchedStorage
from autoquant.search.patience import patiently

if TYPE_CHECKING:  # a journal does without it
    from sqlalchemy import Connection

__all__ = ["Together", "find_together", "is_shareable"]

Together = Callable[..., AbstractContextManager[None]]

_POLL_S = 0.01
_MODE = 0o666  # of the lock, for whom the database belongs to as well
# A machine that vanishes while it holds the lock is missed after a minute, and not after hours.
_LOCK = (
    "SELECT set_config('tcp_keepalives_idle', '30', false), "
    "set_config('tcp_keepalives_interval', '10', false), "
    "set_config('tcp_keepalives_count', '3', false), pg_advisory_xact_lock(:key)"
)


def find_together(study: optuna.Study) -> Together:
    """How operations on a study are put together: `together(is_durable=...)`.

    Within, nobody else is. A journal is then written in one piece, to the disk where it is to be
    durable; a database takes operations one by one.
    """
    storage = study._storage
    if isinstance(storage, BatchedStorage):
        return storage.together
    backend = getattr(storage, "_backend", storage)  # Optuna puts a cache before a database
    if isinstance(backend, RDBStorage):
        return _DatabaseLock(backend, study.study_name).together
    return lambda *, is_durable: nullcontext()


def is_shareable(study: optuna.Study) -> bool:
    """Whether several drivers can run a study: its record has a lock."""
    backend = getattr(study._storage, "_backend", study._storage)
    if isinstance(backend, RDBStorage):
        return _find_holding(backend, "") is not None
    return isinstance(backend, BatchedStorage)


class _DatabaseLock:
    """A lock on one study of a database, for one thread.

    Args:
        storage: the database.
        name: of the study.
    """

    def __init__(self, storage: RDBStorage, name: str) -> None:
        self._hold: Callable[[], AbstractContextManager[object]]
        self._hold = _find_holding(storage, name) or nullcontext
        self._is_held = False

    @contextmanager
    def together(self, *, is_durable: bool) -> Iterator[None]:
        """Hold the lock; within itself it is held already."""
        if self._is_held:
            yield
            return
        with self._hold():
            self._is_held = True
            try:
                yield
            finally:
                self._is_held = False


def _find_holding(
    storage: RDBStorage, name: str
) -> Callable[[], AbstractContextManager[object]] | None:
    """How the lock is held; None where there is none."""
    engine = storage.engine
    match engine.dialect.name:
        case "sqlite" if engine.url.database not in (None, "", ":memory:"):
            database = Path(str(engine.url.database)).resolve()
            path = database.with_name(f"{database.name}.{name}.lock")
            lock = filelock.FileLock(path, mode=_MODE, poll_interval=_POLL_S)
            return lock.acquire
        case "postgresql":
            return lambda: _hold_advisory_lock(storage, name)
    return None


@contextmanager
def _hold_advisory_lock(storage: RDBStorage, name: str) -> Iterator[None]:
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    digest = hashlib.sha256(f"autoquant study {name}".encode()).digest()
    key = int.from_bytes(digest[:8], "big", signed=True)

    def lock() -> "Connection":
        connection = None
        try:
            connection = storage.engine.connect()
            connection.execute(text(_LOCK), {"key": key})
        except SQLAlchemyError as error:
            if connection is not None:
                connection.close()
            raise StorageInternalError("the lock of the study cannot be had") from error
        return connection

    connection = patiently(lock)
    try:
        yield
    finally:
        with suppress(SQLAlchemyError):  # the lock of a connection that is lost is free
            connection.rollback()
            connection.close()
