"""Brevitas layers with quantized weights, and their encodings."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from brevitas.inject.enum import ScalingImplType
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer as QuantLayer
from brevitas.quant.scaled_int import (
    Int8WeightPerChannelFloat,
    Int8WeightPerChannelFloatMSE,
    Int8WeightPerTensorFloat,
    Int8WeightPerTensorFloatMSE,
)

from autoquant.core.encodings import WeightEncoding
from autoquant.core.recipe import Activation, PtqOptions, Rounding, WeightBits
from autoquant.errors import NumericError
from autoquant.quantize.blank import blank_layer
from autoquant.quantize.blockwise import BLOCKWISE
from autoquant.quantize.dynamic import DynamicGrid
from autoquant.quantize.layers import LayerNode

__all__ = ["QuantLayer", "WeightChoice", "build_layer", "encode_weight", "with_real_bias"]

_BIAS_LIMIT = 2**30
Floats = npt.NDArray[np.float32]

_QUANTIZERS = {
    ("per_channel", "max"): Int8WeightPerChannelFloat,
    ("per_channel", "mse"): Int8WeightPerChannelFloatMSE,
    ("per_tensor", "max"): Int8WeightPerTensorFloat,
    ("per_tensor", "mse"): Int8WeightPerTensorFloatMSE,
}


@dataclass(frozen=True)
class WeightChoice:
    """All of a recipe that a layer by itself depends on.

    Attributes:
        steps: of learned rounding; 0 if that is left to the block that the layer is in.
        is_blockwise: weights have a scale for every block along the input.
        is_by_sample: a grid found anew is that of a sample (of a row), not of the batch.
    """

    bits: WeightBits
    granularity: str
    scale: str
    reduce_range: bool = False
    activation: Activation = "static"
    rounding: Rounding = "nearest"
    steps: int = 0
    is_blockwise: bool = False
    is_by_sample: bool = False

    @classmethod
    def of(
        cls, bits: WeightBits, options: PtqOptions, activation: Activation = "static"
    ) -> "WeightChoice":
        """The choice that a recipe makes for a layer of this width."""
        reduced = options.reduce_range and bits == 8
        rounding = options.rounding if bits == 4 else "nearest"
        is_alone = rounding == "learned" and options.rounding_scope == "layer"
        steps = options.rounding_iterations if is_alone else 0
        return cls(
            bits,
            options.weight_granularity,
            options.weight_scale,
            reduced,
            activation,
            rounding,
            steps,
        )

    def at_nearest(self) -> "WeightChoice":
        """The same for a layer that no better rounding is known for."""
        return replace(self, rounding="nearest", steps=0)

    @property
    def is_left_to_block(self) -> bool:
        """Whether the rounding of this layer is learned together with its block's."""
        return self.rounding == "learned" and self.steps == 0

    @property
    def grid_bits(self) -> int:
        """Bits of the grid that weights use; they are stored in `bits`."""
        return self.bits - 1 if self.reduce_range else self.bits

    @property
    def quantizer(self) -> Any:
        """Brevitas weight quantizer class."""
        plain = _QUANTIZERS[self.granularity, self.scale]
        if self.is_blockwise:
            plain = BLOCKWISE[self.scale]
        if self.rounding != "nearest":  # the scale of the float weights, wherever they move
            plain = plain.let(scaling_impl_type=ScalingImplType.PARAMETER_FROM_STATS)
        return plain.let(bit_width=self.grid_bits)


def build_layer(
    name: str,
    found: LayerNode,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    choice: WeightChoice,
) -> QuantLayer:
    """The Brevitas layer that computes a graph node with quantized weights.

    Args:
        name: the layer's name, for messages.
        found: the layer and its node.
        weight: float weight; see `blank_layer`.
        bias: (out,) or None, which becomes zeros so that a correction finds its place.
        choice: the grid.

    Raises:
        NumericError: a weight that is not finite.
    """
    if not torch.isfinite(weight).all():
        raise NumericError(f"layer '{name}' has weights that are not finite; repair the checkpoint")
    grid: DynamicGrid | None = None
    if choice.activation == "dynamic":
        grid = "sample" if choice.is_by_sample else "batch"
    layer = blank_layer(found.node, weight.shape, choice.quantizer, grid)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if found.multiplies:
            layer.bias.copy_(torch.zeros_like(layer.bias) if bias is None else bias)
    # the scale was set on the layer's initial weights: set it again on the real ones
    layer.weight_quant.init_tensor_quant()
    layer.eval()
    if choice.rounding != "nearest":
        layer.quant_weight()  # the first use fixes the scale
    return layer


def encode_weight(
    name: str, layer: QuantLayer, choice: WeightChoice, input_scale: float | None
) -> WeightEncoding:
    """A layer's weights on their grid, its bias representable in the file.

    On a calibrated input the runtime holds the bias as int32 at input_scale * weight_scale. A
    channel whose weights all but vanish beside its bias would overflow there; its scale is
    widened until the bias fits, which moves its weights by less than one part in 2**22 of the
    bias.

    Args:
        name: the layer's name, for messages.
        layer: in evaluation mode.
        choice: what the layer was built with.
        input_scale: scale of the layer's input activation; None if that is on no fixed grid,
            or if the runtime takes it off its grid to compute in float.
    """
    quantized = layer.quant_weight()
    values = quantized.value.detach().numpy()
    bias = _bias(layer)
    if not np.isfinite(bias).all():
        raise NumericError(f"layer '{name}' has a bias that is not finite; repair the checkpoint")
    if choice.is_blockwise:
        scale = quantized.scale_.detach().numpy().astype(np.float32).reshape(len(values), -1)
        shaped = np.repeat(scale, values.shape[1] // scale.shape[1], axis=1)
        return WeightEncoding(_on_grid(values, shaped, choice), scale, choice.bits, bias, None)
    axis = layer.output_channel_dim
    scale = quantized.scale.detach().numpy().astype(np.float32).reshape(-1)
    if input_scale is None:
        integers = _on_grid(values, _by_channel(scale, values, axis), choice)
        return WeightEncoding(integers, scale, choice.bits, bias, None, axis)
    floor = (np.abs(bias) / (_BIAS_LIMIT * input_scale)).astype(np.float32)
    if scale.size == 1:
        floor = floor.max(keepdims=True)
    scale = np.maximum(scale, floor)
    integers = _on_grid(values, _by_channel(scale, values, axis), choice)
    bias_scale = (scale * np.float32(input_scale)).astype(np.float32)
    rounded = np.rint(bias.astype(np.float64) / bias_scale).astype(np.int32)
    return WeightEncoding(integers, scale, choice.bits, rounded, bias_scale, axis)


def _bias(layer: QuantLayer) -> Floats:
    """Bias of a layer, (channels,); empty for a table."""
    bias = getattr(layer, "bias", None)
    return np.zeros(0, np.float32) if bias is None else bias.detach().numpy().astype(np.float32)


def _by_channel(scale: Floats, values: Floats, axis: int) -> Floats:
    return scale.reshape([-1 if index == axis else 1 for index in range(values.ndim)])


def _on_grid(values: Floats, scale: Floats, choice: WeightChoice) -> npt.NDArray[np.int8]:
    limit = 2 ** (choice.grid_bits - 1) - 1
    integers: npt.NDArray[np.int8] = np.clip(np.rint(values / scale), -limit, limit).astype(np.int8)
    return integers


def with_real_bias(layer: QuantLayer, encoding: WeightEncoding) -> QuantLayer:
    """The same layer with the bias that the file holds; the original is shared by others.

    What rounding to int32 takes from a bias is small beside the bias, yet not beside one step
    of an 8-bit output: without this, one output value in a thousand lands on the next step.
    """
    if not encoding.bias.size:
        return layer
    twin = copy.copy(layer)
    twin._parameters = dict(layer._parameters)
    twin._parameters["bias"] = torch.nn.Parameter(torch.from_numpy(encoding.real_bias))
    return twin
