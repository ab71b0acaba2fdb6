import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autoquant.core.front import find_front
from autoquant.core.pareto import (
    Bounds,
    find_knee,
    is_nondominated,
    pick_fastest,
    pick_smallest,
)
from autoquant.core.recipe import Recipe
from autoquant.core.trial import Trial

losses = st.integers(1, 4).flatmap(
    lambda m: arrays(np.float64, st.tuples(st.integers(1, 25), st.just(m)),
                     elements=st.integers(0, 6).map(float))
)  # fmt: skip


def brute_force(values: np.ndarray) -> np.ndarray:
    return np.array(
        [
            not any((other <= row).all() and (other < row).any() for other in values)
            for row in values
        ]
    )


@given(losses)
def test_front_equals_brute_force(values: np.ndarray) -> None:
    assert (is_nondominated(values) == brute_force(values)).all()


@given(losses, st.randoms(use_true_random=False))
def test_front_does_not_depend_on_order(values: np.ndarray, random) -> None:
    order = list(range(len(values)))
    random.shuffle(order)
    assert (is_nondominated(values[order]) == is_nondominated(values)[order]).all()


@given(losses)
def test_front_is_stable_under_itself(values: np.ndarray) -> None:
    front = values[is_nondominated(values)]
    assert is_nondominated(front).all()


def trial(number: int, accuracy: float, ratio: float, size: int) -> Trial:
    values = {"state": "complete", "accuracy": accuracy, "accuracy_drop": 0.9 - accuracy,
              "latency_ratio": ratio, "latency_ms": ratio, "size_bytes": size}  # fmt: skip
    recipe = Recipe.uniform([f"layer{number}"], 8)
    return Trial(number=number, digest=recipe.digest, recipe=recipe, **values)


TRIALS = [
    trial(0, 0.90, 1.0, 1000),
    trial(1, 0.89, 0.5, 300),
    trial(2, 0.86, 0.5, 150),
    trial(3, 0.85, 0.6, 200),  # dominated by 2
    trial(4, 0.0, 0.1, 10).model_copy(update={"state": "failed", "accuracy": None}),
]


def test_failed_trials_are_never_on_the_front() -> None:
    front = find_front(TRIALS, ["accuracy", "latency", "size"])
    assert [item.number for item in front] == [0, 1, 2]


def test_objectives_choose_the_front() -> None:
    assert [item.number for item in find_front(TRIALS, ["size"])] == [2]
    assert [item.number for item in find_front(TRIALS, ["accuracy"])] == [0]


def test_knee_is_the_member_nearest_to_the_ideal() -> None:
    objectives = ["accuracy", "latency", "size"]
    knee = find_knee(find_front(TRIALS, objectives), objectives)
    assert knee is not None
    assert knee.number == 1
    assert find_knee([], objectives) is None


def test_picks_stay_within_bounds() -> None:
    assert pick_smallest(TRIALS[:4], Bounds(max_drop=0.02)).number == 1
    assert pick_smallest(TRIALS[:4], Bounds()).number == 2
    assert pick_fastest(TRIALS[:4], Bounds(max_size_mb=0.00018)).number == 2
    assert pick_fastest(TRIALS[:4], Bounds(max_drop=-1.0)) is None


def test_an_unmeasured_figure_is_out_of_bounds() -> None:
    assert not Bounds(max_drop=1.0).admits(TRIALS[4].model_copy(update={"accuracy_drop": None}))


def test_objective_of_an_unmeasured_trial_raises() -> None:
    with pytest.raises(ValueError, match="did not measure accuracy"):
        TRIALS[4].objective("accuracy")
