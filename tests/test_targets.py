"""Several targets in one study: each has a latency of its own, timed where it stands."""

import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

pytest.importorskip("ray", reason="Ray is not installed")

import autoquant as aq
from autoquant.build import build_evaluator
from autoquant.cluster.connection import Lost
from autoquant.cluster.evaluator import ClusterEvaluator
from autoquant.cluster.timings import join_timings
from autoquant.core.front import find_front, front_probabilities
from autoquant.core.gate import Gate, Glimpse
from autoquant.core.hypervolume import trace_hypervolume
from autoquant.core.objective import kind_of, kinds_of, spread, target_of
from autoquant.core.pareto import Bounds
from autoquant.core.recipe import Recipe
from autoquant.core.rehearsal import Rehearsal
from autoquant.core.training import TrainingProgress, TrainingWatch
from autoquant.core.trial import Measurement, Trial
from autoquant.deliver import seal_for_target
from autoquant.errors import ClusterError, InputError, Rejection, StudyError
from autoquant.evaluate import EvaluationOptions
from autoquant.export.formats import read_artifact
from autoquant.progress import SearchProgress
from autoquant.search.event import Event
from autoquant.search.executor import Job, Outcome
from autoquant.search.features import Features
from autoquant.search.header import StudyHeader
from autoquant.search.history import History
from autoquant.search.prior import Knowledge
from autoquant.search.record import Record
from autoquant.search.sampler import SamplerName
from autoquant.search.storage import Location, create_record, load_record
from autoquant.search.study import Budget, Study
from tests.command import autoquant
from tests.crews import PlacedSource
from tests.fakes import DEFINITION, QUICK_SAMPLERS, fake_space, fake_study
from tests.networks import make_task
from tests.test_executor import StubActor, StubConnection, all_cores, failing
from tests.test_executor import make_executor as build_executor
from tests.trials import make_trial, right, seen_on

__all__ = ["all_cores"]  # a fixture that works by being here
NAMES = [f"conv{index}" for index in range(8)]
EIGHT, FOUR = Recipe.uniform(NAMES, 8), Recipe.uniform(NAMES, 4)
# share of float's time that a layer in integers takes
COSTS = {"edge": 0.5, "server": 1.5}
KINDS = ["accuracy", "latency", "size"]
BOTH = ["accuracy", "latency:edge", "latency:server", "size"]


class PlacedConnection(StubConnection):
    """Each target's node is a machine of its own kind."""

    def __init__(self, plan: Any = lambda name: None, costs: Mapping[str, float] = COSTS) -> None:
        super().__init__(plan)
        self.costs = dict(costs)
        self.timed: list[str] = []
        for name in costs:
            self.nodes[name] = {f"latency_probe:{name}": 1}

    def hire(self, demand: Any) -> StubActor:
        actor = super().hire(demand)
        load, node = actor.worker.load, actor.worker.node
        source = PlacedSource(costs=self.costs, place=node)
        actor.worker.load = lambda _, is_probe: load(source, is_probe=is_probe)
        plan = actor.plan

        def note(name: str) -> BaseException | None:
            self.timed += [node] if name == "time" else []
            return plan(name)

        actor.plan = note
        return actor


def make_executor(connection: StubConnection, targets: Any = tuple(COSTS), **crew: Any) -> Any:
    return build_executor(connection, targets=tuple(targets), **crew)


# What a trial says


def test_objectives_of_targets_are_latencies_by_name() -> None:
    assert spread(KINDS, []) == KINDS
    assert spread(KINDS, ["edge", "server"]) == BOTH
    assert [kind_of(name) for name in BOTH] == ["accuracy", "latency", "latency", "size"]
    assert kinds_of(BOTH) == KINDS
    assert [target_of(name) for name in BOTH] == [None, "edge", "server", None]


def test_trial_is_seen_from_each_target_with_its_latency() -> None:
    trial = seen_on(make_trial(0, right(900)), {"edge": 0.5, "server": 1.5})
    assert trial.objective("latency") == trial.objective("latency:edge") == 0.5
    assert trial.objective("latency:server") == 1.5
    server = trial.seen_from("server")
    assert (server.latency_ratio, server.latency_ms, server.targets) == (1.5, 1.5, None)
    assert trial.seen_from(None) is trial
    assert Trial.model_validate({**trial.to_dict(), "evidence": trial.evidence}) == trial
    assert "targets" not in make_trial(0, right(900)).to_dict()
    with pytest.raises(ValueError, match="did not measure latency:desk"):
        trial.objective("latency:desk")


def test_line_of_a_trial_tells_its_latency_on_each_target() -> None:
    trial = seen_on(make_trial(0, right(900)), {"edge": 0.5, "server": 1.5})
    event = Event("end", 1, (), trial)
    console = Console(file=io.StringIO(), width=200)
    with SearchProgress(Budget(10), console) as progress:
        progress.show(event)
    assert "0.500 ±0.005 x float on edge, 1.500 ±0.015 x float on server" in console.file.getvalue()


def test_name_that_is_no_objective_is_refused() -> None:
    for name in ("acuracy", "sizee", "accuracy:edge", ""):
        with pytest.raises(ValueError, match="is no objective"):
            kind_of(name)


def test_hypervolume_takes_the_targets_for_one_side() -> None:
    """Four and more sides take minutes, and who is slower than float somewhere would not count."""
    trials = [
        seen_on(make_trial(number, right(900), size=900), {"edge": 0.5, "server": 1.28})
        for number in range(2)
    ]
    named = [trials[0].model_copy(update={"name": "fp32", "size_bytes": 1000}), trials[1]]
    alone = [trial.model_copy(update={"targets": None, "latency_ratio": 0.8}) for trial in named]
    expected = trace_hypervolume(alone, KINDS, Bounds())
    assert expected[-1] > 0
    assert trace_hypervolume(named, BOTH, Bounds()) == pytest.approx(expected)


def test_training_that_is_given_up_has_every_latency_of_its_scout() -> None:
    scout = seen_on(make_trial(0, right(600)), {"edge": 0.5, "server": 1.5})
    gate = Gate([], BOTH, Bounds(max_drop=0.01), scout)
    watch = Rehearsal([], right(900), lambda outputs: right(600), 1000, gate, TrainingWatch(), list)
    progress = TrainingProgress(epoch=9, epochs=10, step=99, steps=100, loss=1.0)
    with pytest.raises(Rejection) as caught:
        watch.on_epoch(progress, lambda batches: None)
    partial = caught.value.measurement.partial
    assert {name: item.latency_ratio for name, item in partial.targets.items()} == COSTS


VALUES = st.lists(
    st.tuples(st.integers(880, 920), st.integers(2, 9), st.integers(2, 9), st.integers(1, 6)),
    min_size=1, max_size=9,
)  # fmt: skip


def build(values: list[tuple[int, int, int, int]], *, is_same: bool) -> list[Trial]:
    return [
        seen_on(
            make_trial(number, right(hits), size=100 * size),
            {"edge": edge / 10, "server": (edge if is_same else server) / 10},
        )
        for number, (hits, edge, server, size) in enumerate(values)
    ]


@given(VALUES)
def test_two_targets_of_one_kind_are_as_one(values: list[tuple[int, int, int, int]]) -> None:
    trials = build(values, is_same=True)
    alone = find_front(trials, KINDS)
    assert find_front(trials, BOTH) == alone
    assert trace_hypervolume(trials, BOTH, Bounds()) == pytest.approx(
        trace_hypervolume(trials, KINDS, Bounds())
    )


@given(VALUES)
def test_front_of_a_target_is_that_of_the_trials_as_it_sees_them(
    values: list[tuple[int, int, int, int]],
) -> None:
    trials = build(values, is_same=False)
    projected = [trial.seen_from("server") for trial in trials]
    by_name = find_front(trials, ["accuracy", "latency:server", "size"])
    assert [t.number for t in by_name] == [t.number for t in find_front(projected, KINDS)]
    named = front_probabilities(trials, ["accuracy", "latency:server"])
    assert named == front_probabilities(projected, ["accuracy", "latency"])


def test_who_is_best_on_one_target_stays_on_the_front() -> None:
    first = seen_on(make_trial(0, right(900)), {"edge": 0.5, "server": 0.9})
    second = seen_on(make_trial(1, right(900)), {"edge": 0.9, "server": 0.5})
    assert len(find_front([first, second], BOTH)) == 2
    assert find_front([first, second], KINDS) == [first], "by the first target alone"


def test_candidate_on_its_way_is_not_called_dominated_on_a_target_that_has_not_seen_it() -> None:
    member = seen_on(make_trial(0, right(950)), {"edge": 0.1, "server": 0.1})
    weak = Gate([member], KINDS, Bounds())
    glimpse = Glimpse(right(500), right(900), 1000, 5000, 0.9, 0.01)
    assert weak.find_reason(glimpse) == "trial 0 dominates it"
    assert Gate([member], BOTH, Bounds()).find_reason(glimpse) is None


# How it is timed


def test_each_target_times_each_file() -> None:
    connection = PlacedConnection()
    outcome = make_executor(connection).evaluate(Job(0, EIGHT))
    seen = outcome.measurement
    assert outcome.state == "complete"
    assert {name: item.latency_ratio for name, item in seen.targets.items()} == pytest.approx(COSTS)
    assert seen.latency_ratio == seen.targets["edge"].latency_ratio
    assert seen.timing == seen.targets["edge"].timing
    assert outcome.probe == "edge, server"
    assert connection.timed == ["edge", "server"]


def test_latency_on_one_target_alone_has_its_name_too() -> None:
    seen = make_executor(PlacedConnection(), ["server"]).evaluate(Job(0, EIGHT)).measurement
    assert list(seen.targets) == ["server"]
    assert seen.latency_ratio == pytest.approx(1.5)


def test_candidate_that_is_turned_away_has_every_objective() -> None:
    gate = Gate([], BOTH, Bounds(max_drop=0.001))
    outcome = make_executor(PlacedConnection()).evaluate(Job(0, FOUR, gate))
    assert outcome.state == "rejected"
    partial = outcome.measurement.partial
    ratios = {name: item.latency_ratio for name, item in partial.targets.items()}
    assert ratios == pytest.approx(COSTS)
    assert partial.latency_ratio == pytest.approx(0.5)


def float_trial() -> Trial:
    """The float model's, as far as a gate needs it."""
    seen = make_executor(PlacedConnection()).evaluate(Job(0, Recipe(method="fp32"))).measurement
    return make_trial(0, right(950)).model_copy(update={"evidence": seen.evidence})


def test_candidate_too_slow_for_the_first_target_is_turned_away_and_timed_for_a_moment() -> None:
    executor = make_executor(PlacedConnection(), ["server", "edge"])
    gate = Gate([], BOTH, Bounds(max_latency_ms=1.0))
    outcome = executor.evaluate(Job(1, EIGHT, gate, float_trial()))
    assert outcome.state == "rejected"
    partial = outcome.measurement.partial
    assert "latency exceeds the allowed 1 ms" in partial.reason
    assert {n: t.latency_ratio for n, t in partial.targets.items()} == pytest.approx(COSTS)


def test_bound_on_the_latency_is_about_the_first_target() -> None:
    gate = Gate([], BOTH, Bounds(max_latency_ms=1.0))
    outcome = make_executor(PlacedConnection()).evaluate(Job(1, EIGHT, gate, float_trial()))
    assert outcome.state == "complete"
    assert outcome.measurement.targets["server"].latency_ms > 1.0


def test_seconds_of_building_count_once() -> None:
    built = Outcome("complete", Measurement(seconds={"quantize": 2.0, "latency": 0.0}))
    timed = [seen_on(make_trial(0, right(9)), {"x": 0.5}).measurement() for _ in range(2)]
    spent = ({"quantize": 2.0, "latency": 0.5}, {"quantize": 2.0, "latency": 0.25})
    outcomes = [
        Outcome("complete", item.model_copy(update={"seconds": seconds, "targets": None}))
        for item, seconds in zip(timed, spent, strict=True)
    ]
    joined = join_timings(built, dict(zip(COSTS, outcomes, strict=True)))
    assert joined.measurement.seconds == {"quantize": 2.0, "latency": 0.75}


def test_sampler_of_one_latency_is_told_the_geometric_mean() -> None:
    features = Features(fake_space(), Knowledge())
    trial = seen_on(make_trial(0, right(900)), {"edge": 0.5, "server": 0.98})
    assert History.of(features, [(trial, None)]).rows[0].latency == pytest.approx(0.7)
    study = optuna.create_study()
    asked = study.ask()
    asked.set_user_attr("record", trial.to_dict())
    study.tell(asked, 0.0)
    history = History(features)
    history.update(study, current=-1)
    assert history.rows[0].latency == pytest.approx(0.7)


def test_probe_that_dies_is_replaced_and_no_other_target_times_again() -> None:
    connection = PlacedConnection(failing("time", [None, Lost("killed")]))
    outcome = make_executor(connection).evaluate(Job(0, EIGHT))
    assert outcome.state == "complete"
    assert connection.timed == ["edge", "server", "server"]


def test_clock_that_fails_on_one_target_fails_the_trial_and_names_it() -> None:
    class Broken(PlacedConnection):
        def hire(self, demand: Any) -> StubActor:
            actor = super().hire(demand)
            if actor.worker.node == "server":
                actor.worker._time = lambda seen, gate, evidence: dataclasses.replace(
                    seen, state="failed", error="no clock", artifact=None
                )
            return actor

    outcome = make_executor(Broken()).evaluate(Job(0, EIGHT))
    assert (outcome.state, outcome.error) == ("failed", "on target 'server': no clock")


def test_target_without_a_node_is_told_with_how_to_begin_one() -> None:
    connection = PlacedConnection()
    del connection.nodes["server"]
    expected = r"no node stands for target 'server' within 0.01 s.*latency_probe:server\": 1"
    with pytest.raises(ClusterError, match=expected):
        make_executor(connection, place_s=0.01)


def test_target_whose_node_is_gone_is_waited_for() -> None:
    connection = PlacedConnection(failing("time", [None, Lost("the node died")]))
    executor = make_executor(connection)
    notes: list[str] = []
    executor.listen(notes.append)
    server = connection.nodes.pop("server")
    executor.submit(Job(0, EIGHT))
    assert executor.take(0.3) is None
    assert "the last probe node for target 'server' is gone" in notes[-1]
    connection.nodes["server"] = server
    executor.pool._scanned = 0.0
    _, outcome = executor.take(5.0)
    assert outcome.state == "complete"


# A whole study


def open_study(
    folder: Path, connection: StubConnection, sampler: str = "random", targets: Any = tuple(COSTS)
) -> tuple[Study, Record]:
    location = Location(folder, "night")
    if location.exists():
        record = load_record(location)
    else:
        location.create_folder()
        header = StudyHeader(DEFINITION, 0, sampler, trials=24, targets=list(targets))
        record = create_record(location, header)
    local = PlacedSource(costs=COSTS, place="here")()
    executor = make_executor(connection, targets)
    evaluator = ClusterEvaluator(local, executor)
    study = Study(
        record, fake_space(), evaluator, location.artifacts, executor=executor, is_exact=True
    )
    return study, record


def search(folder: Path, sampler: SamplerName = "random", trials: int = 24) -> Record:
    study, record = open_study(folder, PlacedConnection(), sampler)
    study.run(Budget(trials), sampler)
    return record


@pytest.mark.parametrize("sampler", QUICK_SAMPLERS)
def test_every_sampler_finds_fronts_of_several_targets(
    tmp_path: Path, sampler: SamplerName
) -> None:
    record = search(tmp_path, sampler)
    trials = record.trials()
    assert len({trial.digest for trial in trials}) == 24
    assert record.header.objectives == BOTH
    assert record.study.metric_names == BOTH
    for trial in trials:
        assert trial.state in ("complete", "rejected")
        for name, cost in COSTS.items():
            expected = np.mean([cost if bits else 1.0 for bits in _widths(trial.recipe)])
            assert trial.objective(f"latency:{name}") == pytest.approx(expected)
    members = find_front(trials, BOTH)
    assert {t.timing.session for t in members} == {members[0].targets["server"].timing.session}
    assert {t.name for t in members} >= {"fp32"}, "integers are slower on the server"


def _widths(recipe: Recipe) -> list[int | None]:
    default = None if recipe.method == "fp32" else 8
    return [recipe.layers.get(name, default) for name in NAMES]


def test_study_seen_from_a_target_has_its_front_alone(tmp_path: Path) -> None:
    record = search(tmp_path)
    server = record.seen_from("server")
    assert server.header.objectives == KINDS
    front = find_front(server.trials(), server.header.objectives)
    fastest = min(front, key=lambda trial: trial.objective("latency"))
    assert fastest.latency_ratio == pytest.approx(1.0), "nothing is faster than float there"
    assert record.fingerprint_of(server.trials()[1])["machine"]["cpu"] == "server"
    with pytest.raises(StudyError, match="'desk' is no target of study 'night'; there are edge, s"):
        record.seen_from("desk")


def test_front_is_timed_again_when_any_target_is_another_machine(tmp_path: Path) -> None:
    search(tmp_path)
    sessions = {t.timing_session for t in load_record(Location(tmp_path, "night")).trials()}
    same, record = open_study(tmp_path, PlacedConnection())
    same.run(Budget(24), "random")
    assert {trial.timing_session for trial in record.trials()} == sessions
    other = PlacedConnection()
    other.nodes["server of another kind"] = other.nodes.pop("server")
    other.costs["server of another kind"] = 0.7
    moved, record = open_study(tmp_path, other)
    front = moved.run(Budget(24), "random")
    assert {trial.timing_session for trial in front}.isdisjoint(sessions)
    ratios = {trial.name: trial.targets["server"] for trial in front}
    assert ratios["fp32"].timing.search_ratio == pytest.approx(1.0)
    eight = next(t for t in record.trials() if t.name is None and t.timing_session)
    assert eight.targets["server"].latency_ratio < eight.targets["server"].timing.search_ratio


def test_bound_of_the_study_is_about_the_first_target_alone() -> None:
    definition = {**DEFINITION, "constraints": {"max_latency_ms": 1.0, "max_size_mb": 2.0}}
    header = StudyHeader(definition, 0, "random", targets=["server", "edge"])
    assert header.bounds == header.seen_from("server").bounds == Bounds(None, 1.0, 2.0)
    assert header.seen_from("edge").bounds == Bounds(None, None, 2.0)


@pytest.mark.parametrize("seed", range(3))
def test_members_of_each_target_s_front_are_timed_reported_and_kept(
    tmp_path: Path, seed: int
) -> None:
    study, record = open_study(tmp_path, PlacedConnection(), "random")
    study.record.study.sampler = None
    record.header = dataclasses.replace(record.header, seed=seed)
    study.run(Budget(24), "random")
    kept = {path.stem for path in study.artifacts.glob("*.onnx")}
    for target in COSTS:
        view = record.seen_from(target)
        members = find_front(view.trials(), view.header.objectives, view.header.bounds)
        assert {trial.digest for trial in members} <= kept
        assert all(trial.report_accuracy is not None for trial in members)
        assert len({trial.timing_session for trial in members}) == 1


def test_record_without_targets_is_as_earlier_versions_know_it(tmp_path: Path) -> None:
    study = fake_study(tmp_path)
    study.run(Budget(12), "random")
    assert "targets" not in Location(tmp_path, "fake").journal.read_text().replace(
        '"targets":null', ""
    ).replace('"targets": null', "")
    for name in ("header", "latency", "reprieve"):
        assert "targets" not in json.dumps(study.record.study.user_attrs.get(name, {}))
    assert all("targets" not in json.dumps(trial.to_dict()) for trial in study.record.trials())


def test_file_for_a_target_carries_its_figures_and_its_machine(tmp_path: Path) -> None:
    task = make_task(name="")
    evaluator = build_evaluator(task, options=EvaluationOptions(latency=None))
    names = [layer.name for layer in evaluator.layers]
    _, artifact = evaluator.evaluate(Recipe.uniform(names, 8))
    record = search(tmp_path)
    trial = next(t for t in record.seen_from("server").trials() if t.timing_session)
    sealed = seal_for_target(artifact.content, trial, record.seen_from("server"))
    passport = read_artifact(sealed).passport
    assert passport["measurement"]["latency_ratio"] == trial.latency_ratio
    assert passport["machine"] == {"cpu": "server"}
    assert "targets" not in passport["measurement"]
    assert seal_for_target(artifact.content, trial, record) == artifact.content
    unknown = trial.model_copy(update={"timing": None, "measured_on": None})
    with pytest.raises(StudyError, match="never timed on target 'server'"):
        seal_for_target(artifact.content, unknown, record.seen_from("server"))


# What people ask


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--target", "edge"], "targets (edge) are nodes of a cluster: say where it is with --ray"),
        (["--target", "edge", "--workers", "2"], "say where it is with --ray ADDRESS"),
        (["--target", "a b"], "--target 'a b': use up to 32 letters"),
        (["--target", "a", "--target", "a"], "--target 'a' is given twice"),
    ],
)
def test_targets_that_cannot_be_are_refused(
    tmp_path: Path, arguments: list[str], expected: str
) -> None:
    found = autoquant("search", "digits", "--results", tmp_path, *arguments, cwd=tmp_path)
    assert found.returncode == 2
    assert expected in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir()), "nothing was begun"


def test_target_needs_latency_among_the_objectives(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("version: 1\ntask: digits\nobjectives: [accuracy, size]\n")
    found = autoquant("search", space, "--target", "edge", cwd=tmp_path)
    assert found.returncode == 2
    assert "add latency to its objectives" in found.stderr


def test_report_measures_nothing_of_a_study_that_others_time(tmp_path: Path) -> None:
    search(tmp_path)
    found = autoquant("report", "night", "--measure", "--results", tmp_path, cwd=tmp_path)
    assert found.returncode == 2
    assert "is timed on targets edge, server: leave out --measure" in found.stderr


def test_notebook_wants_a_list_of_targets_and_a_cluster() -> None:
    with pytest.raises(InputError, match=r"give a list of names, \['edge'\]"):
        aq.search("digits", "digits", targets="edge")
    with pytest.raises(InputError, match="say where it is with ray=ADDRESS"):
        aq.search("digits", "digits", targets=["edge"])


def test_notebook_speaks_of_its_own_arguments() -> None:
    with pytest.raises(InputError, match="targets='a b'"):
        aq.search("digits", "digits", targets=["a b"])


def test_commands_show_a_study_as_a_target_sees_it(tmp_path: Path) -> None:
    search(tmp_path)
    where = ("--results", tmp_path)

    def run(*arguments: str) -> str:
        found = autoquant(*arguments, *where, cwd=tmp_path)
        return found.stdout + found.stderr

    shown = run("front", "night")
    assert "x edge" in shown
    assert "x server" in shown
    server = run("front", "night", "--target", "server")
    assert "x float" in server
    assert "x edge" not in server
    assert "by accuracy, latency:server" in run(
        "front", "night", "--objectives", "accuracy,latency:server"
    )
    none = run("front", "night", "--objectives", "latency:desk")
    assert "there are accuracy, latency:edge, latency:server, size" in none
    wrong = run("export", "night", "--knee", "-o", "x", "--target", "desk")
    assert "'desk' is no target of study 'night'" in wrong
    resumed = run("resume", "night", "--trials", "30")
    assert "targets (edge, server) are nodes of a cluster: say where it is with --ray" in resumed
    study = aq.load_study(tmp_path / "night")
    seen = study.seen_from("server")
    assert seen.front()["latency_ratio"].min() == pytest.approx(1.0)
    assert study.front()["latency_ratio"].min() == pytest.approx(0.5)
