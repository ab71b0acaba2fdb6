"""Searches with training: who earns it, how much time it may take, and who is stopped."""

from pathlib import Path

import numpy as np
import pytest

from autoquant.agreement import load_evaluator
from autoquant.core.evidence import Evidence
from autoquant.core.gate import Gate
from autoquant.core.hypervolume import seconds_by_mode
from autoquant.core.pareto import Bounds
from autoquant.core.recipe import PtqOptions, QatOptions, Recipe
from autoquant.core.rehearsal import Rehearsal, project_hits
from autoquant.core.space import LayerRule, SearchSpace, expand_layers
from autoquant.core.task import Task
from autoquant.core.training import TrainingProgress, TrainingWatch
from autoquant.core.trial import Measurement, Partial, Trial
from autoquant.errors import Rejection, TaskError, TrainingError
from autoquant.search.deadline import Deadline
from autoquant.search.header import StudyHeader
from autoquant.search.promotion import find_promising, has_time_to_train
from autoquant.search.storage import Location, load_record
from autoquant.search.study import Budget
from tests.fakes import fake_evaluator, fake_record, fake_study
from tests.networks import Residual, make_task

LAYERS = [f"conv{index}" for index in range(4)]
TOTAL = 1000


def mixed_space(count: int = 8) -> SearchSpace:
    names = [f"conv{index}" for index in range(count)]
    options = {"mode": ("ptq", "qat"), "calibration": ("minmax", "mse"), "qat.epochs": (2,)}
    return SearchSpace(expand_layers({"*": LayerRule((8, 4))}, names), options)


def hits(right: int, count: int = TOTAL):
    """So many of 1,000, spread evenly; whoever has more has all that others have."""
    return (np.arange(count) * 7919 % 1000) < right


def evidence(right: int) -> Evidence:
    return Evidence.from_hits(hits(right))


def trial(number: int, right: int, size: int, seconds: float = 1.0, **changes) -> Trial:
    recipe = Recipe.uniform(LAYERS, 4, PtqOptions(calibration_images=number + 1))
    values = {
        "number": number, "state": "complete", "digest": recipe.digest, "recipe": recipe,
        "accuracy": right / TOTAL, "accuracy_drop": (950 - right) / TOTAL, "size_bytes": size,
        "evidence": evidence(right), "seconds": {"accuracy": seconds},
    }  # fmt: skip
    return Trial(**(values | changes))


def float_trial() -> Trial:
    recipe = Recipe(method="fp32")
    return trial(0, 950, 4000, recipe=recipe, digest=recipe.digest, name="fp32")


def test_who_is_on_the_front_or_near_it_and_has_lost_something_is_promising() -> None:
    trials = [
        float_trial(),
        trial(1, 950, 1000),  # on the front, nothing lost
        trial(2, 900, 500),  # on the front
        trial(3, 890, 501),  # dominated, would be back
        trial(4, 600, 3000),  # dominated, and would be
    ]
    found = find_promising(trials, ["accuracy", "size"], Bounds())
    assert [item.number for item in found] == [3, 2]


def test_a_constraint_that_is_nearly_met_is_near_enough() -> None:
    trials = [float_trial(), trial(1, 890, 500), trial(2, 500, 400)]
    assert not [item for item in trials[1:] if Bounds(0.02).admits(item)]
    found = find_promising(trials, ["accuracy", "size"], Bounds(0.02))
    assert [item.number for item in found] == [1]


def test_without_accuracy_as_objective_a_bound_is_what_training_has_to_meet() -> None:
    trials = [float_trial(), trial(1, 890, 500), trial(2, 500, 400)]
    found = find_promising(trials, ["size"], Bounds(0.02))
    assert [item.number for item in found] == [1]
    assert find_promising(trials, ["size"], Bounds()) == []


def test_what_training_may_bring_within_the_bound_is_not_turned_away_before(
    tmp_path: Path,
) -> None:
    """The gate lets pass what loses four times what is allowed: three quarters may come back."""
    study = fake_study(tmp_path, space=mixed_space())
    study.bounds = Bounds(0.02)
    untrained = Recipe.uniform([f"conv{index}" for index in range(8)], 4)
    assert study._gate(untrained).bounds.max_drop == pytest.approx(0.08)
    assert study._gate(untrained.trained(QatOptions(epochs=2))).bounds.max_drop == 0.02
    study.space = study.space.untrained
    assert study._gate(untrained).bounds.max_drop == 0.02


def test_a_small_space_is_trained_when_there_is_nothing_else_to_do(tmp_path: Path) -> None:
    events = []
    names = [f"conv{index}" for index in range(8)]
    options = {"mode": ("ptq", "qat"), "qat.epochs": (2,)}
    space = SearchSpace(expand_layers({"*": LayerRule((4,))}, names), options)
    study = fake_study(tmp_path, space=space, on_event=events.append)
    study.run(Budget(40), "random")
    trials = study.record.trials()
    assert sum(item.recipe.is_trained for item in trials) == 1
    assert [event.message for event in events if event.kind == "exhausted"] == [
        "every recipe has been evaluated without training, and every one trained whose training "
        "may pay, as far as there was time"
    ]


def test_a_search_that_only_trains_begins_none_that_it_cannot_end() -> None:
    recipe = Recipe.uniform(LAYERS, 4).trained(QatOptions())
    trained = trial(1, 940, 500, 100.0).model_copy(update={"recipe": recipe})
    told = [float_trial(), trained]
    assert Deadline(1000.0).left_for_trials(told, [], has_report=False) > 100
    assert Deadline(90.0).left_for_trials(told, [], has_report=False) == 0
    mixed = [*told, trial(2, 940, 500, 1.0)]
    assert Deadline(90.0).left_for_trials(mixed, [], has_report=False) > 0


def test_trained_trials_take_half_of_the_time_at_most() -> None:
    untrained = [trial(1, 900, 500, 30.0), trial(2, 900, 500, 30.0)]
    first = trial(3, 940, 500, 50.0)
    first = first.model_copy(update={"recipe": first.recipe.trained(QatOptions())})
    second = first.model_copy(update={"digest": "other"})
    assert seconds_by_mode([*untrained, first]) == {"ptq": 60.0, "qat": 50.0}
    assert has_time_to_train(untrained, None, 1000)
    assert has_time_to_train([*untrained, first], None, 1000)
    assert not has_time_to_train([*untrained, first, second], None, 1000)
    assert has_time_to_train([*untrained, first], 200, 1000)
    assert not has_time_to_train([*untrained, first], 199, 1000)
    assert not has_time_to_train([*untrained, first], None, 49), "it would not come to an end"
    assert has_time_to_train([*untrained, first], 100, 1000, before={first.number})
    assert not has_time_to_train([*untrained, first], 99, 1000, before={first.number})


def test_search_trains_who_has_earned_it_and_improves_the_front(tmp_path: Path) -> None:
    events = []
    evaluator = fake_evaluator()
    study = fake_study(tmp_path, space=mixed_space(), evaluator=evaluator, on_event=events.append)
    members = study.run(Budget(40, timeout_s=30.0), "random")
    trials = study.record.trials()
    trained = [item for item in trials if item.recipe.is_trained]
    assert 1 <= len(trained) <= 3, "5 seconds each, of 15"
    first = min(item.number for item in trained)
    assert sum(not item.recipe.is_trained for item in trials if item.number < first) >= 12
    known = {item.digest: item for item in trials}
    for item in trained:
        twin = known[item.recipe.trained(None).digest]
        assert twin.number < item.number
        assert twin.accuracy_drop > 0
        assert item.size_bytes == twin.size_bytes
    assert any(member.recipe.is_trained for member in members)


def test_a_resumed_search_goes_on_with_its_trained_trials(tmp_path: Path) -> None:
    location = Location(tmp_path, "fake")
    fake_study(tmp_path, fake_record(location), mixed_space()).run(Budget(20, 60.0), "random")
    record = load_record(location)
    study = fake_study(tmp_path, record, mixed_space())
    study.run(Budget(30, 60.0), "random")
    digests = [item.digest for item in record.trials()]
    assert len(digests) == len(set(digests)) == 30


def test_each_run_has_its_own_time_to_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[frozenset[int]] = []

    def note(trials, timeout_s, seconds_left, before=frozenset(), *, is_all=False) -> bool:
        asked.append(before)
        return False

    monkeypatch.setattr("autoquant.search.study.has_time_to_train", note)
    location = Location(tmp_path, "fake")
    fake_study(tmp_path, fake_record(location), mixed_space()).run(Budget(24), "random")
    assert {*asked} == {frozenset()}
    asked.clear()
    fake_study(tmp_path, load_record(location), mixed_space()).run(Budget(30), "random")
    assert {*asked} == {frozenset(range(24))}


HOPELESS = Rejection(
    "after epoch 1 of 2, trial 1 dominates it",
    Measurement(
        partial=Partial(
            reason="after epoch 1 of 2, trial 1 dominates it",
            samples=500, of_samples=1000, accuracy=0.5, accuracy_drop=0.4, latency_ratio=0.5,
        ),
        size_bytes=9000,
        evidence=evidence(500),
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    ("error", "state"), [(TrainingError("training diverged"), "failed"), (HOPELESS, "rejected")]
)
def test_a_training_that_comes_to_nothing_is_recorded_and_has_cost_time(
    tmp_path: Path, error: Exception, state: str
) -> None:
    evaluator = fake_evaluator()
    build = evaluator.builder.build

    def fail(recipe: Recipe, watch: TrainingWatch | None = None):
        if recipe.is_trained:
            raise error
        return build(recipe, watch)

    evaluator.builder.build = fail
    study = fake_study(tmp_path, space=mixed_space(), evaluator=evaluator)
    study.run(Budget(22, 60.0), "random")
    trained = [item for item in study.record.trials() if item.recipe.is_trained]
    assert trained
    assert {item.state for item in trained} == {state}
    assert {item.error or item.partial.reason for item in trained} == {str(error)}
    assert all(item.seconds["train"] >= 0 for item in trained)


def test_projected_hits_close_a_share_of_the_gap() -> None:
    float_hits = np.arange(100) < 90
    ours = np.arange(100) < 50
    assert project_hits(ours, float_hits, 0.0).sum() == 50
    assert project_hits(ours, float_hits, 0.5).sum() == 70
    assert project_hits(ours, float_hits, 1.0).sum() == 90


@pytest.mark.parametrize(
    ("right", "step", "stops"), [(300, 8, True), (300, 1, False), (870, 8, False)]
)
def test_a_training_without_prospects_is_stopped(right: int, step: int, stops: bool) -> None:
    """The rest of the training can close the rest of the gap, and no more."""
    gate = Gate([trial(1, 880, 500)], ["accuracy", "size"], Bounds(), scout=trial(2, 700, 500))
    found = hits(right, 500)
    progress = TrainingProgress(step, 10, step, 10, 0.1)
    rehearsal = Rehearsal(
        [], hits(950, 500), lambda outputs: found, TOTAL, gate, TrainingWatch(), lambda: None
    )
    if not stops:
        assert rehearsal.on_epoch(progress, lambda batches: None) == found.mean()
        return
    with pytest.raises(Rejection, match="after epoch 8 of 10, trial 1 dominates it") as caught:
        rehearsal.on_epoch(progress, lambda batches: None)
    seen = caught.value.measurement
    assert seen.partial.accuracy == found.mean()
    assert seen.size_bytes == 500


def test_training_whose_best_epoch_could_enter_goes_on() -> None:
    """It may be kept, whatever comes after it."""
    gate = Gate([trial(1, 880, 500)], ["accuracy", "size"], Bounds(), scout=trial(2, 700, 500))
    found = iter([hits(900, 500), hits(700, 500), hits(700, 500)])
    rehearsal = Rehearsal(
        [], hits(950, 500), lambda outputs: next(found), TOTAL, gate, TrainingWatch(), lambda: None
    )
    rehearsal.on_epoch(TrainingProgress(5, 10, 5, 10, 0.1), lambda batches: None)
    rehearsal.on_epoch(TrainingProgress(9, 10, 9, 10, 0.1), lambda batches: None)
    rehearsal._best = None
    with pytest.raises(Rejection):
        rehearsal.on_epoch(TrainingProgress(9, 10, 9, 10, 0.1), lambda batches: None)


def test_space_with_training_for_a_task_without_data_names_both_ways_out(tmp_path: Path) -> None:
    definition = {
        "version": 1, "task": "test", "objectives": ["accuracy"], "quantizer": {"mode": ["qat"]}
    }  # fmt: skip
    task: Task = make_task(Residual)
    with pytest.raises(TaskError, match=r"task 'test' has no training data: drop 'qat'.*`train`"):
        load_evaluator(StudyHeader(definition, 0, "tpe"), task, Location(tmp_path, "x"))
