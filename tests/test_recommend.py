import pytest

from autoquant.core.pareto import Bounds
from autoquant.core.recommend import find_nearest_misses, recommend
from autoquant.core.trial import Partial
from autoquant.report import describe_drift, describe_recommendation
from tests.trials import make_trial

ALL = ["accuracy", "latency", "size"]
FLOAT = make_trial(0, 0.900, 1.0, 1000)
FRONT = [
    FLOAT,
    make_trial(1, 0.896, 0.48, 250),
    make_trial(2, 0.883, 0.40, 200),
    make_trial(3, 0.890, 0.60, 150),
]


def chosen(bounds: Bounds) -> dict[str, int]:
    return {choice.kind: choice.trial.number for choice in recommend(FRONT, ALL, bounds)}


def test_every_kind_is_the_best_of_its_kind() -> None:
    found = chosen(Bounds(max_drop=0.02))
    assert found["fastest"] == 2
    assert found["smallest"] == 3
    assert found["most accurate"] == 1, "float is not faster than float"
    assert found["knee"] in (1, 3)


def test_the_allowed_drop_is_one_point_unless_it_is_given() -> None:
    assert chosen(Bounds())["fastest"] == 1


def test_a_latency_bound_gives_the_most_accurate_within() -> None:
    assert chosen(Bounds(max_drop=0.1, max_latency_ms=0.45))["most accurate"] == 2


def test_reasons_are_one_sentence_with_the_next_faster() -> None:
    choices = {choice.kind: choice for choice in recommend(FRONT, ALL, Bounds())}
    assert describe_recommendation([choices["fastest"]], FLOAT) == (
        "fastest within a drop of 1 points: trial 1, 0.40 points below float, 2.1x faster, "
        "one quarter of the size; next faster loses 1.30 points (trial 2)."
    )
    both = [choices["smallest"], choices["fastest"]]
    words = describe_recommendation(both, FLOAT)
    assert words.startswith("smallest within a drop of")
    assert "; fastest within" in words


def numbers(trials) -> list[int]:
    return [trial.number for trial in trials]


def test_the_nearest_miss_exceeds_by_least() -> None:
    assert numbers(find_nearest_misses(FRONT[1:], Bounds(max_drop=0.001))) == [1, 3, 2]
    assert numbers(find_nearest_misses(FRONT, Bounds(max_size_mb=0.0001))) == [3, 2, 1, 0]
    assert find_nearest_misses([], Bounds()) == []


def test_what_was_stopped_early_may_be_the_nearest_miss() -> None:
    """Bounds that nothing meets stop all but the baselines."""
    partial = Partial(reason="its size", samples=250, of_samples=1000, accuracy=0.89,
                      accuracy_drop=0.01)  # fmt: skip
    unseen = {"state": "rejected", "partial": partial, "accuracy_drop": None, "accuracy": None,
              "latency_ms": None, "timing": None}  # fmt: skip
    stopped = make_trial(4, 0.89, size=120).model_copy(update=unseen)
    found = find_nearest_misses([*FRONT, stopped], Bounds(max_size_mb=0.0001, max_drop=0.02))
    assert numbers(found)[0] == 4
    found = find_nearest_misses([*FRONT, stopped], Bounds(max_size_mb=0.0001, max_drop=0.001))
    assert numbers(found)[0] != 4, "what was seen of its accuracy counts"


def test_nothing_to_recommend_is_an_empty_list() -> None:
    assert recommend([], ALL, Bounds()) == []


@pytest.mark.parametrize("trials", [[], [make_trial(0, 0.9).model_copy(update={"timing": None})]])
def test_drift_needs_timings(trials) -> None:
    assert describe_drift(trials) is None


def test_drift_is_that_of_the_reference() -> None:
    slow = make_trial(1, 0.9)
    slow = slow.model_copy(update={"timing": slow.timing.model_copy(update={"reference_ms": 1.1})})
    text = describe_drift([make_trial(0, 0.9), make_trial(2, 0.9), slow])
    assert text == "float reference 1 ms, +0.0% to +10.0% over the study"
