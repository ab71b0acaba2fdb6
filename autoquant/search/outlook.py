"""`Outlook`: what the trials so far say of recipes that were not tried, and which would pay."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from autoquant.core.pareto import is_nondominated
from autoquant.search.features import Features
from autoquant.search.history import History, Row
from autoquant.search.improvement import expected_improvement
from autoquant.search.prior import Knowledge
from autoquant.search.surrogate import Additive, LossModel

__all__ = ["Outlook", "correlate_ranks"]

Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_ROWS = 300  # that the models are fitted to, so that a long study stays quick
_RECENT = 30  # trials by which the model is judged
_LATENCY_NOISE, _SIZE_NOISE = 0.01, 1e-3
_USUAL = 0.4  # of float's size and time, until anything is measured
_EIGHTS = ("w8a8", "w8a8-full", "w8a8-reduced")
_SHARINGS = 20  # rounds in which failures are shared out among choices
_HOPELESS = 0.05  # chance of figures below which a recipe is left alone
_BENT = 3.0  # corners of the loss beyond which it counts by its logarithm


class Outlook:
    """Models of one space, fitted anew whenever something has finished.

    Args:
        features: of the space.
        knowledge: what is known beside the trials.
    """

    def __init__(self, features: Features, knowledge: Knowledge) -> None:
        self.features = features
        self.knowledge = knowledge
        self.floor, worst = knowledge.bounds.drop_range
        self.worst = worst - self.floor
        self.loss = LossModel(features, self.worst / 2, -self.floor)
        self.full_size = max(1.0, knowledge.float_bytes(features.space))
        self.front = np.empty((0, 3))
        self.corner = np.ones(3)
        self.limits = np.full(2, np.inf)
        self.inflation = 1.0

    def update(self, history: History) -> None:
        """Fit every model; trials under way make them surer, and count on the front."""
        rows = list(history.rows.values())
        known = [row for row in rows if row.is_usable]
        self._fit_costs(known, {row.name: row for row in rows})
        chosen = self._choose(known)
        codes = _stack([row.code for row in chosen], len(self.features.names))
        losses = self.bend(np.array([row.drop or 0.0 for row in chosen]))
        # how bad a hopeless recipe is says little about good ones
        noise = np.array([row.drop_sd for row in chosen]) + 0.3 * np.maximum(
            losses - 2 * self.worst, 0.0
        )
        self.loss.fit(codes, losses, noise)
        self._judge(chosen)
        self.limits = self._find_limits(rows)
        self.corner = self._find_corner(rows)
        self.front = self._find_front(rows, history.pending)
        self.fragile = self._find_fragile(rows)
        if history.pending:
            self.loss.believe(_stack(history.pending, len(self.features.names)))

    def score(self, codes: Codes) -> Floats:
        """(n,) expected gain in hypervolume; where none can be gained, nearness to the bounds."""
        mean, deviation = self.loss.predict(codes)
        deviation = deviation * self.inflation
        costs = self._costs(codes)
        known = self._mask(costs)
        if "accuracy" in self.knowledge.objectives:
            gains = expected_improvement(mean, deviation, known, self.front, self.corner)
        else:
            flat, corner = np.full(len(codes), -1.0), np.append(1.0, self.corner[1:])
            gains = expected_improvement(flat, 1e-6 * deviation, known, self.front, corner)
            if self.knowledge.bounds.max_drop is not None:
                z = (self.corner[0] - mean) / np.maximum(deviation, 1e-12)
                gains = gains / (1 + np.exp(-1.7 * np.clip(z, -20, 20)))
        gains = gains * self._survival(codes) * self._is_within(costs)
        if gains.max(initial=0.0) > 1e-12:
            return np.asarray(gains)
        excess = np.column_stack([mean, known, costs]) / np.append(self.corner, self.limits) - 1
        return np.asarray(-np.maximum(excess, 0.0).sum(axis=1) * 1e-3 + gains)

    @property
    def is_lost(self) -> bool:
        """Whether the model's word on the last trials was worth nothing."""
        return self.rank_correlation is not None and self.rank_correlation < 0.1

    def members(self, history: History) -> list[tuple[int, ...]]:
        """Codes of trials that are on the front, by the models' latency, or near the corner."""
        rows = [row for row in history.rows.values() if row.is_usable and row.state != "failed"]
        if not rows:
            return []
        points = self._locate(rows)
        keep = is_nondominated(np.maximum(points, 0.0))
        keep[np.argsort(np.maximum(points / self.corner, 0.0).max(axis=1))[:8]] = True
        return [row.code for row, is_kept in zip(rows, keep, strict=True) if is_kept and row.code]

    def marginal_costs(self, code: Codes) -> Floats:
        """(l,) what each column of a layer is expected to cost at this recipe."""
        pairs = self.features.pairs
        changed = np.repeat(code[None, :], len(pairs) + 1, axis=0)
        for index, (place, choice) in enumerate(pairs):
            changed[index, place] = choice
        mean, _ = self.loss.predict(changed)
        return np.asarray(mean[:-1] - mean[-1])

    def _fit_costs(self, rows: Sequence[Row], named: Mapping[str | None, Row]) -> None:
        """Latency and size: additive but for a little; baselines need not be of the space."""
        recent = rows[-_ROWS:]
        sized = [row for row in recent if row.size is not None]
        timed = [row for row in recent if row.latency is not None]
        reference, eight = named.get("fp32"), _find_eight(named)
        if reference is not None and reference.size:
            self.full_size = float(reference.size)
        sizes = [(row.size or 0) / self.full_size for row in sized]
        expected = self.features.bytes / self.full_size
        usual = (eight.size or 0) / self.full_size if eight else 0.0
        start = sizes[0] if sizes else usual or _USUAL
        prior = self._expect(start, expected, 0.05, _SIZE_NOISE)
        self.size = self._fit(prior, sized, sizes, _SIZE_NOISE)
        ratios = [row.latency or 0.0 for row in timed]
        usual = (eight.latency or 0.0) if eight else 0.0
        prior = self.latency_prior(ratios[0] if ratios else usual or _USUAL)
        self.latency = self._fit(prior, timed, ratios, _LATENCY_NOISE)

    def latency_prior(self, start: float) -> Additive:
        """What is expected of latency ratios before any trial but one of ratio `start`."""
        return self._expect(start, self.features.latencies, 0.5, _LATENCY_NOISE)

    def _expect(self, start: float, expected: Floats, doubt: float, noise: float) -> Additive:
        options = len(self.features.option_columns)
        typical = float(np.abs(expected).mean()) if len(expected) else 0.0
        spread = doubt * (np.abs(expected) + 0.2 * typical) + 1e-5
        return Additive(
            np.concatenate([[start], expected, np.zeros(options)]),
            np.concatenate([[0.3], spread, np.full(options, noise)]),
        )

    def _fit(
        self, prior: Additive, rows: Sequence[Row], values: Sequence[float], noise: float
    ) -> Additive:
        codes = _stack([row.code for row in rows], len(self.features.names))
        return prior.fit(self.cost_features(codes), np.array(values), np.full(len(values), noise))

    def cost_features(self, codes: Codes) -> Floats:
        """Features of latency and size: a constant, layers, options."""
        layers, options = self.features.expand(codes)
        half = len(self.features.option_columns)
        return np.hstack([np.ones((len(codes), 1)), layers, options[:, :half]])

    def _others(self, codes: Codes) -> Floats:
        """(n, 2) latency ratio and share of the float model's size; zero for no objective."""
        return self._mask(self._costs(codes))

    def _costs(self, codes: Codes) -> Floats:
        """(n, 2) the same, objective or not."""
        features = self.cost_features(codes)
        return np.column_stack([self.latency.predict(features), self.size.predict(features)])

    def _is_within(self, costs: Floats) -> npt.NDArray[np.bool_]:
        """(n,) whether bounds of latency and size are kept, which need not be objectives."""
        return np.asarray((costs <= self.limits).all(axis=1))

    def _mask(self, known: Floats) -> Floats:
        wanted = self.knowledge.objectives
        return np.asarray(known * np.array(["latency" in wanted, "size" in wanted], dtype=float))

    def bend(self, drops: Floats) -> Floats:
        """Losses: drops above the floor, by their logarithm far beyond the corner."""
        scale = _BENT * self.worst
        above = drops - self.floor
        return np.asarray(
            np.where(above > scale, scale * (1 + np.log(np.maximum(above, scale) / scale)), above)
        )

    def unbend(self, losses: Floats) -> Floats:
        """Drops of losses; the inverse of `bend`."""
        scale = _BENT * self.worst
        far = scale * np.exp(np.maximum(losses, scale) / scale - 1)
        return np.asarray(np.where(losses > scale, far, losses) + self.floor)

    def _choose(self, rows: Sequence[Row]) -> list[Row]:
        """Rows to learn from: the last ones, and the best of those before."""
        if len(rows) <= _ROWS:
            return list(rows)
        recent, before = rows[-_ROWS // 3 :], rows[: -_ROWS // 3]
        points = np.maximum(self._locate(before) / self.corner, 0.0)
        best = np.argsort(points.sum(axis=1) + 10 * np.maximum(points.max(axis=1) - 1, 0))
        return [before[index] for index in np.sort(best[: _ROWS - len(recent)])] + list(recent)

    def _judge(self, rows: Sequence[Row]) -> None:
        """How far off the model was on the last trials, each predicted from all others."""
        self.rank_correlation: float | None = None
        self.inflation = 1.0
        if len(rows) < _RECENT:
            return
        expected, spread = self.loss.leave_one_out()
        errors = (self.loss.losses - expected) / np.maximum(spread, 1e-12)
        self.inflation = float(np.clip(np.sqrt(np.mean(errors[-_RECENT:] ** 2)), 1.0, 3.0))
        found, wanted = expected[-_RECENT:], self.loss.losses[-_RECENT:]
        if np.ptp(found) > 0 and np.ptp(wanted) > 0:
            is_telling = np.var(wanted - found) > np.var(wanted)
            self.rank_correlation = correlate_ranks(found, wanted) if is_telling else 1.0

    def _find_corner(self, rows: Sequence[Row]) -> Floats:
        """The worst corner: the allowed drop, float's latency, and the size of 8-bit layers.

        Where 8 bits lose accuracy there is something to gain above their size too, and where 4 bits
        are slower than float, beyond its latency.
        """
        eights = self.features.references[None, :]
        latency, size = self._others(eights)[0] if len(eights[0]) else (0.5, 0.25)
        eight = [
            row.drop
            for row in rows
            if row.name in ("w8a8", "w8a8-reduced") and row.drop is not None
        ]
        lost = min(eight, default=self.floor) - self.floor
        slack = float(np.clip(lost / self.worst, 0.0, 1.0))
        size = 1.002 * size + slack * max(0.0, 1.0 - size)
        four = max((row.latency or 0.0 for row in rows if row.name == "w4a8"), default=0.0)
        slowest = max(1.0, 1.1 * latency, 1.02 * four)
        sides = np.minimum([slowest, max(size, 1e-3)], self.limits)
        corner = np.append(self.worst, sides)
        wanted = self.knowledge.objectives
        return np.where([True, "latency" in wanted, "size" in wanted], corner, 1.0)

    def _find_limits(self, rows: Sequence[Row]) -> Floats:
        """(2,) bounds of the latency ratio and of the share of the float model's size."""
        bounds, limits = self.knowledge.bounds, np.full(2, np.inf)
        timed = [row.reference_ms for row in rows if row.reference_ms]
        if bounds.max_latency_ms is not None and timed:
            limits[0] = bounds.max_latency_ms / float(np.median(timed))
        if bounds.max_size_mb is not None:
            limits[1] = 1e6 * bounds.max_size_mb / self.full_size
        return limits

    def _find_front(self, rows: Sequence[Row], pending: Sequence[tuple[int, ...]]) -> Floats:
        """(f, 3) what is there; trials under way as they are expected, as `believe` takes them.

        What is larger or slower must beat a trial by more than chance, or it will not stand on
        the front beside it (see `core.front`): so much is taken off the losses of what is there.
        """
        complete = [row for row in rows if row.state == "complete" and self._admits(row)]
        points = self._locate(complete)
        points[:, 0] -= _typical([row.compared_sd for row in complete if row.is_usable])
        if pending:
            points = np.vstack([points, self._expect_pending(pending)])
        if "accuracy" not in self.knowledge.objectives:
            points[:, 0] = 0.0
        points = np.maximum(points[(points < self.corner).all(axis=1)], 0.0)
        return points[is_nondominated(points)]

    def _admits(self, row: Row) -> bool:
        """Whether a trial keeps the bounds, as far as it was measured.

        A bound of the latency is about the first target, and is taken here for one of their mean.
        """
        worst = self.knowledge.bounds.max_drop
        is_right = row.drop is not None and (worst is None or row.drop <= worst)
        return is_right and bool((self._measured(row) <= self.limits).all())

    def _measured(self, row: Row) -> Floats:
        """(2,) latency ratio and share of the float model's size."""
        return np.array([row.latency or 0.0, (row.size or 0) / self.full_size])

    def _expect_pending(self, pending: Sequence[tuple[int, ...]]) -> Floats:
        """(f, 3) what is expected of trials under way, those left out that break a bound."""
        codes = _stack(pending, len(self.features.names))
        mean, _ = self.loss.predict(codes)
        costs = self._costs(codes)
        keep = self._is_within(costs)
        if self.knowledge.bounds.max_drop is not None:
            keep &= mean <= self.corner[0]
        return np.column_stack([mean, self._mask(costs)])[keep]

    def _locate(self, rows: Sequence[Row]) -> Floats:
        """(n, 3) of trials; latency and size by the models, which know less noise."""
        losses = self.bend(np.array([1.0 if row.drop is None else row.drop for row in rows]))
        measured = self._mask(np.array([self._measured(row) for row in rows]).reshape(-1, 2))
        inside = np.array([row.code is not None for row in rows], dtype=bool)
        codes = _stack([row.code for row in rows if row.code], len(self.features.names))
        if inside.any() and codes.shape[1]:
            measured[inside] = self._others(codes)
        return np.column_stack([losses, measured])

    def _find_fragile(self, rows: Sequence[Row]) -> Floats:
        """How often each choice of each parameter makes a recipe fail, by itself.

        A recipe fails if any of its choices makes it, so a failure is shared out among them: what
        was in many failures explains them, and those beside it are cleared (a noisy or, fitted by
        expectation and maximization). One trial that survived is counted for every choice.
        """
        tried = [row for row in rows if row.code is not None]
        hot = self.features.one_hot(_stack([row.code for row in tried], len(self.features.names)))
        failed = hot[[row.state == "failed" for row in tried]]
        counts = hot.sum(axis=0) + 0.5
        rates = failed.sum(axis=0) / counts
        for _ in range(_SHARINGS if len(failed) else 0):
            fails = 1.0 - self._survive(failed, rates)
            rates = rates * (failed / np.maximum(fails, 1e-9)[:, None]).sum(axis=0) / counts
        return np.asarray(rates)

    def _survival(self, codes: Codes) -> Floats:
        """(n,) how likely a recipe has figures at all; none is hoped for where that is small."""
        survival = self._survive(self.features.one_hot(codes), self.fragile)
        return np.where(survival < _HOPELESS, 0.0, survival)

    @staticmethod
    def _survive(hot: Floats, rates: Floats) -> Floats:
        return np.asarray(np.exp(hot @ np.log1p(-np.minimum(rates, 1 - 1e-9))))


def _find_eight(named: Mapping[str | None, Row]) -> Row | None:
    """The baseline of 8 bits."""
    return next((named[name] for name in _EIGHTS if name in named), None)


def _typical(deviations: Sequence[float]) -> float:
    """The median of those that are known."""
    known = [value for value in deviations if value > 0]
    return float(np.median(known)) if known else 0.0


def _stack(codes: Sequence[tuple[int, ...] | None], width: int) -> Codes:
    kept = [code for code in codes if code is not None]
    return np.array(kept, dtype=np.int64).reshape(len(kept), width)


def correlate_ranks(one: Floats, other: Floats) -> float:
    """Spearman's rank correlation, ties in the order in which they come."""
    ranks, others = (np.argsort(np.argsort(item)).astype(np.float64) for item in (one, other))
    return float(np.corrcoef(ranks, others)[0, 1])
