"""Hypervolume against inclusion and exclusion, and what each mode is credited with."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoquant.core.hypervolume import find_mode_yields, hypervolume, trace_hypervolume
from autoquant.core.pareto import Bounds
from tests.loss_trials import float_trial, grid_trials
from tests.trials import make_trial, right

OBJECTIVES = ["accuracy", "latency", "size"]


def by_inclusion(points: np.ndarray, corner: np.ndarray) -> float:
    """Volume of a union of boxes, by the volumes of all their intersections."""
    total = 0.0
    for count in range(1, len(points) + 1):
        for chosen in combinations(points, count):
            sides = np.maximum(corner - np.max(chosen, axis=0), 0.0)
            total += (-1) ** (count + 1) * float(np.prod(sides))
    return total


@settings(deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda sides: st.lists(
            st.lists(st.integers(0, 6), min_size=sides, max_size=sides), min_size=1, max_size=5
        )
    )
)
def test_slices_add_up_to_the_union_of_boxes(points: list[list[int]]) -> None:
    losses = np.array(points, dtype=float)
    corner = np.full(losses.shape[1], 5.0)
    assert hypervolume(losses, corner) == pytest.approx(by_inclusion(losses, corner))


def test_what_the_modes_gained_is_all_that_was_gained() -> None:
    trials = grid_trials()
    found = {item.mode: item for item in find_mode_yields(trials, OBJECTIVES, Bounds())}
    losses = np.array([
        [t.accuracy_drop / 0.1, t.latency_ratio, t.size_bytes / 4000] for t in trials
    ])  # fmt: skip
    assert sum(item.gained for item in found.values()) == pytest.approx(
        hypervolume(losses, np.ones(3))
    )
    assert found["qat"].seconds == 4 * 62.0
    assert found["qat"].gained > 0
    assert found["qat"].gained_per_minute == pytest.approx(found["qat"].gained / (4 * 62 / 60))
    assert found["qat"].trials + found["ptq"].trials == len(trials)


def test_the_numbers_of_trials_are_their_order() -> None:
    trials = grid_trials()
    one = find_mode_yields(trials, OBJECTIVES, Bounds())
    assert one == find_mode_yields(trials[::-1], OBJECTIVES, Bounds())


def test_a_study_that_measured_no_latency_or_nothing_gains_what_it_has() -> None:
    bare = [trial.model_copy(update={"latency_ratio": None}) for trial in grid_trials()]
    assert all(item.gained == 0 for item in find_mode_yields(bare, OBJECTIVES, Bounds()))
    assert find_mode_yields(bare, ["accuracy", "size"], Bounds())[0].gained > 0
    ptq, qat = find_mode_yields([float_trial()], OBJECTIVES, Bounds())
    assert (ptq.trials, qat.trials, qat.gained_per_minute) == (1, 0, None)


@pytest.mark.parametrize("bound", [0.0, -0.01])
def test_where_no_drop_is_allowed_what_is_better_than_that_is_a_gain(bound: float) -> None:
    reference = make_trial(0, right(900), 1.0, 4000).model_copy(update={"name": "fp32"})
    lost, better = make_trial(1, right(850)), make_trial(2, right(950))
    volumes = trace_hypervolume([reference, lost, better], OBJECTIVES, Bounds(bound))
    assert volumes[1] == 0.0
    assert volumes[2] > 0.0
