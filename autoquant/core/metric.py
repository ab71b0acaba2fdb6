"""Accuracy: the built-in metrics and their intervals."""

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from autoquant.core.evidence import DRAWS, Evidence, resample_counts
from autoquant.core.task import Metric
from autoquant.errors import TrialError

__all__ = [
    "accuracy_interval",
    "agreement",
    "drop_interval",
    "find_evidence",
    "find_hits",
    "measure_accuracy",
    "signal_to_noise_db",
    "top_k_hits",
    "wilson_interval",
]

_Z95 = 1.959963984540054
_NO_NOISE_DB = 200.0


def top_k_hits(
    outputs: npt.NDArray[np.float32], targets: npt.NDArray[Any], k: int
) -> npt.NDArray[np.bool_]:
    """Which rows have their target among the k largest outputs.

    Args:
        outputs: (n, classes).
        targets: (n,) class indices.
        k: 1 for top-1.

    Returns:
        (n,) bool.
    """
    k = min(k, outputs.shape[1])
    best = np.argpartition(-outputs, k - 1, axis=1)[:, :k]
    return np.asarray((best == targets[:, None]).any(axis=1))


def agreement(outputs: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> float:
    """Share of rows on which two models name the same class; both (n, classes).

    Rows of a single number, (n,), name none, and so agree.
    """
    if outputs.ndim == 1:
        return 1.0
    return float((outputs.argmax(axis=1) == others.argmax(axis=1)).mean())


def find_hits(
    metric: Metric,
    outputs: npt.NDArray[np.float32],
    targets: npt.NDArray[Any],
    float_outputs: npt.NDArray[np.float32],
) -> npt.NDArray[np.bool_] | None:
    """Which samples are right, where the metric is the share of those; None where it is not.

    Args:
        metric: the task's.
        outputs: (n, classes), of the first n samples of a split.
        targets: (n,) or more.
        float_outputs: (n, classes) or more, of the float model.

    Raises:
        TrialError: an unknown metric, or outputs that it does not fit.
    """
    targets, float_outputs = targets[: len(outputs)], float_outputs[: len(outputs)]
    if metric in ("top1", "top5"):
        _check_classes(metric, outputs, targets)
    match metric:
        case "top1":
            return top_k_hits(outputs, targets, 1)
        case "top5":
            return top_k_hits(outputs, targets, 5)
        case "agreement":
            return np.asarray(outputs.argmax(axis=1) == float_outputs.argmax(axis=1))
        case str():
            raise TrialError(f"unknown metric '{metric}'; there are top1, top5, agreement")
        case _:
            return None


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
    hits = find_hits(metric, outputs, targets, float_outputs)
    if hits is not None:
        return float(hits.mean())
    assert not isinstance(metric, str)
    value = _call(metric, outputs, targets)
    if not math.isfinite(value):
        raise TrialError(f"the metric is {value}; it must return a finite number")
    return value


def find_evidence(
    metric: Metric,
    outputs: npt.NDArray[np.float32],
    targets: npt.NDArray[Any],
    float_outputs: npt.NDArray[np.float32],
) -> Evidence:
    """What comparisons of this accuracy with another on the same split need.

    A metric of one's own is called on every resample; where it is not defined on one (a
    correlation of constants), its value on the whole split stands in.
    """
    hits = find_hits(metric, outputs, targets, float_outputs)
    if hits is not None:
        return Evidence.from_hits(hits)
    assert not isinstance(metric, str)
    whole = _call(metric, outputs, targets)
    draws = np.full(DRAWS, whole)
    for index, counts in enumerate(resample_counts(len(targets))):
        chosen = np.repeat(np.arange(len(targets)), counts.astype(int))
        with suppress(TrialError), np.errstate(all="ignore"):
            draws[index] = _call(metric, outputs[chosen], targets[chosen])
    return Evidence.from_draws(np.where(np.isfinite(draws), draws, whole), len(targets))


def accuracy_interval(accuracy: float, evidence: Evidence) -> tuple[float, float]:
    """95 % interval: Wilson's for a share, the bootstrap's for any other metric."""
    if evidence.hits is not None:
        return wilson_interval(accuracy, evidence.samples)
    low, high = np.percentile(evidence.draws, [2.5, 97.5])
    return float(low), float(high)


def drop_interval(base: Evidence, ours: Evidence, drop: float) -> tuple[float, float]:
    """95 % interval of an accuracy drop, paired: both models on the same samples.

    Of shares, that of Agresti and Min 2005, doi:10.1002/sim.1781: half a sample is added to each
    of the four outcomes, so that few samples, or none on which the models differ, prove little.

    Args:
        base: of the float model.
        ours: of the other.
        drop: the point estimate, for metrics that are no share.
    """
    if base.hits is not None and ours.hits is not None:
        lost = int((base.hits & ~ours.hits).sum())
        gained = int((ours.hits & ~base.hits).sum())
        return _paired_interval(lost, gained, base.samples)
    half = _Z95 * float((base.draws - ours.draws).std())
    return drop - half, drop + half


def _paired_interval(lost: int, gained: int, samples: int) -> tuple[float, float]:
    total = samples + 2
    center = (lost - gained) / total
    variance = (lost + gained + 1 - (lost - gained) ** 2 / total) / total**2
    half = _Z95 * math.sqrt(variance)
    return max(-1.0, center - half), min(1.0, center + half)


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


def signal_to_noise_db(wanted: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    """SQNR: power of a signal over that of what is wrong with it, in decibels.

    Args:
        wanted: any shape.
        found: the same shape.

    Returns:
        At most 200, which stands for no difference at all.
    """
    signal = np.square(wanted, dtype=np.float64).sum()
    noise = np.square(wanted - found, dtype=np.float64).sum()
    if not noise:
        return _NO_NOISE_DB
    return float(np.clip(10 * np.log10(max(signal, 1e-300) / noise), -_NO_NOISE_DB, _NO_NOISE_DB))
