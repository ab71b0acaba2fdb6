"""The end of a search: what fails there for one member never hides the front."""

import dataclasses
import json
from pathlib import Path

import pytest

from autoquant.core.pareto import Bounds
from autoquant.core.recipe import PtqOptions, QatOptions, Recipe
from autoquant.core.trial import Trial
from autoquant.errors import TrialError
from autoquant.evaluate import Evaluator
from autoquant.search.closing import Closing
from autoquant.search.deadline import Deadline
from autoquant.search.storage import Location, load_record
from autoquant.search.study import Budget, Event, Study
from tests.fakes import fake_evaluator, fake_record, fake_study
from tests.trials import make_trial


def close(tmp_path: Path, kind: type[Evaluator], events: list[Event]) -> tuple[Study, list[Trial]]:
    evaluator = fake_evaluator()
    evaluator.__class__ = kind
    study = fake_study(tmp_path, evaluator=evaluator, on_event=events.append)
    return study, study.run(Budget(12), "random")


def notes(events: list[Event]) -> list[str]:
    return [event.message for event in events if event.kind == "note"]


class Unreportable(Evaluator):
    """The metric is not defined on the report split; for every second file it crashes."""

    def report(self, artifact):
        if artifact.size_bytes % 3 == 0:
            raise KeyError("no such class")
        raise TrialError("the metric is nan; it must return a finite number")


def test_a_report_that_fails_leaves_the_front_and_says_why(tmp_path: Path) -> None:
    events: list[Event] = []
    study, members = close(tmp_path, Unreportable, events)
    assert members
    assert all(trial.report_accuracy is None for trial in members)
    assert all(trial.accuracy is not None for trial in members)
    assert len(notes(events)) == len(members)
    assert all("has no report figures" in note for note in notes(events))
    again = {trial.digest: trial for trial in load_record(Location(tmp_path, "fake")).trials()}
    reasons = {again[trial.digest].report_error for trial in members}
    assert reasons <= {"the metric is nan; it must return a finite number",
                       "KeyError: 'no such class'"}  # fmt: skip
    assert {path.stem for path in study.artifacts.iterdir()} == {t.digest for t in members}


def test_a_report_that_works_later_takes_the_reason_back(tmp_path: Path) -> None:
    close(tmp_path, Unreportable, [])
    again = fake_study(tmp_path, load_record(Location(tmp_path, "fake")))
    members = again.run(Budget(12), "random")
    assert all(trial.report_accuracy is not None for trial in members)
    assert not any("report_error" in trial.to_dict() for trial in again.record.trials())


class Dying(Evaluator):
    """Killed as the members are timed."""

    def time_together(self, artifacts, session):
        raise KeyboardInterrupt


def test_who_is_killed_while_closing_anew_leaves_files_that_can_be_verified(
    tmp_path: Path,
) -> None:
    close(tmp_path, Evaluator, [])
    evaluator = fake_evaluator()
    evaluator.__class__ = Dying
    sealed: list[bytes] = []

    def seal(artifact, measurement, fingerprint=None):
        sealed.append(artifact.content + json.dumps(measurement["accuracy"]).encode())
        return dataclasses.replace(artifact, content=sealed[-1])

    evaluator.builder.seal = seal
    again = fake_study(tmp_path, load_record(Location(tmp_path, "fake")), evaluator=evaluator)
    with pytest.raises(KeyboardInterrupt):
        again.run(Budget(40), "random")
    old = {trial.digest for trial in again.record.trials() if trial.number < 12}
    replaced = [path for path in again.artifacts.iterdir() if path.stem in old]
    assert replaced
    assert all(path.read_bytes() in sealed for path in replaced)


def test_a_front_that_was_timed_by_another_protocol_is_timed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close(tmp_path, Evaluator, [])
    timed: list[int] = []

    def again() -> int:
        evaluator = fake_evaluator()
        together = evaluator.time_together
        evaluator.time_together = lambda files, name: timed.append(1) or together(files, name)
        fake_study(tmp_path, load_record(Location(tmp_path, "fake")), evaluator=evaluator).run(
            Budget(12), "random"
        )
        return len(timed)

    assert again() == 0, "nothing has changed"
    monkeypatch.setattr("autoquant.evaluate.PROTOCOL_VERSION", 99)
    assert again() > 0


class Untimeable(Evaluator):
    """The backend dies as soon as members run beside each other."""

    def time_together(self, artifacts, session):
        raise IndexError("list index out of range")


def test_a_crash_in_the_common_timing_keeps_the_figures_of_the_search(tmp_path: Path) -> None:
    events: list[Event] = []
    study, members = close(tmp_path, Untimeable, events)
    assert members
    assert all(trial.latency_ratio is not None for trial in members)
    assert all(trial.report_accuracy is not None for trial in members)
    (note,) = notes(events)
    assert "IndexError: list index out of range" in note
    assert list(study.record.notes.values()) == [note]
    again = fake_study(tmp_path, load_record(Location(tmp_path, "fake")))
    again.run(Budget(12), "random")
    assert again.record.notes == {}, "timed after all"


class Restless(Evaluator):
    """Each common timing names its members differently, so that they never share a session."""

    def time_together(self, artifacts, session):
        figures = super().time_together(artifacts, session)
        return {
            digest: item.model_copy(
                update={"timing": item.timing.model_copy(update={"session": session + digest})}
            )
            for digest, item in figures.items()
        }


def test_a_front_that_is_never_timed_in_one_session_says_so(tmp_path: Path) -> None:
    events: list[Event] = []
    study, _ = close(tmp_path, Restless, events)
    assert any("still not timed in one session" in note for note in notes(events))
    assert any("not timed in one session" in note for note in study.record.notes.values())


class Slowed(Evaluator):
    """Beside each other all members take longer than the constraint allows, but one."""

    def time_together(self, artifacts, session):
        figures = super().time_together(artifacts, session)
        keep = next(iter(artifacts))
        return {
            digest: item if digest == keep else item.model_copy(update={"latency_ms": 9.0})
            for digest, item in figures.items()
        }


def test_a_member_that_became_too_slow_is_told_so(tmp_path: Path) -> None:
    events: list[Event] = []
    evaluator = fake_evaluator()
    evaluator.__class__ = Slowed
    study = fake_study(tmp_path, evaluator=evaluator, on_event=events.append)
    study.bounds = Bounds(max_latency_ms=2.0)
    study.run(Budget(12), "random")
    left = [event.message for event in events if event.kind == "left"]
    assert left
    assert (
        "its latency of 9 ms, timed in turns with the others, exceeds the allowed 2 ms" in left[0]
    )


class Brittle(Evaluator):
    """A backend that raises what nobody expects of it."""

    def evaluate(self, recipe, gate=None, watch=None):
        if recipe.layers.get("conv0") == 4:
            raise [KeyError("shape"), TypeError("no number"), IndexError("7")][
                len(recipe.digest) % 3
            ]
        return super().evaluate(recipe, gate, watch)


def test_whatever_a_backend_raises_fails_its_trial_alone(tmp_path: Path) -> None:
    study, members = close(tmp_path, Brittle, [])
    failed = [trial for trial in study.record.trials() if trial.state == "failed"]
    assert failed
    assert members
    assert all(trial.error.split(":")[0] in ("KeyError", "TypeError", "IndexError")
               for trial in failed)  # fmt: skip


def test_a_file_that_cannot_be_rebuilt_hides_nobody(tmp_path: Path, monkeypatch) -> None:
    fake_record(Location(tmp_path, "fake"))
    record = load_record(Location(tmp_path, "fake"))
    events: list[Event] = []
    study = fake_study(tmp_path, record, on_event=events.append)
    build = Closing._rebuild

    def rebuild(self, trial):
        if trial.name == "fp32":
            raise MemoryError
        return build(self, trial)

    monkeypatch.setattr(Closing, "_rebuild", rebuild)
    members = study.run(Budget(12), "random")
    assert any(trial.name == "fp32" for trial in members)
    assert sum(trial.report_accuracy is not None for trial in members) == len(members) - 1


# The time that there is


class Clocked(Evaluator):
    """Everything takes as long as it says, by a clock that nothing else moves."""

    clock: list[float]

    def evaluate(self, recipe, gate=None, watch=None):
        self.clock[0] += 2.0
        measurement, artifact = super().evaluate(recipe, gate, watch)
        seconds = {"quantize": 1.0, "accuracy": 0.5, "latency": 0.5}
        return measurement.model_copy(update={"seconds": seconds}), artifact

    def time_together(self, artifacts, session):
        self.clock[0] += 0.9 * (len(artifacts) + 1)
        return super().time_together(artifacts, session)

    def report(self, artifact):
        self.clock[0] += 1.0
        return super().report(artifact)


@pytest.mark.parametrize("limit", [60.0, 200.0])
def test_the_front_is_whole_when_the_time_is_over(tmp_path: Path, monkeypatch, limit) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    evaluator = fake_evaluator()
    evaluator.__class__ = Clocked
    evaluator.clock = clock
    members = fake_study(tmp_path, evaluator=evaluator).run(Budget(10_000, limit), "random")
    assert 0.7 * limit < clock[0] <= limit
    assert all(member.report_accuracy is not None for member in members)
    assert len({member.timing_session for member in members}) == 1


def test_a_limit_shorter_than_closing_still_gives_a_front(tmp_path: Path, monkeypatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    evaluator = fake_evaluator()
    evaluator.__class__ = Clocked
    evaluator.clock = clock
    members = fake_study(tmp_path, evaluator=evaluator).run(Budget(10_000, 5.0), "random")
    assert members
    assert all(member.report_accuracy is not None for member in members)


def test_without_time_for_second_looks_the_record_says_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Closing, "_has_time_for", lambda self, seconds: False)
    monkeypatch.setattr(Closing, "_find_hopeful", lambda self, tried: self.trials[3])
    events: list[Event] = []
    study = fake_study(tmp_path, on_event=events.append)
    members = study.run(Budget(12), "random")
    assert sum("the time was over before every trial" in note for note in notes(events)) == 1
    assert any("the time was over" in note for note in study.record.notes.values())
    assert [event.kind for event in events].count("timing") == 1
    assert all(member.report_accuracy is not None for member in members)
    monkeypatch.undo()
    again = fake_study(tmp_path, load_record(Location(tmp_path, "fake")))
    again.run(Budget(12), "random")
    assert not any("the time was over" in note for note in again.record.notes.values())


def test_a_second_look_at_a_training_needs_the_time_of_one(tmp_path: Path) -> None:
    recipe = Recipe.uniform(["conv0"], 8, PtqOptions(mode="qat", qat=QatOptions()))
    more = {"recipe": recipe, "seconds": {"train": 500.0}}
    trained = make_trial(1, 0.9).model_copy(update=more)
    study = fake_study(tmp_path)
    closing = Closing(
        study.record, study.evaluator, study._shelf, Bounds(), reject_early=True,
        tell=lambda *given: None, deadline=Deadline(400.0),
    )  # fmt: skip
    closing.trials = [trained]
    assert closing._expect(trained) == 500.0
    assert not closing._has_time_for(closing._expect(trained))
    assert closing._has_time_for(300.0)
