"""Accuracy: the built-in metrics and their intervals."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from autoquant.core.task import Metric
from autoquant.errors import TrialError

__all__ = ["agreement", "measure_accuracy", "top_k", "wilson_interval"]

_Z95 = 1.959963984540054


def top_k(outputs: npt.NDArray[np.float32], targets: npt.NDArray[Any], k: int) -> float:
    """Share of rows whose target is among the k largest outputs.

    Args:
        outputs: (n, classes).
        targets: (n,) class indices.
        k: 1 for top-1.
    """
    k = min(k, outputs.shape[1])
    best = np.argpartition(-outputs, k - 1, axis=1)[:, :k]
    return float((best == targets[:, None]).any(axis=1).mean())


def agreement(outputs: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> float:
    """Share of rows on which two models name the same class; both (n, classes)."""
    return float((outputs.argmax(axis=1) == others.argmax(axis=1)).mean())


def measure_accuracy(
    metric: Metric,
    outputs: npt.NDArray[np.float32],
    targets: npt.NDArray[Any],
    float_outputs: npt.NDArray[np.float32],
) -> float:
    """The task's metric over a whole split, higher is better.

    Raises:
        TrialError: the metric is not a finite number, or an unknown name.
    """
    if metric in ("top1", "top5"):
        _check_classes(metric, outputs, targets)
    match metric:
        case "top1":
            value = top_k(outputs, targets, 1)
        case "top5":
            value = top_k(outputs, targets, 5)
        case "agreement":
            value = agreement(outputs, float_outputs)
        case str():
            raise TrialError(f"unknown metric '{metric}'; there are top1, top5, agreement")
        case _:
            value = _call(metric, outputs, targets)
    if not math.isfinite(value):
        raise TrialError(f"the metric is {value}; it must return a finite number")
    return value


def _check_classes(
    metric: Metric, outputs: npt.NDArray[np.float32], targets: npt.NDArray[Any]
) -> None:
    if outputs.ndim != 2 or targets.ndim != 1:
        raise TrialError(
            f"metric {metric} needs outputs (n, classes) and targets (n,), not "
            f"{outputs.shape} and {targets.shape}; give the task a metric of its own"
        )


def _call(
    metric: Callable[[npt.NDArray[np.float32], npt.NDArray[Any]], float],
    outputs: npt.NDArray[np.float32],
    targets: npt.NDArray[Any],
) -> float:
    try:
        return float(metric(outputs, targets))
    except Exception as error:  # whatever the user's own function raises
        raise TrialError(f"the metric failed: {type(error).__name__}: {error}") from error


def wilson_interval(successes_share: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion seen in n trials.

    Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    center = (successes_share + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
    spread = successes_share * (1 - successes_share) / n + _Z95**2 / (4 * n**2)
    half = _Z95 * math.sqrt(spread) / (1 + _Z95**2 / n)
    return max(0.0, center - half), min(1.0, center + half)
