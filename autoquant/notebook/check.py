"""What a caller may hand over; the command line's parser checks the same for its own options."""

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, get_args

from autoquant.backends.machine import explain_oversubscription
from autoquant.backends.registry import BACKENDS, DEFAULT_BACKEND
from autoquant.cluster.crew import Crew
from autoquant.cluster.hire import build_crew
from autoquant.core.task import Task
from autoquant.errors import InputError, TaskError
from autoquant.evaluate import Evaluator
from autoquant.search.sampler import SAMPLERS
from autoquant.search.study import Keep
from autoquant.tasks import load_task, task_names

__all__ = [
    "check_choices",
    "check_counts",
    "find_crew",
    "find_task",
    "name_of",
    "name_task",
    "speaking_python",
    "warn",
    "warn_of_backend",
]

_UNNAMED = "notebook"
_ARGUMENTS = {
    "--gpus-per-qat-trial": "gpus_per_qat_trial",
    "--trial-timeout": "trial_timeout",
    "--target ": "targets=",
    "--target": "targets",
    "--workers ": "workers=",
    "--ray ": "ray=",
    "--ray": "ray=ADDRESS",
}


def name_of(task: Task | str) -> str:
    """What a study records as its task: a task without a name is called `notebook`.

    Raises:
        TaskError: neither a task nor a name.
    """
    if isinstance(task, Task):
        return task.name or _UNNAMED
    if isinstance(task, str):
        return task
    raise TaskError(f"a task is an autoquant.Task or the name of one, not {type(task).__name__}")


def find_task(task: Task | str, options: Mapping[str, Any] | None = None) -> Task:
    """The task itself, or the one of this name, told these options.

    Raises:
        TaskError: no task is known by this name; lists those that are. Or it is incomplete.
    """
    name = name_of(task)
    if isinstance(task, Task):
        return name_task(task, name)
    if name not in task_names():
        raise TaskError(
            f"no task is known here as '{name}', only {', '.join(task_names())}: register it, or "
            "hand the Task itself over (task=...)"
        )
    return load_task(name, options)


def name_task(task: Task, name: str) -> Task:
    """A task of the caller's under this name; held to what a registered one is held to.

    Raises:
        TaskError: it has no data to calibrate with, or none to search with.
    """
    if not (len(task.calibration) and len(task.search)):
        raise TaskError(f"task '{name}': calibration and search data must not be empty")
    return dataclasses.replace(task, name=name)


def check_counts(threads: int = 1, batch: int = 1, trials: int | None = None) -> None:
    """Refuse counts below one, and warn of more threads than this process may use.

    Raises:
        InputError: names the argument.
    """
    for name, value in {"threads": threads, "batch": batch, "trials": trials}.items():
        if value is not None and value < 1:
            raise InputError(f"{name}={value}: at least 1")
    text = explain_oversubscription(threads)
    if text is not None:
        warn(text.replace("--threads ", "threads="))


def check_choices(
    keep: str = "front", sampler: str = SAMPLERS[0], backend: str = DEFAULT_BACKEND
) -> None:
    """Refuse words that are not among those known.

    Raises:
        InputError: names the argument and lists what there is.
    """
    choices = (
        ("keep", keep, get_args(Keep)),
        ("sampler", sampler, SAMPLERS),
        ("backend", backend, BACKENDS),
    )
    for name, value, known in choices:
        if value not in known:
            raise InputError(f"{name}={value!r}: there are {', '.join(known)}")


def find_crew(
    workers: int | None,
    ray: str | None,
    gpus_per_qat_trial: float,
    trial_timeout: str | float | None,
) -> Crew | None:
    """The workers that are asked for; None for a search in this process.

    Raises:
        InputError: no such number, Ray is not installed, nobody listens at the address, or an
            option needs workers that are not asked for.
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers={workers}: at least 1")
    with speaking_python():
        return build_crew(workers, ray, gpus_per_qat_trial, trial_timeout)


@contextmanager
def speaking_python() -> Iterator[None]:
    """What is said of options of the command line, said of arguments."""
    try:
        yield
    except InputError as error:
        text = str(error)
        for option, argument in _ARGUMENTS.items():
            text = text.replace(option, argument)
        raise type(error)(text) from None


def warn_of_backend(evaluator: Evaluator) -> None:
    """Say why timings of this installation do not compare with others', if they do not."""
    if evaluator.backend.caveat is not None:
        warn(evaluator.backend.caveat)


def warn(text: str) -> None:
    """One line, as a Python warning."""
    warnings.warn(text, stacklevel=3)
