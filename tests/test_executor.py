"""What executors promise, on a stand-in for Ray: workers that answer, fail or die as told."""

import dataclasses
import io
import json
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

pytest.importorskip("ray", reason="Ray is not installed")

from autoquant.cli import app
from autoquant.cluster.connection import Connection, Demand, Lost, Raised, connect
from autoquant.cluster.crew import Crew
from autoquant.cluster.executor import RayExecutor
from autoquant.cluster.hire import build_crew
from autoquant.cluster.pool import Pool
from autoquant.cluster.worker import Greeting, Worker, find_versions
from autoquant.core.gate import Gate
from autoquant.core.pareto import Bounds
from autoquant.core.recipe import QatOptions, Recipe
from autoquant.core.training import TrainingWatch
from autoquant.core.trial import Measurement
from autoquant.errors import ClusterError, InputError, NegativeAnswer, TaskError
from autoquant.evaluate import Evaluator
from autoquant.launch import run_launch
from autoquant.progress import SearchProgress
from autoquant.search.event import Event, Seat
from autoquant.search.executor import Job, Outcome, SerialExecutor, evaluate_job
from autoquant.search.presence import Announcement, read_presence
from autoquant.search.storage import Location, hold_driver_lock, load_record
from autoquant.search.study import Budget, Study
from autoquant.search.trial_log import MOST_CHARACTERS, TrialLogs
from tests.crews import FakeSource
from tests.fakes import fake_evaluator, fake_record, fake_space, fake_study
from tests.ray_driver import fake_launch

FP32 = Recipe(method="fp32")


class StubActor:
    """A worker whose methods run when they are called; `plan` may break one of them."""

    def __init__(self, worker: Worker, plan: Callable[[str], BaseException | None]) -> None:
        self.worker = worker
        self.plan = plan
        self.is_dead = False

    def __getattr__(self, name: str) -> Any:
        actor = self

        class Method:
            def remote(self, *arguments: Any, **named: Any) -> list[Any]:
                failure = Lost("it was dead already") if actor.is_dead else actor.plan(name)
                if failure is not None:
                    actor.is_dead |= isinstance(failure, Lost)
                    return Promise(failure)
                values = [item.value if isinstance(item, Promise) else item for item in arguments]
                try:
                    return Promise(getattr(actor.worker, name)(*values, **named))
                except Exception as error:
                    return Promise(Raised(error))

        return Method()


class Promise:
    def __init__(self, value: Any) -> None:
        self.value = value


class StubConnection:
    """Nodes as a dict from id to resources."""

    def __init__(self, plan: Callable[[str], BaseException | None] = lambda name: None) -> None:
        self.plan = plan
        self.here = "here"
        self.nodes: dict[str, dict[str, float]] = {"here": {"CPU": 2}}
        self.hired: list[Demand] = []
        self.gpus = 1.0
        self.dashboard: str | None = None
        self.is_full = False

    def hire(self, demand: Demand) -> StubActor:
        self.hired.append(demand)
        node = demand.node or "here"
        return StubActor(Worker(node, 1), self.plan)

    def dismiss(self, actor: StubActor) -> None:
        actor.is_dead = True

    def share(self, value: Any) -> Promise:
        return Promise(value)

    def listen(self, promises: Sequence[Promise], timeout_s: float) -> list[Promise]:
        return [] if self.is_full else list(promises)

    def fetch(self, promise: Promise) -> Any:
        if isinstance(promise.value, BaseException):
            raise promise.value
        return promise.value

    def nodes_with(self, resource: str) -> list[str]:
        return [name for name, resources in self.nodes.items() if resource in resources]

    def lives(self, node: str) -> bool:
        return node in self.nodes

    def describe_resources(self) -> str:
        return "1 node with 0 of 2 CPU free"


def make_executor(
    connection: StubConnection, source: Any = None, *, is_timed: bool = True, **crew: Any
) -> RayExecutor:
    pool = Pool(
        connection, source or FakeSource(), Crew(**{"workers": 2, **crew}), is_timed=is_timed
    )
    executor = RayExecutor(pool, lambda artifact, figures, fingerprint: artifact)
    executor.wait_until_ready()
    return executor


@pytest.fixture(autouse=True)
def all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stub workers live in this process: what they are granted is forgotten afterwards."""
    monkeypatch.setattr("autoquant.backends.machine._granted", None)


def failing(name: str, failures: Sequence[BaseException]) -> Callable[[str], BaseException | None]:
    """A plan by which the first calls of one method fail."""
    left = list(failures)
    return lambda called: left.pop(0) if called == name and left else None


def test_figures_are_those_of_one_process() -> None:
    recipe = Recipe.uniform([f"conv{index}" for index in range(8)], 4)
    alone = SerialExecutor(fake_evaluator(), lambda: None)
    alone.submit(Job(0, recipe))
    _, expected = alone.take()
    outcome = make_executor(StubConnection()).evaluate(Job(0, recipe))
    ours = outcome.measurement.model_dump(exclude={"seconds"})
    assert ours == expected.measurement.model_dump(exclude={"seconds"})
    assert (outcome.node, outcome.probe) == ("here", "here")
    assert outcome.artifact == expected.artifact


def test_no_worker_waits_for_another() -> None:
    executor = make_executor(StubConnection(), workers=3)
    for number in range(3):
        assert executor.has_room
        executor.submit(Job(number, FP32))
    assert not executor.has_room
    assert {executor.take()[0].number for _ in range(3)} == {0, 1, 2}
    assert executor.has_room


@pytest.mark.parametrize("stage", ["evaluate", "time"])
def test_trial_of_a_dead_worker_is_tried_again(stage: str) -> None:
    connection = StubConnection(failing(stage, [Lost("killed")] * 3))
    executor = make_executor(connection)
    notes: list[str] = []
    executor.listen(notes.append)
    outcome = executor.evaluate(Job(7, FP32))
    assert outcome.state == "complete"
    assert len(notes) == 3
    assert notes[0] == "trial 7 is tried again (1 of 3): killed"
    assert len(connection.hired) == 3 + 3, "each of the dead is replaced"


def test_trial_that_kills_every_worker_fails_with_the_reason() -> None:
    executor = make_executor(StubConnection(failing("evaluate", [Lost("killed")] * 4)))
    outcome = executor.evaluate(Job(7, FP32))
    assert outcome.state == "failed"
    assert outcome.error == "its worker died 4 times, at last: killed"
    assert executor.evaluate(Job(8, FP32)).state == "complete", "the others go on"


def test_workers_that_never_begin_end_the_search() -> None:
    with pytest.raises(ClusterError, match="does not stay alive: killed"):
        make_executor(StubConnection(failing("load", [Lost("killed")] * 99)))


def test_task_that_workers_lack_is_told_as_it_is() -> None:
    def source() -> None:
        raise TaskError("set AUTOQUANT_DATA")

    with pytest.raises(TaskError, match="set AUTOQUANT_DATA"):
        make_executor(StubConnection(), source)


def test_workers_without_a_place_are_told_with_what_there_is() -> None:
    connection = StubConnection()
    connection.is_full = True
    expected = "asked for 2 workers with 1 CPU each; the cluster has 1 node with 0 of 2 CPU free"
    with pytest.raises(ClusterError, match=expected):
        make_executor(connection, place_s=0.01)


def test_probes_time_where_they_are_and_wait_for_a_node_that_is_gone() -> None:
    connection = StubConnection(failing("time", [Lost("the node died")]))
    connection.nodes["edge"] = {"latency_probe": 1}
    executor = make_executor(connection)
    notes: list[str] = []
    executor.listen(notes.append)
    edge = connection.nodes.pop("edge")
    executor.submit(Job(0, FP32))
    assert executor.take(0.3) is None, "nobody else times"
    assert "the last probe node is gone" in notes[-1]
    connection.nodes["edge"] = edge
    executor.pool._scanned = 0.0
    _, outcome = executor.take(5.0)
    assert (outcome.state, outcome.probe) == ("complete", "edge")


def test_untimed_studies_have_no_probe() -> None:
    executor = make_executor(StubConnection(), is_timed=False)
    outcome = executor.evaluate(Job(0, FP32))
    assert outcome.state == "complete"
    assert outcome.measurement.latency_ratio is None
    assert outcome.probe is None


def test_trained_recipes_go_to_the_trainer_alone() -> None:
    connection = StubConnection()
    executor = make_executor(connection, gpus_per_qat_trial=0.5)
    assert [demand.gpus for demand in connection.hired] == [0, 0, 0.5, 0]
    trained = Recipe.uniform([f"conv{index}" for index in range(8)], 4).trained(QatOptions())
    executor.submit(Job(0, trained))
    (busy,) = [seat for seat in executor.seats() if seat.doing != "idle"]
    assert (busy.name, busy.doing) == ("trainer", "building and judging trial 0")


def test_task_file_travels_with_its_content(tmp_path: Path) -> None:
    from autoquant.cluster.source import _place_file

    here = tmp_path / "mine.py"
    here.write_bytes(b"x = 1")
    assert _place_file(here, b"x = 1") == here
    copy = _place_file(here, b"x = 2")
    assert copy.read_bytes() == b"x = 2"
    assert copy.name == "mine.py"


def test_what_travels_for_a_trial_is_its_file_and_its_record() -> None:
    executor = make_executor(StubConnection())
    job = Job(0, Recipe.uniform([f"conv{index}" for index in range(8)], 8))
    outcome = executor.evaluate(job)
    assert len(pickle.dumps(job)) < 2_000
    assert len(pickle.dumps(outcome)) < outcome.artifact.size_bytes + 5_000
    assert len(pickle.dumps(FakeSource())) < 1_000, "the task goes by name"


def test_terminal_shows_what_each_worker_does() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    seats = (Seat("worker 1", "builder:ab12", "building and judging trial 7", 3.2),)
    with SearchProgress(Budget(10), console) as progress:
        progress.show(Event("wait", 3, (), None, "", seats))
    shown = console.file.getvalue()
    assert "builder:ab12" in shown
    assert "building and judging trial 7" in shown
    assert "trials/min" in shown


def test_missing_ray_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoquant.cluster.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'autoquant\[ray\]'"):
        build_crew(2, None, 0.0, None)
    assert build_crew(1, None, 0.0, None) is None, "one worker is this process"


def test_options_of_workers_need_workers() -> None:
    with pytest.raises(InputError, match="need workers: --workers 2 or --ray"):
        build_crew(None, None, 0.0, "90s")
    assert build_crew(None, "auto", 0.5, "90s") == Crew(None, "auto", 1, 0.5, 90.0)


def test_trial_that_a_worker_turns_away_has_every_objective() -> None:
    gate = Gate([], ["accuracy", "latency", "size"], Bounds(max_drop=0.001))
    recipe = Recipe.uniform([f"conv{index}" for index in range(8)], 4)
    outcome = make_executor(StubConnection()).evaluate(Job(0, recipe, gate))
    assert outcome.state == "rejected"
    assert "accuracy drop exceeds" in outcome.measurement.partial.reason
    assert outcome.measurement.partial.latency_ratio == pytest.approx(0.5)
    assert outcome.measurement.partial.reference_ms is not None


def test_without_a_gpu_trials_train_on_workers() -> None:
    connection = StubConnection()
    connection.gpus = 0.0
    executor = make_executor(connection, gpus_per_qat_trial=0.5)
    notes: list[str] = []
    executor.listen(notes.append)
    assert notes == ["no node has a GPU: trials that train do so on processors"]
    trained = Recipe.uniform([f"conv{index}" for index in range(8)], 4).trained(QatOptions())
    assert executor.evaluate(Job(0, trained)).state == "complete"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("Version mismatch: The cluster was started with:\n Ray: 2.9.0\n Python: 3.9"),
         r"--ray auto: Version mismatch.*Ray: 2.9.0 Python: 3.9; install the same ones here"),
        (ConnectionError("Could not find any running Ray instance.\nDetails"),
         r"--ray auto: Ray does not let us in: Could not find any running Ray instance\.; a"),
    ],
)  # fmt: skip
def test_cluster_that_refuses_is_told_in_one_line(
    error: Exception, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: Any) -> None:
        raise error

    monkeypatch.setattr("autoquant.cluster.connection.ray.init", refuse)
    with pytest.raises(ClusterError, match=expected) as caught:
        connect("auto", 1)
    assert "\n" not in str(caught.value)


def test_address_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClusterError, match="write HOST:PORT of the cluster's head"):
        connect("somewhere", 1)


def test_node_of_another_version_is_named() -> None:
    connection = StubConnection()

    class Older(Worker):
        def greet(self) -> Greeting:
            versions = {**find_versions(), "torch": "1.0"}
            return dataclasses.replace(super().greet(), versions=versions)

    connection.hire = lambda demand: StubActor(Older("attic", 1), connection.plan)
    with pytest.raises(
        ClusterError, match=r"node attic has torch 1\.0, this process has .*same on"
    ):
        make_executor(connection)


def test_each_trial_leaves_a_log_of_what_was_said_on_the_way(tmp_path: Path) -> None:
    connection = StubConnection(failing("evaluate", [Lost("killed")]))
    logs = TrialLogs(tmp_path / "logs")
    source = FakeSource(chatter="a library says\n")
    pool = Pool(connection, source, Crew(2), is_timed=True)
    executor = RayExecutor(pool, lambda artifact, figures, fingerprint: artifact, logs)
    executor.wait_until_ready()
    executor.evaluate(Job(7, FP32))
    said = logs.read(7).splitlines()
    assert said[0] == "== trial 7 is tried again (1 of 3): killed"
    assert said[1].startswith("== built and judged on here, process ")
    assert said[2] == "a library says"
    assert said[3].startswith("== timed on here, ")
    executor.evaluate(Job(-1, FP32))
    assert [path.name for path in logs.folder.iterdir()] == ["7.log"], "a second look has no number"


def test_log_of_a_failed_trial_says_where_and_is_bounded(tmp_path: Path) -> None:
    evaluator = fake_evaluator()

    def fail(*arguments: object) -> None:
        raise ValueError("x" * 200_000)

    evaluator.evaluate = fail
    logs = TrialLogs(tmp_path / "logs")
    executor = SerialExecutor(evaluator, lambda: None, logs)
    executor.submit(Job(3, FP32))
    executor.take()
    text = logs.read(3)
    assert text.startswith("Traceback (most recent call last)")
    assert ", in fail\n" in text
    assert len(text) < MOST_CHARACTERS + 100
    assert "characters left out" in text
    assert logs.read(4) is None


def test_what_was_finished_while_this_process_was_away_is_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor = make_executor(StubConnection(), trial_timeout_s=5.0)
    executor.submit(Job(0, FP32))
    now = time.monotonic
    monkeypatch.setattr("autoquant.cluster.executor.time.monotonic", lambda: now() + 60)
    _, outcome = executor.take()
    assert outcome.state == "complete"


class LateSuccess:
    """Workers of which one alone succeeds, after all others have failed."""

    is_remote = True

    def __init__(self, evaluator: Evaluator, *, succeeds: bool) -> None:
        self.evaluator = evaluator
        self.succeeds = succeeds
        self.running: list[Job] = []

    @property
    def has_room(self) -> bool:
        return len(self.running) < 4

    def submit(self, job: Job) -> None:
        self.running.append(job)

    def take(self, timeout_s: float | None = None) -> tuple[Job, Outcome] | None:
        named = [job for job in self.running if job.gate is None]
        job = (named or self.running[::-1])[0]  # the first to begin is the last to end
        self.running.remove(job)
        if named or (self.succeeds and not self.running):
            return job, evaluate_job(self.evaluator, job, TrainingWatch())
        return job, Outcome("failed", Measurement(), error="no memory")

    def listen(self, on_note: Callable[[str], None]) -> None:
        pass

    def seats(self) -> list[Seat]:
        return []


@pytest.mark.parametrize("succeeds", [False, True])
def test_search_is_given_up_when_what_runs_has_ended(tmp_path: Path, succeeds: bool) -> None:
    record = fake_record(Location(tmp_path, "fake"))
    evaluator = fake_evaluator()
    executor = LateSuccess(evaluator, succeeds=succeeds)
    study = Study(record, fake_space(), evaluator, tmp_path / "fake/artifacts", executor=executor)
    close, running_at_close = study.close, []
    study.close = lambda: running_at_close.append(len(executor.running)) or close()
    if succeeds:
        study.run(Budget(30), "random")
    else:
        with pytest.raises(NegativeAnswer, match="proposed recipes failed"):
            study.run(Budget(60), "random")
    assert running_at_close == [0]


def test_task_that_cannot_travel_is_told() -> None:
    class Ray:
        def put(self, value: object) -> None:
            raise TypeError("cannot pickle '_thread.lock' object\n=====\nDetails")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autoquant.cluster.connection.ray", Ray())
        expected = r"cannot be sent to workers: cannot pickle '_thread.lock' object; register it"
        with pytest.raises(ClusterError, match=expected):
            Connection.share(None, threading.Lock())


def test_interrupt_while_sensitivities_are_measured_takes_effect_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing runs elsewhere yet that it would have to wait for.

    No signal is raised here: it took down a worker of xdist twice. That a real one ends a search
    is for the tests that interrupt processes.
    """
    evaluator = fake_evaluator()
    executor = LateSuccess(evaluator, succeeds=True)
    reached: list[str] = []

    @contextmanager
    def crew(*arguments: object) -> Iterator[tuple[Evaluator, LateSuccess]]:
        yield evaluator, executor

    def measure(*arguments: object, **named: object) -> None:
        reached.append("began")
        answers = signal.getsignal(signal.SIGINT)
        assert callable(answers)
        answers(signal.SIGINT, None)  # what Ctrl-C calls at this moment
        reached.append("went on")

    monkeypatch.setattr("autoquant.launch._open_crew", crew)
    monkeypatch.setattr("autoquant.sensitivity.measure_sensitivity", measure)
    launch = fake_launch(tmp_path, 40, Crew(2), sampler="greedy")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job has none
    try:
        with pytest.raises(KeyboardInterrupt):
            run_launch(launch, evaluator, None, print)
    finally:
        signal.signal(signal.SIGINT, before)
    assert reached == ["began"]
    assert load_record(launch.location).trials() == []


def test_study_says_what_runs_where_while_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "driver.json"
    announcement = Announcement(path)
    seats = [
        Seat("worker 1", "builder:ab12", "idle", 0.0),
        Seat("worker 2", "builder:ab12", "timing trial 3", 1.0),
        Seat("probe", "edge:cd34", "idle", 0.0),
    ]
    announcement.see(seats, "10.0.0.5:8265")
    announcement.see(seats)
    text = read_presence(path).describe()
    assert text.startswith(f"driver on {socket.gethostname()} (process {os.getpid()}); 2 workers")
    assert "2 workers on builder:ab12; 1 probe on edge:cd34; dashboard at http://10.0.0.5" in text
    path.write_text("half of")
    assert read_presence(path) is None
    announcement.end()
    assert not path.exists()


def test_commands_print_the_log_of_a_trial_and_what_runs_where(tmp_path: Path) -> None:
    fake_study(tmp_path).run(Budget(6), "random")
    location = Location(tmp_path, "fake")
    TrialLogs(location.logs).keep(3, "a library says\n")

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, [*words, "--results", str(tmp_path)])

    assert run("trials", "fake", "--log", "3").stdout == "a library says\n"
    missing = run("trials", "fake", "--log", "4").exception
    assert isinstance(missing, NegativeAnswer)
    assert "there is no log of trial 4" in str(missing)
    assert json.loads(run("studies", "--format", "json").stdout)["studies"][0]["runs"] is None
    with hold_driver_lock(location):
        Announcement(location.presence).see([Seat("worker 1", "builder:ab12", "idle", 0.0)])
        row = json.loads(run("studies", "--format", "json").stdout)["studies"][0]
        assert "1 worker on builder:ab12" in run("studies").stderr
    assert row["runs"]["seats"] == [["worker 1", "builder:ab12"]]
    assert row["runs"]["pid"] == os.getpid()
