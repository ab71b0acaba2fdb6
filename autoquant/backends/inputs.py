"""Inputs of a loaded model: as callers give them, and random ones for timing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoquant.errors import ArtifactError

__all__ = ["Arrays", "InputSpec", "as_named", "random_inputs"]

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class InputSpec:
    """What a model says of one of its inputs.

    Attributes:
        name: as in the file.
        shape: sizes; None where the file leaves one free.
        type_name: element type in the runtime's words.
    """

    name: str
    shape: tuple[int | None, ...]
    type_name: str

    def shape_for(self, batch: int) -> tuple[int, ...]:
        """The shape for a batch.

        Raises:
            ArtifactError: more than the first size is free, and nobody knows what for.
        """
        if None in self.shape[1:]:
            sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
            raise ArtifactError(
                f"input '{self.name}' has the shape ({sizes}), and what it is run on decides how "
                "long that takes: fix all sizes but the first, for one with `python -m "
                "onnxruntime.tools.make_dynamic_shape_fixed`"
            )
        return tuple(batch if size is None else size for size in self.shape)


def as_named(inputs: Any, first: str) -> Arrays:
    """One batch as named arrays; a single array is the first input."""
    if isinstance(inputs, Mapping):
        return {name: np.asarray(value) for name, value in inputs.items()}
    return {first: np.asarray(inputs)}


def random_inputs(
    specs: Sequence[InputSpec], kinds: Mapping[str, npt.DTypeLike], batch: int, seed: int = 0
) -> Arrays:
    """Inputs of the model's shapes; a first size that is free is the batch size.

    Args:
        specs: the inputs.
        kinds: numpy's float32 or an integer type, by the runtime's name for it.
        batch: batch size.
        seed: of the normal draws; integer inputs are ones, a valid index into most tables.

    Raises:
        ArtifactError: an input of a type that is not among the kinds, or of no certain shape.
    """
    generator = np.random.default_rng(seed)
    return {spec.name: _random(spec, kinds, batch, generator) for spec in specs}


def _random(
    spec: InputSpec, kinds: Mapping[str, npt.DTypeLike], batch: int, generator: np.random.Generator
) -> npt.NDArray[Any]:
    shape = spec.shape_for(batch)
    if spec.type_name not in kinds:
        raise ArtifactError(
            f"input '{spec.name}' is of type {spec.type_name}; float and int are timed"
        )
    kind = np.dtype(kinds[spec.type_name])
    if kind == np.float32:
        return generator.standard_normal(shape, dtype=np.float32)
    return np.ones(shape, dtype=kind)
