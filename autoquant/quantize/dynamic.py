"""Brevitas layers whose input is on no calibrated grid, but on one found anew."""

from typing import Any, Literal

import torch
from brevitas.core.function_wrapper import Identity
from brevitas.nn import QuantConv1d, QuantConv2d, QuantLinear
from brevitas.quant_tensor import IntQuantTensor
from brevitas_examples.common.generative.quantizers import ShiftedUint8DynamicActPerTensorFloat
from torch import Tensor

__all__ = ["DynamicConv1d", "DynamicConv2d", "DynamicGrid", "DynamicLinear", "dynamic_quantizer"]

# What shares a grid: a batch, as in ONNX's DynamicQuantizeLinear, or each sample (each row of a
# linear layer), as in XNNPACK.
DynamicGrid = Literal["batch", "sample"]


class _IntervalWithZero(torch.nn.Module):
    """Length of the range with zero in it, as ONNX defines DynamicQuantizeLinear."""

    def __init__(self) -> None:  # Brevitas' injector refuses *args, which Module.__init__ takes
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Shape () from any shape."""
        return x.max().clamp(min=0.0) - x.min().clamp(max=0.0)


class _SampleInterval(torch.nn.Module):
    """The same of every sample, over its last dimensions, which are kept with a size of one."""

    def __init__(self, sample_dimensions: int) -> None:
        super().__init__()
        self._dimensions = tuple(range(-sample_dimensions, 0))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (..., 1) from (..., k...)."""
        highest = x.amax(self._dimensions, keepdim=True).clamp(min=0.0)
        return highest - x.amin(self._dimensions, keepdim=True).clamp(max=0.0)


class _SampleLow(_SampleInterval):
    """Lower end of the range of every sample with zero in it."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape (..., 1) from (..., k...)."""
        return x.amin(self._dimensions, keepdim=True).clamp(max=0.0)


_BY_BATCH: Any = ShiftedUint8DynamicActPerTensorFloat.let(scaling_stats_impl=_IntervalWithZero)


def dynamic_quantizer(grid: DynamicGrid, sample_dimensions: int) -> Any:
    """Brevitas quantizer class of an input.

    Args:
        grid: what shares one.
        sample_dimensions: of the input, from its last, that make up a sample.
    """
    if grid == "batch":
        return _BY_BATCH
    return ShiftedUint8DynamicActPerTensorFloat.let(
        scaling_stats_impl=_SampleInterval,
        zero_point_stats_impl=_SampleLow,
        sample_dimensions=sample_dimensions,
        scaling_stats_input_view_shape_impl=Identity,
        zero_point_stats_input_view_shape_impl=Identity,
        dynamic_scaling_broadcastable_fn=lambda x, shape: x,
    )


class _Dynamic:
    """A layer that hands its output over in float, on no grid: Brevitas cannot find that one."""

    def inner_forward_impl(self, x: Any, quant_weight: Any, quant_bias: Any) -> Any:
        """Without the grid of the output, which nothing needs."""
        plain = x.value if isinstance(x, IntQuantTensor) else x
        return super().inner_forward_impl(  # type: ignore[misc]
            plain, quant_weight, quant_bias
        )


class DynamicLinear(_Dynamic, QuantLinear):  # type: ignore[misc]
    """A linear layer whose input finds its grid anew."""


class DynamicConv1d(_Dynamic, QuantConv1d):  # type: ignore[misc]
    """A convolution over sequences whose input finds its grid anew."""


class DynamicConv2d(_Dynamic, QuantConv2d):  # type: ignore[misc]
    """A convolution over images whose input finds its grid anew."""
