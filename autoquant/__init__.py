"""autoquant: search for the quantized model that is fast, small and right on your machine.

Nothing is imported until it is used: `import autoquant` loads no torch, and on a machine with
ONNX Runtime and numpy alone `python -m autoquant bench` works.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoquant.core.recipe import PtqOptions, Recipe
    from autoquant.core.space import SearchSpace
    from autoquant.core.task import Task
    from autoquant.tasks.registry import register_task

__all__ = ["PtqOptions", "Recipe", "SearchSpace", "Task", "register_task"]

_HOMES = {
    "PtqOptions": "autoquant.core.recipe",
    "Recipe": "autoquant.core.recipe",
    "SearchSpace": "autoquant.core.space",
    "Task": "autoquant.core.task",
    "register_task": "autoquant.tasks.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'autoquant' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
