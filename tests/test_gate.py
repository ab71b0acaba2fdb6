"""What may be turned away early, and what must not."""

import dataclasses

import numpy as np

from autoquant.core.front import find_front
from autoquant.core.gate import Gate, Glimpse
from autoquant.core.pareto import Bounds
from tests.trials import make_trial, right

ALL = ["accuracy", "latency", "size"]
TOTAL = 1000


def glimpse(hits: np.ndarray, size: int = 1000, ratio: float = 0.5, seen: int = 500) -> Glimpse:
    return Glimpse(hits[:seen], right(900)[:seen], TOTAL, size, ratio, 0.005)


def spread(count: int) -> np.ndarray:
    """`count` right answers, spread evenly."""
    return (np.arange(TOTAL) * count // TOTAL) != ((np.arange(TOTAL) + 1) * count // TOTAL)


MEMBER = make_trial(7, spread(900), 0.5, 800)


def test_larger_slower_and_less_accurate_is_hopeless() -> None:
    gate = Gate([MEMBER], ALL, Bounds())
    assert gate.find_reason(glimpse(spread(700), 1000, 0.6)) == "trial 7 dominates it"


def test_smaller_is_never_hopeless_without_a_constraint() -> None:
    gate = Gate([MEMBER], ALL, Bounds())
    assert gate.find_reason(glimpse(spread(300), size=799)) is None


def test_faster_is_not_hopeless() -> None:
    gate = Gate([MEMBER], ALL, Bounds())
    assert gate.find_reason(glimpse(spread(700), ratio=0.4)) is None


def test_a_few_images_settle_nothing_between_equals() -> None:
    gate = Gate([make_trial(7, spread(900), 0.5, 800)], ALL, Bounds())
    better = spread(900) | (np.arange(TOTAL) % 50 == 0)
    assert gate.find_reason(glimpse(better, seen=100)) is None


def test_a_drop_beyond_the_constraint_is_hopeless() -> None:
    gate = Gate([], ALL, Bounds(max_drop=0.02))
    reason = gate.find_reason(Glimpse(spread(600)[:250], spread(900)[:250], TOTAL, 10, 0.1, 0.01))
    assert reason == "its accuracy drop exceeds the allowed 0.02"
    assert gate.find_reason(Glimpse(spread(890)[:250], spread(900)[:250], TOTAL, 10)) is None


def test_a_file_that_is_too_large_is_hopeless_at_once() -> None:
    gate = Gate([], ALL, Bounds(max_size_mb=0.001))
    assert gate.find_reason(glimpse(spread(900), size=1000)) is None
    reason = gate.find_reason(glimpse(spread(900), size=1500))
    assert reason == "its size of 0.002 MB exceeds the allowed 0.001"


def test_a_latency_that_is_certainly_too_long_is_hopeless() -> None:
    gate = Gate([], ALL, Bounds(max_latency_ms=5.0))
    for ms, sd, is_hopeless in ((5.5, 0.01, True), (5.5, 0.1, False), (4.9, 0.0, False)):
        seen = dataclasses.replace(glimpse(spread(900)), latency_ms=ms, latency_ms_sd=sd)
        assert (gate.find_reason(seen) == "its latency exceeds the allowed 5 ms") is is_hopeless


def test_members_without_evidence_turn_nobody_away() -> None:
    bare = make_trial(7, 0.99, 0.1, 10)
    assert Gate([bare], ALL, Bounds()).find_reason(glimpse(spread(100), 9999, 2.0)) is None


def test_the_verdict_repeats() -> None:
    gate = Gate([MEMBER], ALL, Bounds())
    candidates = [glimpse(spread(count)) for count in range(600, 900, 20)]
    first = [gate.find_reason(item) for item in candidates]
    assert first == [gate.find_reason(item) for item in candidates]


def test_who_is_turned_away_would_not_have_been_a_member() -> None:
    """Simulated candidates around a member: of those turned away none ends on the front."""
    generator = np.random.default_rng(3)
    wrong = turned_away = 0
    difficulty = generator.random(TOTAL)
    for number in range(300):
        level = 0.9 - generator.uniform(-0.02, 0.05)
        hits = (difficulty < level) ^ (generator.random(TOTAL) < 0.02)
        ratio, size = 0.5 * generator.uniform(0.97, 1.1), int(generator.integers(700, 1100))
        member = make_trial(999, difficulty < 0.9, 0.5, 800)
        measured = ratio * np.exp(0.004 * generator.standard_normal(2))
        seen = Glimpse(hits[:250], (difficulty < 0.9)[:250], TOTAL, size, measured[0], 0.01)
        if Gate([member], ALL, Bounds()).find_reason(seen) is not None:
            turned_away += 1
            final = make_trial(number, hits, measured[1], size)
            wrong += final.number in [item.number for item in find_front([member, final], ALL)]
    assert turned_away > 50
    assert wrong <= 0.02 * turned_away
