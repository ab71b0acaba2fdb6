"""`LiteRtExporter`: .tflite files of one network."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from ai_edge_quantizer import recipe as own_recipes
from ai_edge_quantizer.quantizer import Quantizer as OwnQuantizer
from torch.fx import GraphModule

from autoquant.core.batching import split_inputs
from autoquant.core.encodings import Encodings
from autoquant.core.recipe import Method
from autoquant.errors import RecipeError, TrialError
from autoquant.export.exporter import Sample
from autoquant.export.litert.align import align
from autoquant.export.litert.convert import convert, quietly
from autoquant.export.litert.write import write_litert
from autoquant.tflite import serialize

__all__ = ["LiteRtExporter"]

_OWN = {
    "litert-static": own_recipes.static_wi8_ai8,
    "litert-dynamic": own_recipes.dynamic_wi8_afp32,
}
_CHANGED = "litert-torch changed its weights, so it is not recognized in the file"
_MERGED = (
    "litert-torch merged it with what is around it: what it reads or gives is nowhere in the file"
)
_ODD = "LiteRT looks up the wrong 4-bit values in rows of an odd number of them"
_SIGNATURE = "serving_default"


class LiteRtExporter:
    """See `Exporter`. The network is converted once; recipes are written onto that file.

    Args:
        module: ATen graph of the float model.
        sample: one sample through it.
        full_integer: inputs and outputs of quantized files are int8.

    Raises:
        TraceError: litert-torch cannot convert it; names the operator.
    """

    packages: tuple[str, ...] = ("litert-torch", "ai-edge-quantizer", "ai-edge-litert")

    def __init__(self, module: GraphModule, sample: Sample, *, full_integer: bool = False) -> None:
        inputs = tuple(torch.from_numpy(value) for value in sample.inputs.values())
        self._graph = align(convert(module, inputs), sample)
        self._is_full_integer = full_integer
        self._inputs = list(sample.inputs)
        self.float_file = self._graph.content
        self.obstacles: Mapping[str, str] = {
            layer: reason
            for layer in sample.weights
            if (reason := self._find_obstacle(layer, sample)) is not None
        }

    def _find_obstacle(self, layer: str, sample: Sample) -> str | None:
        if layer not in self._graph.layers:
            return _CHANGED
        if layer not in self._graph.fused:
            return _MERGED
        is_odd = layer in sample.tables and sample.weights[layer].shape[1] % 2 == 1
        return _ODD if is_odd else None

    def write(self, encodings: Encodings) -> bytes:
        """See `write.write_litert`."""
        return serialize(
            write_litert(self._graph, encodings, is_integer_only=self._is_full_integer)
        )

    def quantize_itself(self, method: Method, batches: Iterable[Any]) -> bytes:
        """What ai-edge-quantizer makes of the float file, with ranges of its own."""
        if method not in _OWN:
            raise RecipeError(
                f"'{method}' makes ONNX files: with --backend litert there are {', '.join(_OWN)}"
            )
        quantizer = OwnQuantizer(self.float_file, _OWN[method]())
        try:
            with quietly():
                rows = [self._name(row) for batch in batches for row in split_inputs(batch, 1)]
                found = (
                    quantizer.calibrate({_SIGNATURE: rows}) if quantizer.need_calibration else None
                )
                result = quantizer.quantize(found)
        except (RuntimeError, ValueError) as error:
            first = (str(error).splitlines() or [""])[0]
            raise TrialError(f"ai-edge-quantizer failed: {first}") from error
        assert result.quantized_model is not None
        return bytes(result.quantized_model)

    def _name(self, row: Any) -> dict[str, Any]:
        named = row if isinstance(row, Mapping) else {self._inputs[0]: row}
        arrays = {name: value.numpy() for name, value in named.items()}
        return {
            # the converter makes int32 of int64
            name: value.astype(np.int32) if value.dtype == np.int64 else value
            for name, value in arrays.items()
        }
