"""Where the time of a file goes, by ONNX Runtime's own profiler."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from autoquant.backends.onnxruntime import open_session
from autoquant.core.proof import NodeTime

__all__ = ["profile_nodes"]

_SUFFIX = "_kernel_time"
_WARM_RUNS = 5


def profile_nodes(
    content: bytes, inputs: Any = None, threads: int = 1, batch: int = 1, runs: int = 30
) -> list[NodeTime]:
    """Time of every node that the runtime executes, in order.

    The profiler itself costs time: shares are what to read, not sums.

    Args:
        content: the file.
        inputs: one batch; random values of the model's shapes if left out.
        threads: threads within one operator.
        batch: size of a random batch.
        runs: how many are timed.

    Raises:
        ArtifactError: a file that ONNX Runtime cannot load.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(content, threads, profile_prefix=str(Path(folder) / "profile"))
        given = session.random_inputs(batch) if inputs is None else inputs
        for _ in range(_WARM_RUNS + runs):
            session.time_once(given)
        events = json.loads(Path(session.session.end_profiling()).read_text(encoding="utf-8"))
    return _summarize(events, runs)


def _summarize(events: list[dict[str, Any]], runs: int) -> list[NodeTime]:
    times: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            key = event["name"].removesuffix(_SUFFIX), event["args"]["op_name"]
            times.setdefault(key, []).append(event["dur"] / 1e3)
    return [
        NodeTime(name, kernel, float(np.median(values[-runs:])))
        for (name, kernel), values in times.items()
    ]
