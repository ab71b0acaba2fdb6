"""Brevitas layers in the shape of a graph's operators, their weights still to come."""

from typing import Any

import torch
import torch.nn.functional as F
from brevitas.nn import (
    QuantConv1d,
    QuantConv2d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantEmbedding,
    QuantLinear,
)
from brevitas.quant_tensor import QuantTensor
from torch import Tensor
from torch.fx import Node

from autoquant.quantize.dynamic import (
    DynamicConv1d,
    DynamicConv2d,
    DynamicGrid,
    DynamicLinear,
    dynamic_quantizer,
)
from autoquant.quantize.operators import EMBEDDING_OPS, LINEAR_OPS, TRANSPOSED_OPS

__all__ = ["blank_layer"]


def blank_layer(
    node: Node, shape: torch.Size, quantizer: Any, grid: DynamicGrid | None = None
) -> Any:
    """A Brevitas layer that computes a graph node; all but a table with a bias.

    Args:
        node: `aten.conv1d`, `aten.conv2d`, `aten.linear`, a transposed `aten.convolution` or
            `aten.embedding`.
        shape: of the weight: (out, in, k...), (out, in), (in, out, k...) or (rows, size).
        quantizer: Brevitas weight quantizer class.
        grid: of an input that finds it anew: for every batch, or for every sample; None for
            other inputs.
    """
    if node.target in EMBEDDING_OPS:
        return _Table(*shape, weight_quant=quantizer)
    if node.target in LINEAR_OPS:
        sizes = shape[1], shape[0]
        if grid is not None:
            found = dynamic_quantizer(grid, 1)
            return DynamicLinear(*sizes, bias=True, weight_quant=quantizer, input_quant=found)
        return QuantLinear(*sizes, bias=True, weight_quant=quantizer)
    if node.target in TRANSPOSED_OPS:
        return _blank_transposed(node, shape, quantizer)
    return _blank_convolution(node, shape, quantizer, grid)


class _Table(QuantEmbedding):  # type: ignore[misc]
    """A table whose rows are looked up as plain tensors: Brevitas cannot look up rows' scales."""

    def forward(self, indices: Tensor) -> Tensor:
        """Any shape in, that and the size of a row out."""
        table = self.quant_weight()
        return F.embedding(indices, table.value if isinstance(table, QuantTensor) else table)


def _blank_convolution(
    node: Node, shape: torch.Size, quantizer: Any, grid: DynamicGrid | None
) -> Any:
    stride, padding, dilation, groups = _convolution_arguments(node)
    kind = QuantConv1d if len(shape) == 3 else QuantConv2d
    more = {}
    if grid is not None:
        kind = DynamicConv1d if len(shape) == 3 else DynamicConv2d
        more = {"input_quant": dynamic_quantizer(grid, len(shape) - 1)}
    return kind(
        shape[1] * groups,
        shape[0],
        tuple(shape[2:]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=True,
        weight_quant=quantizer,
        **more,
    )


def _blank_transposed(node: Node, shape: torch.Size, quantizer: Any) -> Any:
    # aten.convolution(input, weight, bias, stride, padding, dilation, transposed,
    # output_padding, groups)
    arguments: Any = node.args
    dimensions, groups = len(shape) - 2, int(arguments[8])
    kind = QuantConvTranspose1d if dimensions == 1 else QuantConvTranspose2d
    stride, padding, dilation, more = (
        _expand(arguments[index], dimensions) for index in (3, 4, 5, 7)
    )
    return kind(
        shape[0],
        shape[1] * groups,
        tuple(shape[2:]),
        stride=stride,
        padding=padding,
        output_padding=more,
        dilation=dilation,
        groups=groups,
        bias=True,
        # every group has the same channels in the second dimension; Brevitas counts them all
        weight_quant=quantizer.let(out_channels=shape[1]),
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
