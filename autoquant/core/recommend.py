"""Which member of a front to take, and for what reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autoquant.core.objective import Objective
from autoquant.core.pareto import Bounds, find_knee, pick_fastest, pick_smallest
from autoquant.core.trial import Trial

__all__ = ["Recommendation", "find_nearest_misses", "recommend"]

RecommendationKind = Literal["knee", "fastest", "smallest", "most accurate"]

_DEFAULT_DROP = 0.01
_FASTER = 0.98  # less than the interval that a timing aims at is no difference


@dataclass(frozen=True)
class Recommendation:
    """One member and what it was chosen for.

    Attributes:
        kind: what it is best at.
        condition: within what, in words; empty for none.
        trial: the member.
        next_faster: the member that loses least among those that are faster, or None.
    """

    kind: RecommendationKind
    condition: str
    trial: Trial
    next_faster: Trial | None


def recommend(
    front: Sequence[Trial], objectives: Sequence[Objective], bounds: Bounds
) -> list[Recommendation]:
    """The knee, the fastest and the smallest within the allowed drop, the most accurate.

    Args:
        front: members, all within bounds.
        objectives: what the front is by.
        bounds: without an allowed drop, one point is taken; without a latency bound, the most
            accurate is sought among those that are faster than float.
    """
    drop = bounds.max_drop if bounds.max_drop is not None else _DEFAULT_DROP
    within = f"within a drop of {drop * 100:g} points"
    allowed = Bounds(drop, bounds.max_latency_ms, bounds.max_size_mb)
    measured = [trial for trial in front if trial.latency_ratio is not None]
    picks: list[tuple[RecommendationKind, str, Trial | None]] = [
        ("knee", "", find_knee(front, objectives)),
        ("fastest", within, pick_fastest(measured, allowed)),
        ("smallest", within, pick_smallest(front, allowed)),
        ("most accurate", _latency_words(bounds), _pick_accurate(measured, bounds)),
    ]
    return [
        Recommendation(kind, condition, trial, _find_next_faster(trial, measured))
        for kind, condition, trial in picks
        if trial is not None
    ]


def find_nearest_misses(trials: Sequence[Trial], bounds: Bounds) -> list[Trial]:
    """Trials by how far they exceed the bounds, the nearest first.

    Each excess is relative to its bound. Trials that were stopped early, which is what bounds that
    nothing meets do to most, count by what was seen of them, if that was too much.
    """
    excess = {trial.number: _excess(trial, bounds) for trial in trials}
    misses = [
        trial
        for trial in trials
        if trial.state == "complete" or (trial.partial is not None and excess[trial.number] > 0)
    ]
    return sorted(misses, key=lambda trial: excess[trial.number])


def _excess(trial: Trial, bounds: Bounds) -> float:
    size_mb = None if trial.size_bytes is None else trial.size_bytes / 1e6
    figures = trial.partial or trial
    pairs = (
        (figures.accuracy_drop, bounds.max_drop),
        (figures.latency_ms, bounds.max_latency_ms),
        (size_mb, bounds.max_size_mb),
    )
    return sum(
        max(0.0, value - bound) / max(abs(bound), 0.01)
        for value, bound in pairs
        if bound is not None and value is not None
    )


def _latency_words(bounds: Bounds) -> str:
    if bounds.max_latency_ms is None:
        return "among those faster than float"
    return f"within {bounds.max_latency_ms:g} ms"


def _pick_accurate(front: Sequence[Trial], bounds: Bounds) -> Trial | None:
    def is_fast(trial: Trial) -> bool:
        if bounds.max_latency_ms is None:
            return (trial.latency_ratio or 1.0) < _FASTER
        return (trial.latency_ms or 0.0) <= bounds.max_latency_ms

    fast = [trial for trial in front if is_fast(trial)]
    return max(fast, key=lambda trial: trial.accuracy or 0.0, default=None)


def _find_next_faster(trial: Trial, front: Sequence[Trial]) -> Trial | None:
    limit = (trial.latency_ratio or 0.0) * _FASTER
    faster = [other for other in front if (other.latency_ratio or 0.0) < limit]
    return max(faster, key=lambda other: other.accuracy or 0.0, default=None)
