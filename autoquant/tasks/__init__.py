"""Float models with their data. Importing this package registers the built-in ones."""

from autoquant.tasks.options import TaskOptions
from autoquant.tasks.registry import (
    is_installed,
    load_task,
    load_task_file,
    register_task,
    resolve_options,
    task_names,
)

__all__ = [
    "TaskOptions",
    "is_installed",
    "load_task",
    "load_task_file",
    "register_task",
    "resolve_options",
    "task_names",
]
