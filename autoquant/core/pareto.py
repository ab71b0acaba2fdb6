"""Dominance by point estimates, bounds, and picks from a front."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoquant.core.objective import Objective
from autoquant.core.trial import Trial

__all__ = ["Bounds", "find_knee", "is_nondominated", "pick_fastest", "pick_smallest"]


_WORST_DROP = 0.1  # that counts where no drop is bounded: ten points
_BEYOND = 0.01  # by how much a model may be better than a bound that is no loss


@dataclass(frozen=True)
class Bounds:
    """What a model may cost; None is no bound.

    Attributes:
        max_drop: largest accuracy drop against float, as a fraction.
        max_latency_ms: longest median latency, milliseconds.
        max_size_mb: largest file, megabytes of 10**6 bytes.
    """

    max_drop: float | None = None
    max_latency_ms: float | None = None
    max_size_mb: float | None = None

    def overlaid(self, other: "Bounds") -> "Bounds":
        """These bounds where the other has none."""
        return Bounds(
            self.max_drop if other.max_drop is None else other.max_drop,
            self.max_latency_ms if other.max_latency_ms is None else other.max_latency_ms,
            self.max_size_mb if other.max_size_mb is None else other.max_size_mb,
        )

    @property
    def drop_range(self) -> tuple[float, float]:
        """Best and worst drop that count in a hypervolume.

        From no drop to the bound; where the bound is no drop or a gain, from one point better.
        """
        if self.max_drop is None:
            return 0.0, _WORST_DROP
        return (0.0 if self.max_drop > 0 else self.max_drop - _BEYOND), self.max_drop

    def admits(self, trial: Trial) -> bool:
        """Whether a trial stays within every bound; an unmeasured figure does not."""
        size_mb = None if trial.size_bytes is None else trial.size_bytes / 1e6
        pairs = (
            (trial.accuracy_drop, self.max_drop),
            (trial.latency_ms, self.max_latency_ms),
            (size_mb, self.max_size_mb),
        )
        return all(
            bound is None or (value is not None and value <= bound) for value, bound in pairs
        )


def is_nondominated(losses: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Rows that no other row dominates.

    A row dominates another if it is nowhere larger and somewhere smaller. Equal rows do not
    dominate each other.

    Args:
        losses: (n, m), lower is better.

    Returns:
        (n,) bool. Deb et al. 2002, "A fast and elitist multiobjective genetic algorithm:
        NSGA-II", doi:10.1109/4235.996017, section III.
    """
    keep = np.ones(len(losses), dtype=bool)
    for index in np.lexsort(losses.T[::-1]):
        if keep[index]:
            worse = (losses >= losses[index]).all(axis=1) & (losses > losses[index]).any(axis=1)
            keep &= ~worse
    return keep


def find_knee(front: Sequence[Trial], objectives: Sequence[Objective]) -> Trial | None:
    """The member nearest to the ideal point, every objective scaled to its range on the front.

    Branke et al. 2004, "Finding knees in multi-objective optimization",
    doi:10.1007/978-3-540-30217-9_73, discusses this choice among others.
    """
    if not front:
        return None
    losses = np.array([[trial.objective(name) for name in objectives] for trial in front])
    spread = np.ptp(losses, axis=0)
    scaled = (losses - losses.min(axis=0)) / np.where(spread > 0, spread, 1.0)
    return front[int(np.argmin(np.linalg.norm(scaled, axis=1)))]


def pick_fastest(front: Sequence[Trial], bounds: Bounds) -> Trial | None:
    """The member of least latency ratio within the bounds."""
    return _pick(front, bounds, "latency")


def pick_smallest(front: Sequence[Trial], bounds: Bounds) -> Trial | None:
    """The member of least size within the bounds."""
    return _pick(front, bounds, "size")


def _pick(front: Sequence[Trial], bounds: Bounds, objective: Objective) -> Trial | None:
    feasible = [trial for trial in front if bounds.admits(trial)]
    return min(feasible, key=lambda trial: trial.objective(objective), default=None)
