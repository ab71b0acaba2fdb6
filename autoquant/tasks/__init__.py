"""Float models with their data. Importing this package registers the built-in ones."""

from autoquant.tasks.registry import load_task, load_task_file, register_task, task_names

__all__ = ["load_task", "load_task_file", "register_task", "task_names"]
