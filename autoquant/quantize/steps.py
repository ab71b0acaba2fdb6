"""Fake quantization whose steps are learned.

Esser et al. 2020, "Learned Step Size Quantization", arXiv 1902.08153.
"""

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["LearnedSteps"]


class LearnedSteps(torch.nn.Module):
    """Brevitas' `IntQuant` in a quarter of the time, with a balanced gradient of the scale.

    The gradient of a scale sums over all values on its grid, so it is divided by
    sqrt(values * levels) (Esser et al. 2020, section 2.2). What is trained is the end of the
    grid, `levels` scales long; the square of that makes its step that of the scale.
    """

    def __init__(self, original: Any, values: int | None) -> None:
        super().__init__()
        self.original = original
        self.values = values  # on one scale; None: as many as one sample brings

    def forward(self, scale: Tensor, zero_point: Tensor, bit_width: Tensor, x: Tensor) -> Tensor:
        """Any shape in and out."""
        low = float(self.original.min_int(bit_width))
        high = float(self.original.max_int(bit_width))
        values = self.values or max(1, x.numel() // max(1, len(x)))
        gain = high**2 / math.sqrt(values * high)
        learned: Any = _LearnedStep.apply
        result: Tensor = learned(x, scale, zero_point, low, high, gain)
        return result


class _LearnedStep(torch.autograd.Function):
    """Fake quantization y = (clamp(round(x / s) + z, low, high) - z) * s.

    Straight through inside the grid, nothing to x beyond it. The scale gets y/s - x/s inside
    and y/s beyond; the zero point -s beyond (Bhalgat et al. 2020, arXiv 2004.09576, section 3).
    """

    @staticmethod
    def forward(
        context: Any, x: Tensor, scale: Tensor, zero_point: Tensor, low: float, high: float,
        gain: float,
    ) -> Tensor:  # fmt: skip
        shift = zero_point.detach().round()
        steps = x.detach().div(scale).round_()
        if scale.numel() == 1:
            offset = float(shift)
            ends = low - offset, high - offset
            y = steps.clamp_(*ends).mul_(scale)
            context.ends = ends[0] * float(scale), ends[1] * float(scale)
        else:
            y = steps.clamp_(low - shift, high - shift).mul_(scale)
            context.ends = (low - shift) * scale, (high - shift) * scale
        context.save_for_backward(x, y, scale)
        context.zero_shape, context.gain = zero_point.shape, gain
        return y

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        (outer,) = gradients
        x, y, scale = context.saved_tensors
        low, high = context.ends
        if scale.numel() == 1:
            inner = torch.ops.aten.hardtanh_backward(outer, x, low, high)
            slope = (_dot(outer, y) - _dot(inner, x)) / scale
        else:
            inner = outer * ((x > low) & (x < high))
            slope = (outer * y - inner * x).sum_to_size(scale.shape) / scale
        shift = None
        if context.needs_input_grad[2]:
            shift = ((inner - outer) * scale).sum_to_size(context.zero_shape)
        return inner, slope.reshape(scale.shape) * context.gain, shift, None, None, None


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Sum of products of two tensors of one shape, without a copy where both lie alike."""
    if one.stride() != other.stride() or not _is_dense(one):
        return (one * other).sum()
    flat = (one.numel(),), (1,)
    return torch.dot(one.as_strided(*flat), other.as_strided(*flat))


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or (
        x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    )
