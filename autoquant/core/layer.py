"""`Layer`: frozen facts on one quantizable layer."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Layer", "LayerKind"]

LayerKind = Literal["conv", "linear"]


@dataclass(frozen=True)
class Layer:
    """One quantizable layer, in network order.

    Attributes:
        name: qualified name of the module that owns the weight, `layer1.0.conv2`.
        kind: what it computes.
        parameters: number of weights and biases.
        macs: multiply-accumulates for one sample.
        order: position in the network, from 0.
    """

    name: str
    kind: LayerKind
    parameters: int
    macs: int
    order: int
