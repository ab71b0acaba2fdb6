"""Backends by name. Each is imported when it is asked for: a machine may have one alone."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal, get_args

from autoquant.backends.base import FileBackend
from autoquant.core.artifact import is_tflite
from autoquant.errors import InputError

__all__ = [
    "BACKENDS",
    "DEFAULT_BACKEND",
    "BackendName",
    "backend_for",
    "backend_of",
    "load_backend",
]

BackendName = Literal["onnxruntime", "openvino", "litert"]

BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
DEFAULT_BACKEND: BackendName = "onnxruntime"

# Module, class, and what installs the package that the module imports.
_HOMES: dict[str, tuple[str, str, str]] = {
    "onnxruntime": ("autoquant.backends.onnxruntime", "OrtBackend", "onnxruntime"),
    "openvino": ("autoquant.backends.openvino", "OpenVinoBackend", "'autoquant[openvino]'"),
    "litert": ("autoquant.backends.litert", "LiteRtBackend", "'autoquant[litert]'"),
}


def backend_of(conditions: Mapping[str, Any]) -> str:
    """The backend that a passport's conditions name; files older than the choice name none."""
    return str(conditions.get("backend", "onnxruntime"))


def backend_for(content: bytes, wanted: str | None = None) -> str:
    """The backend that runs a file: the wanted one, or the first that reads its format.

    Args:
        content: the file.
        wanted: for files that it reads; None for the usual one.
    """
    if is_tflite(content):
        return "litert"
    return DEFAULT_BACKEND if wanted in (None, "litert") else str(wanted)


def load_backend(name: str) -> FileBackend:
    """The backend of that name.

    Raises:
        InputError: there is none of that name, or its package is not installed.
    """
    if name not in _HOMES:
        raise InputError(f"unknown backend '{name}'; there are {', '.join(BACKENDS)}")
    module, kind, package = _HOMES[name]
    try:
        home = import_module(module)
    except ImportError as error:
        raise InputError(
            f"backend '{name}' cannot be imported ({error}); pip install {package}"
        ) from error
    backend: FileBackend = getattr(home, kind)()
    return backend
