"""`Forecast`: how long a search has still to go, by what its trials took so far.

One forecast for the command line and the app, of figures that every record has. What a mean over
all trials gets wrong: the baselines are dearer or cheaper than what comes after them, the first
trials fill caches, candidates that are turned away cost a fraction, trainings a multiple, and at
the end the front is timed and reported once more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from autoquant.core.trial import Trial

__all__ = [
    "ClosingForecast",
    "Cost",
    "Forecast",
    "forecast_closing",
    "forecast_rest",
    "forecast_search",
    "forecast_trial",
]

# Constants by the recorded searches in results/published/search-benchmark/forecast.
_SLOW = ("ort-dynamic", "litert-dynamic")  # take as long as no other trial
_QUANTIZED = ("w8a8", "w8a8-full", "w8a8-reduced", "w4a8")  # baselines that are built as trials are
_TRUST = 2.0  # trials that the baselines count as
_RECENT = 12
_REJECTED, _REJECTION_TRUST = 0.35, 8.0  # share turned away, and trials that this counts as
_REJECTION_COST = 0.25  # of a full trial, until one was seen
_CACHED, _LATEST = 0.5, 5  # of what quantizing took of late: more and more of it is kept
_DOUBT = 0.35  # of the first forecast, relative
_CERTAIN = 0.2  # below, one figure is told
_SECOND_LOOKS = 0.25  # of those turned away, evaluated after all
_FEWEST_MEMBERS = 5
_REPORTING = 1.3  # of reading the search split
_ROUNDS = 1.5  # of timing the front: who falls off lets others in
_LAST_TRAINED, _UNUSUAL = 3, 3.0
_IN_MINUTES = 180.0


@dataclass(frozen=True)
class Cost:
    """What one finished trial took.

    Attributes:
        work: seconds by stage, as the trial's record has them.
        wall_s: from the end of the trial before to its own; None where nobody looked.
        name: of a baseline, or None.
        is_trained: it was trained.
        is_full: it was not turned away; one that failed took as long as others.
    """

    work: Mapping[str, float]
    wall_s: float | None = None
    name: str | None = None
    is_trained: bool = False
    is_full: bool = True

    @classmethod
    def of(cls, trial: Trial, wall_s: float | None = None) -> Self:
        """Of a trial's record."""
        is_full = trial.state != "rejected"
        return cls(trial.seconds, wall_s, trial.name, trial.recipe.is_trained, is_full)

    @property
    def work_s(self) -> float:
        """All stages together; of one without any, as records of failures had none, the clock's."""
        return sum(self.work.values()) or self.wall_s or 0.0

    @property
    def is_judged(self) -> bool:
        """Whether it went through every stage."""
        return self.is_full and bool(self.work) and "failed" not in self.work


@dataclass(frozen=True)
class Forecast:
    """Seconds, and between which bounds they are likely to be.

    Attributes:
        seconds: expected.
        low: lower bound.
        high: upper bound.
    """

    seconds: float
    low: float
    high: float

    def after(self, seconds: float) -> "Forecast":
        """The same, so much later."""
        return Forecast(
            *(max(0.0, value - seconds) for value in (self.seconds, self.low, self.high))
        )

    def before(self, seconds: float) -> "Forecast":
        """The same, and so much more to do, which is known about as well."""
        return Forecast(self.seconds + seconds, self.low + 0.7 * seconds, self.high + 1.4 * seconds)

    def describe(self) -> str:
        """`4:20`, or `4 to 7 min` where that is all that is known."""
        if self.high - self.low <= 2 * _CERTAIN * self.seconds or self.seconds < 1:
            return _clock(self.seconds)
        if self.high < _IN_MINUTES:
            return f"{_clock(self.low)} to {_clock(self.high)}"
        low, high = max(1, round(self.low / 60)), round(self.high / 60)
        return f"{low} to {high} min" if low < high else f"{high} min"


@dataclass(frozen=True)
class ClosingForecast:
    """What makes a front whole, and how many seconds it is likely to take.

    Attributes:
        second_looks: at trials that were turned away by members that are none any more.
        round: timing the members in turns, once.
        report: reading the report split for one member.
        members: that are expected on the front.
    """

    second_looks: float = 0.0
    round: float = 0.0
    report: float = 0.0
    members: int = 0

    @property
    def unreported(self) -> float:
        """All but the reports: who falls off lets others in, so there may be a second round."""
        return self.second_looks + _ROUNDS * self.round

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.unreported + self.members * self.report


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"


def forecast_rest(
    costs: Sequence[Cost],
    target: int,
    *,
    front: int,
    timeout_left_s: float | None = None,
    may_train: bool = False,
) -> Forecast | None:
    """What a search has still to go, its closing included; None before anything tells.

    Args:
        costs: of the finished trials, in order.
        target: finished trials to reach.
        front: members of the front so far.
        timeout_left_s: seconds until the search has to be over; None for no limit.
        may_train: recipes may be promoted to training.
    """
    left = float(max(0, target - len(costs)))
    each = _expect(costs)
    if each is None:
        return None
    if timeout_left_s is not None:
        left = min(left, max(0.0, timeout_left_s) / max(each.mean, 1e-9))
    closing = _expect_closing(costs, _count_away(costs) + each.share * left, front, each).seconds
    trials = _expect_trials(costs, left, each, may_train=may_train)
    if timeout_left_s is not None:
        limit = max(0.0, timeout_left_s - closing)
        trials = Forecast(*(min(v, limit) for v in (trials.seconds, trials.low, trials.high)))
    return trials.before(closing)


def forecast_closing(costs: Sequence[Cost], *, front: int) -> ClosingForecast:
    """What closing a search now would take; nothing before anything tells.

    Args:
        costs: of the finished trials.
        front: members of the front so far.
    """
    each = _expect(costs)
    if each is None:
        return ClosingForecast()
    return _expect_closing(costs, _count_away(costs), front, each)


def forecast_trial(costs: Sequence[Cost]) -> float:
    """Seconds of one more trial without training; none before anything tells."""
    each = _expect(costs)
    return 0.0 if each is None else each.mean


def forecast_search(costs: Sequence[Cost], target: int, *, front: int = 0) -> Forecast | None:
    """What a whole search would take, by the trials of another one of the same task.

    Args:
        costs: of the other search.
        target: trials of the search in question.
        front: members of the other front, as far as known.
    """
    each = _expect(costs)
    if each is None:
        return None
    named = [cost.work_s for cost in costs if cost.name is not None][:target]
    left = target - len(named)
    closing = _expect_closing(costs, each.share * left, front, each).seconds
    trials = _expect_trials(costs, left, each, may_train=False)
    return trials.before(closing + sum(named) * _pace(costs))


@dataclass(frozen=True)
class _Each:
    """What trials without training cost, wall seconds.

    Attributes:
        full: evaluated in full.
        rejected: turned away.
        share: turned away, of all.
        seen: how many of them there were.
    """

    full: float
    rejected: float
    share: float
    seen: int

    @property
    def mean(self) -> float:
        """Of one that nothing is known of."""
        return (1 - self.share) * self.full + self.share * self.rejected


def _expect(costs: Sequence[Cost]) -> _Each | None:
    proposed = [cost for cost in costs if cost.name is None and not cost.is_trained]
    full = [cost for cost in proposed if cost.is_full][-_RECENT:]
    rejected = [cost.work_s for cost in proposed if not cost.is_full][-_RECENT:]
    begun = [cost for cost in costs if cost.name in _QUANTIZED and cost.is_judged]
    if not begun and not full:
        return None
    prior = _expect_full(begun or full)
    whole = (_TRUST * prior + len(full) * _expect_full(full)) / (_TRUST + len(full))
    brief = (_REJECTION_COST * whole + sum(rejected)) / (1 + len(rejected))
    recent = proposed[-_RECENT:]
    away = sum(not cost.is_full for cost in recent)
    share = (_REJECTED * _REJECTION_TRUST + away) / (_REJECTION_TRUST + len(recent))
    pace = _pace(costs)
    return _Each(whole * pace, brief * pace, share, len(proposed))


def _expect_full(costs: Sequence[Cost]) -> float:
    """Work of a later full trial by earlier ones, which made what quantizing it will find ready."""
    if not costs:
        return 0.0
    quantize = [cost.work.get("quantize", 0.0) for cost in costs]
    judge = [cost.work_s - own for cost, own in zip(costs, quantize, strict=True)]
    # a machine that stood still for minutes says nothing of the trials to come
    usual = np.minimum(judge, _UNUSUAL * float(np.median(judge)))
    return float(np.mean(usual)) + _CACHED * float(np.median(quantize[-_LATEST:]))


def _pace(costs: Sequence[Cost]) -> float:
    """Seconds on the clock for each second of work: less than one where workers share it."""
    timed = [cost for cost in costs if cost.wall_s is not None]
    timed = (timed[1:] or timed)[-2 * _RECENT :]  # the first one also loads what all others use
    work = sum(cost.work_s for cost in timed)
    return sum(cost.wall_s or 0.0 for cost in timed) / work if work > 0 else 1.0


def _expect_trials(costs: Sequence[Cost], left: float, each: _Each, *, may_train: bool) -> Forecast:
    """Seconds of the trials that are left."""
    doubt = _DOUBT / math.sqrt(1 + each.seen / 3)
    trained = [cost for cost in costs if cost.is_trained]
    if not trained:
        seconds = left * each.mean
        # trainings may take as long as everything else
        most = 1.0 if may_train else doubt
        return Forecast(seconds, seconds * (1 - doubt), seconds * (1 + most))
    first = next(index for index, cost in enumerate(costs) if cost.is_trained)
    count = left * len(trained) / (len(costs) - first)
    last = float(np.mean([cost.work_s for cost in trained[-_LAST_TRAINED:]])) * _pace(costs)
    seconds = count * last + (left - count) * each.mean
    return Forecast(seconds, seconds * (1 - _DOUBT), seconds * (1 + _DOUBT))


def _count_away(costs: Sequence[Cost]) -> int:
    return sum(not cost.is_full for cost in costs if cost.name is None)


def _expect_closing(costs: Sequence[Cost], away: float, front: int, each: _Each) -> ClosingForecast:
    """Second looks at those turned away, timing the front in turns, the report split."""
    judged = [cost for cost in costs if cost.is_judged and cost.name not in _SLOW]
    timing = float(np.median([cost.work.get("latency", 0.0) for cost in judged] or [0.0]))
    reading = float(np.median([cost.work.get("accuracy", 0.0) for cost in judged] or [0.0]))
    members = max(_FEWEST_MEMBERS, front)
    in_turns = min(60.0, (members + 1) * (0.5 + 0.75 * timing)) if timing else 0.0
    return ClosingForecast(
        _SECOND_LOOKS * away * each.full, in_turns, _REPORTING * reading + 0.5, members
    )
