"""`Lease`: who runs a study whose record lies in a database.

The lock of a study's folder is seen on one machine alone; a database, by everyone. So whoever
runs the study says so in it, again and again, and says so no more when it ends or dies: its lead
under one key, everyone who has joined it under a key of its own.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import optuna

from autoquant.backends.machine import find_kernel
from autoquant.errors import StudyError

__all__ = ["KEY", "Lease", "Listener", "find_drivers", "find_holder", "without_leases"]

KEY = "driver"  # of the study's attributes
_JOINED = "joined:"  # and a token
_BEAT_S, _STALE_S = 15.0, 60.0
_held: set[tuple[str, str]] = set()  # keys and tokens, by this process


class Listener:
    """Who runs a study, by what is heard of them here: other machines' clocks may be wrong.

    Whoever is heard of for the first time lives for as long as a silence may last.
    """

    def __init__(self) -> None:
        self._heard: dict[str, tuple[float, float]] = {}  # the beat, and when it was new here

    def hears(self, attributes: Mapping[str, Any], token: str) -> bool:
        """Whether a process that said so of itself still runs the study, by its attributes."""
        said = next((s for s in _find_said(attributes) if s["token"] == token), None)
        if said is None or _is_dead_here(said):
            return False
        beat, since = self._heard.get(token, (None, 0.0))
        if said["beat"] != beat:
            since = time.monotonic()
            self._heard[token] = said["beat"], since
        return time.monotonic() - since <= _STALE_S

    def hears_lead(self, attributes: Mapping[str, Any]) -> bool:
        """Whether whoever leads the study still does."""
        said: dict[str, Any] | None = attributes.get(KEY)
        return said is not None and self.hears(attributes, said["token"])

    def forget(self) -> None:
        """After a silence of the database, which silenced everybody."""
        self._heard = {}


class Lease:
    """What this process says of itself in a study that it runs.

    Args:
        study: the study.
        describe: what else to say each time.
        token: what tells this process from all others.
        is_lead: it runs the study, and has not joined another process that does.
    """

    def __init__(
        self,
        study: optuna.Study,
        describe: Callable[[], Mapping[str, Any]] = dict,
        token: str | None = None,
        *,
        is_lead: bool = True,
    ) -> None:
        self._study = study
        self._describe = describe
        self._name = study.study_name
        self._said: dict[str, Any] = {
            "token": token or uuid.uuid4().hex, "host": socket.gethostname(),
            "kernel": find_kernel(), "pid": os.getpid(),
        }  # fmt: skip
        self._key = KEY if is_lead else f"{_JOINED}{self._said['token']}"
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def begin(self) -> None:
        """Say it, and go on saying it.

        Raises:
            StudyError: another process runs the study, here or on another machine.
        """
        holder = find_holder(self._study.user_attrs, self._key)
        if holder is not None:
            ago = max(0.0, time.time() - holder["beat"])
            raise StudyError(
                f"study '{self._name}' is being run on {holder['host']} (process "
                f"{holder['pid']}, heard of {ago:.0f} s ago); wait for it, stop it, or take part "
                f"in it: autoquant resume {self._name} --join"
            )
        _held.add((self._key, self._said["token"]))
        self._beat()
        self._thread.start()

    def check(self) -> None:
        """See that nobody took this process for dead.

        Raises:
            StudyError: another process runs the study since.
        """
        holder = find_holder(self._study.user_attrs, self._key)
        if holder is not None and holder["token"] != self._said["token"]:
            raise StudyError(
                f"study '{self._name}' was taken over by {holder['host']} (process "
                f"{holder['pid']}) while nothing was heard of this process: its search ends, "
                "everything finished is kept"
            )

    def renew(self) -> None:
        """Say it at once, after a silence.

        Raises:
            StudyError: another process runs the study since.
        """
        self.check()
        self._beat()

    def end(self) -> None:
        """Say no more."""
        self._is_over.set()
        self._thread.join()
        _held.discard((self._key, self._said["token"]))
        with suppress(Exception):  # the database may be what ended the search
            if self._find_token() == self._said["token"]:
                self._study.set_user_attr(self._key, None)

    def _keep(self) -> None:
        while not self._is_over.wait(_BEAT_S):
            with suppress(Exception):  # whoever writes trials will say that the database is gone
                if self._find_token() in (None, self._said["token"]):
                    self._beat()

    def _beat(self) -> None:
        said = {**self._describe(), **self._said, "beat": time.time()}
        self._study.set_user_attr(self._key, said)

    def _find_token(self) -> str | None:
        """Of whoever said last that it runs the study."""
        holder: dict[str, Any] = self._study.user_attrs.get(self._key) or {}
        return holder.get("token")


def find_drivers(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What all say of themselves that run a study now, by its attributes; the lead first."""
    found = (find_holder(attributes, key) for key in _find_keys(attributes))
    return [holder for holder in found if holder is not None]


def _find_keys(attributes: Mapping[str, Any]) -> list[str]:
    return [KEY, *(key for key in attributes if key.startswith(_JOINED))]


def _find_said(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What everybody said last, dead or alive."""
    return [said for key in _find_keys(attributes) if (said := attributes.get(key)) is not None]


def _is_from_here(said: Mapping[str, Any]) -> bool:
    """Whether a process said it whose number means something here: names of hosts may be equal."""
    kernel = said.get("kernel")  # earlier versions said none
    return said["host"] == socket.gethostname() and kernel in (None, find_kernel())


def _is_dead_here(said: Mapping[str, Any]) -> bool:
    """Whether it was a process of this machine, and is gone."""
    if not _is_from_here(said) or said["pid"] == os.getpid():
        return False
    return not _is_alive(said["pid"])


def without_leases(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A study's attributes but for those that say who runs it, which change all the time."""
    return {
        key: value
        for key, value in attributes.items()
        if key != KEY and not key.startswith(_JOINED)
    }


def find_holder(attributes: Mapping[str, Any], key: str = KEY) -> dict[str, Any] | None:
    """What whoever runs a study now says of itself, by its attributes; None if nobody does."""
    holder: dict[str, Any] | None = attributes.get(key)
    if holder is None or time.time() - holder["beat"] > _STALE_S:
        return None
    if _is_from_here(holder) and not _is_held_here(key, holder):
        return None
    return holder


def _is_held_here(key: str, holder: dict[str, Any]) -> bool:
    """Whether a process of this machine that said so still does."""
    if holder["pid"] == os.getpid():
        return (key, holder["token"]) in _held
    return _is_alive(holder["pid"])


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
