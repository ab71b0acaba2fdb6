"""The latency protocol: models that take turns, and an interval for their ratio.

Why it is as it is:

- Milliseconds drift with frequency, temperature and neighbours; the ratio of two models that
  took turns within the same milliseconds drifts far less. So every model runs in short blocks,
  all of them in each round, in an order that rotates.
- What disturbs a machine comes in bursts that last for tenths of seconds. Runs that follow
  each other share a burst; runs that are spread over some seconds do not. So timing comes in
  *slices* that the caller may spread over its other work, and the interval is a bootstrap over
  slices, which keeps what the blocks of one slice have in common.
- A neighbour only ever slows things down. So figures are medians over the quieter half of the
  rounds, where quiet is judged by all models together: choosing by one of them would favour
  the other. All runs stay in the percentiles.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoquant.errors import TrialError

__all__ = ["PROTOCOL_VERSION", "Comparison", "LatencyProtocol", "Race", "compare"]

PROTOCOL_VERSION = 2
Interval = tuple[float, float]
Run = Callable[[], float]

_DRAWS = 300
_MIN_RUNS = 3  # runs a block: the first after another model has cold caches
_SETTLED = 0.03
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class LatencyProtocol:
    """How long to measure.

    Attributes:
        warmup_s: most seconds that each model runs before anything counts; it ends as soon as
            one tenth of it takes as long as the tenth before.
        block_s: least length of one model's turn, in seconds.
        slice_s: least length of one slice, in seconds; a slice has one round at least.
        min_slices: slices before the interval is looked at.
        target_width: width of the ratio's 95 % interval, relative, at which to stop.
        max_s: seconds of slices after which to stop whatever the width.
        pause_s: seconds between two slices that nothing else lies between.
    """

    warmup_s: float = 0.2
    block_s: float = 0.004
    slice_s: float = 0.08
    min_slices: int = 8
    target_width: float = 0.02
    max_s: float = 1.2
    pause_s: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """A candidate against a reference. Intervals are 95 %.

    Attributes:
        latency_ms: the candidate, median over quiet rounds.
        reference_ms: likewise.
        ratio: candidate over reference.
        percentiles_ms: 50th, 90th and 99th of all runs of the candidate, none left out.
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
        candidates: each runs a model once and returns the seconds that it took.
        reference: likewise; what ratios are to.
        protocol: how long to measure.
    """

    def __init__(
        self, candidates: Sequence[Run], reference: Run, protocol: LatencyProtocol | None = None
    ) -> None:
        self.protocol = protocol or LatencyProtocol()
        self._models = [*candidates, reference]
        self._slices: list[npt.NDArray[np.float64]] = []  # (rounds, models) block medians
        self._runs: list[list[float]] = [[] for _ in self._models]
        self._counts: list[int] = []
        self._rounds = self._dropped = 0
        self._seconds = 0.0
        self._next_look = self.protocol.min_slices

    def run_slice(self) -> None:
        """Time every model for one slice; the first call warms up before.

        Raises:
            TrialError: most runs took no time, or less.
        """
        with _no_garbage_collection():
            if not self._counts:
                self._counts = [_warm_up(run, self.protocol) for run in self._models]
            start = time.perf_counter()
            rounds = [self._run_round()]
            while time.perf_counter() - start < self.protocol.slice_s:
                rounds.append(self._run_round())
        self._seconds += time.perf_counter() - start
        usable = [times for times in rounds if np.isfinite(times).all()]
        self._dropped += len(rounds) - len(usable)
        if usable:
            self._slices.append(np.log(np.array(usable)))
        elif self._dropped > self.protocol.min_slices:
            raise TrialError("timing failed: the clock stands still or runs backwards")

    def is_over(self) -> bool:
        """Whether the interval is as narrow as wanted, or the time is up."""
        if self._seconds >= self.protocol.max_s and len(self._slices) >= 2:
            return True
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
        """What is known so far, one for each candidate, in order."""
        drawn = self._bootstrap()
        estimates = _quiet_medians(np.concatenate(self._slices))
        widen = _small_sample_factor(len(self._slices))
        return [
            self._summarize(index, estimates, drawn, widen)
            for index in range(len(self._models) - 1)
        ]

    def _run_round(self) -> npt.NDArray[np.float64]:
        """Block medians of every model, seconds; not a number where the clock failed."""
        medians = np.full(len(self._models), np.nan)
        order = np.roll(np.arange(len(self._models)), self._rounds)
        self._rounds += 1
        for index in order:
            times = [self._models[index]() for _ in range(self._counts[index])]
            sane = [value for value in times if 0 < value < math.inf]
            self._runs[index] += sane
            if 2 * len(sane) > len(times):
                medians[index] = np.median(sane)
        return medians

    def _bootstrap(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Standard errors of log times and of log ratios, slices resampled.

        Efron 1979, doi:10.1214/aos/1176344552. Seeded: the same times, the same errors.
        """
        generator = np.random.default_rng(0)
        count = len(self._slices)
        drawn = np.array([
            np.concatenate(_quiet_medians(np.concatenate([self._slices[i] for i in chosen])))
            for chosen in generator.integers(count, size=(_DRAWS, count))
        ])  # fmt: skip
        errors = drawn.std(axis=0)
        return errors[: len(self._models)], errors[len(self._models) :]

    def _summarize(
        self,
        index: int,
        estimates: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
        errors: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
        widen: float,
    ) -> Comparison:
        (times, ratios), (time_errors, ratio_errors) = estimates, errors
        low, high = _interval(ratios[index], ratio_errors[index] * widen)
        p50, p90, p99 = (float(p) * 1e3 for p in np.percentile(self._runs[index], [50, 90, 99]))
        return Comparison(
            latency_ms=math.exp(times[index]) * 1e3,
            latency_ms_ci=_interval(times[index], time_errors[index] * widen, 1e3),
            reference_ms=math.exp(times[-1]) * 1e3,
            reference_ms_ci=_interval(times[-1], time_errors[-1] * widen, 1e3),
            ratio=math.exp(ratios[index]),
            ratio_ci=(low, high),
            percentiles_ms=(p50, p90, p99),
            samples=len(self._runs[index]),
            stable=(high - low) <= self.protocol.target_width * math.exp(ratios[index]),
        )


def compare(candidate: Run, reference: Run, protocol: LatencyProtocol | None = None) -> Comparison:
    """Time one model against another; see `Race`."""
    return Race([candidate], reference, protocol).finish()[0]


def _quiet_medians(
    rounds: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Medians of log times, and of log ratios to the last model, over the quieter half.

    Args:
        rounds: (rounds, models) log seconds.
    """
    effort = rounds.sum(axis=1)
    quiet = rounds[effort <= _median(effort)]
    return _median(quiet), _median(quiet[:, :-1] - quiet[:, -1:])


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


def _warm_up(run: Run, protocol: LatencyProtocol) -> int:
    """Run until the times are steady; returns how many runs fill a block."""
    window, end = protocol.warmup_s / 10, time.perf_counter() + protocol.warmup_s
    before, now = math.inf, _typical(run, window)
    while abs(before - now) > _SETTLED * now and time.perf_counter() < end:
        before, now = now, _typical(run, window)
    if not 0 < now < math.inf:
        return _MIN_RUNS
    return max(_MIN_RUNS, math.ceil(protocol.block_s / max(now, 1e-9)))


def _typical(run: Run, seconds: float) -> float:
    end = time.perf_counter() + seconds
    times = [run()]
    while time.perf_counter() < end:
        times.append(run())
    return float(np.median(times))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
