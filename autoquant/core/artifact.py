"""`Artifact`: the deployable file and what can be read off it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # a machine that only times files has no pydantic
    from autoquant.core.layer import Layer
    from autoquant.core.recipe import Recipe
    from autoquant.core.training import TrainingCurve, TrainingWatch

__all__ = ["SUFFIXES", "Artifact", "Builder", "Candidate", "find_kept", "is_tflite", "suffix_of"]

SUFFIXES = (".onnx", ".tflite")


def suffix_of(backend: str) -> str:
    """How the files are called that a backend runs."""
    return ".tflite" if backend == "litert" else ".onnx"


def is_tflite(content: bytes) -> bool:
    """Whether bytes are a .tflite file: the flatbuffer's identifier stands at byte 4."""
    return content[4:8] == b"TFL3"


def find_kept(folder: Path, digest: str) -> Path | None:
    """The file of a recipe's digest in a folder, whatever its format; None if there is none."""
    paths = (folder / f"{digest}{suffix}" for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


@dataclass(frozen=True)
class Artifact:
    """A model file held in memory.

    Attributes:
        content: the bytes that would ship.
        precisions: layer name to stored weight precision (`int8`, `int4`, `float32`), read
            back from the file.
        passport: the record embedded in the file; empty if the file carries none.
    """

    content: bytes
    precisions: Mapping[str, str]
    passport: Mapping[str, Any]

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return len(self.content)

    @property
    def suffix(self) -> str:
        """How files of its format are called."""
        return ".tflite" if is_tflite(self.content) else ".onnx"

    @cached_property
    def sha256(self) -> str:
        """Digest of the file, hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    def save(self, path: str | Path) -> Path:
        """Write the file; returns where it lies."""
        target = Path(path)
        target.write_bytes(self.content)
        return target


@dataclass(frozen=True)
class Candidate:
    """An artifact fresh from its builder.

    Attributes:
        artifact: the file, its passport still without figures.
        predict: the quantized model that the file must agree with, batches in, outputs of
            all of them out; None for files that no Brevitas model stands behind.
        seconds: time by stage.
        training: how it was trained; None if it was not.
    """

    artifact: Artifact
    predict: Callable[[Sequence[Any]], npt.NDArray[np.float32]] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    training: "TrainingCurve | None" = None


class Builder(Protocol):
    """Makes the artifact of a recipe."""

    @property
    def layers(self) -> "list[Layer]":
        """The quantizable layers, in network order."""
        ...

    @property
    def operators(self) -> "list[Layer]":
        """Everything that multiplies and accumulates: the layers, and what has to stay float."""
        ...

    @property
    def float_onnx(self) -> "Artifact | None":
        """The float model as ONNX Runtime runs it; None in a rehearsal."""
        ...

    def build(self, recipe: "Recipe", watch: "TrainingWatch | None" = None) -> Candidate:
        """The file of a recipe.

        Args:
            recipe: what to build.
            watch: told how it is trained, if it is.

        Raises:
            TrialError: this recipe cannot be built.
        """
        ...

    def provenance(self, recipe: "Recipe") -> Mapping[str, Any]:
        """What its file is made of (weights, data), as the passport says; empty in a rehearsal."""
        ...

    def seal(
        self,
        artifact: Artifact,
        measurement: Mapping[str, Any],
        fingerprint: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """The same file with its figures in the passport.

        Args:
            artifact: the file.
            measurement: its figures.
            fingerprint: what they were measured on, if that may be another machine than this.
        """
        ...
