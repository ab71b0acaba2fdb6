"""Brevitas quantizers for linear layers whose input is on no calibrated grid."""

from typing import Any

import torch
from brevitas.inject.enum import ScalingPerOutputType
from brevitas.nn import QuantLinear
from brevitas.proxy.groupwise_int_parameter_quant import GroupwiseWeightQuantProxyFromInjector
from brevitas.quant.scaled_int import Int8WeightPerChannelFloat, Int8WeightPerChannelFloatMSE
from brevitas.quant_tensor import IntQuantTensor
from brevitas_examples.common.generative.quantizers import ShiftedUint8DynamicActPerTensorFloat
from torch import Tensor

__all__ = ["BLOCK", "BLOCKWISE", "DynamicLinear"]

# The block that ONNX Runtime's MatMulNBits runs fastest on processors; a power of two from 16.
BLOCK = 32


class _BlockwiseMax(Int8WeightPerChannelFloat):  # type: ignore[misc]
    """One scale for `BLOCK` weights along the input, the largest magnitude on its end."""

    proxy_class = GroupwiseWeightQuantProxyFromInjector
    scaling_per_output_type = ScalingPerOutputType.GROUP
    group_size = BLOCK


class _BlockwiseMse(Int8WeightPerChannelFloatMSE):  # type: ignore[misc]
    """The same, the scale of least squared error."""

    proxy_class = GroupwiseWeightQuantProxyFromInjector
    scaling_per_output_type = ScalingPerOutputType.GROUP
    group_size = BLOCK


BLOCKWISE: dict[str, Any] = {"max": _BlockwiseMax, "mse": _BlockwiseMse}


class _IntervalWithZero(torch.nn.Module):
    """Length of the range with zero in it, as ONNX defines DynamicQuantizeLinear."""

    def __init__(self) -> None:  # Brevitas' injector refuses *args, which Module.__init__ takes
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Shape () from any shape."""
        return x.max().clamp(min=0.0) - x.min().clamp(max=0.0)


_DYNAMIC: Any = ShiftedUint8DynamicActPerTensorFloat.let(scaling_stats_impl=_IntervalWithZero)


class DynamicLinear(QuantLinear):  # type: ignore[misc]
    """A linear layer whose input finds its grid anew for every batch; its output is on none."""

    def __init__(self, inputs: int, outputs: int, weight_quant: Any) -> None:
        super().__init__(
            inputs, outputs, bias=True, weight_quant=weight_quant, input_quant=_DYNAMIC
        )

    def inner_forward_impl(self, x: Any, quant_weight: Any, quant_bias: Any) -> Any:
        """Without the grid of the output, which Brevitas cannot find and nothing needs."""
        plain = x.value if isinstance(x, IntQuantTensor) else x
        return super().inner_forward_impl(plain, quant_weight, quant_bias)
