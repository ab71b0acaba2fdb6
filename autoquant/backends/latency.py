"""The latency protocol: models that take turns, and an interval for their ratio.

Why it is as it is:

- Milliseconds drift with frequency, temperature and neighbours; the ratio of two models that
  took turns within the same milliseconds drifts far less. So every model runs in short blocks,
  all of them in each round, in an order that rotates.
- What disturbs a machine comes in bursts that last for tenths of seconds. Runs that follow
  each other share a burst; runs that are spread over some seconds do not. So timing comes in
  *slices* that the caller may spread over its other work, and the interval is a bootstrap over
  slices, which keeps what the blocks of one slice have in common.
- A file loaded twice gives two sessions whose times differ by up to one percent, for as long
  as they live: memory lies elsewhere. So a model may be given as several *instances*, and each
  slice takes the next one.
- A neighbour only ever slows things down, and not all models alike. So figures are medians
  over the quiet rounds. Whether a round is quiet is judged by all models together, for
  choosing by one would favour another, and by every other run of it, while the runs between
  them are the ones that count: a run that judged itself would count when it was fast by chance.
  All runs that count stay in the percentiles.
- The others push a model out of the caches, so its first runs in a turn are slow: the more
  files took turns, the more the float model lost, and the better every ratio to it looked
  (see results/published/measurements). So a turn begins with runs that do not count.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from autoquant.errors import TrialError

__all__ = [
    "CANDIDATE_INSTANCES",
    "PROTOCOL_VERSION",
    "REFERENCE_INSTANCES",
    "Comparison",
    "Instance",
    "LatencyProtocol",
    "Race",
    "compare",
]

PROTOCOL_VERSION = 3
Interval = tuple[float, float]
Run = Callable[[], float]
Model = Sequence[Run]  # instances

_DRAWS = 300
_MIN_RUNS = 4  # runs a block; half of them judge whether it was quiet, half count
_WINDOWS, _SETTLED = 10, 0.03  # of the warm-up
_QUIETEST, _QUIET = 0.05, 0.03  # quiet: within 3 % of what 5 % of the rounds fall below
_QUIET_REFERENCE = 0.05
# What differs from one measurement of a file to the next besides the slices (logarithm of the
# ratio, standard deviation): see results/published/measurements.
_SESSION_SD = 0.004
_MOST_SHARED_S = 60.0  # of slices, however many models take part
_INSTANCES_BYTES = 2**26  # all instances of one file together
CANDIDATE_INSTANCES, REFERENCE_INSTANCES = 4, 5  # without a common divisor, so that pairs vary
_CLOCK_FAILED = "timing failed: the clock stands still or runs backwards"
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class LatencyProtocol:
    """How long to measure.

    Attributes:
        warmup_s: most seconds that each model runs before anything counts; it ends as soon as
            one tenth of it takes as long as the tenth before.
        block_s: least length of one model's turn, in seconds; before it, it runs once at least,
            and for as long at most, without counting.
        slice_s: least length of one slice, in seconds; a slice has one round at least.
        min_slices: slices before the interval is looked at.
        target_width: width of the ratio's 95 % interval, relative, at which to stop.
        max_s: seconds of slices after which to stop whatever the width.
        pause_s: seconds between two slices that nothing else lies between.
    """

    warmup_s: float = 0.2
    block_s: float = 0.004
    slice_s: float = 0.08
    min_slices: int = 16
    target_width: float = 0.02
    max_s: float = 3.0
    pause_s: float = 0.0

    def shared_by(self, candidates: int) -> "LatencyProtocol":
        """The same patience for each of several candidates that race against one reference.

        Slices become longer, not more: each model runs in every slice for as long as it would
        alone. All together take a minute at most, so of very many each gets less.

        Args:
            candidates: how many take part, the reference not counted.
        """
        factor = (candidates + 1) / 2  # this protocol is for one and the reference
        if self.max_s > 0:
            factor = max(1.0, min(factor, _MOST_SHARED_S / self.max_s))
        return replace(self, slice_s=self.slice_s * factor, max_s=self.max_s * factor)


class Timed(Protocol):
    """A loaded model."""

    def time_once(self, inputs: Any) -> float:
        """Seconds of one run."""


@dataclass(frozen=True)
class Comparison:
    """A candidate against a reference. Intervals are 95 %.

    Attributes:
        latency_ms: the candidate, median over quiet rounds.
        reference_ms: likewise.
        ratio: candidate over reference.
        percentiles_ms: 50th, 90th and 99th of all runs of the candidate that count, quiet or not.
        samples: timed runs of the candidate.
        stable: whether the ratio's interval reached its target width.
    """

    latency_ms: float
    latency_ms_ci: Interval
    reference_ms: float
    reference_ms_ci: Interval
    ratio: float
    ratio_ci: Interval
    percentiles_ms: tuple[float, float, float]
    samples: int
    stable: bool


class Race:
    """Models timed in turns, slice by slice.

    Args:
        candidates: models; each of a model's instances runs it once and returns the seconds
            that it took.
        reference: likewise; what ratios are to.
        protocol: how long to measure.
        best_reference_ms: what the reference took at best in earlier races. While it takes
            5 % more the machine is not quiet: the race goes on, and ends as not stable.
    """

    def __init__(
        self,
        candidates: Sequence[Model],
        reference: Model,
        protocol: LatencyProtocol | None = None,
        best_reference_ms: float = math.inf,
    ) -> None:
        self.protocol = protocol or LatencyProtocol()
        self.best_reference_ms = best_reference_ms
        self._models = [*candidates, reference]
        self._slices: list[_Rounds] = []
        self._runs: list[list[float]] = [[] for _ in self._models]
        self._counts: list[tuple[int, int]] = []  # of each model's turn: runs before, and in it
        self._turns = self._rounds = self._dropped = 0
        self._seconds = 0.0
        self._next_look = self.protocol.min_slices
        self._is_over, self._judged = False, 0

    def run_slice(self) -> None:
        """Time the next instance of every model for one slice; new ones warm up before.

        Raises:
            TrialError: most runs took no time, or less.
        """
        with _no_garbage_collection():
            runs = self._warm_up_next()
            start = time.perf_counter()
            rounds = [self._run_round(runs)]
            while _is_within(start, self.protocol.slice_s):
                rounds.append(self._run_round(runs))
        self._seconds += max(0.0, time.perf_counter() - start)
        self._turns += 1
        usable = [times for times in rounds if np.isfinite(times).all()]
        self._dropped += len(rounds) - len(usable)
        if usable:
            self._slices.append(_Rounds.of_halves(np.array(usable)))
        elif self._dropped > self.protocol.min_slices:
            raise TrialError(_CLOCK_FAILED)

    def is_over(self) -> bool:
        """Whether the interval is as narrow as wanted, or the time is up."""
        if not self._is_over and len(self._slices) > self._judged:
            self._judged = len(self._slices)
            self._is_over = self._is_time_up() or self._is_narrow()
        return self._is_over

    def _is_time_up(self) -> bool:
        return self._seconds >= self.protocol.max_s and len(self._slices) >= 2

    def _is_narrow(self) -> bool:
        if len(self._slices) < self._next_look:
            return False
        # looking after every slice would sooner or later find a narrow interval by chance
        self._next_look = math.ceil(1.25 * len(self._slices))
        return all(result.stable for result in self.results())

    def finish(self) -> list[Comparison]:
        """Go on, slice after slice, until it is over; returns the results."""
        while not self.is_over():
            self.run_slice()
            if self.protocol.pause_s:
                time.sleep(self.protocol.pause_s)
        return self.results()

    def results(self) -> list[Comparison]:
        """What is known so far, one for each candidate, in order.

        Raises:
            TrialError: nothing, for the clock failed in every slice.
        """
        if not self._slices:
            raise TrialError(_CLOCK_FAILED)
        estimates = _Rounds.join(self._slices).quiet_medians()
        errors = self._bootstrap()
        return [self._summarize(index, estimates, errors) for index in range(len(self._models) - 1)]

    def _warm_up_next(self) -> list[Run]:
        """The instances whose turn it is. A model's first one also says how long a block is."""
        chosen = [self._turns % len(model) for model in self._models]
        runs = [model[index] for model, index in zip(self._models, chosen, strict=True)]
        window = self.protocol.warmup_s / _WINDOWS
        if not self._counts:
            self._counts = [_warm_up(run, self.protocol) for run in runs]
        elif self._turns < max(len(model) for model in self._models):
            for model, run in zip(self._models, runs, strict=True):
                if self._turns < len(model):
                    run()  # loads it, see `_warm_up`
                    _typical(run, window)
        return runs

    def _run_round(self, runs: Sequence[Run]) -> npt.NDArray[np.float64]:
        """Medians of the even and the odd runs of every model, (2, models) log seconds.

        Not a number where the clock failed.
        """
        medians = np.full((2, len(runs)), np.nan)
        first = self._rounds % len(runs)
        self._rounds += 1
        for index in [*range(first, len(runs)), *range(first)]:
            before, counted_runs = self._counts[index]
            for _ in range(before):
                runs[index]()
            times = [runs[index]() for _ in range(counted_runs)]
            for half, counted in enumerate((times[::2], times[1::2])):
                sane = [value for value in counted if 0 < value < math.inf]
                self._runs[index] += sane
                if 2 * len(sane) >= len(counted):
                    medians[half, index] = np.median(np.log(sane))
        return medians

    def _bootstrap(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Standard errors of log times and of log ratios: slices resampled, session noise.

        Efron 1979, doi:10.1214/aos/1176344552. Seeded: the same times, the same errors.
        """
        generator = np.random.default_rng(0)
        count = len(self._slices)
        drawn = np.array([
            np.concatenate(_Rounds.join([self._slices[i] for i in chosen]).quiet_medians())
            for chosen in generator.integers(count, size=(_DRAWS, count))
        ])  # fmt: skip
        errors = np.hypot(drawn.std(axis=0) * _small_sample_factor(count), _SESSION_SD)
        return errors[: len(self._models)], errors[len(self._models) :]

    def _summarize(
        self,
        index: int,
        estimates: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
        errors: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
    ) -> Comparison:
        (times, ratios), (time_errors, ratio_errors) = estimates, errors
        low, high = _interval(ratios[index], ratio_errors[index])
        p50, p90, p99 = (float(p) * 1e3 for p in np.percentile(self._runs[index], [50, 90, 99]))
        reference_ms = math.exp(times[-1]) * 1e3
        is_narrow = (high - low) <= self.protocol.target_width * math.exp(ratios[index])
        is_quiet = reference_ms <= self.best_reference_ms * (1 + _QUIET_REFERENCE)
        return Comparison(
            latency_ms=math.exp(times[index]) * 1e3,
            latency_ms_ci=_interval(times[index], time_errors[index], 1e3),
            reference_ms=reference_ms,
            reference_ms_ci=_interval(times[-1], time_errors[-1], 1e3),
            ratio=math.exp(ratios[index]),
            ratio_ci=(low, high),
            percentiles_ms=(p50, p90, p99),
            samples=len(self._runs[index]),
            stable=is_narrow and is_quiet,
        )


@dataclass(frozen=True)
class _Rounds:
    """Log block times, (rounds, models), and how much they cost judged by other runs, (rounds,)."""

    times: npt.NDArray[np.float64]
    effort: npt.NDArray[np.float64]

    @classmethod
    def of_halves(cls, rounds: npt.NDArray[np.float64]) -> "_Rounds":
        """Each half of a round, judged by the other; (rounds, 2, models) log seconds."""
        effort = rounds.mean(axis=2)
        return cls(
            np.concatenate([rounds[:, 0], rounds[:, 1]]),
            np.concatenate([effort[:, 1], effort[:, 0]]),
        )

    @classmethod
    def join(cls, parts: Sequence["_Rounds"]) -> "_Rounds":
        return cls(
            np.concatenate([part.times for part in parts]),
            np.concatenate([part.effort for part in parts]),
        )

    def quiet_medians(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Medians over quiet rounds of log times, and of log ratios to the last model."""
        rank = int(_QUIETEST * (len(self.effort) - 1))
        level = np.partition(self.effort, rank)[rank] + _QUIET
        quiet = self.times[self.effort <= level]
        return _median(quiet), _median(quiet[:, :-1] - quiet[:, -1:])


def compare(
    candidate: Model, reference: Model, protocol: LatencyProtocol | None = None
) -> Comparison:
    """Time one model against another; see `Race`."""
    return Race([candidate], reference, protocol).finish()[0]


class Instance:
    """A session as a timed run, loaded when it first runs; see `Race` on instances.

    Args:
        load: makes the session.
        inputs: one batch.
    """

    def __init__(self, load: Callable[[], Timed], inputs: Any) -> None:
        self._load = load
        self._inputs = inputs

    @classmethod
    def several(
        cls, load: Callable[[], Timed], inputs: Any, size_bytes: int, at_most: int
    ) -> "list[Instance]":
        """As many instances as make sense for a file of that size, bytes."""
        count = max(1, min(at_most, _INSTANCES_BYTES // max(size_bytes, 1)))
        return [cls(load, inputs) for _ in range(count)]

    def __call__(self) -> float:
        """Seconds of one run."""
        return self._session.time_once(self._inputs)

    @cached_property
    def _session(self) -> Timed:
        return self._load()


def _median(values: npt.NDArray[np.float64]) -> Any:
    """Along the first axis; a fifth of the time that `np.median` takes for small arrays."""
    ordered = np.sort(values, axis=0)
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2


def _interval(center: float, error: float, unit: float = 1.0) -> Interval:
    half = _Z95 * error
    return math.exp(center - half) * unit, math.exp(center + half) * unit


def _small_sample_factor(count: int) -> float:
    """What few slices make an interval wider by: Student's t over the normal quantile.

    The expansion of Fisher and Cornish 1960, doi:10.1080/00401706.1960.10489895; the square
    root undoes that a bootstrap divides by n.
    """
    freedom = max(count - 1, 1)
    z = _Z95
    quantile = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return quantile / z * math.sqrt((freedom + 1) / freedom)


def _warm_up(run: Run, protocol: LatencyProtocol) -> tuple[int, int]:
    """Run until the times are steady; returns how many runs come before a block, and fill it.

    The first run comes before the clock starts: it loads the model, and OpenVINO compiles for
    longer than the whole warm-up, which would then end with a single cold run.
    """
    run()
    window, start = protocol.warmup_s / _WINDOWS, time.perf_counter()
    before, now = math.inf, _typical(run, window)
    while abs(before - now) > _SETTLED * now and _is_within(start, protocol.warmup_s):
        before, now = now, _typical(run, window)
    if not 0 < now < math.inf:
        return 1, _MIN_RUNS
    filling = protocol.block_s / max(now, 1e-9)
    return max(1, round(filling)), max(_MIN_RUNS, 2 * math.ceil(filling / 2))


def _typical(run: Run, seconds: float) -> float:
    start = time.perf_counter()
    times = [run()]
    while _is_within(start, seconds):
        times.append(run())
    return float(np.median(times))


def _is_within(start: float, seconds: float) -> bool:
    """Whether so much time has not passed yet; a clock that stepped back ends the wait."""
    return 0 <= time.perf_counter() - start < seconds


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
