"""`Layer`: frozen facts on one layer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a machine that only times files has no pydantic
    from autoquant.core.recipe import Activation, WeightBits

__all__ = ["INTEGER_KINDS", "Kernels", "Layer", "LayerKind", "LayerNoise", "choice_text"]

LayerKind = Literal["conv", "linear", "matmul", "conv_transpose", "recurrent", "embedding"]
# What every runtime has integer kernels for.
INTEGER_KINDS: frozenset[LayerKind] = frozenset({"conv", "linear", "matmul"})
_WIDTHS: "tuple[WeightBits, ...]" = (8, 4)


@dataclass(frozen=True)
class Kernels:
    """What a runtime has integer kernels for, which decides where quantizers stand.

    Attributes:
        kinds: kinds of layers that it computes in integers.
        float_results: those of them that can hand their result over in float; what others
            compute is put on a grid.
        activations: how layers can take their input otherwise than on a calibrated grid, by kind.
        weight_only: widths of weights that go with inputs in float.
        has_blocks: such weights have a scale for every block along the input, and not as weights
            of other layers do.
        grids_by_sample: an input on a grid found anew has one for every row of a linear layer
            and every sample of a convolution; else one for the batch.
        is_exact: sums of 8-bit products do not saturate, whatever the processor.
    """

    kinds: frozenset[LayerKind] = INTEGER_KINDS
    float_results: frozenset[LayerKind] = frozenset({"linear", "matmul", "conv_transpose"})
    activations: "Mapping[LayerKind, frozenset[Activation]]" = field(
        default_factory=lambda: {"linear": frozenset({"dynamic", "float"})}, hash=False
    )
    weight_only: "tuple[WeightBits, ...]" = (4,)
    has_blocks: bool = True
    grids_by_sample: bool = False
    is_exact: bool = False


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
        weight_only: widths of its weights with an input in float.
        obstacle: why it has to stay float, in words; None if it can be quantized.
    """

    name: str
    kind: LayerKind
    parameters: int
    macs: int
    order: int
    activations: "tuple[Activation, ...]" = ("static",)
    obstacle: str | None = None
    weight_only: "tuple[WeightBits, ...]" = (4,)

    @property
    def is_quantizable(self) -> bool:
        """Whether a recipe decides on it."""
        return self.obstacle is None

    @property
    def choices(self) -> tuple[str, ...]:
        """Widths of weights and ways to take its input that go together; see `choice_text`."""
        return tuple(
            choice_text(bits, activation)
            for activation in self.activations
            for bits in _WIDTHS
            if activation != "float" or bits in self.weight_only
        )


def choice_text(bits: "WeightBits", activation: "Activation") -> str:
    """How a search space puts a layer's width and input: `8`, `4:dynamic`, `4:float`."""
    return str(bits) if activation == "static" else f"{bits}:{activation}"


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
