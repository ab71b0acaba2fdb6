"""Tasks by name."""

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from autoquant.core.task import Task
from autoquant.errors import AutoquantError, TaskError
from autoquant.tasks.options import TaskOptions, merge_options

__all__ = [
    "is_installed",
    "load_task",
    "load_task_file",
    "register_task",
    "resolve_options",
    "task_names",
]

Factory = TypeVar("Factory", bound=Callable[..., Task])

_GROUP = "autoquant.tasks"
_FACTORIES: dict[str, Callable[..., Task]] = {}
_OPTIONS: dict[str, type[TaskOptions]] = {}
# Modules of the built-in tasks: they import torch, so they are read when a task is asked for.
_BUILT_IN = {
    "digits": "autoquant.tasks.digits",
    "cifar10-resnet8": "autoquant.tasks.cifar10",
    "cifar10-resnet20": "autoquant.tasks.cifar10",
    "cifar10-resnet44": "autoquant.tasks.cifar10",
    "imagenet-sample-efficientnet-lite0": "autoquant.tasks.imagenet_sample",
    "imagefolder": "autoquant.tasks.imagefolder",
}


def register_task(
    name: str, options: type[TaskOptions] | None = None
) -> Callable[[Factory], Factory]:
    """Decorator: make a function that returns a `Task` available under a name.

    Args:
        name: what the task is called in files and commands.
        options: what the task may be told; the function is then called with an instance.
            Without it the function takes no argument.

    Raises:
        TaskError: the name is taken by another function.
    """

    def register(factory: Factory) -> Factory:
        known = _FACTORIES.get(name)
        if known is not None and known.__qualname__ != factory.__qualname__:
            raise TaskError(f"task '{name}' is registered twice; choose another name")
        is_own = factory.__module__.startswith("autoquant.")
        if name in _BUILT_IN and not is_own:
            raise TaskError(f"task '{name}' is built in; choose another name")
        _FACTORIES[name] = factory
        if options is not None:
            _OPTIONS[name] = options
        return factory

    return register


def task_names() -> list[str]:
    """Every known task: built in, from installed packages, from files read so far."""
    installed = {point.name for point in entry_points(group=_GROUP)}
    return sorted({*_BUILT_IN, *_FACTORIES, *installed})


def is_installed(name: str) -> bool:
    """Whether every process finds the task by its name, where the same packages are installed."""
    return name in _BUILT_IN or bool(entry_points(group=_GROUP, name=name))


def load_task(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """Build a task.

    Args:
        name: as registered.
        options: what the task is told, if it takes any.

    Raises:
        TaskError: unknown, told something wrong, or its data or weights are missing.
    """
    factory = _find_factory(name)
    chosen = _parse_options(name, options or {})
    try:
        task = factory() if chosen is None else factory(chosen)
    except AutoquantError:
        raise
    except Exception as error:  # whatever the user's own code raises
        raise TaskError(f"task '{name}' failed: {type(error).__name__}: {error}") from error
    if not isinstance(task, Task):
        raise TaskError(f"task '{name}': its function returned no autoquant.Task")
    if not (len(task.calibration) and len(task.search)):
        raise TaskError(f"task '{name}': calibration and search data must not be empty")
    told = {} if chosen is None else chosen.to_dict()
    return dataclasses.replace(task, name=name, options=told)


def resolve_options(name: str, *sources: tuple[Mapping[str, Any], Path]) -> dict[str, Any]:
    """Options with absolute paths, so that they hold wherever a study is resumed.

    Args:
        name: of the task.
        sources: options, each with the folder that its relative paths start from; later ones
            go first.

    Raises:
        TaskError: unknown task, or told something wrong.
    """
    _find_factory(name)
    kind = _OPTIONS.get(name)
    merged: dict[str, Any] = {}
    for options, folder in sources:
        anchored = options if kind is None else kind.anchor(options, folder)
        merged = merge_options(merged, anchored)
    _parse_options(name, merged)
    return merged


def _parse_options(name: str, options: Mapping[str, Any]) -> TaskOptions | None:
    kind = _OPTIONS.get(name)
    if kind is not None:
        return kind.parse(options, name)
    if options:
        raise TaskError(f"task '{name}' takes no options, but is told '{next(iter(options))}'")
    return None


def _find_factory(name: str) -> Callable[..., Task]:
    if name not in _FACTORIES:
        _import_module_of(name)
    if name not in _FACTORIES:
        raise TaskError(
            f"unknown task '{name}'; there are {', '.join(task_names())} "
            "(your own: --tasks-from FILE.py)"
        )
    return _FACTORIES[name]


def _import_module_of(name: str) -> None:
    if name in _BUILT_IN:
        importlib.import_module(_BUILT_IN[name])
        return
    for point in entry_points(group=_GROUP, name=name):
        register_task(name)(point.load())


def load_task_file(path: Path) -> None:
    """Run a Python file of the user's that registers tasks.

    Raises:
        TaskError: missing, or it failed; names the line.
    """
    if not path.is_file():
        raise TaskError(f"--tasks-from: there is no file '{path}'")
    path = path.resolve()
    spec = importlib.util.spec_from_file_location(f"autoquant_tasks_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise TaskError(f"--tasks-from: '{path}' is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except AutoquantError:
        raise
    except Exception as error:  # whatever the user's own code raises
        line = _last_line_in(error, path)
        raise TaskError(f"--tasks-from: {path}{line}: {type(error).__name__}: {error}") from error


def _last_line_in(error: Exception, path: Path) -> str:
    trail, line = error.__traceback__, ""
    while trail is not None:
        if trail.tb_frame.f_code.co_filename == str(path):
            line = f", line {trail.tb_lineno}"
        trail = trail.tb_next
    return line
