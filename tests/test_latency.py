import gc
import time
from collections.abc import Callable

import numpy as np
import pytest

from autoquant.backends.latency import (
    Instance,
    LatencyProtocol,
    Race,
    _small_sample_factor,
    compare,
)
from autoquant.errors import TrialError

pytestmark = pytest.mark.alone
QUICK = LatencyProtocol(warmup_s=0.0, block_s=1e-9, slice_s=1e-3, min_slices=12, max_s=0.03)


def noisy(seconds: float, spread: float, seed: int):
    """A pretended model: reports times of a known median without spending them."""
    generator = np.random.default_rng(seed)
    return lambda: seconds * float(generator.lognormal(0.0, spread))


def test_interval_covers_a_known_ratio() -> None:
    covered = 0
    for seed in range(40):
        ours, theirs = noisy(2e-3, 0.05, seed), noisy(4e-3, 0.05, seed + 1000)
        low, high = compare([ours], [theirs], QUICK).ratio_ci
        covered += low <= 0.5 <= high
    assert covered >= 34  # 95 % intervals: 34 of 40 or fewer has probability 0.02


def test_a_slow_drift_cancels_in_the_ratio() -> None:
    start = time.perf_counter()

    def drifting(seconds: float):
        return lambda: seconds * (1 + 50 * (time.perf_counter() - start))

    result = compare([drifting(1e-3)], [drifting(2e-3)], QUICK)
    assert result.ratio == pytest.approx(0.5, rel=0.05)


def test_noise_that_is_too_large_is_called_unstable() -> None:
    protocol = LatencyProtocol(warmup_s=0.0, block_s=1e-9, slice_s=0.0, max_s=0.05)
    result = compare([noisy(1e-3, 2.0, 0)], [noisy(1e-3, 2.0, 1)], protocol)
    assert not result.stable


def test_steady_times_are_stable_and_exact() -> None:
    result = compare([lambda: 1e-3], [lambda: 2e-3], QUICK)
    assert result.stable
    assert result.ratio == pytest.approx(0.5)
    low, high = result.ratio_ci
    assert 0.495 < low < 0.5 < high < 0.505, "what differs from session to session remains"
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
        compare([run], [run], QUICK)
        assert gc.isenabled() is enabled
        assert not any(seen)
    finally:
        gc.enable()


def test_a_crash_while_timing_leaves_garbage_collection_on() -> None:
    def crash() -> float:
        raise RuntimeError("the runtime died")

    with pytest.raises(RuntimeError, match="died"):
        compare([crash], [lambda: 1e-3], QUICK)
    assert gc.isenabled()


def test_runs_in_which_the_clock_steps_are_left_out() -> None:
    """A clock that jumps back or ahead in one run of seven changes nothing."""
    steps = iter(range(10**9))

    def stepping(seconds: float):
        return lambda: -5.0 if next(steps) % 7 == 0 else seconds

    result = compare([stepping(1e-3)], [stepping(2e-3)], QUICK)
    assert result.ratio == pytest.approx(0.5)
    assert result.percentiles_ms[0] == pytest.approx(1.0)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_clock_that_does_not_run_is_an_error(seconds: float) -> None:
    with pytest.raises(TrialError, match="the clock stands still or runs backwards"):
        compare([lambda: seconds], [lambda: 1e-3], QUICK)


def test_a_burst_of_noise_in_a_third_of_the_slices_does_not_move_the_ratio() -> None:
    """Neighbours come in bursts: during one the candidate suffers twice as much."""
    race_slice = [0]

    def disturbed(seconds: float, factor: float):
        return lambda: seconds * (factor if race_slice[0] % 3 == 0 else 1.0)

    race = Race([[disturbed(1e-3, 4.0)]], [disturbed(2e-3, 2.0)], QUICK)
    for _ in range(15):
        race.run_slice()
        race_slice[0] += 1
    assert race.results()[0].ratio == pytest.approx(0.5)
    assert race.results()[0].percentiles_ms[2] == pytest.approx(4.0), "outliers are kept"


def test_a_round_is_judged_by_other_runs_than_those_that_count() -> None:
    """Else the noisier of two models would count when it was fast by chance, and win by 4 %."""
    found = []
    for seed in range(100):
        race = Race([[noisy(1e-3, 0.3, seed)]], [noisy(1e-3, 0.01, seed + 999)], QUICK)
        found.append(race.finish()[0].ratio)
    assert np.median(found) == pytest.approx(1.0, abs=0.02)


def test_instances_take_turns_slice_by_slice() -> None:
    """One session of four is slower for as long as it lives: a quarter of the slices."""
    runs: list[list[int]] = []

    def instance(index: int):
        def run() -> float:
            if not runs or runs[-1][0] != index:
                runs.append([index])
            return 1.02e-3 if index == 0 else 1e-3

        return run

    race = Race([[instance(index) for index in range(4)]], [lambda: 1e-3], QUICK)
    for _ in range(16):
        race.run_slice()
    assert [index for (index,) in runs] == [0, 1, 2, 3] * 4
    low, high = race.results()[0].ratio_ci
    assert race.results()[0].ratio == pytest.approx(1.0)
    assert high > 1.001, "the interval knows that instances differ"
    assert low < 1.0


def test_instances_load_when_they_first_run() -> None:
    loaded = []

    class Session:
        def time_once(self, inputs: object) -> float:
            return 1e-3

    def load() -> Session:
        loaded.append(1)
        return Session()

    instances = Instance.several(load, None, 2**10, 4)
    assert (len(instances), len(loaded)) == (4, 0)
    instances[0]()
    instances[0]()
    assert len(loaded) == 1
    assert len(Instance.several(load, None, 2**25, 4)) == 2, "large files have fewer"
    assert len(Instance.several(load, None, 2**30, 4)) == 1


def test_a_reference_that_was_faster_before_means_that_the_machine_is_not_quiet() -> None:
    for best, stable in ((0.97, True), (0.9, False)):
        race = Race([[lambda: 2e-3]], [lambda: 1e-3], QUICK, best_reference_ms=best)
        assert race.finish()[0].stable is stable


def test_many_models_race_at_once() -> None:
    race = Race([[noisy(k * 1e-3, 0.02, k)] for k in (1, 2, 3)], [noisy(4e-3, 0.02, 9)], QUICK)
    found = [result.ratio for result in race.finish()]
    assert found == pytest.approx([0.25, 0.5, 0.75], rel=0.02)


def test_each_of_several_gets_the_patience_of_one_within_a_minute() -> None:
    one = LatencyProtocol(slice_s=0.2, min_slices=10, max_s=4.0)
    assert one.shared_by(1) == one
    seven = one.shared_by(7)
    assert (seven.slice_s, seven.max_s) == pytest.approx((0.8, 16.0))
    assert seven.min_slices == 10
    assert one.shared_by(500).max_s == pytest.approx(60.0)
    assert one.shared_by(500).slice_s * 20 == pytest.approx(60.0), "as many slices as ever"
    assert LatencyProtocol(max_s=90.0).shared_by(9).max_s == 90.0, "never less than one alone"


def test_one_of_equals_is_not_favoured_by_its_place() -> None:
    race = Race([[noisy(1e-3, 0.2, k)] for k in range(3)], [noisy(1e-3, 0.2, 9)], QUICK)
    for result in race.finish():
        low, high = result.ratio_ci
        assert low < 1.02
        assert high > 0.98


def test_warm_up_goes_on_until_times_are_steady() -> None:
    """A model that is ten times slower in its first thirty runs is not measured in them."""
    runs = iter(range(10**9))

    def cold() -> float:
        seconds = 1e-3 if next(runs) > 30 else 1e-2
        time.sleep(1e-4)
        return seconds

    protocol = LatencyProtocol(warmup_s=0.2, block_s=1e-9, slice_s=1e-3, min_slices=3, max_s=0.02)
    assert compare([cold], [lambda: 1e-3], protocol).percentiles_ms[2] == pytest.approx(1.0)


def test_fewer_slices_give_a_wider_interval() -> None:
    factors = [_small_sample_factor(count) for count in (3, 5, 8, 20, 200)]
    assert factors == sorted(factors, reverse=True)
    assert factors[2] == pytest.approx(2.365 / 1.96 * np.sqrt(8 / 7), rel=0.02)  # t with 7
    assert factors[-1] == pytest.approx(1.0, abs=0.02)


def test_a_model_that_loads_for_longer_than_the_warm_up_is_warm_all_the_same() -> None:
    """What an instance takes while it is cold must not decide how many runs fill a block."""
    times = iter([5e-3])

    def run() -> float:
        cold = next(times, None)
        if cold is not None:
            time.sleep(0.02)
        return cold or 1e-4

    race = Race([[run]], [lambda: 1e-4], LatencyProtocol(warmup_s=0.01, max_s=0.0))
    race.run_slice()
    assert race._counts == [(40, 40), (40, 40)]


def test_runs_that_the_others_left_cold_do_not_count() -> None:
    """With many files in turns, each finds the caches full of the others'."""

    def chilled(steady: float, turn: list[object]) -> Callable[[], float]:
        def run() -> float:
            is_cold = turn[0] is not run
            turn[0] = run
            return 3 * steady if is_cold else steady

        return run

    turn: list[object] = [None]
    small, large = chilled(1e-3, turn), chilled(2e-3, turn)
    result = compare([small], [large], LatencyProtocol(warmup_s=0.0, max_s=0.0))
    assert result.percentiles_ms[2] == pytest.approx(1.0)
    assert result.reference_ms == pytest.approx(2.0)


def test_asking_whether_a_race_is_over_changes_nothing() -> None:
    race = Race([[lambda: 1e-3]], [lambda: 2e-3], QUICK)
    while not race.is_over():
        race.run_slice()
    assert [race.is_over() for _ in range(3)] == [True] * 3


def test_a_wall_clock_that_steps_back_ends_the_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([0.0, *[-3600.0] * 50])  # and an error after fifty readings

    class Clock:
        @staticmethod
        def perf_counter() -> float:
            return next(readings)

    race = Race([[lambda: 1e-3]], [lambda: 2e-3], LatencyProtocol(warmup_s=0.0, slice_s=1.0))
    race._counts = [(4, 4), (4, 4)]
    race._turns = 1
    monkeypatch.setattr("autoquant.backends.latency.time", Clock)
    race.run_slice()
    assert race.results()[0].ratio == pytest.approx(0.5)
    assert race._seconds == 0.0


def test_results_before_any_sane_slice_are_a_trial_error() -> None:
    patient = LatencyProtocol(warmup_s=0.0, block_s=1e-9, slice_s=0.0)
    race = Race([[lambda: 0.0]], [lambda: 1e-3], patient)
    race.run_slice()
    with pytest.raises(TrialError, match="the clock stands still"):
        race.results()
