"""`Lease`: who runs a study whose record lies in a database.

The lock of a study's folder is seen on one machine alone; a database, by everyone. So whoever
runs the study says so in it, again and again, and says so no more when it ends or dies.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import optuna

from autoquant.errors import StudyError

__all__ = ["KEY", "find_holder", "hold_lease", "is_leased"]

KEY = "driver"  # of the study's attributes
_BEAT_S, _STALE_S = 15.0, 60.0
_held: set[str] = set()  # by this process


def is_leased(study: optuna.Study) -> bool:
    """Whether somebody runs it now."""
    return find_holder(study.user_attrs) is not None


@contextmanager
def hold_lease(study: optuna.Study) -> Iterator[None]:
    """Be the only process that runs this study.

    Raises:
        StudyError: another process runs it, here or on another machine.
    """
    holder = find_holder(study.user_attrs)
    if holder is not None:
        ago = max(0.0, time.time() - holder["beat"])
        raise StudyError(
            f"study '{study.study_name}' is being run on {holder['host']} (process "
            f"{holder['pid']}, heard of {ago:.0f} s ago); wait for it or stop it"
        )
    lease: dict[str, Any] = {
        "token": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()
    }  # fmt: skip
    is_over = threading.Event()
    _held.add(lease["token"])
    _beat(study, lease)
    thread = threading.Thread(target=_keep, args=(study, lease, is_over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        _held.discard(lease["token"])
        with suppress(Exception):  # the database may be what ended the search
            study.set_user_attr(KEY, None)


def _keep(study: optuna.Study, lease: dict[str, Any], is_over: threading.Event) -> None:
    while not is_over.wait(_BEAT_S):
        with suppress(Exception):  # whoever writes trials will say that the database is gone
            _beat(study, lease)


def _beat(study: optuna.Study, lease: dict[str, Any]) -> None:
    study.set_user_attr(KEY, {**lease, "beat": time.time()})


def find_holder(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Who runs a study now, by its attributes; None if nobody does, or was long not heard of."""
    holder: dict[str, Any] | None = attributes.get(KEY)
    if holder is None or time.time() - holder["beat"] > _STALE_S:
        return None
    if holder["host"] == socket.gethostname() and not _is_held_here(holder):
        return None
    return holder


def _is_held_here(holder: dict[str, Any]) -> bool:
    """Whether a process of this machine that said so still does."""
    if holder["pid"] == os.getpid():
        return holder["token"] in _held
    return _is_alive(holder["pid"])


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
