"""Brevitas quantizers of activations, calibrated on samples."""

import math
from typing import Any, Literal

import torch
from brevitas.core.stats import AbsMinMax, NegativeMinOrZero
from brevitas.graph.calibrate import calibration_mode
from brevitas.inject.enum import StatsOp
from brevitas.nn import QuantIdentity
from brevitas.quant.scaled_int import (
    Int8ActPerTensorFloat,
    Int8ActPerTensorFloatMSE,
    Uint8ActPerTensorFloat,
    Uint8ActPerTensorFloatMSE,
)
from brevitas.quant.shifted_scaled_int import (
    ShiftedUint8ActPerTensorFloat,
    ShiftedUint8ActPerTensorFloatMSE,
)

from autoquant.core.encodings import ActivationEncoding
from autoquant.core.recipe import CalibrationMethod, Percentile
from autoquant.errors import NumericError
from autoquant.quantize.entropy import EntropyAbsMax, EntropyInterval, EntropyLow

__all__ = ["Symmetry", "calibrate", "encoding_of"]

Symmetry = Literal["asymmetric", "symmetric"]
_MIDDLE = 128  # zero point of a signed grid in unsigned storage
# The least squared error is found by quantizing the sample forty times over; a mean needs fewer
# values than a percentile.
_MSE_VALUES = 2**17


def calibrate(sample: torch.Tensor, method: CalibrationMethod, symmetry: Symmetry) -> QuantIdentity:
    """A quantizer whose range was set on a sample, in evaluation mode.

    Args:
        sample: (n,) values of one activation, its extremes among them.
        method: how the range is read off the sample.
        symmetry: `symmetric` fixes the zero point: in the middle of the grid, or at its lower
            end where the sample has no negative value.

    Raises:
        NumericError: the sample holds NaN or infinity.
    """
    if not torch.isfinite(sample).all():
        raise NumericError("an activation is not finite on the calibration data")
    quantizer = QuantIdentity(act_quant=_injector(method, symmetry, bool(sample.min() >= 0)))
    if method == "mse":
        sample = _thin(sample)
    with torch.no_grad(), calibration_mode(quantizer):
        quantizer(sample)
    return quantizer.eval()


def _thin(sample: torch.Tensor) -> torch.Tensor:
    """Evenly spaced values of a sample, and its extremes."""
    spaced = sample[:: max(1, len(sample) // _MSE_VALUES)]
    return torch.cat([spaced, torch.stack([sample.min(), sample.max()])])


def encoding_of(quantizer: QuantIdentity) -> ActivationEncoding:
    """The grid of a calibrated quantizer, in unsigned storage."""
    proxy = quantizer.act_quant
    shift = _MIDDLE if proxy.is_signed else 0
    return ActivationEncoding(
        scale=proxy.scale().item(), zero_point=round(proxy.zero_point().item()) + shift
    )


def _injector(method: CalibrationMethod, symmetry: Symmetry, is_unsigned: bool) -> Any:
    """Brevitas quantizer class for a calibration method and a kind of grid."""
    if symmetry == "asymmetric":
        return _asymmetric(method)
    plain = Uint8ActPerTensorFloat if is_unsigned else Int8ActPerTensorFloat
    match method:
        case Percentile():
            return plain.let(high_percentile_q=method.percentile)
        case "mse":
            return Uint8ActPerTensorFloatMSE if is_unsigned else Int8ActPerTensorFloatMSE
        case "entropy":
            return plain.let(scaling_stats_impl=EntropyAbsMax)
        case "minmax":
            return plain.let(scaling_stats_op=StatsOp.MAX)


def _asymmetric(method: CalibrationMethod) -> Any:
    match method:
        case Percentile():
            return ShiftedUint8ActPerTensorFloat.let(
                high_percentile_q=method.percentile,
                # one value at least: Brevitas takes the k-th smallest, counted from one
                low_percentile_q=max(100.0 - method.percentile, math.ulp(1.0)),
            )
        case "mse":
            return ShiftedUint8ActPerTensorFloatMSE
        case "entropy":
            return ShiftedUint8ActPerTensorFloat.let(
                scaling_stats_impl=EntropyInterval, zero_point_stats_impl=EntropyLow
            )
        case "minmax":
            return ShiftedUint8ActPerTensorFloat.let(
                scaling_stats_impl=AbsMinMax, zero_point_stats_impl=NegativeMinOrZero
            )
