"""Formats of model files: what is read off a file and written into it, whatever its runtime."""

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from autoquant.core.artifact import Artifact, is_tflite
from autoquant.errors import InputError

__all__ = ["Exposed", "ModelFormat", "format_of", "load_format", "read_artifact"]

# The file, and the names of its outputs by the values that were wanted.
Exposed = tuple[bytes, dict[str, str]]


class ModelFormat(Protocol):
    """One format. Every function takes the bytes of a file.

    Raises:
        ArtifactError: from each of them, for bytes that are not a whole file of this format.
    """

    @property
    def suffix(self) -> str:
        """How its files are called, `.onnx`."""
        ...

    def digest(self, content: bytes) -> str:
        """SHA-256 of the file without its passport, hexadecimal."""
        ...

    def read_passport(self, content: bytes) -> dict[str, Any]:
        """The passport, empty if the file carries none; a damaged one is an ArtifactError."""
        ...

    def write_passport(self, content: bytes, passport: Mapping[str, Any]) -> bytes:
        """The file with this passport in place of any other; its size depends on no figure."""
        ...

    def read_precisions(self, content: bytes) -> dict[str, str]:
        """Stored weight precision by layer: `int8`, `int4`, `float32`."""
        ...

    def read_weights(self, content: bytes) -> dict[str, npt.NDArray[np.float32]]:
        """Real weights of layers, in the layout of the file; some may be left out."""
        ...

    def expose(self, content: bytes, values: Collection[str]) -> Exposed:
        """The file with inner values of the float graph as outputs; unknown ones left out."""
        ...

    def restore(self, name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """An exposed output as the float graph has it, batch and channels first.

        Args:
            name: of the output.
            values: what the runtime answers.
        """
        ...

    def read_io(self, content: bytes) -> dict[str, Any]:
        """For the passport: `io`, grids of inputs and outputs in integers; empty if none is."""
        ...

    def values_on_grid(self, content: bytes) -> frozenset[str]:
        """Values of the float graph that lie on a grid."""
        ...

    def outputs(self, content: bytes) -> list[str]:
        """Names of the outputs, in order."""
        ...


def load_format(name: str) -> ModelFormat:
    """The format of that name: `onnx` or `tflite`.

    Raises:
        InputError: its packages are not installed.
    """
    try:
        if name == "tflite":
            from autoquant.export.litert.format import LiteRtFormat

            return LiteRtFormat()
        from autoquant.export.onnx_file import OnnxFormat

        return OnnxFormat()
    except ImportError as error:
        package = "'autoquant[litert]'" if name == "tflite" else "onnx"
        raise InputError(f"{name} files cannot be read ({error}); pip install {package}") from error


def format_of(content: bytes) -> ModelFormat:
    """The format of a file: .tflite files say so, all else is taken for ONNX."""
    return load_format("tflite" if is_tflite(content) else "onnx")


def read_artifact(content: bytes) -> Artifact:
    """An artifact from the bytes of a file.

    Raises:
        ArtifactError: not a model file, or its passport is damaged.
        InputError: the packages for its format are not installed.
    """
    kind = format_of(content)
    passport = kind.read_passport(content)  # which also tells foreign bytes
    return Artifact(content, kind.read_precisions(content), passport)
