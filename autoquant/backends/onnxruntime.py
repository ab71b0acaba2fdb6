"""ONNX Runtime's CPU provider. The only room that knows onnxruntime as a runtime."""

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from autoquant.backends.inputs import Arrays, InputSpec, as_named, random_inputs
from autoquant.backends.machine import describe_machine, package_versions
from autoquant.backends.memory import measure_peak_bytes
from autoquant.backends.profile import WARM_RUNS, summarize
from autoquant.core.artifact import Artifact
from autoquant.core.layer import Kernels
from autoquant.core.proof import NodeTime, match_layers
from autoquant.errors import ArtifactError, TrialError

__all__ = ["OrtBackend", "OrtSession", "open_session", "read_metadata"]

_PROVIDERS = ["CPUExecutionProvider"]
_INTEGER_KERNELS = frozenset(
    {
        "QLinearConv",
        "QGemm",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
    }
)
_KINDS = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
_ERRORS_ONLY = 3
_PROFILE_SUFFIX = "_kernel_time"


class OrtSession:
    """A model loaded into ONNX Runtime."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.session = session
        self.inputs = [_describe_input(value) for value in session.get_inputs()]

    def predict(self, inputs: Any) -> npt.NDArray[np.float32]:
        """First output for one batch."""
        return np.asarray(self._run(self._feed(inputs))[0])

    def run_all(self, inputs: Any) -> Arrays:
        """Every output for one batch, by name."""
        names = [value.name for value in self.session.get_outputs()]
        return dict(zip(names, self._run(self._feed(inputs)), strict=True))

    def time_once(self, inputs: Any) -> float:
        """Seconds of one run."""
        feed = self._feed(inputs)
        start = time.perf_counter()
        self._run(feed)
        return time.perf_counter() - start

    def random_inputs(self, batch: int, seed: int = 0) -> Arrays:
        """Inputs of the model's shapes; a first size that is free is the batch size."""
        return random_inputs(self.inputs, _KINDS, batch, seed)

    def _run(self, feed: Arrays) -> list[Any]:
        try:
            return list(self.session.run(None, feed))
        except Exception as error:  # the runtime raises a class of its own for each status code
            raise TrialError(f"ONNX Runtime cannot run it: {_first_line(error)}") from error

    def _feed(self, inputs: Any) -> Arrays:
        return as_named(inputs, self.inputs[0].name)


def _describe_input(value: ort.NodeArg) -> InputSpec:
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return InputSpec(value.name, shape, value.type)


def open_session(content: bytes, threads: int, profile_prefix: str | None = None) -> OrtSession:
    """Load the bytes of a file; see `OrtBackend.load`.

    Args:
        content: the file.
        threads: threads within one operator.
        profile_prefix: where the runtime's profiler is to write; None for no profile.
    """
    return OrtSession(_open(content, threads, profile_prefix=profile_prefix))


def read_metadata(content: bytes) -> dict[str, str]:
    """The named texts that a file carries beside its graph.

    Raises:
        ArtifactError: ONNX Runtime cannot load it; gives its reason.
    """
    return dict(open_session(content, 1).session.get_modelmeta().custom_metadata_map)


class OrtBackend:
    """Runs ONNX files on the CPU."""

    name = "onnxruntime"
    kernels = Kernels()
    caveat: str | None = None

    def load(self, artifact: Artifact, threads: int) -> OrtSession:
        """Load a file with a fixed number of threads.

        Raises:
            ArtifactError: ONNX Runtime cannot load it; gives its reason.
        """
        return open_session(artifact.content, threads)

    def measure_memory(self, artifact: Artifact, threads: int, batch: int = 1) -> int | None:
        """Growth of a fresh process that loads and runs the file."""
        return measure_peak_bytes(self.name, artifact.content, threads, batch)

    def find_integer_layers(self, artifact: Artifact, layers: Sequence[str]) -> frozenset[str]:
        """Layers that the optimized graph executes in integer kernels."""
        names = [name for name, kernel in self._kernels(artifact) if kernel in _INTEGER_KERNELS]
        return frozenset(match_layers(names, layers).values())

    def fingerprint(self) -> dict[str, Any]:
        """Machine and runtime version."""
        return {"machine": describe_machine(), "versions": package_versions("onnxruntime")}

    def profile_nodes(
        self,
        artifact: Artifact,
        threads: int = 1,
        batch: int = 1,
        runs: int = 30,
        inputs: Any = None,
    ) -> list[NodeTime]:
        """Time of every node that the runtime executes; see `FileBackend.profile_nodes`."""
        with tempfile.TemporaryDirectory() as folder:
            prefix = str(Path(folder) / "profile")
            session = open_session(artifact.content, threads, profile_prefix=prefix)
            inputs = session.random_inputs(batch) if inputs is None else inputs
            for _ in range(WARM_RUNS + runs):
                session.time_once(inputs)
            path = Path(session.session.end_profiling())
            events = json.loads(path.read_text(encoding="utf-8"))
        return summarize(_read_events(events), runs)

    def _kernels(self, artifact: Artifact) -> list[tuple[str, str]]:
        """Name and operator of every node that remains after the runtime's optimizations."""
        import onnx

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimized.onnx"
            _open(artifact.content, 1, optimized_path=path)
            nodes = onnx.load(path).graph.node
            return [(node.name, node.op_type) for node in nodes]


def _read_events(events: list[dict[str, Any]]) -> Iterator[tuple[str, str, float]]:
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_PROFILE_SUFFIX):
            name = event["name"].removesuffix(_PROFILE_SUFFIX)
            yield name, event["args"]["op_name"], event["dur"] / 1e3


def _open(
    content: bytes,
    threads: int,
    optimized_path: Path | None = None,
    profile_prefix: str | None = None,
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
        options.log_severity_level = _ERRORS_ONLY + 1
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    try:
        return ort.InferenceSession(content, options, providers=_PROVIDERS)
    except Exception as error:  # the runtime raises a class of its own for each status code
        reason = _first_line(error)
        raise ArtifactError(f"ONNX Runtime cannot load this file: {reason}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
