"""ONNX Runtime's CPU provider. The only room that knows onnxruntime as a runtime."""

import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from autoquant.backends.machine import describe_machine, package_versions
from autoquant.backends.memory import measure_peak_bytes
from autoquant.core.artifact import Artifact
from autoquant.errors import ArtifactError, TrialError

__all__ = ["OrtBackend", "OrtSession", "open_session"]

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
_ERRORS_ONLY = 3


class OrtSession:
    """A model loaded into ONNX Runtime."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.session = session
        self.inputs = list(session.get_inputs())

    def predict(self, inputs: Any) -> npt.NDArray[np.float32]:
        """First output for one batch."""
        return np.asarray(self._run(self._feed(inputs))[0])

    def time_once(self, inputs: Any) -> float:
        """Seconds of one run."""
        feed = self._feed(inputs)
        start = time.perf_counter()
        self._run(feed)
        return time.perf_counter() - start

    def _run(self, feed: dict[str, npt.NDArray[Any]]) -> list[Any]:
        try:
            return list(self.session.run(None, feed))
        except Exception as error:  # the runtime raises a class of its own for each status code
            raise TrialError(f"ONNX Runtime cannot run it: {_first_line(error)}") from error

    def _feed(self, inputs: Any) -> dict[str, npt.NDArray[Any]]:
        if isinstance(inputs, Mapping):
            return {name: np.asarray(value) for name, value in inputs.items()}
        return {self.inputs[0].name: np.asarray(inputs)}

    def random_inputs(self, batch: int, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
        """Inputs of the model's shapes; free dimensions take the batch size."""
        generator = np.random.default_rng(seed)
        return {value.name: _random(value, batch, generator) for value in self.inputs}


def _random(value: ort.NodeArg, batch: int, generator: np.random.Generator) -> npt.NDArray[Any]:
    shape = [size if isinstance(size, int) else batch for size in value.shape]
    if value.type == "tensor(float)":
        return generator.standard_normal(shape, dtype=np.float32)
    if value.type in ("tensor(int64)", "tensor(int32)"):
        kind = np.int64 if value.type == "tensor(int64)" else np.int32
        return np.ones(shape, dtype=kind)
    raise ArtifactError(f"input '{value.name}' is of type {value.type}; float and int are timed")


def open_session(content: bytes, threads: int, profile_prefix: str | None = None) -> OrtSession:
    """Load the bytes of a file; see `OrtBackend.load`.

    Args:
        content: the file.
        threads: threads within one operator.
        profile_prefix: where the runtime's profiler is to write; None for no profile.
    """
    return OrtSession(_open(content, threads, profile_prefix=profile_prefix))


class OrtBackend:
    """Runs ONNX files on the CPU."""

    name = "onnxruntime"

    def load(self, artifact: Artifact, threads: int) -> OrtSession:
        """Load a file with a fixed number of threads.

        Raises:
            ArtifactError: ONNX Runtime cannot load it; gives its reason.
        """
        return open_session(artifact.content, threads)

    def measure_memory(self, artifact: Artifact, threads: int, batch: int = 1) -> int | None:
        """Growth of a fresh process that loads and runs the file."""
        return measure_peak_bytes(artifact.content, threads, batch)

    def find_integer_layers(self, artifact: Artifact, layers: Sequence[str]) -> frozenset[str]:
        """Layers that the optimized graph executes in integer kernels."""
        # ONNX Runtime names a fused node after the one it came from: `conv1_token_4`.
        longest_first = sorted(layers, key=len, reverse=True)
        pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})(?:[_#].*)?$")
        names = [name for name, kernel in self._kernels(artifact) if kernel in _INTEGER_KERNELS]
        matches = (pattern.match(name) for name in names)
        return frozenset(match[1] for match in matches if match)

    def fingerprint(self) -> dict[str, Any]:
        """Machine and runtime version."""
        return {"machine": describe_machine(), "versions": package_versions("onnxruntime")}

    def _kernels(self, artifact: Artifact) -> list[tuple[str, str]]:
        """Name and operator of every node that remains after the runtime's optimizations."""
        import onnx

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimized.onnx"
            _open(artifact.content, 1, optimized_path=path)
            nodes = onnx.load(path).graph.node
            return [(node.name, node.op_type) for node in nodes]


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
