"""Where the time of a file goes, node by node, by a runtime's own profiler."""

from collections.abc import Iterable

import numpy as np

from autoquant.core.proof import NodeTime

__all__ = ["WARM_RUNS", "summarize"]

WARM_RUNS = 5  # profiled, then left out


def summarize(samples: Iterable[tuple[str, str, float]], runs: int) -> list[NodeTime]:
    """Median of the last runs of every node, in the order in which they execute.

    Args:
        samples: name, kernel and milliseconds of each execution, in time.
        runs: how many executions of a node count.
    """
    times: dict[tuple[str, str], list[float]] = {}
    for name, kernel, ms in samples:
        times.setdefault((name, kernel), []).append(ms)
    return [
        NodeTime(name, kernel, float(np.median(values[-runs:])))
        for (name, kernel), values in times.items()
    ]
