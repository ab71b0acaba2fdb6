"""Searches that stop hopeless candidates, and fronts that are timed anew."""

from pathlib import Path

import pytest

from autoquant.core.front import find_front
from autoquant.core.recipe import Recipe
from autoquant.core.trial import Trial
from autoquant.evaluate import Evaluator
from autoquant.search.storage import Location, load_record
from autoquant.search.study import Budget, Event
from tests.fakes import QUICK_SAMPLERS, fake_evaluator, fake_record, fake_study

ALL = ["accuracy", "latency", "size"]


@pytest.mark.parametrize("sampler", QUICK_SAMPLERS)
@pytest.mark.long
def test_rejected_trials_keep_what_was_seen_and_are_never_shown_as_measured(
    tmp_path: Path, sampler: str
) -> None:
    study = fake_study(tmp_path)
    members = study.run(Budget(40), sampler)
    trials = load_record(Location(tmp_path, "fake")).trials()
    rejected = [trial for trial in trials if trial.state == "rejected"]
    assert len(trials) == 40
    # what nobody proposes need not be turned away
    assert rejected or sampler == "auto"
    for trial in rejected:
        assert trial.accuracy is None
        assert trial.latency_ratio is None
        assert 0 < trial.partial.samples <= trial.partial.of_samples == 1000
        assert "dominates it" in trial.partial.reason
        assert trial.name is None, "baselines are always measured in full"
    assert not {trial.digest for trial in rejected} & {trial.digest for trial in members}


def test_optuna_calls_no_rejected_trial_feasible(tmp_path: Path) -> None:
    study = fake_study(tmp_path)
    study.run(Budget(40), "random")
    numbers = {trial.number for trial in study.record.trials() if trial.state == "rejected"}
    assert numbers
    assert not numbers & {trial.number for trial in study.record.study.best_trials}


def test_full_evaluations_put_nobody_on_the_front_who_was_turned_away(tmp_path: Path) -> None:
    study = fake_study(tmp_path)
    members = {trial.digest for trial in study.run(Budget(60), "random")}
    evaluator = fake_evaluator()
    everything = [_in_full(trial, evaluator) for trial in study.record.trials()]
    unabridged = {trial.digest for trial in find_front(everything, ALL)}
    assert unabridged == members


def _in_full(trial: Trial, evaluator: Evaluator) -> Trial:
    found, _ = evaluator.evaluate(trial.recipe)
    values = {**found.model_dump(), "evidence": found.evidence}
    return Trial(
        **values, number=trial.number, state="complete", digest=trial.digest, recipe=trial.recipe
    )


def test_nothing_is_rejected_when_everything_is_wanted_in_full(tmp_path: Path) -> None:
    study = fake_study(tmp_path)
    study.reject_early = False
    study.run(Budget(25), "random")
    assert {trial.state for trial in study.record.trials()} == {"complete"}


@pytest.mark.parametrize("sampler", QUICK_SAMPLERS)
@pytest.mark.long
def test_without_latency_one_seed_gives_one_sequence(tmp_path: Path, sampler: str) -> None:
    sequences = []
    for folder in ("one", "other"):
        record = fake_record(Location(tmp_path / folder, "fake"), objectives=["accuracy", "size"])
        fake_study(tmp_path / folder, record).run(Budget(40), sampler)
        sequences.append([(trial.digest, trial.state) for trial in record.trials()])
    assert sequences[0] == sequences[1]


class Corrected(Evaluator):
    """Timing together finds that one member, lucky during the search, is the slowest."""

    def time_together(self, artifacts, session):
        figures = super().time_together(artifacts, session)
        if LUCKY in figures:
            slow = {"latency_ratio": 0.9, "latency_ratio_ci": (0.899, 0.901)}
            figures[LUCKY] = figures[LUCKY].model_copy(update=slow)
        return figures

    def evaluate(self, recipe, gate=None, watch=None):
        found, artifact = super().evaluate(recipe, gate, watch)
        if recipe.digest == LUCKY:
            fast = {"latency_ratio": 0.1, "latency_ratio_ci": (0.099, 0.101)}
            found = found.model_copy(update=fast)
        return found, artifact


# every layer at 8 bits but the last, which is float: larger and no faster than all at 8 bits
LUCKY = Recipe.quantized({**dict.fromkeys([f"conv{i}" for i in range(7)], 8), "conv7": None}).digest


def test_a_member_that_falls_off_says_so(tmp_path: Path) -> None:
    events: list[Event] = []
    evaluator = fake_evaluator()
    evaluator.__class__ = Corrected
    record = fake_record(Location(tmp_path, "fake"))
    study = fake_study(tmp_path, record, evaluator=evaluator, on_event=events.append)
    widths = {**dict.fromkeys(list(study.space.layers), 8), "conv7": None}
    recipe = Recipe.quantized(widths)
    record.enqueue(recipe, None)
    members = study.run(Budget(8), "random")
    lucky = next(trial for trial in record.trials() if trial.digest == recipe.digest)
    assert lucky.timing.search_ratio == 0.1
    assert "when all of them are timed in turns" in lucky.left_front
    assert recipe.digest not in {member.digest for member in members}
    messages = [event.message for event in events if event.kind == "left"]
    assert messages == [f"trial {lucky.number} left the front: {lucky.left_front}"]
    assert "left_front" in lucky.to_dict()


def test_who_was_turned_away_by_a_member_that_fell_off_is_evaluated_after_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = dict.fromkeys([f"conv{index}" for index in range(8)], 8)
    lucky, other = (
        Recipe.quantized({**widths, "conv7": 4}),
        Recipe.quantized({**widths, "conv6": 4}),
    )
    monkeypatch.setattr(f"{__name__}.LUCKY", lucky.digest)
    events: list[Event] = []
    evaluator = fake_evaluator()
    evaluator.__class__ = Corrected
    record = fake_record(Location(tmp_path, "fake"))
    record.enqueue(lucky, None)
    record.enqueue(other, None)  # larger than the lucky one, and no better
    study = fake_study(tmp_path, record, evaluator=evaluator, on_event=events.append)
    members = study.run(Budget(7), "random")
    states = {event.trial.digest: event.trial.state for event in events if event.trial}
    assert states[other.digest] == "rejected"
    assert [event.kind for event in events].count("again") == 1
    trials = {trial.digest: trial for trial in load_record(Location(tmp_path, "fake")).trials()}
    assert len(trials) == 7
    assert trials[other.digest].state == "complete"
    assert trials[other.digest].partial is None
    assert other.digest in {member.digest for member in members}


def test_members_are_timed_together_once(tmp_path: Path) -> None:
    study = fake_study(tmp_path)
    members = study.run(Budget(20), "random")
    sessions = {member.timing_session for member in members}
    assert len(sessions) == 1
    again = fake_study(tmp_path, load_record(Location(tmp_path, "fake")))
    assert {member.timing_session for member in again.run(Budget(20), "random")} == sessions
