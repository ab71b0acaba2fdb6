import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autoquant.agreement import build_header
from autoquant.cli import app
from autoquant.cli.running import run_study
from autoquant.config import find_space, load_space
from autoquant.core.front import find_front
from autoquant.core.recipe import Recipe
from autoquant.core.space import SearchSpace
from autoquant.errors import NegativeAnswer, ParityError, StudyError
from autoquant.evaluate import Evaluator
from autoquant.launch import Launch
from autoquant.search.recovery import recover
from autoquant.search.sampler import build_sampler
from autoquant.search.storage import Location, create_record, load_record
from autoquant.search.study import Budget, Event
from tests.fakes import QUICK_SAMPLERS, fake_evaluator, fake_record, fake_space, fake_study

OBJECTIVES = ["accuracy", "latency", "size"]
GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("sampler", QUICK_SAMPLERS)
@pytest.mark.long
def test_study_has_exactly_the_trials_asked_for(tmp_path: Path, sampler: str) -> None:
    study = fake_study(tmp_path)
    study.run(Budget(40), sampler)
    trials = study.record.trials()
    assert len(trials) == 40
    assert len({trial.digest for trial in trials}) == 40
    assert [trial.name for trial in trials[:5]] == [
        "fp32", "w8a8", "w4a8", "ort-static", "ort-dynamic"
    ]  # fmt: skip


def test_front_is_that_of_all_trials_and_reported_once(tmp_path: Path) -> None:
    study = fake_study(tmp_path)
    members = study.run(Budget(30), "random")
    expected = find_front(study.record.trials(), OBJECTIVES)
    assert [trial.digest for trial in members] == [trial.digest for trial in expected]
    assert all(trial.report_accuracy is not None for trial in members)
    off = {trial.digest for trial in study.record.trials()} - {item.digest for item in members}
    assert all(
        trial.report_accuracy is None for trial in study.record.trials() if trial.digest in off
    )


def test_files_of_the_front_alone_are_kept(tmp_path: Path) -> None:
    study = fake_study(tmp_path)
    members = study.run(Budget(30), "random")
    kept = {path.stem for path in study.artifacts.glob("*.onnx")}
    assert kept == {trial.digest for trial in members}
    assert not [path for path in study.artifacts.iterdir() if path.suffix != ".onnx"]


def test_keep_all_keeps_every_file(tmp_path: Path) -> None:
    study = fake_study(tmp_path)
    study.keep = "all"
    study.reject_early = False
    study.run(Budget(12), "random")
    assert len(list(study.artifacts.glob("*.onnx"))) == 12


def test_resume_goes_on_without_repeating(tmp_path: Path) -> None:
    fake_study(tmp_path).run(Budget(9), "tpe")
    record = load_record(Location(tmp_path, "fake"))
    fake_study(tmp_path, record).run(Budget(25), "tpe")
    trials = load_record(Location(tmp_path, "fake")).trials()
    assert len(trials) == len({trial.digest for trial in trials}) == 25


def test_resume_of_a_full_study_does_nothing(tmp_path: Path) -> None:
    fake_study(tmp_path).run(Budget(9), "random")
    before = Location(tmp_path, "fake").journal.read_bytes()
    record = load_record(Location(tmp_path, "fake"))
    fake_study(tmp_path, record).run(Budget(9), "random")
    assert Location(tmp_path, "fake").journal.read_bytes() == before


class Interrupted(BaseException):
    """Stands for the end of the process."""


class Dying(Evaluator):
    """Dies in the middle of the evaluations it is told to die in."""

    def arm(self, random_: random.Random) -> None:
        self.random = random_

    def evaluate(self, recipe, gate=None, watch=None):
        if self.random.random() < 0.4:
            raise Interrupted
        return super().evaluate(recipe, gate, watch)


@pytest.mark.parametrize("seed", range(5))
def test_interrupted_trials_are_tried_again_and_none_is_counted_twice(tmp_path, seed) -> None:
    dice = random.Random(seed)
    fake_record(Location(tmp_path, "fake"))
    begun: list[str] = []
    for _ in range(200):
        evaluator = fake_evaluator()
        evaluator.__class__ = Dying
        evaluator.arm(dice)
        record = load_record(Location(tmp_path, "fake"), is_driver=True)
        study = fake_study(tmp_path, record, evaluator=evaluator)
        study.on_event = lambda event: begun.append(event.message) if event.kind == "begin" else 0
        try:
            study.run(Budget(25), "tpe")
            break
        except Interrupted:
            continue
    trials = load_record(Location(tmp_path, "fake")).trials()
    assert len(trials) == len({trial.digest for trial in trials}) == 25
    finished = {trial.name or trial.digest for trial in trials}
    assert set(begun) == finished, "whatever began was finished in the end"


def test_a_process_killed_between_record_and_state_loses_nothing(tmp_path: Path) -> None:
    study = fake_study(tmp_path)
    study.run(Budget(6), "random")
    # the last line of the journal that closes trial 5 is taken away
    journal = Location(tmp_path, "fake").journal
    lines = journal.read_bytes().splitlines(keepends=True)
    closing = max(
        index for index, line in enumerate(lines)
        if json.loads(line).get("trial_id") == 5 and json.loads(line).get("state") == 1
    )  # fmt: skip
    journal.write_bytes(b"".join(lines[:closing]))
    record = load_record(Location(tmp_path, "fake"), is_driver=True)
    assert len(record.trials()) == 5
    assert recover(record) == 0
    assert len(record.trials()) == 6


def test_a_process_killed_while_it_begins_leaves_no_half_study(tmp_path: Path) -> None:
    location = Location(tmp_path, "fake")
    location.create_folder()
    location.journal.with_suffix(".new").write_text('{"op_code": 0, "half')
    assert not location.exists()
    fake_study(tmp_path).run(Budget(6), "random")
    assert len(load_record(location).trials()) == 6


def test_a_queued_trial_killed_half_way_keeps_its_parameters(tmp_path: Path) -> None:
    record = fake_record(Location(tmp_path, "fake"))
    space = fake_space()
    recipe = Recipe.uniform(list(space.layers), 4)
    record.enqueue(recipe, space.encode(recipe), "w4a8")
    handle = record.study.ask()  # dies after the first of ten parameters
    handle.suggest_categorical("layer.conv0", space.parameters["layer.conv0"])
    assert recover(record) == 1
    asked = record.ask(space)
    assert asked.recipe == recipe
    assert space.decode(asked.handle.params) == recipe


def test_a_recipe_on_which_the_process_crashed_fails(tmp_path: Path) -> None:
    record, space = fake_record(Location(tmp_path, "fake")), fake_space()
    record.study.sampler = build_sampler("random", space, frozenset, 0)
    record.token = "one"
    deadly = Recipe.uniform(list(space.layers), 4)
    record.enqueue(deadly, space.encode(deadly), "w4a8")
    for _ in range(5):  # kills, however many
        assert record.ask(space).recipe == deadly
        assert recover(record) == 1
    assert record.ask(space).recipe == deadly
    assert recover(record, find_crash={"one": "Segmentation fault"}.get) == 0
    trial = record.trials()[0]
    assert (trial.state, trial.name, trial.digest) == ("failed", "w4a8", deadly.digest)
    assert trial.error == "the process crashed while it was evaluated: Segmentation fault"
    assert record.ask(space).recipe != deadly


FATAL = """
import ctypes, os, signal, sys
from pathlib import Path
from autoquant.search.crash import read_crash, watch_crashes
print(read_crash(Path("crash.log")), flush=True)
with watch_crashes(Path("crash.log")):
    if sys.argv[1] == "crash":
        ctypes.string_at(0)
    if sys.argv[1] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_crash_is_told_from_a_kill(tmp_path: Path) -> None:
    def run(way: str) -> str:
        command = [sys.executable, "-c", FATAL, way]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout.strip()

    said = [run(way) for way in ("crash", "kill", "crash", "end", "end")]
    assert said == ["None", "Segmentation fault", "None", "Segmentation fault", "None"]
    assert not (tmp_path / "crash.log").exists()


class Failing(Evaluator):
    """Fails on every recipe with 4-bit weights, in two ways."""

    def evaluate(self, recipe, gate=None, watch=None):
        if recipe.layers.get("conv0") == 4:
            raise ParityError("top-1 agreement 0.5")
        if recipe.layers.get("conv1") == 4:
            raise RuntimeError("the runtime crashed")
        return super().evaluate(recipe, gate, watch)


@pytest.mark.parametrize("sampler", QUICK_SAMPLERS)
def test_failed_trials_are_recorded_with_their_reason(tmp_path: Path, sampler: str) -> None:
    evaluator = fake_evaluator()
    evaluator.__class__ = Failing
    study = fake_study(tmp_path, evaluator=evaluator)
    members = study.run(Budget(40), sampler)
    trials = study.record.trials()
    assert len(trials) == 40
    errors = {trial.error for trial in trials if trial.state == "failed"}
    assert errors == {"top-1 agreement 0.5", "RuntimeError: the runtime crashed"}
    assert all(trial.accuracy is None for trial in trials if trial.state == "failed")
    assert all(trial.state == "complete" for trial in members)


class Hopeless(Evaluator):
    """Builds nothing but the baselines."""

    def evaluate(self, recipe, gate=None, watch=None):
        if recipe.layers and len(set(recipe.layers.values())) > 1:
            raise RuntimeError("out of memory" if recipe.layers["conv0"] == 4 else "no kernel")
        return super().evaluate(recipe, gate, watch)


@pytest.mark.parametrize("sampler", ["auto", "tpe"])
def test_search_in_which_everything_fails_is_given_up_with_the_reasons(tmp_path, sampler) -> None:
    evaluator = fake_evaluator()
    evaluator.__class__ = Hopeless
    mixed = {f"conv{index}": ("8", "4") for index in range(8)} | {"conv1": ("float",)}
    study = fake_study(tmp_path, space=SearchSpace(mixed), evaluator=evaluator)
    with pytest.raises(NegativeAnswer, match="all of 20 proposed recipes failed") as caught:
        study.run(Budget(200), sampler)
    assert "no kernel" in str(caught.value) or "out of memory" in str(caught.value)
    trials = study.record.trials()
    assert sum(trial.state == "failed" for trial in trials) == 20
    assert any(trial.report_accuracy is not None for trial in trials), "it is closed all the same"
    failed = [trial for trial in trials if trial.state == "failed"]
    assert all(trial.seconds["failed"] >= 0 for trial in failed), "it took its time"


@pytest.mark.parametrize("sampler", QUICK_SAMPLERS)
def test_small_space_is_walked_through_and_then_said_to_be_done(tmp_path, sampler) -> None:
    space = fake_space(layers=2)
    events: list[Event] = []
    study = fake_study(tmp_path, space=space, evaluator=fake_evaluator(2), on_event=events.append)
    study.run(Budget(1000), sampler)
    digests = {trial.digest for trial in study.record.trials()}
    assert space.size == 33
    assert {space.decode(item).digest for item in space.enumerate()} <= digests
    assert any(event.kind == "exhausted" for event in events)


def test_space_of_one_recipe_is_done_after_it(tmp_path: Path) -> None:
    space = SearchSpace({"conv0": ("8",), "conv1": ("4",)})
    study = fake_study(tmp_path, space=space, evaluator=fake_evaluator(2))
    study.run(Budget(50), "tpe")
    assert len(study.record.trials()) == 6


def test_timeout_ends_the_search_and_still_closes_it(tmp_path: Path) -> None:
    study = fake_study(tmp_path)
    members = study.run(Budget(10_000, timeout_s=0.5), "random")
    assert 0 < len(study.record.trials()) < 10_000
    assert all(trial.report_accuracy is not None for trial in members)


def test_events_tell_the_story(tmp_path: Path) -> None:
    events: list[Event] = []
    fake_study(tmp_path, on_event=events.append).run(Budget(8), "random")
    ends = [event for event in events if event.kind == "end"]
    assert [event.done for event in ends] == list(range(1, 9))
    assert all(event.front for event in ends)
    assert {event.kind for event in events} == {"begin", "end", "timing", "report"}


def test_study_written_by_version_1_still_loads(tmp_path: Path) -> None:
    folder = tmp_path / "study-v1"
    folder.mkdir()
    (folder / "journal.log").write_bytes((GOLDEN / "study-v1.journal").read_bytes())
    record = load_record(Location(tmp_path, "study-v1"))
    assert record.header.backend == "onnxruntime"
    trials = record.trials()
    expected = json.loads((GOLDEN / "study-v1.json").read_text())
    for trial, old in zip(trials, expected, strict=True):
        values = trial.to_dict()
        assert {name: values[name] for name in old} == old
        assert not any(values[name] for name in values if name not in old)


def test_study_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    record = fake_record(Location(tmp_path, "fake"))
    record.study.set_user_attr("format", 99)
    with pytest.raises(StudyError, match="newer than 1: update autoquant"):
        load_record(Location(tmp_path, "fake"))


def test_study_of_somebody_else_is_refused(tmp_path: Path) -> None:
    record = fake_record(Location(tmp_path, "fake"))
    record.study.set_user_attr("format", None)
    with pytest.raises(StudyError, match="not written by autoquant"):
        load_record(Location(tmp_path, "fake"))


def test_damaged_record_of_a_trial_is_named(tmp_path: Path) -> None:
    fake_study(tmp_path).run(Budget(3), "random")
    journal = Location(tmp_path, "fake").journal
    journal.write_text(journal.read_text().replace('"state":"complete"', '"state":"splendid"'))
    with pytest.raises(StudyError, match="trial 0 is damaged at 'state'"):
        load_record(Location(tmp_path, "fake")).trials()


def test_mixtures_of_the_start_are_uneven(tmp_path: Path) -> None:
    """Uniform draws over 40 layers would never give a network of mostly 4 bits."""
    space = fake_space(layers=40)
    study = fake_study(tmp_path, space=space, evaluator=fake_evaluator(40))
    study.run(Budget(16), "tpe")
    shares = [
        sum(bits == 4 for bits in trial.recipe.layers.values()) / 40
        for trial in study.record.trials()
        if trial.name is None
    ]
    assert max(shares) - min(shares) > 0.4


def test_a_search_that_is_given_up_shows_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = fake_study(tmp_path)
    study.run(Budget(8), "random")
    location = Location(tmp_path, "fake")

    def give_up(*arguments: object) -> None:
        raise NegativeAnswer("all of 20 proposed recipes failed")

    for name in ("load_task", "load_evaluator"):
        monkeypatch.setattr(f"autoquant.cli.running.{name}", lambda *arguments: None)
    monkeypatch.setattr("autoquant.cli.running.run_launch", give_up)
    with pytest.raises(NegativeAnswer, match="all of 20 proposed recipes failed"):
        run_study(Launch(location, study.record.header), "json")
    document = json.loads(capsys.readouterr().out)
    assert document["trials"]
    assert document["study"] == "fake"


@pytest.mark.parametrize(("given", "expected"), [([], "tpe"), (["--sampler", "nsga2"], "nsga2")])
def test_a_search_again_goes_on_with_its_sampler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], expected: str
) -> None:
    config = load_space(find_space("digits"))
    header = build_header(
        config, sampler="tpe", seed=0, threads=1, batch=1, trials=20, timeout=None
    )
    location = Location(tmp_path, "digits")
    location.create_folder()
    create_record(location, header)
    launches: list[Launch] = []
    monkeypatch.setattr(
        "autoquant.cli.searches.run_study", lambda launch, kind: launches.append(launch)
    )
    found = CliRunner().invoke(app, ["search", "digits", "--results", str(tmp_path), *given])
    assert found.exit_code == 0, found.output
    assert launches[0].header.sampler == expected
