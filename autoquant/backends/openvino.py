"""OpenVINO's CPU plugin. The only room that knows openvino."""

import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from autoquant.backends.inputs import Arrays, InputSpec, as_named, random_inputs
from autoquant.backends.machine import describe_machine, package_versions
from autoquant.backends.memory import measure_peak_bytes
from autoquant.backends.profile import WARM_RUNS, summarize
from autoquant.core.artifact import Artifact
from autoquant.core.layer import INTEGER_KINDS, Kernels, LayerKind
from autoquant.core.proof import NodeTime
from autoquant.errors import ArtifactError, TrialError

# To import OpenVINO sends an event to Google Analytics, by a process that is forked while this one
# goes on, and asks nobody. Where its package for that cannot be imported, it goes without.
_TELEMETRY = "openvino_telemetry"
_known = sys.modules.get(_TELEMETRY)
sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
try:
    import openvino as ov
finally:
    del sys.modules[_TELEMETRY]
    if _known is not None:
        sys.modules[_TELEMETRY] = _known

__all__ = ["OpenVinoBackend", "OpenVinoSession"]

_DEVICE = "CPU"
_MS = timedelta(milliseconds=1)
_CONFIG: dict[str, Any] = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
    # A processor with bf16 would compute the float model in it: another reference than the
    # one that accuracies and latencies are promised against.
    "INFERENCE_PRECISION_HINT": "f32",
    # `quiet` decides which cores a timing runs on.
    "ENABLE_CPU_PINNING": False,
    # The latency hint leaves sibling threads of a core out, so two threads could become one.
    "ENABLE_HYPER_THREADING": True,
}
_Shape = tuple[int, ...]
_Shapes = Mapping[str, _Shape]
_KINDS = {"f32": np.float32, "i64": np.int64, "i32": np.int32}
# What the runtime graph tells of a node.
_FACTS = ("layerType", "runtimePrecision", "originalLayersNames")
_MATRIX_KERNELS = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})
_INTEGER_TYPES = frozenset({"u8", "i8"})
# What the importer calls a layer whose bias became an operator of its own, and what its
# low-precision passes append to the name of an operator that they replace.
_SUFFIX = re.compile(r"(/WithoutBiases)?(/DequantizationMultiply)?(_original)?$")
# Lines of an error that say where it arose, not what is wrong.
_NO_REASON = re.compile(r".*(Exception from|failed at) \S+:\d+:$|While validating node ")


class OpenVinoSession:
    """A model that OpenVINO has read.

    It is compiled for each shape of inputs that it meets, as an application does that knows its
    batch size: with a free one, a run of ResNet-20 in integers took 0.31 ms in place of 0.27.

    Args:
        core: compiles.
        model: what was read.
        config: how it is compiled.
    """

    def __init__(self, core: ov.Core, model: ov.Model, config: Mapping[str, Any]) -> None:
        self.inputs = [_describe_input(port) for port in model.inputs]
        self._core = core
        self._model = model
        self._config = config
        self._requests: dict[tuple[_Shape, ...], ov.InferRequest] = {}
        self._shared: Arrays = {}

    def predict(self, inputs: Any) -> npt.NDArray[np.float32]:
        """First output for one batch."""
        with _translated():
            return np.array(_infer(self._prepare(inputs))[0])

    def run_all(self, inputs: Any) -> Arrays:
        """Every output for one batch, by name."""
        names = [port.any_name for port in self._model.outputs]
        with _translated():
            found = _infer(self._prepare(inputs))
            return {name: np.array(found[index]) for index, name in enumerate(names)}

    def time_once(self, inputs: Any) -> float:
        """Seconds of one run."""
        with _translated():
            request = self._prepare(inputs)
            start = time.perf_counter()
            _infer(request)
            return time.perf_counter() - start

    def random_inputs(self, batch: int, seed: int = 0) -> Arrays:
        """Inputs of the model's shapes; a first size that is free is the batch size."""
        return random_inputs(self.inputs, _KINDS, batch, seed)

    def profile_once(self, inputs: Any) -> list[tuple[str, str, float]]:
        """Name, kernel and milliseconds of every node of one run; compiled with PERF_COUNT."""
        with _translated():
            request = self._prepare(inputs)
            _infer(request)
            return [
                (node.node_name, f"{node.node_type} {node.exec_type}", node.real_time / _MS)
                for node in request.profiling_info
                if node.status == ov.ProfilingInfo.Status.EXECUTED
            ]

    def read_graph(self) -> list[dict[str, str]]:
        """What each node of the optimized graph is, computes in and comes from, for batch 1."""
        shapes = {spec.name: spec.shape_for(1) for spec in self.inputs}
        with _translated():
            nodes = self._compile(shapes).get_runtime_model().get_ops()
            return [{fact: str(node.rt_info[fact].value) for fact in _FACTS} for node in nodes]

    def _prepare(self, inputs: Any) -> ov.InferRequest:
        """A request that holds these inputs.

        They are handed over before the clock starts: in Python that takes 0.03 ms, a tenth of
        what a small network's run takes.
        """
        given = as_named(inputs, self.inputs[0].name)
        unknown = given.keys() - {spec.name for spec in self.inputs}
        missing = {spec.name for spec in self.inputs} - given.keys()
        if unknown or missing:
            raise ValueError(f"inputs {sorted(unknown)} are unknown, {sorted(missing)} missing")
        # The request reads the arrays where they are, so they must live until it has run.
        self._shared = {
            name: np.require(value, requirements=["C", "W"]) for name, value in given.items()
        }
        request = self._request_for({name: value.shape for name, value in self._shared.items()})
        for name, value in self._shared.items():
            request.set_tensor(name, ov.Tensor(value, shared_memory=True))
        return request

    def _request_for(self, shapes: _Shapes) -> ov.InferRequest:
        key = tuple(shapes[spec.name] for spec in self.inputs)
        if key not in self._requests:
            self._requests[key] = self._compile(shapes).create_infer_request()
        return self._requests[key]

    def _compile(self, shapes: _Shapes) -> ov.CompiledModel:
        model = self._model.clone()
        model.reshape({name: list(shape) for name, shape in shapes.items()})
        return self._core.compile_model(model, _DEVICE, self._config)


def _infer(request: ov.InferRequest) -> Any:
    """Outputs, which the next run overwrites."""
    return request.infer(share_outputs=True)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # RuntimeError, and others for inputs that do not fit
        raise TrialError(f"OpenVINO cannot run it: {_reason(error)}") from error


def _describe_input(port: Any) -> InputSpec:
    shape = tuple(
        size.get_length() if size.is_static else None for size in port.get_partial_shape()
    )
    return InputSpec(port.get_any_name(), shape, port.get_element_type().get_type_name())


class OpenVinoBackend:
    """Runs ONNX files on the CPU with OpenVINO."""

    name = "openvino"
    kernels = Kernels(INTEGER_KINDS | frozenset[LayerKind]({"conv_transpose"}))
    caveat: str | None = None

    def __init__(self) -> None:
        self._core = ov.Core()
        # Loads the plugin, which counts the processor's cores once and for all: it must not
        # happen while this process is pinned to the timing cores.
        self._core.get_property(_DEVICE, "FULL_DEVICE_NAME")

    def load(self, artifact: Artifact, threads: int) -> OpenVinoSession:
        """Load a file with a fixed number of threads; it is compiled when it first runs.

        Raises:
            ArtifactError: OpenVINO cannot load it; gives its reason.
        """
        return self._open(artifact, threads)

    def measure_memory(self, artifact: Artifact, threads: int, batch: int = 1) -> int | None:
        """Growth of a fresh process that loads and runs the file."""
        return measure_peak_bytes(self.name, artifact.content, threads, batch)

    def find_integer_layers(self, artifact: Artifact, layers: Sequence[str]) -> frozenset[str]:
        """Layers whose convolution or matrix product runs on 8-bit inputs and weights."""
        wanted = frozenset(layers)
        nodes = self._open(artifact, 1).read_graph()
        return frozenset(
            layer for node in nodes if (layer := _integer_layer(node, wanted)) is not None
        )

    def profile_nodes(
        self,
        artifact: Artifact,
        threads: int = 1,
        batch: int = 1,
        runs: int = 30,
        inputs: Any = None,
    ) -> list[NodeTime]:
        """Time of every node that the runtime executes; see `FileBackend.profile_nodes`."""
        session = self._open(artifact, threads, PERF_COUNT=True)
        inputs = session.random_inputs(batch) if inputs is None else inputs
        rounds = [session.profile_once(inputs) for _ in range(WARM_RUNS + runs)]
        return summarize((sample for samples in rounds for sample in samples), runs)

    def fingerprint(self) -> dict[str, Any]:
        """Machine and runtime version."""
        return {"machine": describe_machine(), "versions": package_versions("openvino")}

    def _open(self, artifact: Artifact, threads: int, **more: Any) -> OpenVinoSession:
        try:
            model = self._core.read_model(artifact.content)
        except Exception as error:  # RuntimeError, or a class of one of its frontends
            raise ArtifactError(f"OpenVINO cannot load this file: {_reason(error)}") from error
        return OpenVinoSession(
            self._core, model, {**_CONFIG, "INFERENCE_NUM_THREADS": threads, **more}
        )


def _integer_layer(node: Mapping[str, str], layers: frozenset[str]) -> str | None:
    """The layer that a node of the runtime graph computes in integers, if it is one of these."""
    if node["layerType"] not in _MATRIX_KERNELS or node["runtimePrecision"] not in _INTEGER_TYPES:
        return None
    # The node's own operator comes first, then what was fused into it.
    names = (_SUFFIX.sub("", name) for name in node["originalLayersNames"].split(","))
    return next((name for name in names if name in layers), None)


def _reason(error: Exception) -> str:
    """First line that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not _NO_REASON.match(line)]
    return telling[0] if telling else repr(error)
