"""`PatientStorage`: a database that may go away for a while, a server that is restarted.

Whoever runs a study waits for it: what Optuna asks is asked again until there is an answer.
Viewers are told at once.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

__all__ = ["PATIENCE_S", "PatientStorage", "patiently", "waiting"]

T = TypeVar("T")

PATIENCE_S = 600.0
_PAUSES_S = (0.5, 1.0, 2.0, 5.0)  # the last one again and again
_ASKED_AGAIN = (
    "set_study_user_attr", "set_study_system_attr", "get_study_id_from_name",
    "get_study_name_from_id", "get_study_directions", "get_study_user_attrs",
    "get_study_system_attrs", "get_all_studies", "create_new_trial", "_create_new_trial",
    "set_trial_param", "_set_trial_param", "set_trial_intermediate_value", "set_trial_user_attr",
    "set_trial_system_attr", "get_trial", "get_trial_id_from_study_id_trial_number",
    "get_all_trials", "_get_trials",
)  # fmt: skip


@dataclass(frozen=True)
class _Patience:
    tell: Callable[[Exception | None], None]
    on_return: Callable[[], None]

    def ask(self, first: Callable[[], Any], again: Callable[[], Any]) -> Any:
        """The answer to a question, which is put once more as long as the database is away."""
        question, is_lost, end = first, False, time.monotonic() + PATIENCE_S
        for pause_s in _pauses():
            try:
                if is_lost:
                    self.on_return()
                answer = question()
            except StorageInternalError as error:
                cause = _find_loss(error)
                if cause is None or time.monotonic() + pause_s > end:
                    raise
                if not is_lost:
                    self.tell(cause)
                question, is_lost = again, True
                time.sleep(pause_s)
            else:
                break
        if is_lost:
            self.tell(None)
        return answer


_patience: ContextVar[_Patience | None] = ContextVar("patience", default=None)


@contextmanager
def waiting(
    tell: Callable[[Exception | None], None], on_return: Callable[[], None]
) -> Iterator[None]:
    """Wait for a database that goes away within, in this thread, for up to `PATIENCE_S`.

    Args:
        tell: called with what the database said last, and with None when it answers again.
        on_return: called when it answers again, before anything is asked of it.
    """
    token = _patience.set(_Patience(tell, on_return))
    try:
        yield
    finally:
        _patience.reset(token)


def _pauses() -> Iterator[float]:
    yield from _PAUSES_S
    while True:
        yield _PAUSES_S[-1]


def _find_loss(error: StorageInternalError) -> Exception | None:
    """What a database says that is away; None where it understood and refused."""
    from sqlalchemy.exc import InterfaceError, OperationalError

    cause = error.__cause__
    return cause if isinstance(cause, OperationalError | InterfaceError) else None


def _ask(first: Callable[[], Any], again: Callable[[], Any] | None = None) -> Any:
    patience = _patience.get()
    if patience is None:
        return first()
    token = _patience.set(None)  # what a question asks by the way has no patience of its own
    try:
        return patience.ask(first, again or first)
    finally:
        _patience.reset(token)


def patiently(question: Callable[[], T]) -> T:
    """The answer to any question to the database, waited for where `waiting` says so."""
    answer: T = _ask(question)
    return answer


class PatientStorage(RDBStorage):
    """Optuna's storage in a database, which is waited for within `waiting`.

    Where the answer was lost and not the question, it is put twice. Writing a value twice
    changes nothing; a trial that is begun twice leaves one that nobody evaluates, without a
    recipe of its own, which does not count.
    """

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """See `RDBStorage`; a trial that is in this state already was put there by us."""
        first = functools.partial(super().set_trial_state_values, trial_id, state, values)

        def again() -> bool:
            return self.get_trial(trial_id).state == state or first()

        return bool(_ask(first, again))


def _make_patient(name: str) -> None:
    method = getattr(RDBStorage, name)

    @functools.wraps(method)
    def call(self: PatientStorage, *arguments: Any, **named: Any) -> Any:
        return _ask(lambda: method(self, *arguments, **named))

    setattr(PatientStorage, name, call)


for _name in _ASKED_AGAIN:
    _make_patient(_name)
