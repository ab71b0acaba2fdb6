"""autoquant: search for the quantized model that is fast, small and right on your machine.

Nothing is imported until it is used: `import autoquant` loads no torch, and on a machine with
ONNX Runtime and numpy alone `python -m autoquant bench` works.
"""

import sys
from importlib import import_module
from inspect import Signature, signature
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoquant.core.recipe import PtqOptions, QatOptions, Recipe
    from autoquant.core.space import SearchSpace
    from autoquant.core.task import Task
    from autoquant.notebook import NotebookStudy, load_study, quantize, search
    from autoquant.tasks.registry import register_task

__all__ = [
    "NotebookStudy",
    "PtqOptions",
    "QatOptions",
    "Recipe",
    "SearchSpace",
    "Task",
    "load_study",
    "quantize",
    "register_task",
    "search",
]

_HOMES = {
    "NotebookStudy": "autoquant.notebook",
    "PtqOptions": "autoquant.core.recipe",
    "QatOptions": "autoquant.core.recipe",
    "Recipe": "autoquant.core.recipe",
    "SearchSpace": "autoquant.core.space",
    "Task": "autoquant.core.task",
    "load_study": "autoquant.notebook",
    "register_task": "autoquant.tasks.registry",
}
_VERBS = ("quantize", "search")


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return import_module(f"autoquant.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'autoquant' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


class _Verb(ModuleType):
    """A package that is a verb too: `autoquant.search` holds modules and, called, searches."""

    @property
    def _function(self) -> Any:
        return getattr(import_module("autoquant.notebook"), self.__name__.rpartition(".")[2])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    # what `?` and help show

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return getattr(self._function, "__doc__", None)

    @property
    def __signature__(self) -> Signature:
        return signature(self._function)


class _Package(ModuleType):
    """This package. Python sets a subpackage on it when that is imported, whoever imports it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _VERBS and isinstance(value, ModuleType):
            value.__class__ = _Verb
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
