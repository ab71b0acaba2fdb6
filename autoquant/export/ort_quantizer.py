"""ONNX Runtime's own quantizer: the baselines `ort-static` and `ort-dynamic`."""

import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from autoquant.errors import TrialError

__all__ = ["quantize_with_ort_dynamic", "quantize_with_ort_static"]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Iterable[dict[str, Any]]) -> None:
        self.feeds: Iterator[dict[str, Any]] = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        return next(self.feeds, None)


def quantize_with_ort_static(model: onnx.ModelProto, batches: Iterable[Any]) -> onnx.ModelProto:
    """`quantize_static`: QDQ, per-channel QInt8 weights, QUInt8 activations, MinMax ranges.

    Args:
        model: the float model.
        batches: calibration inputs, arrays or named arrays.

    Raises:
        TrialError: ONNX Runtime's quantizer failed; gives its reason.
    """
    first = model.graph.input[0].name
    feeds = (
        {name: np.asarray(value) for name, value in batch.items()}
        if isinstance(batch, dict)
        else {first: np.asarray(batch)}
        for batch in batches
    )
    with tempfile.TemporaryDirectory() as folder:
        source, target = _prepare(model, Path(folder)), Path(folder) / "static.onnx"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                quantize_static(
                    source,
                    target,
                    _Reader(feeds),
                    quant_format=QuantFormat.QDQ,
                    per_channel=True,
                    weight_type=QuantType.QInt8,
                    activation_type=QuantType.QUInt8,
                    calibrate_method=CalibrationMethod.MinMax,
                )
        except Exception as error:
            raise TrialError(f"quantize_static failed: {_first_line(error)}") from error
        return onnx.load(target)


def quantize_with_ort_dynamic(model: onnx.ModelProto) -> onnx.ModelProto:
    """`quantize_dynamic` with its defaults.

    Raises:
        TrialError: ONNX Runtime's quantizer failed; gives its reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = _prepare(model, Path(folder)), Path(folder) / "dynamic.onnx"
        try:
            quantize_dynamic(source, target)
        except Exception as error:
            raise TrialError(f"quantize_dynamic failed: {_first_line(error)}") from error
        return onnx.load(target)


def _prepare(model: onnx.ModelProto, folder: Path) -> Path:
    logging.getLogger().setLevel(max(logging.getLogger().level, logging.ERROR))
    source, prepared = folder / "float.onnx", folder / "prepared.onnx"
    onnx.save(model, source)
    try:
        quant_pre_process(source, prepared)
    except Exception:  # symbolic shape inference gives up on some graphs with a bare Exception
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
    return prepared


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), repr(error))[:300]
