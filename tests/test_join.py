"""Several processes that run one study: none tries what another does, none is missed."""

import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState
from typer.testing import CliRunner

from autoquant.agreement import extend_header
from autoquant.backends.machine import find_kernel
from autoquant.cli import app
from autoquant.core.front import find_front
from autoquant.core.pareto import Bounds
from autoquant.core.recipe import Recipe
from autoquant.core.trial import Measurement, Trial
from autoquant.errors import StorageError, StudyError
from autoquant.search.event import Event
from autoquant.search.joining import take_part
from autoquant.search.journal import FileLock, find_damage
from autoquant.search.lease import Lease, Listener, find_drivers, find_holder
from autoquant.search.reader import StudyReader
from autoquant.search.record import CLAIM, Asked, Record
from autoquant.search.recovery import recover
from autoquant.search.sampler import build_sampler
from autoquant.search.standing import Standing
from autoquant.search.storage import Location, find_presences, is_running, list_studies, load_record
from autoquant.search.study import Budget
from tests.databases import STORAGES, place_study
from tests.driver import Habits, start_driver, wait_for
from tests.fakes import fake_record, fake_space, fake_study
from tests.ray_driver import fake_launch

OBJECTIVES = ["accuracy", "latency", "size"]


@pytest.fixture(params=STORAGES)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return place_study(request, tmp_path)


# Two processes


class Drivers:
    """Processes that run one study; none outlives its test."""

    def __init__(self, location: Location, folder: Path) -> None:
        self.location = location
        self.folder = folder
        self.processes: list = []
        if location.url is not None:
            list_studies(location.results, location.url)  # two cannot lay out a database at once

    def start(self, trials: int, seconds: float, **habits: Any) -> None:
        """Begin one more."""
        log = self.folder / f"{len(self.processes)}.log"
        self.processes.append(start_driver(self.location, log, Habits(trials, seconds, **habits)))

    def end(self, number: int) -> str:
        """Wait for the end of one; what it said."""
        self.processes[number].join(120)
        said = (self.folder / f"{number}.log").read_text()
        assert self.processes[number].exitcode == 0, said
        return said

    def kill(self, number: int, how: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.processes[number].pid, how)
        self.processes[number].join(120)
        assert self.processes[number].exitcode not in (None, 0)

    def frozen(self) -> list[FrozenTrial]:
        for process in self.processes:
            assert process.exitcode in (None, 0, -signal.SIGKILL, 1), process
        try:
            return load_record(self.location).study.get_trials(deepcopy=False)
        except (StudyError, StorageError):  # it is only just begun
            return []

    def tokens(self, *states: TrialState) -> Counter[str]:
        """How many trials in one of these states each process has."""
        found = [item for item in self.frozen() if not states or item.state in states]
        return Counter(item.user_attrs[CLAIM] for item in found if CLAIM in item.user_attrs)


@pytest.fixture
def drivers(location: Location, tmp_path: Path) -> Iterator[Drivers]:
    found = Drivers(location, tmp_path)
    yield found
    for process in found.processes:
        process.kill()
        process.join()


def digests_of(found: Iterable[FrozenTrial]) -> set[str]:
    """Of the recipes of trials; one that was killed while it was begun has none."""
    recipes = [item.user_attrs["recipe"] for item in found if "recipe" in item.user_attrs]
    return {Recipe.model_validate(recipe).digest for recipe in recipes}


def check_whole(location: Location, count: int) -> list[Trial]:
    """So many trials, no recipe twice, nothing left open, the front closed."""
    record = load_record(location)
    trials = record.trials()
    assert len(trials) == len({trial.digest for trial in trials}) == count
    assert {trial.state for trial in trials} <= {"complete", "rejected"}
    assert all(item.state.is_finished() for item in record.study.get_trials(deepcopy=False))
    members = find_front(trials, OBJECTIVES, record.header.bounds)
    assert all(trial.report_accuracy is not None for trial in members)
    assert len({trial.timing_session for trial in members}) == 1
    kept = {path.stem for path in location.artifacts.glob("*.onnx")}
    assert kept == {trial.digest for trial in members}
    assert not list(location.drivers.iterdir()), "what processes have of their own is gone"
    assert not is_running(location)
    return trials


@pytest.mark.parametrize(
    "location",
    [
        "journal",
        pytest.param("sqlite", marks=pytest.mark.long),
        pytest.param("postgresql", marks=pytest.mark.long),
    ],
    indirect=True,
)
def test_two_processes_share_a_study(drivers: Drivers) -> None:
    drivers.start(40, 0.05, dawdles=True)
    wait_for(lambda: len(drivers.tokens()) == 1)
    drivers.start(40, 0.05, joins=True, dawdles=True)
    wait_for(lambda: len(drivers.tokens()) == 2)
    said = [drivers.end(1), drivers.end(0)]
    check_whole(drivers.location, 40)
    shares = drivers.tokens(TrialState.COMPLETE)
    assert min(shares.values()) >= 5, shares
    assert "taking part in study" in said[0]
    assert ["closes the study" in text for text in said] == [True, False]


def test_nobody_begins_a_trial_while_another_process_looks(drivers: Drivers) -> None:
    drivers.start(100, 0.05)
    wait_for(lambda: len(drivers.tokens()) == 1)
    with load_record(drivers.location).together():
        before = drivers.tokens()
        time.sleep(1.0)
        assert drivers.tokens() == before
    wait_for(lambda: drivers.tokens() != before)


@pytest.mark.parametrize(
    "location", ["journal", pytest.param("sqlite", marks=pytest.mark.long)], indirect=True
)
def test_two_processes_walk_through_a_small_space_once(drivers: Drivers) -> None:
    """Where hardly anything is left, both would try the same."""
    habits = {"layers": 2, "dawdles": True}
    drivers.start(1000, 0.0, **habits)
    wait_for(lambda: len(drivers.tokens()) == 1)
    drivers.start(1000, 0.0, joins=True, **habits)
    drivers.end(0)
    drivers.end(1)
    trials = load_record(drivers.location).trials()
    check_whole(drivers.location, len(trials))
    assert len(drivers.tokens()) == 2
    digests = {trial.digest for trial in trials}
    for widths in itertools.product((8, 4, None), repeat=2):
        layers = {f"conv{index}": bits for index, bits in enumerate(widths)}
        assert not any(widths) or Recipe.quantized(layers).digest in digests


@pytest.mark.long
@pytest.mark.parametrize("location", ["journal", "sqlite"], indirect=True)
def test_a_process_that_has_joined_and_is_killed_costs_nothing_but_time(drivers: Drivers) -> None:
    drivers.start(16, 0.2)
    wait_for(lambda: len(drivers.tokens(TrialState.COMPLETE)) == 1)
    (lead,) = drivers.tokens()
    drivers.start(16, 0.2, joins=True)
    wait_for(lambda: any(token != lead for token in drivers.tokens(TrialState.RUNNING)))
    drivers.kill(1)
    lost = [item for item in drivers.frozen() if item.state is TrialState.RUNNING]
    drivers.end(0)
    trials = check_whole(drivers.location, 16)
    assert digests_of(lost) <= {trial.digest for trial in trials}


@pytest.mark.long
@pytest.mark.parametrize(
    ("location", "how"),
    [("journal", signal.SIGKILL), ("journal", signal.SIGINT), ("sqlite", signal.SIGKILL)],
    indirect=["location"],
)
def test_who_has_joined_leads_when_the_lead_is_gone(drivers: Drivers, how: signal.Signals) -> None:
    drivers.start(16, 0.2)
    wait_for(lambda: len(drivers.tokens(TrialState.COMPLETE)) == 1)
    (lead,) = drivers.tokens()
    drivers.start(16, 0.2, joins=True)
    wait_for(lambda: len(drivers.tokens()) == 2)
    wait_for(lambda: lead in drivers.tokens(TrialState.RUNNING))
    drivers.kill(0, how)
    lost = [item for item in drivers.frozen() if item.user_attrs.get(CLAIM) == lead]
    said = drivers.end(1)
    assert "this process leads it now" in said
    assert "closes the study" not in said
    trials = check_whole(drivers.location, 16)
    assert digests_of(lost) <= {trial.digest for trial in trials}


@pytest.mark.long
def test_the_timeout_of_the_lead_ends_the_study(tmp_path: Path) -> None:
    drivers = Drivers(Location(tmp_path / "results", "fake"), tmp_path)
    drivers.start(1000, 0.2, timeout_s=8)
    wait_for(lambda: len(drivers.tokens()) == 1)
    drivers.start(1000, 0.5, joins=True)
    wait_for(lambda: len(drivers.tokens()) == 2)
    said = [drivers.end(0), drivers.end(1)]
    assert len(drivers.tokens()) == 2
    check_whole(drivers.location, drivers.tokens(TrialState.COMPLETE).total())
    assert "waiting for 1 trial" in said[0]
    assert "closes the study" in said[1]


@pytest.mark.long
def test_what_crashed_who_has_joined_is_not_tried_again(tmp_path: Path) -> None:
    drivers = Drivers(Location(tmp_path / "results", "fake"), tmp_path)
    drivers.start(16, 0.2)
    wait_for(lambda: len(drivers.tokens(TrialState.COMPLETE)) == 1)
    drivers.start(16, 0.2, joins=True, is_deadly=True)
    drivers.processes[1].join(120)
    assert drivers.processes[1].exitcode == -signal.SIGSEGV
    drivers.end(0)
    trials = load_record(drivers.location).trials()
    assert len(trials) == len({trial.digest for trial in trials}) == 16
    (failed,) = [trial for trial in trials if trial.state == "failed"]
    assert failed.error.endswith("crashed while it was evaluated: Segmentation fault")


@pytest.mark.parametrize("location", ["journal"], indirect=True)
def test_who_joins_a_study_that_nobody_runs_leads_it(drivers: Drivers) -> None:
    drivers.start(8, 0.0)
    drivers.end(0)
    drivers.start(12, 0.0, joins=True)
    assert "nobody runs study" in drivers.end(1)
    check_whole(drivers.location, 12)


# One process, and what it sees of others


def begin_part(location: Location, *, joins: bool):
    launch = fake_launch(location.results, 8, None)
    location.create_folder()
    return take_part(location, launch.header, print, joins=joins)


def test_a_second_process_is_refused_or_joins(location: Location) -> None:
    with begin_part(location, joins=False) as lead:
        assert lead.leads
        with (
            pytest.raises(StudyError, match=f"autoquant resume {location.name} --join"),
            begin_part(location, joins=False),
        ):
            pass
        with begin_part(location, joins=True) as other:
            assert not other.leads
            assert not other.take_over(at_last=True)
            assert lead.lives(other.token)
            assert other.lives(lead.token)
            assert len(find_presences(location)) == 2
            (row,) = [item for item in _list_studies(location) if item["study"] == location.name]
            assert len(row["joined"]) == 1
        assert not lead.lives(other.token)
        assert len(find_presences(location)) == 1
    assert not is_running(location)


def _list_studies(location: Location) -> list[dict]:
    import json

    words = ["studies", "--format", "json", "--results", str(location.results)]
    words += [] if location.url is None else ["--storage", location.url]
    return json.loads(CliRunner().invoke(app, words).stdout)["studies"]


def test_the_oldest_way_out_is_taken_by_who_has_joined(location: Location) -> None:
    lead = begin_part(location, joins=False)
    lead.__enter__()
    with begin_part(location, joins=True) as other:
        lead.__exit__(None, None, None)
        assert other.take_over(at_last=False)
        assert other.leads
        with pytest.raises(StudyError, match="is being run"), begin_part(location, joins=False):
            pass
        assert [item.pid for item in find_presences(location)] == [os.getpid()]


def test_trials_of_those_who_live_are_left_alone(tmp_path: Path) -> None:
    record, space = fake_record(Location(tmp_path, "fake")), fake_space()
    record.study.sampler = build_sampler("random", space, frozenset, 0)
    asked = {}
    for token in ("lead", "other", None):
        record.token = token
        asked[token] = record.ask(space)
    assert recover(record, lives={"lead", "other"}.__contains__) == 1, "nobody's"
    assert recover(record, lives={"lead"}.__contains__) == 1
    waiting = record.waiting_digests()
    assert waiting == {asked["other"].recipe.digest, asked[None].recipe.digest}
    running = record.study.get_trials(states=(TrialState.RUNNING,))
    assert [item.number for item in running] == [asked["lead"].number]


def test_what_one_tells_who_was_taken_for_dead_does_not_count(location: Location) -> None:
    """Its recipe is another trial by then."""
    with begin_part(location, joins=False) as member:
        space = fake_space()
        member.record.study.sampler = build_sampler("random", space, frozenset, 0)
        asked = member.record.ask(space)
        assert recover(member.record) == 1
        assert not member.record.finish(asked, _failed(asked))
        again = member.record.ask(space)
        assert again.recipe == asked.recipe
        assert member.record.finish(again, _failed(again))
        assert [trial.number for trial in member.record.trials()] == [again.number]


def _failed(asked: Asked) -> Trial:
    return Trial(
        **Measurement().model_dump(), number=asked.number, digest=asked.recipe.digest,
        recipe=asked.recipe, state="failed", error="no",
    )  # fmt: skip


def test_a_standing_is_what_reading_everything_gives(location: Location) -> None:
    """Two processes ask, queue, finish and die in any order."""
    dice = random.Random(0)
    space = fake_space()
    with begin_part(location, joins=False) as member:
        one = member.record
        two = load_record(location)
        if location.url is None:
            two = Record.load(type(one.study._storage)(location.journal), location.name)
        standings = {}
        for record, token in ((one, "one"), (two, "two")):
            record.token = token
            record.study.sampler = build_sampler("random", space, frozenset, ord(token[0]))
            standings[record] = Standing(record, Bounds())
            standings[record].load()
        running: dict[Record, list[Asked]] = {one: [], two: []}
        for _ in range(60 if location.url is None else 25):
            record = dice.choice([one, two])
            mine = running[record]
            match dice.choice(["ask", "ask", "queue", "finish", "die"]):
                case "ask":
                    mine.append(record.ask(space))
                    standings[record].claim(mine[-1].number)
                case "queue":
                    recipe = space.untrained.decode(_draw(space, dice))
                    record.enqueue(recipe, space.encode(recipe))
                case "finish" if mine:
                    asked = mine.pop(dice.randrange(len(mine)))
                    record.finish(asked, _failed(asked))
                    standings[record].add(_failed(asked))
                case "die" if mine and record is two:
                    recover(one, lives={"one"}.__contains__)
                    mine.clear()
            look = dice.choice([one, two])
            standings[look].look()
            _check_standing(standings[look], {item.number for item in running[look]})


def _draw(space, dice: random.Random) -> dict[str, str]:
    return {name: dice.choice(choices) for name, choices in space.parameters.items()}


def _check_standing(standing: Standing, own: set[int]) -> None:
    every = standing.record.study.get_trials(deepcopy=False)
    finished = {trial.digest for trial in standing.record.trials()}
    open_ = [item for item in every if not item.state.is_finished() and item.number not in own]
    assert standing.seen == finished
    assert standing.decided == finished | digests_of(open_)
    assert standing.elsewhere == sum(item.state is TrialState.RUNNING for item in open_)


def test_half_a_line_of_who_was_killed_is_cut_off_by_who_writes_next(tmp_path: Path) -> None:
    study = fake_study(tmp_path)
    study.run(Budget(6), "random")
    journal = Location(tmp_path, "fake").journal
    whole = journal.stat().st_size
    with journal.open("ab") as file:
        file.write(b'{"op_code":8,"trial_id":' + b"7" * 9000)
    assert len(study.record.trials()) == 6
    study.record.study.set_user_attr("one", 1)
    assert find_damage(journal) is None
    assert journal.stat().st_size < whole + 200
    assert load_record(Location(tmp_path, "fake")).study.user_attrs["one"] == 1
    assert len(study.record.trials()) == 6


def test_a_lease_of_who_has_joined_is_beside_that_of_the_lead(tmp_path: Path) -> None:
    location = Location(tmp_path, "fake", f"sqlite:///{tmp_path / 'studies.db'}")
    study = fake_record(location).study
    leases = [Lease(study, dict, "a"), Lease(study, dict, "b", is_lead=False)]
    for lease in reversed(leases):
        lease.begin()
    assert [item["token"] for item in find_drivers(study.user_attrs)] == ["a", "b"]
    for lease in leases:
        lease.end()
    assert find_drivers(study.user_attrs) == []


def test_a_study_that_does_not_exist_cannot_be_joined(tmp_path: Path) -> None:
    words = ["search", "digits", "--join", "--results", str(tmp_path)]
    found = CliRunner().invoke(app, words).exception
    assert isinstance(found, StudyError)
    assert str(found) == "there is no study 'digits' to join: begin it without --join"


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("autoquant.search.lease.time.monotonic", lambda: self.now)


def test_who_lives_is_told_by_new_beats_and_by_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, listener = Clock(monkeypatch), Listener()
    said = {"token": "far", "host": "another", "pid": 1, "beat": 5.0}  # of 1970
    assert listener.hears({"joined:far": said}, "far")
    clock.now += 59
    assert listener.hears({"joined:far": said}, "far")
    assert listener.hears({"joined:far": {**said, "beat": 4.0}}, "far"), "its clock went back"
    clock.now += 59
    assert listener.hears({"joined:far": {**said, "beat": 4.0}}, "far")
    clock.now += 2
    assert not listener.hears({"joined:far": {**said, "beat": 4.0}}, "far")
    assert not listener.hears({}, "far")
    assert not listener.hears_lead({})
    assert listener.hears_lead({"driver": {**said, "token": "lead"}})


def test_after_a_silence_of_the_database_nobody_is_taken_for_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, listener = Clock(monkeypatch), Listener()
    said = {"joined:far": {"token": "far", "host": "another", "pid": 1, "beat": 5.0}}
    assert listener.hears(said, "far")
    clock.now += 600
    listener.forget()
    assert listener.hears(said, "far")


def test_process_of_this_machine_that_is_gone_is_dead_at_once() -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    said = {"token": "t", "host": socket.gethostname(), "pid": int(gone.stdout), "beat": 5.0}
    assert not Listener().hears({"driver": said}, "t")


def test_a_process_of_another_machine_of_the_same_name_is_not_looked_for_here(
    tmp_path: Path,
) -> None:
    """Two containers, or two boxes that were set up from one image."""
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    said = {"token": "t", "host": socket.gethostname(), "pid": int(gone.stdout),
            "beat": time.time(), "kernel": "another"}  # fmt: skip
    assert find_holder({"driver": said}) is not None
    assert Listener().hears({"driver": said}, "t")
    assert find_holder({"driver": {**said, "kernel": find_kernel()}}) is None
    study = fake_record(Location(tmp_path, "fake", f"sqlite:///{tmp_path / 's.db'}")).study
    lease = Lease(study, dict, "mine")
    lease.begin()
    assert study.user_attrs["driver"]["kernel"] == find_kernel()
    lease.end()


def fail_elsewhere(record: Record, count: int) -> None:
    """Another process tries recipes, all of which fail."""
    record.token = "another"
    record.study.sampler = build_sampler("random", fake_space(), frozenset, 7)
    for _ in range(count):
        asked = record.ask(fake_space())
        trial = Trial(
            number=asked.number, state="failed", digest=asked.recipe.digest, recipe=asked.recipe,
            error="no data here",
        )  # fmt: skip
        record.finish(asked, trial)


def test_process_that_fails_everything_does_not_end_the_search_of_others(tmp_path: Path) -> None:
    location = Location(tmp_path, "fake")
    record = fake_record(location, trials=60)
    begun: list[str] = []

    def on_event(event: Event) -> None:
        if event.kind == "end" and not begun:
            begun.append("")
            fail_elsewhere(load_record(location), 25)

    study = fake_study(tmp_path, record, on_event=on_event)
    members = study.run(Budget(60), "random")
    assert members
    assert len(record.trials()) == 60
    assert sum(trial.state == "failed" for trial in record.trials()) == 25


def test_who_joins_goes_as_far_as_whoever_leads(tmp_path: Path) -> None:
    location = Location(tmp_path, "fake")
    fake_record(location, trials=20)
    launch = fake_launch(tmp_path, 20, None)
    with take_part(location, launch.header, print, joins=False) as lead:
        study = fake_study(tmp_path, lead.record, membership=lead)
        assert study.agree(Budget(50, 9.0)) == Budget(50, 9.0)
        with take_part(location, launch.header, print, joins=True) as member:
            joined = fake_study(tmp_path, member.record, membership=member)
            assert joined.agree(Budget(20, 7.0)) == Budget(50, 7.0)
    header = load_record(location).header
    assert extend_header(header, None, None).trials == 50, "whoever goes on, too"
    assert StudyReader(location).read().header.trials == 50


def test_lock_of_a_process_that_lives_is_not_tidied_away(tmp_path: Path) -> None:
    location = Location(tmp_path, "fake")
    fake_record(location, trials=20)
    header = fake_launch(tmp_path, 20, None).header
    with take_part(location, header, print, joins=False) as lead:
        (location.drivers / "dead.lock").touch()
        (location.drivers / "dead.crash").touch()
        with take_part(location, header, print, joins=True) as member:
            own = location.drivers / f"{member.token}.lock"
            lead._remove(own)  # as who had looked for it just before it was taken
            assert own.exists()
            lead.tidy()
            assert own.exists()
            assert lead.lives(member.token)
        assert {path.stem for path in location.drivers.iterdir()} == {lead.token}


def test_journal_is_not_cut_while_somebody_writes_to_it(tmp_path: Path) -> None:
    location = Location(tmp_path, "fake")
    fake_record(location)
    lock, order = FileLock(location.journal), []
    lock.acquire()
    whole = location.journal.read_bytes()
    location.journal.write_bytes(whole + b'{"op_code": 2, "half')  # a line that is being written

    def lead() -> None:
        load_record(location, is_driver=True)
        order.append("opened")

    thread = threading.Thread(target=lead)
    thread.start()
    time.sleep(0.3)
    order.append("written")
    location.journal.write_bytes(whole)
    lock.release()
    thread.join()
    assert order == ["written", "opened"]
    assert location.journal.read_bytes() == whole
    assert not location.journal.with_suffix(".damaged").exists()
