"""Fronts that ignore noise: which trials no other trial beats, and how sure that is.

A trial dominates another if it is significantly better in one objective (95 %) and worse in
none by more than one standard error. That is the rule by which Breiman et al. 1984,
"Classification and Regression Trees", section 3.4.3, prefer the smaller of two trees; to ask
for significance on the losing side too would drop members whose advantage the images are too
few to prove. Accuracy is compared on the same samples (McNemar), latency by the interval of
the ratio, size exactly. Where nothing is significant, the point estimates decide, but never
latency alone: of two identical files one is always a little faster by chance.

Significance is not transitive: A may dominate B and B dominate C while A does not dominate C.
The front is the kernel of the relation: no member dominates another, and every trial that is
no member is dominated by one.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from autoquant.core.evidence import DRAWS, mcnemar_z, resample_counts
from autoquant.core.noise import Z95
from autoquant.core.objective import Kind, Objective, kind_of, target_of
from autoquant.core.pareto import Bounds, is_nondominated
from autoquant.core.trial import Trial

__all__ = [
    "comparable_log_ratios",
    "decide",
    "exact_z",
    "extend_front",
    "find_common_front",
    "find_front",
    "find_plain_front",
    "front_probabilities",
]

_WORSE = 1.0
_ROUNDING = 1e-12
# With fewer, what all of them changed by cannot be told from what one of them did: taking it
# out would give a lucky member its luck back.
_FEWEST_FOR_SHIFT = 4
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp]
_Measure = Callable[[Index, Index], Floats]
Dominates = Callable[[Index, Index], Bools]


def find_front(
    trials: Sequence[Trial], objectives: Sequence[Objective], bounds: Bounds | None = None
) -> list[Trial]:
    """Complete trials within bounds that no other dominates, by the first objective, best first.

    Args:
        trials: of one study.
        objectives: what counts.
        bounds: constraints; trials outside are no candidates.
    """
    candidates = _candidates(trials, bounds)
    if not candidates:
        return []
    losses = _comparable_losses(candidates, objectives)
    chosen = _find_kernel(_Dominance(candidates, objectives), losses)
    return _by_first_objective([candidates[index] for index in chosen], objectives)


def extend_front(
    front: Sequence[Trial],
    trial: Trial,
    trials: Sequence[Trial],
    objectives: Sequence[Objective],
    bounds: Bounds | None = None,
) -> list[Trial]:
    """The front with one trial more, mostly without comparing all of them again.

    What a member dominates changes nothing, and what neither dominates a member nor is dominated
    by one joins them: in a relation without circles there is one kernel alone.

    Args:
        front: of the trials before.
        trial: the new one.
        trials: all of them, the new one included.
        objectives: what counts.
        bounds: constraints.
    """
    if not _candidates([trial], bounds):
        return list(front)
    both = [*front, trial]
    if any(item.timing_session for item in both):  # what all have changed by counts then
        return find_front(trials, objectives, bounds)
    every = np.arange(len(both))
    dominance = _Dominance(both, objectives)(every, every)
    if dominance[:-1, -1].any():
        return list(front)
    if dominance[-1, :-1].any():
        return find_front(trials, objectives, bounds)
    return _by_first_objective(both, objectives)


def find_common_front(
    trials: Sequence[Trial],
    apart: Sequence[Trial],
    groups: Sequence[str],
    objectives: Sequence[Objective],
) -> Bools:
    """Which trials of several groups no other dominates, (n,).

    Args:
        trials: complete ones, as those of one group compare with each other.
        apart: the same, as those of different groups do.
        groups: of each.
        objectives: what counts.
    """
    if not trials:
        return np.zeros(0, dtype=bool)
    within, between = _Dominance(trials, objectives), _Dominance(apart, objectives)
    owner = np.unique(np.array(groups), return_inverse=True)[1]

    def dominates(rows: Index, columns: Index) -> Bools:
        is_own = owner[rows][:, None] == owner[columns][None, :]
        return np.where(is_own, within(rows, columns), between(rows, columns))

    chosen = _find_kernel(dominates, _comparable_losses(apart, objectives))
    return np.isin(np.arange(len(trials)), chosen)


def find_plain_front(
    trials: Sequence[Trial], objectives: Sequence[Objective], bounds: Bounds | None = None
) -> list[Trial]:
    """The same by point estimates alone: what one gets who takes every figure as exact."""
    candidates = _candidates(trials, bounds)
    if not candidates:
        return []
    keep = is_nondominated(_losses(candidates, objectives))
    chosen = [trial for trial, kept in zip(candidates, keep, strict=True) if kept]
    return _by_first_objective(chosen, objectives)


def front_probabilities(
    trials: Sequence[Trial],
    objectives: Sequence[Objective],
    bounds: Bounds | None = None,
    of: Sequence[Trial] | None = None,
) -> dict[str, float]:
    """How often each trial is on the plain front when everything is drawn anew, by digest.

    Accuracies are drawn by resampling the images, the same for all trials; latencies within
    their noise.

    Args:
        trials: of one study.
        objectives: what counts.
        bounds: constraints; trials outside are no candidates.
        of: candidates that are asked for; all if left out, which takes longer.
    """
    candidates = _candidates(trials, bounds)
    if not candidates:
        return {}
    wanted = None if of is None else {trial.digest for trial in of}
    index = [i for i, t in enumerate(candidates) if wanted is None or t.digest in wanted]
    drawn = _draw_losses(candidates, objectives)
    on_front = np.mean([_is_undominated(losses, index) for losses in drawn], axis=0)
    return {candidates[i].digest: float(p) for i, p in zip(index, on_front, strict=True)}


def _is_undominated(losses: Floats, index: Sequence[int]) -> Bools:
    """Of some rows alone, whether no row dominates them; see `is_nondominated`."""
    if len(index) == len(losses):
        return is_nondominated(losses)
    columns = np.ascontiguousarray(losses.T)  # a long row at a time is quick
    return np.array([not _dominates_any(columns, losses[i][:, None]) for i in index])


def _dominates_any(columns: Floats, row: Floats) -> bool:
    """Whether a column of (objectives, n) dominates one of (objectives, 1)."""
    as_good = np.logical_and.reduce(columns <= row, axis=0)
    return bool((columns[:, as_good] < row).any())


def decide(z: Floats, gains: Floats, accuracy: int | None) -> Bools:
    """Whether the first of two models dominates the second.

    Args:
        z: (objectives, ...) difference in standard errors, positive where the first is better.
        gains: (objectives, ...) difference of the point estimates, likewise.
        accuracy: which row is the accuracy; None if it does not count.

    Returns:
        (...) bool.
    """
    better, worse = (z > Z95).any(axis=0), (z < -_WORSE).any(axis=0)
    if accuracy is None:
        return np.asarray(better & ~worse)
    is_ahead = (gains >= 0).all(axis=0) & (gains[accuracy] > 0)
    return np.asarray(~worse & (better | is_ahead))


def _candidates(trials: Sequence[Trial], bounds: Bounds | None) -> list[Trial]:
    bounds = bounds or Bounds()
    return [trial for trial in trials if trial.state == "complete" and bounds.admits(trial)]


def _comparable_losses(trials: Sequence[Trial], objectives: Sequence[Objective]) -> Floats:
    """Losses with latencies as they were during the search; see `comparable_log_ratios`."""
    losses = _losses(trials, objectives)
    for column, name in enumerate(objectives):
        if kind_of(name) == "latency":
            losses[:, column] = np.exp(comparable_log_ratios(_see(trials, name)))
    return losses


def _losses(trials: Sequence[Trial], objectives: Sequence[Objective]) -> Floats:
    return np.array([[trial.objective(name) for name in objectives] for trial in trials])


def _by_first_objective(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    order = np.lexsort(_losses(trials, objectives).T[::-1])
    return [trials[index] for index in order]


class _Dominance:
    """Which trials dominate which; any part of the (n, n) table, which may be large, on demand."""

    def __init__(self, trials: Sequence[Trial], objectives: Sequence[Objective]) -> None:
        makers: dict[Kind, Callable[[Sequence[Trial]], _Measure]] = {
            "accuracy": _AccuracyZ, "latency": _LatencyZ, "size": _SizeZ,
        }  # fmt: skip
        self._measures = [makers[kind_of(name)](_see(trials, name)) for name in objectives]
        self._losses = _comparable_losses(trials, objectives).T
        self._accuracy = objectives.index("accuracy") if "accuracy" in objectives else None

    def __call__(self, rows: Index, columns: Index) -> Bools:
        """(rows, columns): whether the row dominates the column."""
        z = np.stack([measure(rows, columns) for measure in self._measures])
        gains = self._losses[:, None, columns] - self._losses[:, rows, None]
        return decide(z, gains, self._accuracy)


def _see(trials: Sequence[Trial], objective: Objective) -> Sequence[Trial]:
    """Trials as they are seen from the target that an objective names."""
    return [trial.seen_from(target_of(objective)) for trial in trials]


class _SizeZ:
    """Differences of sizes in standard errors; (rows, columns), positive where a row is better."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._sizes = np.array([trial.objective("size") for trial in trials])

    def __call__(self, rows: Index, columns: Index) -> Floats:
        return exact_z(self._sizes[None, columns] - self._sizes[rows, None])


def exact_z(gains: Floats) -> Floats:
    """Standard errors of a difference that is known exactly: none, or infinitely many."""
    return np.where(gains == 0, 0.0, np.copysign(np.inf, gains))


class _LatencyZ:
    """The same of latencies, by the intervals of the ratios."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._ratios = comparable_log_ratios(trials)
        self._variance = np.array([trial.latency_sd for trial in trials]) ** 2

    def __call__(self, rows: Index, columns: Index) -> Floats:
        error = np.sqrt(self._variance[rows, None] + self._variance[None, columns])
        gains = self._ratios[None, columns] - self._ratios[rows, None]
        return np.where(error > 0, gains / np.where(error > 0, error, 1.0), exact_z(gains))


def comparable_log_ratios(trials: Sequence[Trial]) -> Floats:
    """(n,) logarithms of latency ratios as they were during the search.

    Trials that were timed anew, together, found the machine in another state; what all of
    them have changed by is taken out before they are compared with trials that were not.
    """
    ratios = np.log([trial.objective("latency") for trial in trials])
    changes: dict[str, list[float]] = {}
    for trial, ratio in zip(trials, ratios, strict=True):
        if trial.timing is not None and trial.timing.session and trial.timing.search_ratio:
            change = float(ratio) - math.log(trial.timing.search_ratio)
            changes.setdefault(trial.timing.session, []).append(change)
    shifts = {
        session: float(np.median(values))
        for session, values in changes.items()
        if len(values) >= _FEWEST_FOR_SHIFT
    }
    return np.array([
        ratio - shifts.get(trial.timing_session or "", 0.0)
        for trial, ratio in zip(trials, ratios, strict=True)
    ])  # fmt: skip


class _AccuracyZ:
    """The same of accuracies, on the same samples."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._right = _stack_hits(trials)
        self._draws = None if self._right is not None else _accuracy_draws(trials)
        self._accuracy = np.array([trial.accuracy for trial in trials], dtype=np.float64)

    def __call__(self, rows: Index, columns: Index) -> Floats:
        if self._right is not None:
            ours, theirs = self._right[rows], self._right[columns]
            both = (ours @ theirs.T).astype(np.float64)
            alone = ours.sum(axis=1)[:, None] - both
            return mcnemar_z(alone, theirs.sum(axis=1)[None, :] - both)
        assert self._draws is not None
        error = _draw_errors(self._draws[rows], self._draws[columns])
        gains = self._accuracy[rows, None] - self._accuracy[None, columns]
        return np.where(error > 0, gains / np.where(error > 0, error, 1.0), exact_z(gains))


def _draw_errors(ours: Floats, theirs: Floats) -> Floats:
    """Standard errors of all differences of rows, (n, m), from (n, DRAWS) and (m, DRAWS).

    By covariances: all differences of all draws would be large.
    """
    ours = ours - ours.mean(axis=1, keepdims=True)
    theirs = theirs - theirs.mean(axis=1, keepdims=True)
    total = (ours**2).mean(axis=1)[:, None] + (theirs**2).mean(axis=1)[None, :]
    variance = total - 2 * (ours @ theirs.T) / ours.shape[1]
    # what is left of equal rows by rounding is no error
    return np.sqrt(np.where(variance > _ROUNDING * total, variance, 0.0))


def _stack_hits(trials: Sequence[Trial]) -> npt.NDArray[np.float32] | None:
    """(n, samples) whether each sample was right; None unless all trials saw the same ones."""
    found = [trial.evidence.hits for trial in trials if trial.evidence is not None]
    hits = [item for item in found if item is not None]
    if len(hits) == len(trials) and len({len(item) for item in hits}) == 1:
        return np.stack(hits).astype(np.float32)
    return None


def _accuracy_draws(trials: Sequence[Trial]) -> Floats:
    """(n, DRAWS); constant for trials that kept no evidence."""
    right = _stack_hits(trials)
    if right is not None:  # as `Evidence.draws`, all at once
        samples = right.shape[1]
        return np.asarray(right @ resample_counts(samples).T / samples, dtype=np.float64)
    return np.array([
        np.full(DRAWS, trial.accuracy or 0.0) if trial.evidence is None else trial.evidence.draws
        for trial in trials
    ])  # fmt: skip


def _draw_losses(trials: Sequence[Trial], objectives: Sequence[Objective]) -> Floats:
    """(DRAWS, n, objectives)."""
    generator = np.random.default_rng(0)
    columns = []
    for name in objectives:
        exact = np.array([trial.objective(name) for trial in trials])
        match kind_of(name):
            case "accuracy":
                column = -_accuracy_draws(trials).T
            case "latency":
                seen = _see(trials, name)
                spread = np.array([trial.latency_sd for trial in seen])
                noise = generator.standard_normal((DRAWS, len(seen)))
                column = np.exp(comparable_log_ratios(seen) + spread * noise)
            case "size":
                column = np.broadcast_to(exact, (DRAWS, len(trials)))
        columns.append(column)
    return np.stack(columns, axis=2)


def _find_kernel(dominates: Dominates, losses: Floats) -> list[int]:
    """Rows that no chosen row dominates, such that every other is dominated by a chosen one.

    Where the relation runs in a circle, the best by point estimates breaks it.
    """
    order = np.lexsort(losses.T[::-1])
    rest = order  # always in this order
    kernel: list[int] = []
    while len(rest):
        free = _find_free(dominates, losses, rest)
        chosen = free if len(free) else rest[:1]
        kernel += chosen.tolist()
        is_left = ~dominates(chosen, rest).any(axis=0) & ~np.isin(rest, chosen)
        rest = rest[is_left]
    return kernel


def _find_free(dominates: Dominates, losses: Floats, rest: Index) -> Index:
    """Those among the rest that none of the rest dominates.

    Most are dominated by one of the best by point estimates: what is not is few, and only
    that is compared with all.
    """
    best = rest[is_nondominated(losses[rest])]
    left = rest[~dominates(best, rest).any(axis=0)]
    return left[~dominates(rest, left).any(axis=0)]
