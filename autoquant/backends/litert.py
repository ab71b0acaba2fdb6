"""LiteRT's interpreter with XNNPACK. The only room beside the exporter that knows LiteRT."""

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from autoquant.backends.inputs import Arrays, InputSpec, as_named, random_inputs
from autoquant.backends.machine import describe_machine, package_versions
from autoquant.backends.memory import measure_peak_bytes
from autoquant.backends.profile import WARM_RUNS, summarize
from autoquant.core.artifact import Artifact, is_tflite
from autoquant.core.layer import Kernels
from autoquant.core.proof import NodeTime
from autoquant.errors import ArtifactError, TrialError
from autoquant.tflite import (
    FLOAT,
    INT4,
    INT8,
    LAYERS,
    is_constant,
    layer_of,
    name_of,
    operator_of,
    parse,
    serialize,
    silenced,
    type_of,
)

__all__ = ["LiteRtBackend", "LiteRtSession", "has_xnnpack"]

_KINDS = {
    name: np.dtype(name).type
    for name in ("float32", "int8", "uint8", "int16", "int32", "int64", "bool")
}
_GRIDS = (np.int8, np.uint8, np.int16)  # types of quantized inputs and outputs


class LiteRtSession:
    """A file that LiteRT has loaded.

    Files hold a batch of one, which is what LiteRT's own converter writes: a larger batch is so
    many runs. One from elsewhere whose inputs begin with another size takes them as they are, all
    at once. Quantized inputs and outputs are taken and given as the floats that they stand for.

    Args:
        content: the file.
        threads: of XNNPACK.
    """

    def __init__(self, content: bytes, threads: int) -> None:
        with silenced():  # it announces its delegate
            self._interpreter = Interpreter(model_content=content, num_threads=threads)
            self._interpreter.allocate_tensors()
        self._inputs = _by_name(self._interpreter, "inputs")
        self._outputs = _by_name(self._interpreter, "outputs")
        self._shapes = {
            name: tuple(map(int, entry["shape"])) for name, entry in self._inputs.items()
        }
        self.inputs = [_describe_input(name, entry) for name, entry in self._inputs.items()]

    def predict(self, inputs: Any) -> npt.NDArray[np.float32]:
        """First output for one batch."""
        return next(iter(self.run_all(inputs).values()))

    def run_all(self, inputs: Any) -> Arrays:
        """Every output for one batch, by name, quantized ones as floats."""
        with _translated():
            rows = [self._run(row) for row in self._rows(inputs)]
            return {name: np.concatenate([row[name] for row in rows]) for name in self._outputs}

    def time_once(self, inputs: Any) -> float:
        """Seconds of one run of each sample of the batch, one after the other."""
        with _translated():
            return sum(self._time(row) for row in self._rows(inputs))

    def time_whole(self, runs: int) -> list[float]:
        """Seconds of each of so many runs on made-up inputs of the file's own shapes.

        For cut-outs, where the first dimension of a tensor need not be that of the batch.
        """
        specs = [replace(spec, shape=self._shapes[spec.name]) for spec in self.inputs]
        row = random_inputs(specs, _KINDS, 1)
        with _translated():
            return [self._time(row) for _ in range(runs)]

    def random_inputs(self, batch: int, seed: int = 0) -> Arrays:
        """Inputs of the model's shapes, `batch` of each.

        Raises:
            ArtifactError: the file holds another batch.
        """
        sizes = {spec.shape[0] for spec in self.inputs if spec.shape}
        held = next(iter(sizes)) if len(sizes) == 1 else None
        if held is not None and held != batch:
            raise ArtifactError(f"the file holds a batch of {held}: time it with --batch {held}")
        return random_inputs(self.inputs, _KINDS, batch, seed)

    def _rows(self, inputs: Any) -> Iterator[Arrays]:
        given = as_named(inputs, self.inputs[0].name)
        if given.keys() != self._inputs.keys():
            raise ValueError(f"inputs {sorted(given)} do not fit {sorted(self._inputs)}")
        if any(shape and shape[0] != 1 for shape in self._shapes.values()):
            for name, shape in self._shapes.items():
                if np.shape(given[name]) != shape:
                    raise ValueError(
                        f"input '{name}' has a size of its own, {shape}, which the given "
                        f"{np.shape(given[name])} does not fit"
                    )
            yield given
            return
        for index in range(len(next(iter(given.values())))):
            yield {name: value[index : index + 1] for name, value in given.items()}

    def _time(self, row: Arrays) -> float:
        self._set(row)
        start = time.perf_counter()
        self._interpreter.invoke()
        return time.perf_counter() - start

    def _run(self, row: Arrays) -> Arrays:
        self._set(row)
        self._interpreter.invoke()
        return {name: self._read(entry) for name, entry in self._outputs.items()}

    def _set(self, row: Arrays) -> None:
        for name, value in row.items():
            entry = self._inputs[name]
            self._interpreter.set_tensor(entry["index"], _quantize(value, entry))

    def _read(self, entry: dict[str, Any]) -> npt.NDArray[Any]:
        value: npt.NDArray[Any] = self._interpreter.get_tensor(entry["index"])
        scale, zero = entry["quantization"]
        if value.dtype not in _GRIDS or not scale:
            return value
        real: npt.NDArray[np.float32] = (value.astype(np.float32) - zero) * np.float32(scale)
        return real


def _by_name(interpreter: Interpreter, side: str) -> dict[str, dict[str, Any]]:
    """Details of inputs or outputs by the names of the signature, else by those of tensors."""
    read = interpreter.get_input_details if side == "inputs" else interpreter.get_output_details
    entries = {entry["index"]: entry for entry in read()}
    signatures = interpreter._get_full_signature_list()
    if len(signatures) != 1:
        return {entry["name"]: entry for entry in entries.values()}
    names = {index: name for name, index in next(iter(signatures.values()))[side].items()}
    return {names.get(index, entry["name"]): entry for index, entry in entries.items()}


def _describe_input(name: str, entry: dict[str, Any]) -> InputSpec:
    shape = tuple(int(size) for size in entry["shape"])
    kind = "float32" if entry["quantization"][0] else np.dtype(entry["dtype"]).name
    is_batch = shape[:1] == (1,)
    return InputSpec(name, (None, *shape[1:]) if is_batch else shape, kind)


def _quantize(value: npt.NDArray[Any], entry: dict[str, Any]) -> npt.NDArray[Any]:
    scale, zero = entry["quantization"]
    if np.issubdtype(value.dtype, np.integer):
        return value.astype(entry["dtype"])  # the converter makes int32 of int64
    if entry["dtype"] not in _GRIDS or not scale:
        return value
    ends = np.iinfo(entry["dtype"])
    grid: npt.NDArray[Any] = np.clip(np.round(value / scale) + zero, ends.min, ends.max)
    return grid.astype(entry["dtype"])


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # RuntimeError of the interpreter, ValueError of its wrapper
        raise TrialError(f"LiteRT cannot run it: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else repr(error)


class LiteRtBackend:
    """Runs .tflite files on the CPU with LiteRT's interpreter."""

    name = "litert"
    kernels = Kernels(
        float_results=frozenset(),
        activations={
            "conv": frozenset({"dynamic", "float"}),
            "linear": frozenset({"dynamic", "float"}),
        },
        weight_only=(8, 4),
        has_blocks=False,
        grids_by_sample=True,
        is_exact=True,
    )

    @property
    def caveat(self) -> str | None:
        """What is said of builds without XNNPACK."""
        if has_xnnpack():
            return None
        return (
            "this build of LiteRT has no XNNPACK: its own kernels are several times slower, so its "
            "timings do not compare with those of other builds"
        )

    def load(self, artifact: Artifact, threads: int) -> LiteRtSession:
        """Load a file with a fixed number of threads.

        Raises:
            ArtifactError: LiteRT cannot load it; gives its reason.
        """
        if not is_tflite(artifact.content):
            raise ArtifactError(
                "LiteRT cannot load this file: it reads .tflite files, and this is none"
            )
        try:
            return LiteRtSession(artifact.content, threads)
        except Exception as error:  # RuntimeError, ValueError
            raise ArtifactError(f"LiteRT cannot load this file: {_reason(error)}") from error

    def measure_memory(self, artifact: Artifact, threads: int, batch: int = 1) -> int | None:
        """Growth of a fresh process that loads and runs the file."""
        return measure_peak_bytes(self.name, artifact.content, threads, batch)

    def find_integer_layers(self, artifact: Artifact, layers: Sequence[str]) -> frozenset[str]:
        """Layers with 8- or 4-bit weights that no dequantizer stands in front of.

        By the types of tensors that their operators read: with a float input the kernel puts it
        on a grid by itself, for every run anew, and multiplies integers all the same. Rows of a
        table are looked up as integers.
        """
        graph = _Graph(artifact.content)
        wanted = frozenset(layers)
        return frozenset(
            layer
            for operator in graph.operators
            if (layer := graph.integer_layer(operator)) in wanted
        )

    def profile_nodes(
        self,
        artifact: Artifact,
        threads: int = 1,
        batch: int = 1,
        runs: int = 30,
        inputs: Any = None,
    ) -> list[NodeTime]:
        """Time of every operator, each in a file of its own, on random inputs.

        LiteRT hands the whole graph to XNNPACK and tells Python nothing of what happens there, so
        each operator is run alone, whatever inputs are given: what is fused or kept in a cache
        between two is not seen. A larger batch takes so many times as long.
        """
        graph = _Graph(artifact.content)
        samples: list[tuple[str, str, float]] = []
        for operator in graph.operators:
            name, kernel = graph.describe(operator)
            try:
                session = LiteRtSession(graph.cut_out(operator), threads)
                times = session.time_whole(WARM_RUNS + runs)
            except (ArtifactError, TrialError, RuntimeError, ValueError):
                times = [0.0]  # it cannot be run on made-up inputs, or not alone
                kernel += " (not timed)"
            samples += [(name, kernel, 1000 * batch * seconds) for seconds in times]
        return summarize(samples, runs)

    def fingerprint(self) -> dict[str, Any]:
        """Machine and runtime version, which says so where XNNPACK is missing."""
        versions = package_versions("ai-edge-litert")
        if not has_xnnpack():
            versions = {name: f"{number} without XNNPACK" for name, number in versions.items()}
        return {"machine": describe_machine(), "versions": versions}


@cache
def has_xnnpack(resolver: OpResolverType = OpResolverType.AUTO) -> bool:
    """Whether the interpreter hands operators over to XNNPACK, its only default delegate.

    Some builds lack it. What is handed over stands as one operator behind those of the file.

    Args:
        resolver: kernels that it may choose from.
    """
    interpreter = Interpreter(
        model_content=_addition(), experimental_op_resolver_type=resolver, num_threads=1
    )
    with silenced():
        interpreter.allocate_tensors()
    return any(entry["op_name"] == "DELEGATE" for entry in interpreter._get_ops_details())


def _addition() -> bytes:
    """A file that adds two vectors, which any delegate takes over."""
    model, graph, code = schema.ModelT(), schema.SubGraphT(), schema.OperatorCodeT()
    operator, options = schema.OperatorT(), schema.AddOptionsT()
    code.builtinCode, code.version = schema.BuiltinOperator.ADD, 1
    operator.builtinOptionsType = schema.BuiltinOptions.AddOptions
    operator.inputs, operator.outputs, operator.builtinOptions = [0, 1], [2], options
    graph.tensors = []
    for name in ("a", "b", "sum"):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name.encode(), [1, 4], FLOAT
        tensor.buffer = 0
        graph.tensors.append(tensor)
    graph.inputs, graph.outputs, graph.operators = [0, 1], [2], [operator]
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT()]
    return serialize(model)


class _Graph:
    """The operators of a file, its only subgraph's."""

    def __init__(self, content: bytes) -> None:
        try:
            self.model = parse(content)
        except ArtifactError as error:
            raise ArtifactError(f"LiteRT cannot load this file: {error}") from error
        self.graph = self.model.subgraphs[0]
        self.operators = list(self.graph.operators)

    def integer_layer(self, operator: Any) -> str | None:
        """The layer that an operator computes in integers; None if it computes none so."""
        kind = operator_of(self.model, operator)
        if kind not in LAYERS:
            return None
        weights = self.graph.tensors[operator.inputs[LAYERS[kind]]]
        return layer_of(self.model, operator) if weights.type in (INT8, INT4) else None

    def describe(self, operator: Any) -> tuple[str, str]:
        """Name and kernel: the operator with the types of what it multiplies."""
        kind = operator_of(self.model, operator)
        name = layer_of(self.model, operator)
        name = name or name_of(self.graph.tensors[operator.outputs[0]])
        places = [2 if kind == "TRANSPOSE_CONV" else 0]
        if kind in LAYERS:
            places.append(LAYERS[kind])
        read = [int(operator.inputs[place]) for place in places if place < len(operator.inputs)]
        types = [type_of(self.graph.tensors[index]) for index in read if index >= 0]
        return name, f"{kind} {' x '.join(dict.fromkeys(types))}"

    def cut_out(self, operator: Any) -> bytes:
        """A file that holds one operator."""
        read = [int(index) for index in operator.inputs if index >= 0]
        made = [int(index) for index in operator.outputs]
        places = {index: place for place, index in enumerate(dict.fromkeys([*read, *made]))}
        model, graph, inner = copy.copy(self.model), schema.SubGraphT(), copy.copy(operator)
        model.subgraphs, model.signatureDefs, model.metadata = [graph], None, None
        model.buffers, graph.tensors, graph.inputs = [schema.BufferT()], [], []
        for index, place in places.items():
            tensor = copy.copy(self.graph.tensors[index])
            if is_constant(self.model, tensor):
                model.buffers.append(self.model.buffers[tensor.buffer])
                tensor.buffer = len(model.buffers) - 1
            else:
                tensor.buffer = 0
                graph.inputs += [place] * (index in read)
            graph.tensors.append(tensor)
        inner.inputs = [places[int(index)] if index >= 0 else -1 for index in operator.inputs]
        inner.outputs = graph.outputs = [places[index] for index in made]
        graph.operators = [inner]
        return serialize(model)
