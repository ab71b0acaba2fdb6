"""`Exporter`: files of one network for one kind of runtime."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from autoquant.core.encodings import Encodings
from autoquant.core.recipe import Method
from autoquant.errors import InputError, RecipeError
from autoquant.export.float_graph import FloatGraph

__all__ = ["Exporter", "Sample", "load_exporter"]


@dataclass(frozen=True)
class Sample:
    """One sample through the float graph, and what its layers are.

    Attributes:
        inputs: by name, in the graph's order, with a batch dimension of 1.
        values: what the graph computes for them, by value name; floats alone.
        other_inputs: another sample, which tells apart what is equal in the first one.
        other_values: what the graph computes for it.
        weights: of each quantizable layer, float32.
        tables: those layers that look rows up.
        biases: of those that have one.
        sources: by layer, the value that it reads.
        outputs: by layer, the value that it computes.
        fused: by layer, the same behind the activation that is fused with it.
        results: the values that the graph answers with, in order, by names of the outputs.
    """

    inputs: Mapping[str, npt.NDArray[Any]]
    values: Mapping[str, npt.NDArray[np.float32]]
    other_inputs: Mapping[str, npt.NDArray[Any]]
    other_values: Mapping[str, npt.NDArray[np.float32]]
    weights: Mapping[str, npt.NDArray[np.float32]]
    tables: frozenset[str]
    biases: Mapping[str, npt.NDArray[np.float32]]
    sources: Mapping[str, str]
    outputs: Mapping[str, str]
    fused: Mapping[str, str]
    results: Mapping[str, str]


class Exporter(Protocol):
    """Writes files of one network, without passports.

    Attributes:
        float_file: the float model.
        obstacles: why layers have to stay float in these files, by layer.
        packages: distributions that decide what the files are, for the passport.
    """

    float_file: bytes
    obstacles: Mapping[str, str]
    packages: tuple[str, ...]

    def write(self, encodings: Encodings) -> bytes:
        """The quantized model.

        Raises:
            RecipeError: encodings that do not fit the network.
        """
        ...

    def quantize_itself(self, method: Method, batches: Iterable[Any]) -> bytes:
        """What the runtime's own quantizer makes of the float model.

        Args:
            method: one of its ways.
            batches: calibration inputs, arrays or named arrays.

        Raises:
            RecipeError: not a method of this runtime's quantizer.
            TrialError: it failed; gives its reason.
        """
        ...


def load_exporter(
    backend: str, graph: FloatGraph, sample: Callable[[], Sample], *, full_integer: bool = False
) -> Exporter:
    """The exporter whose files a backend runs.

    Args:
        backend: its name.
        graph: the network.
        sample: one sample through it, for exporters that look at numbers.
        full_integer: inputs and outputs of quantized files are int8.

    Raises:
        InputError: its packages are not installed, or its files cannot be integer throughout.
        TraceError: the network cannot be converted.
    """
    if backend != "litert":
        if full_integer:
            raise InputError("--full-integer makes .tflite files: it needs --backend litert")
        return OnnxExporter(graph)
    try:
        from autoquant.export.litert.exporter import LiteRtExporter
    except ImportError as error:
        raise InputError(
            f".tflite files cannot be written ({error}); pip install 'autoquant[litert]'"
        ) from error
    return LiteRtExporter(graph.module, sample(), full_integer=full_integer)


class OnnxExporter:
    """ONNX files in QDQ form; see `Exporter`."""

    obstacles: Mapping[str, str] = {}
    packages: tuple[str, ...] = ("onnx", "onnxruntime", "onnxscript")

    def __init__(self, graph: FloatGraph) -> None:
        self.graph = graph
        self.float_file = bytes(graph.model.SerializeToString(deterministic=True))

    def write(self, encodings: Encodings) -> bytes:
        """See `qdq.write_qdq`."""
        from autoquant.export.qdq import write_qdq

        return bytes(write_qdq(self.graph, encodings).SerializeToString(deterministic=True))

    def quantize_itself(self, method: Method, batches: Iterable[Any]) -> bytes:
        """See `ort_quantizer`."""
        from autoquant.export.ort_quantizer import (
            quantize_with_ort_dynamic,
            quantize_with_ort_static,
        )

        match method:
            case "ort-static":
                model = quantize_with_ort_static(self.graph.model, batches)
            case "ort-dynamic":
                model = quantize_with_ort_dynamic(self.graph.model)
            case _:
                raise RecipeError(f"'{method}' makes .tflite files: it needs --backend litert")
        return bytes(model.SerializeToString(deterministic=True))
