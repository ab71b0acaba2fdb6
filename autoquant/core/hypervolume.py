"""Hypervolume: how much of what could be gained a set of trials gains, and which mode bought it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoquant.core.objective import Kind, Objective, kinds_of
from autoquant.core.pareto import Bounds, is_nondominated
from autoquant.core.trial import Mode, Trial

__all__ = ["ModeYield", "find_mode_yields", "hypervolume", "seconds_by_mode", "trace_hypervolume"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ModeYield:
    """What one mode cost a search and bought it.

    Attributes:
        mode: `ptq`, or `qat` for the trials that were trained.
        trials: finished, whatever their state.
        seconds: that they took.
        gained: hypervolume that they added when they came, trials in the order of the record.
    """

    mode: Mode
    trials: int
    seconds: float
    gained: float

    @property
    def gained_per_minute(self) -> float | None:
        """None where no time was spent."""
        return self.gained * 60 / self.seconds if self.seconds else None


def find_mode_yields(
    trials: Sequence[Trial], objectives: Sequence[Objective], bounds: Bounds
) -> list[ModeYield]:
    """What each mode of a study cost and bought; by point estimates.

    The box is spanned by the float model and what is better than it: a latency and a size below
    float's, and a drop below the allowed one (see `Bounds.drop_range`), each as a share of its
    side. All of the box is 1; accuracy above its best reaches beyond it.

    Args:
        trials: of one study, in any order; their numbers are the order of the record.
        objectives: sides of the box; the latencies on several targets are one side.
        bounds: constraints of the study.
    """
    ordered = sorted(trials, key=lambda trial: trial.number)
    gained: dict[Mode, float] = {"ptq": 0.0, "qat": 0.0}
    before = 0.0
    for trial, volume in zip(ordered, trace_hypervolume(ordered, objectives, bounds), strict=True):
        gained[trial.mode] += volume - before
        before = volume
    return [_sum_up(mode, ordered, gained[mode]) for mode in gained]


def trace_hypervolume(
    trials: Sequence[Trial], objectives: Sequence[Objective], bounds: Bounds
) -> list[float]:
    """Hypervolume after each trial, of the box that `find_mode_yields` describes.

    Args:
        trials: of one study, in the order in which they came.
        objectives: sides of the box.
        bounds: constraints of the study.
    """
    kinds = kinds_of(objectives)
    reference = next((trial for trial in trials if trial.name == "fp32"), None)
    size = None if reference is None else reference.size_bytes
    known, volume = np.empty((0, len(kinds))), 0.0
    volumes = []
    for trial in trials:
        losses = _losses(trial, kinds, bounds, size)
        if losses is not None and not (known <= losses).all(axis=1).any():
            known = np.vstack([known, losses])
            known = known[is_nondominated(known)]
            volume = hypervolume(known, np.ones(len(kinds)))
        volumes.append(volume)
    return volumes


def hypervolume(losses: Floats, reference: Floats) -> float:
    """Volume that points dominate within a box, exactly, slice by slice along the last side.

    Args:
        losses: (n, m), lower is better.
        reference: (m,), the worst corner; points beyond it gain nothing.

    Returns:
        The volume. While et al. 2006, "A faster algorithm for calculating hypervolume",
        doi:10.1109/TEVC.2005.851275, calls it hypervolume by slicing objectives.
    """
    inside = losses[(losses < reference).all(axis=1)]
    if not len(inside):
        return 0.0
    if losses.shape[1] == 1:
        return float(reference[0] - inside.min())
    order = inside[np.argsort(inside[:, -1])]
    ends = np.append(order[1:, -1], reference[-1])
    return sum(
        float(end - row[-1]) * hypervolume(order[: index + 1, :-1], reference[:-1])
        for index, (row, end) in enumerate(zip(order, ends, strict=True))
        if end > row[-1]
    )


def _losses(trial: Trial, kinds: Sequence[Kind], bounds: Bounds, size: int | None) -> Floats | None:
    """(kinds,) shares of the box's sides; None where something was not measured."""
    if trial.state != "complete":
        return None
    best, worst = bounds.drop_range
    drop = trial.accuracy_drop
    values: dict[Kind, float | None] = {
        "accuracy": None if drop is None else (drop - best) / (worst - best),
        "latency": trial.mean_latency_ratio,
        "size": trial.size_bytes / size if trial.size_bytes and size else None,
    }
    chosen = [values[name] for name in kinds]
    return None if None in chosen else np.array(chosen, dtype=np.float64)


def _sum_up(mode: Mode, trials: Sequence[Trial], gained: float) -> ModeYield:
    own = [trial for trial in trials if trial.mode == mode]
    return ModeYield(mode, len(own), seconds_by_mode(own)[mode], gained)


def seconds_by_mode(trials: Sequence[Trial]) -> dict[Mode, float]:
    """What trials took, those with training apart from the others."""
    seconds: dict[Mode, float] = {"ptq": 0.0, "qat": 0.0}
    for trial in trials:
        seconds[trial.mode] += sum(trial.seconds.values())
    return seconds
