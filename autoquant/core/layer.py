"""`Layer`: frozen facts on one layer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a machine that only times files has no pydantic
    from autoquant.core.recipe import Activation

__all__ = ["INTEGER_KINDS", "Kernels", "Layer", "LayerKind", "LayerNoise"]

LayerKind = Literal["conv", "linear", "matmul", "conv_transpose", "recurrent", "embedding"]
# What every runtime has integer kernels for.
INTEGER_KINDS: frozenset[LayerKind] = frozenset({"conv", "linear", "matmul"})


@dataclass(frozen=True)
class Kernels:
    """What a runtime has integer kernels for, which decides where quantizers stand.

    Attributes:
        kinds: kinds of layers that it computes in integers.
        float_results: those of them that can hand their result over in float; what others
            compute is put on a grid.
        activations: how a layer of it can take its input.
        stores_tables: whether tables can be stored in integers.
    """

    kinds: frozenset[LayerKind] = INTEGER_KINDS
    float_results: frozenset[LayerKind] = frozenset({"linear", "matmul", "conv_transpose"})
    activations: "frozenset[Activation]" = frozenset({"static", "dynamic", "float"})
    stores_tables: bool = True


@dataclass(frozen=True)
class Layer:
    """One operator that multiplies and accumulates, or looks rows of a table up.

    Attributes:
        name: qualified name of the module that owns the weight, `layer1.0.conv2`.
        kind: what it computes.
        parameters: number of weights and biases.
        macs: multiply-accumulates for one sample; a table has none.
        order: position in the network, from 0.
        activations: how it can take its input: every quantizable layer on a calibrated grid,
            which is nothing to one that the runtime computes in float anyway.
        obstacle: why it has to stay float, in words; None if it can be quantized.
    """

    name: str
    kind: LayerKind
    parameters: int
    macs: int
    order: int
    activations: "tuple[Activation, ...]" = ("static",)
    obstacle: str | None = None

    @property
    def is_quantizable(self) -> bool:
        """Whether a recipe decides on it."""
        return self.obstacle is None


@dataclass(frozen=True)
class LayerNoise:
    """Quantization noise e = x - Q(x) of one layer, as SQNR in decibels; None: not compared.

    Attributes:
        layer: its name.
        weight_db: power of the float weights over that of their error.
        output_db: the same of its output, the errors of all layers before it included.
    """

    layer: str
    weight_db: float | None
    output_db: float | None
