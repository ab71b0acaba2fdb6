"""Timing of any ONNX files. Imports neither torch nor Brevitas nor onnx."""

from collections.abc import Mapping
from typing import Any

from autoquant.backends.latency import LatencyProtocol, compare
from autoquant.backends.onnxruntime import OrtBackend, OrtSession
from autoquant.core.artifact import Artifact
from autoquant.errors import ArtifactError

__all__ = ["bench_files"]

_PROTOCOL = LatencyProtocol(warmup_s=0.3, max_s=10.0)


def bench_files(
    contents: Mapping[str, bytes], first: str, threads: int = 1, batch: int = 1
) -> dict[str, Any]:
    """Time one file, or two alternately.

    Args:
        contents: bytes by name, one or two.
        first: name of the file that the ratio is of.
        threads: threads of the runs.
        batch: batch size.

    Returns:
        `latency_ms`, `ratio` and the like; what concerns a second file is None without one.

    Raises:
        ArtifactError: a file that ONNX Runtime cannot load or run; names it.
    """
    runs = {name: _runner(name, content, threads, batch) for name, content in contents.items()}
    others = [name for name in contents if name != first]
    other = others[0] if others else first
    result = compare(runs[first], runs[other], _PROTOCOL)
    is_pair = bool(others)
    return {
        "latency_ms": result.latency_ms,
        "latency_ms_ci": result.latency_ms_ci,
        "vs_latency_ms": result.reference_ms if is_pair else None,
        "vs_latency_ms_ci": result.reference_ms_ci if is_pair else None,
        "ratio": result.ratio if is_pair else None,
        "ratio_ci": result.ratio_ci if is_pair else None,
        "samples": result.samples,
        "stable": result.stable,
    }


def _runner(name: str, content: bytes, threads: int, batch: int) -> Any:
    try:
        session: OrtSession = OrtBackend().load(Artifact(content, {}, {}), threads)
        inputs = session.random_inputs(batch)
        session.time_once(inputs)
    except ArtifactError as error:
        raise ArtifactError(f"{name}: {error}") from error
    except Exception as error:  # the runtime raises a class of its own for each status code
        first = str(error).strip().splitlines()[0]
        raise ArtifactError(f"{name}: ONNX Runtime cannot run it: {first}") from error
    return lambda: session.time_once(inputs)
