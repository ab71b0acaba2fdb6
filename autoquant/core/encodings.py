"""`Encodings`: what the quantizers decided, tensor by tensor, in plain arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from autoquant.errors import NumericError

__all__ = ["ActivationEncoding", "Encodings", "WeightEncoding"]


@dataclass(frozen=True)
class ActivationEncoding:
    """Affine grid of one activation: real = (q - zero_point) * scale, q in 0..2**bits - 1.

    The grid is unsigned; a symmetric signed tensor has its zero point in the middle, which is
    the same set of real values as signed storage with zero point 0.
    """

    scale: float
    zero_point: int
    bits: int = 8

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise NumericError(f"an activation scale is {self.scale}")
        if not 0 <= self.zero_point < 2**self.bits:
            raise NumericError(f"a zero point of {self.zero_point} is off the {self.bits}-bit grid")


@dataclass(frozen=True)
class WeightEncoding:
    """Weights of one layer on their integer grid: real = values * scale (zero point 0).

    Attributes:
        values: int8 array, shape of the float weight.
        scale: float32, shape (1,) per tensor, (channels,) per output channel, or
            (channels, blocks) for blocks along the input. Rows of a table count as channels.
        bits: 8 or 4; with 4 every value lies in -8..7.
        bias: (channels,), bias correction included: int32, real = bias * bias_scale, where
            the layer's input is on a grid; float32 where it is not, or where the layer is
            computed in float. Empty for a table.
        bias_scale: float32, shape of `scale`: input scale times weight scale, the unit of
            the integer accumulator, so that adding the bias needs no rescaling. None for a
            bias in float.
        axis: dimension of the output channels: 0, or 1 of a transposed convolution.
    """

    values: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    bits: int
    bias: npt.NDArray[np.int32] | npt.NDArray[np.float32]
    bias_scale: npt.NDArray[np.float32] | None
    axis: int = 0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise NumericError("a weight scale is not a finite positive number")
        if not np.isfinite(self.bias).all():
            raise NumericError("a bias is not finite")
        unit = self.bias_scale
        if unit is not None and not (np.isfinite(unit).all() and (unit > 0).all()):
            raise NumericError("a bias scale is not a finite positive number")
        limit = 2 ** (self.bits - 1)
        if self.values.size and not (-limit <= self.values.min() <= self.values.max() < limit):
            raise NumericError(f"a weight is off the {self.bits}-bit grid")

    @property
    def real_bias(self) -> npt.NDArray[np.float32]:
        """The bias that the runtime adds, float32 (channels,)."""
        unit = 1.0 if self.bias_scale is None else self.bias_scale
        return (self.bias * unit).astype(np.float32)

    @property
    def is_per_channel(self) -> bool:
        """One scale an output channel."""
        return self.scale.ndim == 1 and self.scale.size > 1

    @property
    def block_size(self) -> int | None:
        """Weights along the input that share a scale; None if all of a channel do."""
        return self.values.shape[1] // self.scale.shape[1] if self.scale.ndim == 2 else None


@dataclass(frozen=True)
class Encodings:
    """Everything that an exporter needs beside the float graph.

    Attributes:
        weights: by layer name; a layer that is missing stays float.
        activations: by tensor name; a tensor that is missing stays float.
        carriers: tensors that carry an encoded tensor's values unchanged (slices, reshapes,
            pools that only select), mapped to the tensor whose encoding they share.
        dynamic: layers whose input finds its grid anew, for every batch or every sample as the
            runtime does.
        readers: of a tensor that is also read in float, the operators that read it quantized.
    """

    weights: Mapping[str, WeightEncoding]
    activations: Mapping[str, ActivationEncoding]
    carriers: Mapping[str, str]
    readers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    dynamic: frozenset[str] = frozenset()

    def is_read_quantized(self, tensor: str, operator: str) -> bool:
        """Whether an operator reads an encoded tensor from its grid."""
        return tensor not in self.readers or operator in self.readers[tensor]
