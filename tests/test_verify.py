"""A passport on the machine that it was written on, and on another one."""

from pathlib import Path

import pytest

from autoquant import verify
from autoquant.backends import machine
from autoquant.core.check import (
    Check,
    check_accuracy,
    describe_machine_change,
    find_condition_changes,
    moves_accuracy,
    moves_latency,
)
from autoquant.core.fingerprint import fingerprint_digest
from autoquant.core.trial import Measurement
from autoquant.search.storage import Location, load_record
from autoquant.search.study import Budget, Event
from tests.fakes import fake_evaluator, fake_record, fake_study

HERE = {"cpu": "A", "architecture": "x86_64", "flags": ["avx2"], "cores": 2, "system": "Linux"}
DROP_CI = (0.001, 0.009)


@pytest.mark.parametrize(
    ("here", "agrees"),
    [(0.90, True), (0.895, True), (0.893, False), (0.83, False), (0.97, None)],
)
def test_an_accuracy_elsewhere_may_move_by_rounding_alone(here: float, agrees: bool | None) -> None:
    check = check_accuracy("accuracy", 0.90, here, DROP_CI, "rounds otherwise")
    assert check.agrees is agrees
    assert ("rounds otherwise" in check.verdict) == (agrees is not True)


def test_an_accuracy_here_is_the_same_to_the_last_digit() -> None:
    assert check_accuracy("accuracy", 0.90, 0.90, DROP_CI, None).agrees is True
    assert check_accuracy("accuracy", 0.90, 0.9001, DROP_CI, None).agrees is False


class Here:
    """Stands for an evaluator."""

    is_exact = False

    def __init__(self, facts: dict, versions: dict) -> None:
        self.fingerprint = {"machine": facts, "versions": versions, "latency_protocol": 2}


def passport(**changes: object) -> dict:
    return {
        "machine": {**HERE, "flags": ["avx2", "avx512_vnni"], **changes},
        "versions": {"onnxruntime": "1", "torch": "1"},
        "conditions": {"threads": 1, "batch": 1, "latency_protocol": 2},
    }


def test_a_processor_whose_sums_saturate_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "describe_machine", lambda: HERE)
    monkeypatch.setattr(machine, "_DOT_PRODUCT", machine._DOT_PRODUCT - {"avx2"})
    evaluator = Here(HERE, {"onnxruntime": "1"})
    setting = verify._Setting.of(passport(), Measurement(), evaluator)
    assert "reduce_range" in setting.accuracy_note
    assert not setting.is_same
    same = verify._Setting.of(passport(flags=["avx2"]), Measurement(), evaluator)
    assert (same.accuracy_note, same.is_same, same.changes) == (None, True, [])


def test_conditions_that_move_figures_are_listed() -> None:
    stored = passport(governor="performance", turbo=True)
    now = {**stored["machine"], "governor": "powersave", "turbo": True}
    found = find_condition_changes(stored, now, {"onnxruntime": "2", "torch": "2"}, 3)
    assert [check.name for check in found] == [
        "version of onnxruntime", "version of torch", "governor", "latency protocol"
    ]  # fmt: skip
    assert {check.agrees for check in found} == {None}
    assert [moves_latency(check) for check in found] == [True, False, True, True]
    assert [moves_accuracy(check) for check in found] == [True, False, False, False]


def test_machines_whose_flags_are_unknown_are_the_same() -> None:
    """An old passport says so by an empty list."""
    assert describe_machine_change({**HERE, "flags": []}, {**HERE, "flags": None}) is None


def test_a_ratio_that_disagrees_is_measured_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = fake_evaluator()
    recipe = next(iter(fake_space_recipes()))
    stored, artifact = evaluator.evaluate(recipe)
    wrong = stored.model_copy(update={"latency_ratio": 2.0, "latency_ratio_ci": (1.99, 2.01)})
    asked = []
    timing = evaluator.time_together
    monkeypatch.setattr(
        evaluator, "time_together", lambda *given: asked.append(given) or timing(*given)
    )
    assert verify._check_latency(artifact, stored, wrong, evaluator, True).agrees is True
    assert len(asked) == 1
    assert verify._check_latency(artifact, stored, stored, evaluator, True).agrees is True
    assert verify._check_latency(artifact, wrong, stored, evaluator, True).agrees is False
    assert len(asked) == 2, "only what disagrees is measured again"


def fake_space_recipes():
    from autoquant.core.recipe import Recipe

    return [Recipe.uniform([f"conv{index}" for index in range(8)], 8)]


def test_a_bad_check_says_why_in_the_table() -> None:
    assert Check("accuracy", "1", "2", False, "saturates").verdict == "NO: saturates"
    assert Check("accuracy", "1", "2", False).verdict == "NO"


def move(evaluator, name: str):
    """The same evaluator on another machine."""
    evaluator.backend.fingerprint = lambda: {"machine": {"cpu": name}, "versions": {"x": "1"}}
    return evaluator


def test_trials_remember_what_they_were_measured_on(tmp_path: Path) -> None:
    study = fake_study(tmp_path, evaluator=move(fake_evaluator(), "first"))
    study.run(Budget(8), "random")
    record = load_record(Location(tmp_path, "fake"))
    for trial in record.trials():
        assert record.fingerprint_of(trial)["machine"] == {"cpu": "first"}
    (digest,) = record.fingerprints
    assert digest == fingerprint_digest(study.evaluator.fingerprint)


def test_a_study_that_moves_says_so_and_times_its_front_there(tmp_path: Path) -> None:
    fake_study(tmp_path, evaluator=move(fake_evaluator(), "first")).run(Budget(8), "random")
    events: list[Event] = []
    sealed = []
    record = load_record(Location(tmp_path, "fake"))
    evaluator = move(fake_evaluator(), "second")
    evaluator.builder.seal = lambda artifact, figures, where: (
        sealed.append((figures["timing"], where)) or artifact
    )
    study = fake_study(tmp_path, record, evaluator=evaluator, on_event=events.append)
    members = study.run(Budget(8), "random")
    (note,) = [event.message for event in events if event.kind == "note"]
    assert "another machine (cpu was first, is second)" in note
    assert [event.kind for event in events].count("timing") == 1
    for trial in members:
        assert record.fingerprint_of(trial)["machine"] == {"cpu": "second"}
        assert record.fingerprints[trial.measured_on]["machine"] == {"cpu": "first"}
    assert sealed[-1][1]["machine"] == {"cpu": "second"}
    off = [trial for trial in record.trials() if trial.digest not in {m.digest for m in members}]
    assert {record.fingerprint_of(trial)["machine"]["cpu"] for trial in off} == {"first"}


def test_old_records_without_fingerprints_are_left_alone(tmp_path: Path) -> None:
    record = fake_record(Location(tmp_path, "fake"))
    fake_study(tmp_path, record).run(Budget(6), "random")
    record.study.set_user_attr("fingerprints", {})
    events: list[Event] = []
    again = fake_study(
        tmp_path, load_record(Location(tmp_path, "fake")),
        evaluator=move(fake_evaluator(), "second"), on_event=events.append,
    )  # fmt: skip
    again.run(Budget(6), "random")
    assert not {event.kind for event in events} & {"note", "timing"}
