"""Fronts that ignore noise: the rule, its laws, and what repeated timing changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoquant.core.front import (
    _Dominance,
    _draw_errors,
    _find_kernel,
    comparable_log_ratios,
    decide,
    extend_front,
    find_front,
    find_plain_front,
    front_probabilities,
)
from autoquant.core.pareto import Bounds
from autoquant.core.trial import Trial
from tests.trials import make_trial, right

ALL = ["accuracy", "latency", "size"]


def numbers(trials: list[Trial]) -> list[int]:
    return [trial.number for trial in trials]


def test_of_two_identical_artifacts_neither_dominates() -> None:
    twins = [make_trial(0, right(900), ratio=0.500), make_trial(1, right(900), ratio=0.504)]
    assert sorted(numbers(find_front(twins, ALL))) == [0, 1]
    assert numbers(find_plain_front(twins, ALL)) == [0], "the plain front believes the noise"


def test_a_latency_gain_within_the_noise_keeps_nobody_on_the_front() -> None:
    small, lucky = make_trial(0, right(900), 0.503, 800), make_trial(1, right(900), 0.500, 1000)
    assert numbers(find_front([small, lucky], ALL)) == [0]
    assert len(find_plain_front([small, lucky], ALL)) == 2


def test_a_significant_latency_gain_does() -> None:
    small, fast = make_trial(0, right(900), 0.60, 800), make_trial(1, right(900), 0.50, 1000)
    assert len(find_front([small, fast], ALL)) == 2


def test_accuracy_is_compared_on_the_same_images() -> None:
    """The same difference of 10 in 1,000: on 10 images it is real, on 210 it is chance."""
    base = right(900)
    steady = base.copy()
    steady[:10] = False
    erratic = base.copy()
    erratic[:110] = False
    erratic[900:] = True
    small = {"size": 800}
    for hits, members in ((steady, 2), (erratic, 1)):
        trials = [make_trial(0, base), make_trial(1, hits, **small)]
        assert len(find_front(trials, ALL)) == members


def test_where_nothing_is_significant_accuracy_decides_by_its_value() -> None:
    better, worse = make_trial(0, right(901)), make_trial(1, right(900))
    assert numbers(find_front([better, worse], ALL)) == [0]


def test_an_intransitive_chain_keeps_its_far_end() -> None:
    """The front is the kernel: who is beaten only by one who is beaten stays."""
    z = np.zeros((3, 3, 3))
    z[2] = np.array([[0, 9, 9], [-9, 0, 9], [-9, -9, 0]])  # size: 0 < 1 < 2
    z[0, 0, 2], z[0, 2, 0] = -3, 3  # 2 is significantly more accurate than 0, 1 is not
    dominance = decide(z, np.zeros_like(z), 0)
    assert dominance[0, 1]
    assert dominance[1, 2]
    assert not dominance[0, 2]
    losses = np.arange(3.0)[:, None]
    assert sorted(_find_kernel(lambda i, j: dominance[np.ix_(i, j)], losses)) == [0, 2]


trial_lists = st.lists(
    st.tuples(
        st.integers(0, 60), st.integers(0, 40), st.floats(0.3, 1.0), st.integers(1, 5)
    ),
    min_size=1,
    max_size=12,
)  # fmt: skip


def build(values: list[tuple[int, int, float, int]]) -> list[Trial]:
    trials = []
    for number, (wrong, flips, ratio, size) in enumerate(values):
        hits = right(200 - wrong, 200)
        hits[:flips] = False
        trials.append(make_trial(number, hits, ratio, size * 100))
    return trials


def full_table(trials: list[Trial]) -> np.ndarray:
    everyone = np.arange(len(trials))
    return _Dominance(trials, ALL)(everyone, everyone)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**32 - 1), st.floats(0, 0.5))
def test_the_kernel_is_that_of_the_whole_table(count: int, seed: int, density: float) -> None:
    """Whatever the relation, circles included: what is left out for speed changes nothing."""
    generator = np.random.default_rng(seed)
    table = generator.random((count, count)) < density
    np.fill_diagonal(table, False)
    losses = generator.integers(0, 3, (count, 2)).astype(float)
    order = [int(index) for index in np.lexsort(losses.T[::-1])]
    rest, kernel = set(order), []
    while rest:
        free = [i for i in order if i in rest and not table[sorted(rest), i].any()]
        chosen = free or [next(i for i in order if i in rest)]
        kernel += chosen
        rest = {i for i in rest if i not in chosen and not table[chosen, i].any()}
    assert _find_kernel(lambda i, j: table[np.ix_(i, j)], losses) == kernel


@settings(deadline=None)
@given(trial_lists)
def test_probabilities_of_a_few_are_those_among_all(values) -> None:
    trials = build(values)
    everyone, few = front_probabilities(trials, ALL), trials[::2]
    found = front_probabilities(trials, ALL, of=few)
    assert found == {trial.digest: everyone[trial.digest] for trial in few}


@settings(deadline=None)
@given(trial_lists)
def test_nobody_on_the_front_is_dominated_and_everybody_else_is(values) -> None:
    trials = build(values)
    front = set(numbers(find_front(trials, ALL)))
    dominance = full_table(trials)
    assert front
    for number in range(len(trials)):
        is_beaten = any(dominance[member, number] for member in front)
        assert (number in front) != is_beaten or _is_in_a_circle(dominance, number, front)


def _is_in_a_circle(dominance: np.ndarray, number: int, front: set[int]) -> bool:
    return number in front and any(dominance[other, number] for other in front)


@settings(deadline=None)
@given(trial_lists, st.randoms(use_true_random=False))
def test_front_does_not_depend_on_the_order_of_trials(values, random) -> None:
    trials = build(values)
    shuffled = list(trials)
    random.shuffle(shuffled)
    losses = {tuple(trial.objective(name) for name in ALL) for trial in trials}
    if len(losses) == len(trials):
        assert set(numbers(find_front(trials, ALL))) == set(numbers(find_front(shuffled, ALL)))


@settings(deadline=None)
@given(trial_lists)
def test_front_that_grows_is_the_one_that_is_found_anew(values) -> None:
    trials = build(values)
    front: list[Trial] = []
    for end, trial in enumerate(trials, start=1):
        front = extend_front(front, trial, trials[:end], ALL)
        if _has_circles(full_table(trials[:end])):
            return  # where the best by point estimates breaks them, by all that there are
        assert set(numbers(front)) == set(numbers(find_front(trials[:end], ALL)))


def _has_circles(dominance: np.ndarray) -> bool:
    reach = dominance.astype(float)
    for _ in range(len(dominance)):
        reach = np.minimum(1.0, reach + reach @ reach)
    return bool(reach.diagonal().any())


def test_without_noise_the_front_is_the_plain_one() -> None:
    generator = np.random.default_rng(0)
    trials = [
        make_trial(i, float(generator.random()), float(generator.random()), int(s), width=0.0)
        for i, s in enumerate(generator.integers(1, 1000, 40))
    ]
    assert numbers(find_front(trials, ALL)) == numbers(find_plain_front(trials, ALL))


def test_constraints_keep_trials_off_the_front() -> None:
    trials = [make_trial(0, right(900)), make_trial(1, right(700), size=10)]
    assert sorted(numbers(find_front(trials, ALL))) == [0, 1]
    assert numbers(find_front(trials, ALL, Bounds(max_drop=0.05))) == [0]


def test_rejected_and_failed_trials_are_never_members() -> None:
    rejected = make_trial(1, right(999)).model_copy(update={"state": "rejected"})
    assert numbers(find_front([make_trial(0, right(900)), rejected], ALL)) == [0]


def test_probabilities_tell_the_certain_from_the_undecided() -> None:
    twins = [make_trial(0, right(900), 0.5), make_trial(1, right(900), 0.5)]
    beaten = make_trial(2, right(700), 0.9, 2000)
    found = front_probabilities([*twins, beaten], ALL)
    assert found[beaten.digest] == 0.0
    assert all(0.3 < found[trial.digest] < 0.7 for trial in twins)
    assert front_probabilities([*twins, beaten], ALL) == found, "the draws are seeded"


def members_of_a_slower_day() -> list[Trial]:
    """Timed anew, together, when all of them took 10 % longer."""
    day = {"session": "front", "width": 0.002}
    return [
        make_trial(0, right(900), 0.55, 1000, search_ratio=0.50, **day),
        make_trial(1, right(850), 0.44, 500, search_ratio=0.40, **day),
        make_trial(2, right(800), 0.33, 400, search_ratio=0.30, **day),
        make_trial(3, right(700), 0.22, 300, search_ratio=0.20, **day),
    ]


def test_timing_the_front_anew_on_a_slower_day_lets_nobody_else_in() -> None:
    """All members took 10 % longer; trials that were not timed again must not profit."""
    members = members_of_a_slower_day()
    beaten = make_trial(4, right(880), 0.52, 1000)
    assert sorted(numbers(find_front([*members, beaten], ALL))) == [0, 1, 2, 3]


def test_a_member_does_not_make_room_for_who_was_slower_on_a_quicker_day() -> None:
    """By the ratios of the search 0 was faster, if not surely; by those of two days it is not."""
    members = members_of_a_slower_day()
    newcomer = make_trial(4, right(902), 0.505, 1000, width=0.05)
    assert sorted(numbers(find_front([*members, newcomer], ALL))) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("others", [0, 1, 2])
def test_a_lucky_winner_loses_its_luck_when_few_are_timed_anew(others: int) -> None:
    """Of one, two or three members, a slow one must not be excused by its own slowness."""
    day = {"session": "front", "width": 0.002}
    lucky = make_trial(0, right(900), 0.60, 1000, search_ratio=0.40, **day)
    rest = [
        make_trial(index, right(600), 0.35, 500 - index, search_ratio=0.35, **day)
        for index in range(1, others + 1)
    ]
    honest = make_trial(9, right(900), 0.50, 1000, width=0.002)
    assert comparable_log_ratios([lucky, *rest])[0] == pytest.approx(np.log(0.60))
    assert 0 not in numbers(find_front([lucky, *rest, honest], ALL))


@given(st.integers(1, 6), st.integers(0, 5))
def test_errors_of_differences_are_those_of_all_differences(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    draws = 0.9 + 0.01 * generator.standard_normal((count, 200))
    draws[-1] = draws[0]
    slow = (draws[:, None] - draws[None, :]).std(axis=2)
    assert np.allclose(_draw_errors(draws, draws), slow, atol=1e-9)
    assert _draw_errors(draws, draws)[0, -1] == 0.0


@pytest.mark.parametrize("objectives", [["accuracy"], ["latency"], ["size"], ["latency", "size"]])
def test_any_objectives_give_a_front(objectives) -> None:
    trials = build([(0, 0, 0.5, 1), (10, 0, 0.9, 2), (20, 5, 0.4, 3)])
    assert find_front(trials, objectives)
