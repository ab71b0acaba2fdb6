"""Brevitas layers with quantized weights, and their encodings."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from brevitas.inject.enum import ScalingImplType
from brevitas.nn import QuantConv1d, QuantConv2d, QuantLinear
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer as QuantLayer
from brevitas.quant.scaled_int import (
    Int8WeightPerChannelFloat,
    Int8WeightPerChannelFloatMSE,
    Int8WeightPerTensorFloat,
    Int8WeightPerTensorFloatMSE,
)
from torch.fx import Node

from autoquant.core.encodings import WeightEncoding
from autoquant.core.recipe import Activation, PtqOptions, Rounding, WeightBits
from autoquant.errors import NumericError
from autoquant.quantize.linear import BLOCKWISE, DynamicLinear
from autoquant.quantize.operators import LINEAR_OPS

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
    """

    bits: WeightBits
    granularity: str
    scale: str
    reduce_range: bool = False
    activation: Activation = "static"
    rounding: Rounding = "nearest"
    steps: int = 0

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
        is_blockwise = self.activation == "float"
        plain = BLOCKWISE[self.scale] if is_blockwise else _QUANTIZERS[self.granularity, self.scale]
        if self.rounding != "nearest":  # the scale of the float weights, wherever they move
            plain = plain.let(scaling_impl_type=ScalingImplType.PARAMETER_FROM_STATS)
        return plain.let(bit_width=self.grid_bits)


def build_layer(
    name: str,
    node: Node,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    choice: WeightChoice,
) -> QuantLayer:
    """The Brevitas layer that computes a graph node with quantized weights.

    Args:
        name: the layer's name, for messages.
        node: `aten.conv1d`, `aten.conv2d` or `aten.linear`.
        weight: float weight; (out, in, k...) or (out, in).
        bias: (out,) or None, which becomes zeros so that a correction finds its place.
        choice: the grid.

    Raises:
        NumericError: a weight that is not finite.
    """
    if not torch.isfinite(weight).all():
        raise NumericError(f"layer '{name}' has weights that are not finite; repair the checkpoint")
    layer = _empty_layer(node, weight, choice)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros_like(layer.bias) if bias is None else bias)
    # the scale was set on the layer's initial weights: set it again on the real ones
    layer.weight_quant.init_tensor_quant()
    layer.eval()
    if choice.rounding != "nearest":
        layer.quant_weight()  # the first use fixes the scale
    return layer


def _empty_layer(node: Node, weight: torch.Tensor, choice: WeightChoice) -> Any:
    if node.target in LINEAR_OPS:
        sizes = weight.shape[1], weight.shape[0]
        if choice.activation == "dynamic":
            return DynamicLinear(*sizes, choice.quantizer)
        return QuantLinear(*sizes, bias=True, weight_quant=choice.quantizer)
    one_dimensional = weight.dim() == 3
    stride, padding, dilation, groups = _convolution_arguments(node)
    kind = QuantConv1d if one_dimensional else QuantConv2d
    return kind(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=True,
        weight_quant=choice.quantizer,
    )


def _convolution_arguments(node: Node) -> tuple[Any, Any, Any, int]:
    # aten.conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1)
    defaults: list[Any] = [1, 0, 1, 1]
    given = list(node.args[3:])
    values = given + defaults[len(given) :]
    dimensions = node.args[0].meta["val"].dim() - 2  # type: ignore[union-attr]
    stride, padding, dilation = (_expand(value, dimensions) for value in values[:3])
    return stride, padding, dilation, int(values[3])


def _expand(value: Any, dimensions: int) -> Any:
    if isinstance(value, str):
        return value
    sizes = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return sizes * dimensions if len(sizes) == 1 else sizes


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
        input_scale: scale of the layer's input activation; None if that is on no fixed grid.
    """
    quantized = layer.quant_weight()
    values = quantized.value.detach().numpy()
    bias = layer.bias.detach().numpy().astype(np.float32)
    if not np.isfinite(bias).all():
        raise NumericError(f"layer '{name}' has a bias that is not finite; repair the checkpoint")
    if choice.activation == "float":
        scale = quantized.scale_.detach().numpy().astype(np.float32).reshape(len(values), -1)
        shaped = np.repeat(scale, values.shape[1] // scale.shape[1], axis=1)
        return WeightEncoding(_on_grid(values, shaped, choice), scale, choice.bits, bias, None)
    scale = quantized.scale.detach().numpy().astype(np.float32).reshape(-1)
    if input_scale is None:
        return WeightEncoding(
            _on_grid(values, _by_channel(scale, values), choice), scale, choice.bits, bias, None
        )
    floor = (np.abs(bias) / (_BIAS_LIMIT * input_scale)).astype(np.float32)
    if scale.size == 1:
        floor = floor.max(keepdims=True)
    scale = np.maximum(scale, floor)
    integers = _on_grid(values, _by_channel(scale, values), choice)
    bias_scale = (scale * np.float32(input_scale)).astype(np.float32)
    rounded = np.rint(bias.astype(np.float64) / bias_scale).astype(np.int32)
    return WeightEncoding(integers, scale, choice.bits, rounded, bias_scale)


def _by_channel(scale: Floats, values: Floats) -> Floats:
    return scale.reshape(-1, *[1] * (values.ndim - 1))


def _on_grid(values: Floats, scale: Floats, choice: WeightChoice) -> npt.NDArray[np.int8]:
    limit = 2 ** (choice.grid_bits - 1) - 1
    integers: npt.NDArray[np.int8] = np.clip(np.rint(values / scale), -limit, limit).astype(np.int8)
    return integers


def with_real_bias(layer: QuantLayer, encoding: WeightEncoding) -> QuantLayer:
    """The same layer with the bias that the file holds; the original is shared by others.

    What rounding to int32 takes from a bias is small beside the bias, yet not beside one step
    of an 8-bit output: without this, one output value in a thousand lands on the next step.
    """
    twin = copy.copy(layer)
    twin._parameters = dict(layer._parameters)
    twin._parameters["bias"] = torch.nn.Parameter(torch.from_numpy(encoding.real_bias))
    return twin
