import gc
import time

import numpy as np
import pytest

from autoquant.backends.latency import LatencyProtocol, compare

QUICK = LatencyProtocol(warmup_s=0.0, block_s=1e-9, slice_s=1e-3, min_slices=12, max_s=0.03)


def noisy(seconds: float, spread: float, seed: int):
    """A pretended model: reports times of a known median without spending them."""
    generator = np.random.default_rng(seed)
    return lambda: seconds * float(generator.lognormal(0.0, spread))


def test_interval_covers_a_known_ratio() -> None:
    covered = 0
    for seed in range(40):
        ours, theirs = noisy(2e-3, 0.05, seed), noisy(4e-3, 0.05, seed + 1000)
        low, high = compare(ours, theirs, QUICK).ratio_ci
        covered += low <= 0.5 <= high
    assert covered >= 34  # 95 % intervals: 34 of 40 or fewer has probability 0.02


def test_a_slow_drift_cancels_in_the_ratio() -> None:
    start = time.perf_counter()

    def drifting(seconds: float):
        return lambda: seconds * (1 + 50 * (time.perf_counter() - start))

    result = compare(drifting(1e-3), drifting(2e-3), QUICK)
    assert result.ratio == pytest.approx(0.5, rel=0.05)


def test_noise_that_is_too_large_is_called_unstable() -> None:
    protocol = LatencyProtocol(warmup_s=0.0, block_s=1e-9, slice_s=0.0, max_s=0.05)
    result = compare(noisy(1e-3, 2.0, 0), noisy(1e-3, 2.0, 1), protocol)
    assert not result.stable


def test_steady_times_are_stable_and_exact() -> None:
    result = compare(lambda: 1e-3, lambda: 2e-3, QUICK)
    assert result.stable
    assert (result.ratio, *result.ratio_ci) == pytest.approx((0.5, 0.5, 0.5))
    assert (result.latency_ms, result.reference_ms) == pytest.approx((1.0, 2.0))
    assert result.percentiles_ms == pytest.approx((1.0, 1.0, 1.0))


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_off_and_comes_back(enabled: bool) -> None:
    seen = []

    def run() -> float:
        seen.append(gc.isenabled())
        return 1e-3

    (gc.enable if enabled else gc.disable)()
    try:
        compare(run, run, QUICK)
        assert gc.isenabled() is enabled
        assert not any(seen)
    finally:
        gc.enable()


def test_a_crash_while_timing_leaves_garbage_collection_on() -> None:
    def crash() -> float:
        raise RuntimeError("the runtime died")

    with pytest.raises(RuntimeError, match="died"):
        compare(crash, lambda: 1e-3, QUICK)
    assert gc.isenabled()
