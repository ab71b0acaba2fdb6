"""Brevitas quantizers of weights in blocks, for layers that take their input in float."""

from typing import Any

from brevitas.inject.enum import ScalingPerOutputType
from brevitas.proxy.groupwise_int_parameter_quant import GroupwiseWeightQuantProxyFromInjector
from brevitas.quant.scaled_int import Int8WeightPerChannelFloat, Int8WeightPerChannelFloatMSE

__all__ = ["BLOCK", "BLOCKWISE"]

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
