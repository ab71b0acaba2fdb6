"""The latency protocol: two models, timed alternately, with an interval.

Milliseconds drift with frequency, temperature and neighbours; a ratio of two models that took
turns within the same milliseconds does not. Runs are grouped into blocks, candidate and
reference swap the lead from block to block, each block gives one ratio of medians, and the
interval comes from resampling blocks, which keeps the correlation inside a block.
"""

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Comparison", "LatencyProtocol", "bootstrap_median", "compare"]

Interval = tuple[float, float]


@dataclass(frozen=True)
class LatencyProtocol:
    """How long to measure.

    Attributes:
        warmup_s: seconds that both models run before anything counts.
        block_s: least length of one model's turn, in seconds.
        min_blocks: blocks before the interval is looked at.
        target_width: width of the ratio's 95 % interval, relative, at which to stop.
        max_s: seconds after which to stop whatever the width.
    """

    warmup_s: float = 0.05
    block_s: float = 0.004
    min_blocks: int = 20
    target_width: float = 0.02
    max_s: float = 1.0


@dataclass(frozen=True)
class Comparison:
    """A candidate against a reference. Intervals are 95 %.

    Attributes:
        latency_ms: median of the candidate.
        reference_ms: median of the reference.
        ratio: candidate over reference.
        samples: timed runs of the candidate.
        stable: whether the interval reached its target width.
    """

    latency_ms: float
    latency_ms_ci: Interval
    reference_ms: float
    reference_ms_ci: Interval
    ratio: float
    ratio_ci: Interval
    samples: int
    stable: bool


def compare(
    candidate: Callable[[], float],
    reference: Callable[[], float],
    protocol: LatencyProtocol | None = None,
) -> Comparison:
    """Time two models alternately.

    Args:
        candidate: runs the model once and returns the seconds it took.
        reference: likewise.
        protocol: how long to measure.
    """
    protocol = protocol or LatencyProtocol()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        runs = _warm_up(candidate, protocol), _warm_up(reference, protocol)
        return _measure(candidate, reference, runs, protocol)
    finally:
        if was_enabled:
            gc.enable()


def _warm_up(run: Callable[[], float], protocol: LatencyProtocol) -> int:
    """Run for a while; returns how many runs fill a block."""
    end = time.perf_counter() + protocol.warmup_s
    seconds = [run()]
    while time.perf_counter() < end:
        seconds.append(run())
    typical = float(np.median(seconds))
    return max(1, math.ceil(protocol.block_s / max(typical, 1e-9)))


def _measure(
    candidate: Callable[[], float],
    reference: Callable[[], float],
    runs: tuple[int, int],
    protocol: LatencyProtocol,
) -> Comparison:
    ours: list[float] = []
    theirs: list[float] = []
    end = time.perf_counter() + protocol.max_s
    while True:
        for _ in range(protocol.min_blocks):
            turns = [(candidate, runs[0], ours), (reference, runs[1], theirs)]
            for run, count, medians in turns if len(ours) % 2 == 0 else turns[::-1]:
                medians.append(float(np.median([run() for _ in range(count)])))
            if time.perf_counter() > end and len(ours) >= 3:
                break
        result = _summarize(np.array(ours), np.array(theirs), runs[0], protocol)
        if result.stable or time.perf_counter() > end:
            return result


def _summarize(
    ours: npt.NDArray[np.float64],
    theirs: npt.NDArray[np.float64],
    runs: int,
    protocol: LatencyProtocol,
) -> Comparison:
    ratios = ours / theirs
    ratio, (low, high) = float(np.median(ratios)), bootstrap_median(ratios)
    return Comparison(
        latency_ms=float(np.median(ours)) * 1e3,
        latency_ms_ci=bootstrap_median(ours * 1e3),
        reference_ms=float(np.median(theirs)) * 1e3,
        reference_ms_ci=bootstrap_median(theirs * 1e3),
        ratio=ratio,
        ratio_ci=(low, high),
        samples=len(ours) * runs,
        stable=(high - low) <= protocol.target_width * ratio,
    )


def bootstrap_median(values: npt.NDArray[np.float64], draws: int = 1000) -> Interval:
    """95 % percentile interval of the median, blocks resampled.

    Efron 1979, doi:10.1214/aos/1176344552. The generator is seeded: the same values give the
    same interval.
    """
    generator = np.random.default_rng(0)
    drawn = generator.choice(values, size=(draws, values.size))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(low), float(high)
