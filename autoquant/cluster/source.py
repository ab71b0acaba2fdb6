"""What a worker needs to make a study's evaluator by itself: a task by name, or the task."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoquant.core.task import Task
from autoquant.evaluate import EvaluationOptions, Evaluator
from autoquant.tasks import load_task, load_task_file

__all__ = ["TaskSource", "WholeSource", "read_environment"]

_VARIABLES = ("AUTOQUANT_DATA", "AUTOQUANT_CACHE")


def read_environment() -> dict[str, str]:
    """Where this machine has its data; the same holds for workers that do not say otherwise."""
    return {name: os.environ[name] for name in _VARIABLES if name in os.environ}


@dataclass(frozen=True)
class TaskSource:
    """A task by name; it travels once to each node, the data sets never.

    Attributes:
        task: its name.
        task_options: what it is told.
        seed: of the study.
        options: how files are judged.
        backend: name of the runtime.
        checkpoints: folder from which trainings go on, where the worker can reach it.
        file: path and content of the file that registers the task.
        environment: variables that are set where the worker has none of that name.
    """

    task: str
    task_options: Mapping[str, Any]
    seed: int
    options: EvaluationOptions
    backend: str
    checkpoints: Path | None = None
    file: tuple[Path, bytes] | None = None
    environment: Mapping[str, str] = field(default_factory=read_environment)

    def __call__(self) -> Evaluator:
        """The evaluator.

        Raises:
            InputError: the task, its data or the backend are missing here.
        """
        from autoquant.build import build_evaluator

        for name, value in self.environment.items():
            os.environ.setdefault(name, value)
        if self.file is not None:
            load_task_file(_place_file(*self.file))
        task = load_task(self.task, self.task_options)
        return build_evaluator(task, self.seed, self.options, self.backend, self.checkpoints)


@dataclass(frozen=True)
class WholeSource:
    """A task that no name leads to: its model and its data sets travel, once to each node.

    Attributes:
        task: the task.
        seed: of the study.
        options: how files are judged.
        backend: name of the runtime.
        checkpoints: folder from which trainings go on, where the worker can reach it.
    """

    task: Task
    seed: int
    options: EvaluationOptions
    backend: str
    checkpoints: Path | None = None

    def __call__(self) -> Evaluator:
        """The evaluator."""
        from autoquant.build import build_evaluator

        return build_evaluator(self.task, self.seed, self.options, self.backend, self.checkpoints)


def _place_file(path: Path, content: bytes) -> Path:
    """The user's own file where this machine has it, since it may read others beside it."""
    if path.is_file() and path.read_bytes() == content:
        return path
    copy = Path(tempfile.mkdtemp(prefix="autoquant-tasks-")) / path.name
    copy.write_bytes(content)
    return copy
