"""Samplers of our own, and what all samplers are held to beside `test_study`."""

import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler

from autoquant.core.hypervolume import hypervolume
from autoquant.core.layer import Layer
from autoquant.core.objective import Kind
from autoquant.core.pareto import Bounds
from autoquant.core.sensitivity import ChoiceCost, Sensitivity, SensitivityBase
from autoquant.core.space import SearchSpace
from autoquant.search.auto import AutoSampler
from autoquant.search.features import Features
from autoquant.search.history import History, Row
from autoquant.search.improvement import expected_improvement
from autoquant.search.mirror import MirrorSampler
from autoquant.search.outlook import Outlook
from autoquant.search.prior import Knowledge
from autoquant.search.sampler import build_sampler
from autoquant.search.study import Budget, Event
from autoquant.search.surrogate import LossModel
from autoquant.search.walk import GreedySampler
from tests.fakes import fake_evaluator, fake_record, fake_space, fake_study


class Valley:
    """A search in memory: additive losses, sizes and latencies, without files or a runtime."""

    def __init__(self, layers: int = 12, noise: float = 0.0, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.names = [f"layer{index}" for index in range(layers)]
        self.space = SearchSpace(
            dict.fromkeys(self.names, ("8", "4", "float")),
            {"calibration": ("minmax", "mse", "entropy")},
        )
        self.parameters = generator.integers(1000, 20_000, layers)
        losses = np.exp(generator.normal(0, 1.2, layers))
        self.losses = 0.05 * losses / losses.sum()
        self.noise = noise
        self.layers = [
            Layer(name, "conv", int(count), 1000, order)
            for order, (name, count) in enumerate(zip(self.names, self.parameters, strict=True))
        ]

    def measure(self, parameters: dict[str, str]) -> dict[str, object]:
        chosen = [parameters[f"layer.{name}"] for name in self.names]
        narrow = np.array([choice == "4" for choice in chosen])
        exact = np.array([choice == "float" for choice in chosen])
        drop = float(self.losses @ narrow) + 0.001 * (parameters["calibration"] == "entropy")
        dice = np.random.default_rng(int(narrow @ 2.0 ** np.arange(len(narrow)) % 2**40))
        drop += self.noise * dice.normal()
        size = self.parameters @ np.where(narrow, 0.5, np.where(exact, 4.0, 1.0))
        return {
            "state": "complete", "accuracy_drop": drop, "latency_ratio": 0.5 + 0.5 * exact.mean(),
            "size_bytes": int(size) + 500, "name": None,
        }  # fmt: skip

    def knowledge(self, **changes) -> Knowledge:
        return Knowledge(self.layers, bounds=Bounds(0.02), **changes)

    def start(self, name: str, seed: int, knowledge: Knowledge | None = None) -> optuna.Study:
        study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
        self.seen: set[str] = set()
        known = knowledge or self.knowledge()
        study.sampler = build_sampler(name, self.space, lambda: frozenset(self.seen), seed, known)
        return study

    def ask(self, study: optuna.Study) -> tuple[optuna.Trial, dict[str, str]]:
        trial = study.ask()
        drawn = {
            name: trial.suggest_categorical(name, choices)
            for name, choices in self.space.parameters.items()
        }
        return trial, drawn

    def tell(self, study: optuna.Study, trial: optuna.Trial, drawn: dict[str, str]) -> dict:
        record = self.measure(drawn)
        trial.set_user_attr("record", record)
        trial.set_constraint("drop", record["accuracy_drop"] - 0.02)
        values = [-record["accuracy_drop"], record["latency_ratio"], record["size_bytes"]]
        study.tell(trial, values)
        self.seen.add(self.space.decode(drawn).digest)
        return record

    def search(self, name: str, trials: int, seed: int = 0, **options) -> float:
        """Share of the box that the front of so many trials fills."""
        study = self.start(name, seed, **options)
        records = [self.tell(study, *self.ask(study)) for _ in range(trials)]
        return self.judge(records)

    def judge(self, records: list[dict]) -> float:
        box = np.array([0.02, 1.0, float(self.parameters.sum() + 500)])
        points = [
            (max(0.0, item["accuracy_drop"]), item["latency_ratio"], item["size_bytes"])
            for item in records
        ]
        return hypervolume(np.array(points, dtype=float), box) / float(np.prod(box))


def test_expected_improvement_is_the_mean_of_drawn_improvements() -> None:
    generator = np.random.default_rng(0)
    corner = np.array([0.8, 0.9, 1.0])
    for _ in range(2):
        front, known = generator.random((6, 3)), generator.random((5, 2))
        mean, deviation = generator.random(5) - 0.1, 0.05 + 0.3 * generator.random(5)
        found = expected_improvement(mean, deviation, known, front, corner)
        before = hypervolume(front, corner)
        for index in range(5):
            drawn = np.maximum(0.0, generator.normal(mean[index], deviation[index], 600))
            gains = [
                hypervolume(np.vstack([front, [loss, *known[index]]]), corner) - before
                for loss in drawn
            ]
            error = np.std(gains) / np.sqrt(600)
            assert found[index] == pytest.approx(np.mean(gains), abs=5 * error + 1e-4)


def test_codes_go_back_to_their_parameters() -> None:
    space = fake_space(3)
    features = Features(space, Knowledge())
    for parameters in space.enumerate():
        assert features.decode(features.encode(parameters)) == parameters
    assert features.encode({"layer.conv0": "8"}) is None


def test_distance_is_the_weighted_share_of_differing_parameters() -> None:
    features = Features(fake_space(4), Knowledge())
    codes = np.array(list(itertools.product(range(2), repeat=len(features.names))))
    found = features.distances(codes[:20], codes)
    differs = codes[:20, None, :] != codes[None, :, :]
    assert found == pytest.approx(differs @ features.weights)


@pytest.mark.parametrize("noise", [0.0, 0.001])
def test_auto_finds_more_than_random_and_tpe_in_few_trials(noise: float) -> None:
    valley = Valley(noise=noise)
    found = {name: valley.search(name, 30) for name in ("auto", "tpe", "random")}
    assert found["auto"] > 1.5 * found["tpe"]
    assert found["auto"] > 1.5 * found["random"]


def make_sensitivity(valley: Valley) -> Sensitivity:
    costs = [
        ChoiceCost(layer=name, choice="4", proxy=float(loss), extra_drop=float(loss),
                   extra_drop_ci=(loss - 0.002, loss + 0.002), bytes_saved=int(count) // 2,
                   latency_change=0.0)
        for name, loss, count in zip(valley.names, valley.losses, valley.parameters, strict=True)
    ]  # fmt: skip
    base = SensitivityBase(accuracy=0.9, accuracy_drop=0.0, proxy=0.01, size_bytes=1000)
    return Sensitivity(
        task="x", key={}, samples=1000, reduce_range=False, proxy="kl", base=base, costs=costs
    )


def test_sensitivities_help_from_the_first_trials_on() -> None:
    valley = Valley(layers=20)
    told = valley.knowledge(sensitivity=make_sensitivity(valley))
    informed = valley.search("auto", 10, knowledge=told)
    assert informed > 1.2 * valley.search("auto", 10)


def test_workers_in_parallel_are_given_different_recipes() -> None:
    valley = Valley()
    study = valley.start("auto", 0)
    for _ in range(4):
        valley.tell(study, *valley.ask(study))
    asked = [valley.ask(study) for _ in range(8)]
    digests = {valley.space.decode(drawn).digest for _, drawn in asked}
    assert len(digests) == 8
    sizes = [valley.measure(drawn)["size_bytes"] for _, drawn in asked]
    assert max(sizes) > 1.05 * min(sizes), "they are not all at one end of the front"


def test_eight_workers_lose_little() -> None:
    valley = Valley(noise=0.0005)
    study, waiting = valley.start("auto", 0), []
    records = [valley.tell(study, *valley.ask(study)) for _ in range(5)]
    for _ in range(35):
        waiting.append(valley.ask(study))
        if len(waiting) == 8:
            records.append(valley.tell(study, *waiting.pop(0)))
    records += [valley.tell(study, *item) for item in waiting]
    assert valley.judge(records) > 0.9 * valley.search("auto", 40)


def test_what_is_under_way_makes_the_model_surer_and_changes_no_expectation() -> None:
    valley = Valley()
    features = Features(valley.space, valley.knowledge())
    random = np.random.default_rng(0)
    codes = random.integers(features.counts, size=(30, len(features.counts)))
    losses = np.array([valley.measure(features.decode(code))["accuracy_drop"] for code in codes])
    model = LossModel(features, unit=0.01)
    model.fit(codes[:10], losses[:10], np.zeros(10))
    mean, deviation = model.predict(codes)
    model.believe(codes[10:18])
    believed, surer = model.predict(codes)
    assert np.allclose(believed, mean, atol=1e-6)
    assert (surer <= deviation + 1e-9).all()
    assert (surer[10:18] < 0.5 * deviation[10:18]).all()
    model.fit(codes[:10], losses[:10], np.zeros(10))
    assert np.allclose(model.predict(codes), (mean, deviation)), "nothing of it stays"


def test_one_proposal_in_eight_looks_further_and_those_after_it_no_longer() -> None:
    valley, found = Valley(), []
    study = valley.start("auto", 0)
    sampler = study.sampler
    while not isinstance(sampler, AutoSampler):
        sampler = sampler.inner
    for _ in range(24):
        valley.tell(study, *valley.ask(study))
        found.append(sampler.outlook.inflation)
    assert [index + 1 for index, value in enumerate(found) if value > 1.0] == [8, 16, 24]
    assert max(found) == 3.0


def test_auto_takes_up_a_study_where_it_is() -> None:
    valley = Valley()
    study = valley.start("auto", 0)
    for _ in range(15):
        valley.tell(study, *valley.ask(study))
    seen = frozenset(valley.seen)
    study.sampler = build_sampler("auto", valley.space, lambda: seen, 15, valley.knowledge())
    _, drawn = valley.ask(study)
    known = [item["accuracy_drop"] for item in map(valley.measure, [drawn])]
    assert known[0] < 0.02
    assert valley.space.decode(drawn).digest not in seen


def test_misjudged_trials_are_told_and_hand_over_to_tpe() -> None:
    """A landscape of nothing but noise: no model can foresee it."""
    valley, lines = Valley(), []
    generator = np.random.default_rng(1)
    valley.measure = lambda drawn: {
        "state": "complete", "accuracy_drop": float(generator.random() * 0.05),
        "latency_ratio": 0.5, "size_bytes": int(generator.integers(1000, 2000)), "name": None,
    }  # fmt: skip
    study = valley.start("auto", 0)
    study.sampler = build_sampler(
        "auto", valley.space, lambda: frozenset(valley.seen), 0, valley.knowledge(), lines.append
    )
    for _ in range(60):
        valley.tell(study, *valley.ask(study))
    assert lines
    assert "misjudged" in lines[0]
    assert "TPE" in lines[0]


def test_constraint_that_nothing_meets_is_approached(tmp_path: Path) -> None:
    study = fake_study(tmp_path)
    study.bounds = Bounds(max_size_mb=1e-6)
    members = study.run(Budget(30), "auto")
    assert members == []
    sizes = [trial.size_bytes for trial in study.record.trials() if trial.size_bytes]
    assert min(sizes) == 18_000, "every layer at 4 bits is nearest"


@pytest.mark.parametrize("layers", [6, 12])
def test_choice_that_always_fails_is_found_out_and_left_alone(layers: int) -> None:
    """Nothing has succeeded before: every choice of what failed is as suspect as any other."""
    valley = Valley(layers=layers)
    study = valley.start("auto", 0)
    failed = []
    for _ in range(40):
        trial, drawn = valley.ask(study)
        if drawn["layer.layer0"] != "4":
            valley.tell(study, trial, drawn)
            failed.append(False)
            continue
        trial.set_user_attr("record", {"state": "failed"})
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        valley.seen.add(valley.space.decode(drawn).digest)
        failed.append(True)
    assert sum(failed[:20]) <= 0.6 * 20
    assert sum(failed[20:]) <= 0.5 * 20


@pytest.mark.parametrize("objectives", [["accuracy"], ["size"], ["accuracy", "size"], ["latency"]])
def test_any_objectives_will_do(tmp_path: Path, objectives: list[str]) -> None:
    from autoquant.search.storage import Location

    record = fake_record(Location(tmp_path, "fake"), objectives=objectives)
    study = fake_study(tmp_path, record)
    study.run(Budget(15), "auto")
    assert len(record.trials()) == 15


def test_constant_objectives_end_no_search() -> None:
    valley = Valley()
    valley.measure = lambda drawn: {
        "state": "complete", "accuracy_drop": 0.0, "latency_ratio": 1.0, "size_bytes": 5000,
        "name": None,
    }  # fmt: skip
    assert valley.search("auto", 40) >= 0


def test_space_larger_than_memory_is_never_enumerated() -> None:
    valley = Valley(layers=200)
    assert valley.space.size > 10**90
    assert valley.search("auto", 6) >= 0


def seconds_a_proposal(trials: int) -> float:
    """Processor seconds, in a study of so many trials over 60 layers."""
    valley = Valley(layers=60)
    study = valley.start("auto", 0)
    history = study.sampler.inner.history
    generator = np.random.default_rng(0)
    for number in range(10_000, 10_000 + trials):
        code = tuple(generator.integers(history.features.counts).tolist())
        figures = valley.measure(history.features.decode(code))
        history.rows[number] = Row(
            number, code, "complete", None, figures["accuracy_drop"], 0.0,
            figures["latency_ratio"], 1.0, figures["size_bytes"],
        )  # fmt: skip
    start = time.process_time()
    for _ in range(3):
        valley.tell(study, *valley.ask(study))
    return (time.process_time() - start) / 3


@pytest.mark.long
def test_proposals_take_much_less_than_proportionally_longer_in_a_long_study() -> None:
    """The limits, 0.1 s at 100 trials and 1 s at 5,000, are those of a machine of its own."""
    assert seconds_a_proposal(5000) < 20 * seconds_a_proposal(100)


def test_what_was_not_measured_is_as_sensitive_as_the_rest() -> None:
    """A measurement that ran out of time leaves the last layers out."""
    valley = Valley()
    whole = make_sensitivity(valley)
    part = whole.model_copy(update={"costs": whole.costs[: len(whole.costs) // 2]})
    walk = GreedySampler(valley.space, valley.knowledge(sensitivity=part), frozenset,
                         RandomSampler())  # fmt: skip
    narrow = walk.losses[walk.features.is_narrow]
    unknown = np.isnan(walk.features.drops[walk.features.is_narrow])
    assert 0 < unknown.sum() < len(narrow)
    assert narrow[unknown] == pytest.approx(narrow[~unknown].mean())
    assert (walk.losses[~walk.features.is_narrow & np.isnan(walk.features.drops)] == 0).all()


def test_greedy_lowers_the_least_sensitive_for_its_bytes_first() -> None:
    valley = Valley()
    told = valley.knowledge(sensitivity=make_sensitivity(valley))
    study = valley.start("greedy", 0, told)
    narrow = []
    for _ in range(13):
        trial, drawn = valley.ask(study)
        narrow.append({name for name in valley.names if drawn[f"layer.{name}"] == "4"})
        valley.tell(study, trial, drawn)
    assert [len(names) for names in narrow] == list(range(13))
    order = [next(iter(after - before)) for before, after in itertools.pairwise(narrow)]
    rate = dict(zip(valley.names, valley.losses / valley.parameters, strict=True))
    assert order == sorted(valley.names, key=rate.__getitem__)


def test_ilp_is_as_good_as_trying_everything_under_its_budget() -> None:
    valley = Valley(layers=7)
    told = valley.knowledge(sensitivity=make_sensitivity(valley))
    study = valley.start("ilp", 0, told)
    saved = np.array([int(count) // 2 for count in valley.parameters])
    for _ in range(6):
        trial, drawn = valley.ask(study)
        valley.tell(study, trial, drawn)
        chosen = np.array([drawn[f"layer.{name}"] == "4" for name in valley.names])
        every = np.array(list(itertools.product((0, 1), repeat=7)))
        enough = every[every @ saved >= chosen @ saved]
        assert valley.losses @ chosen == pytest.approx((enough @ valley.losses).min())


class Recorder(RandomSampler):
    """Remembers what it was shown."""

    def sample_relative(self, study, trial, search_space):
        self.shown = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
        return {name: item.choices[0] for name, item in search_space.items()}


def test_mirror_shows_only_trials_with_every_parameter() -> None:
    valley = Valley(layers=3)
    study = valley.start("random", 0)
    inner = Recorder()
    study.sampler.inner = MirrorSampler(inner)
    study.add_trial(optuna.trial.create_trial(values=[0.0, 1.0, 1.0]))
    for count in range(3):
        valley.tell(study, *valley.ask(study))
        assert len(inner.shown) == count


def test_gaussian_processes_of_optuna_stand_baselines_outside_the_space(tmp_path: Path) -> None:
    study = fake_study(tmp_path)
    study.run(Budget(17), "gp")
    assert len({trial.digest for trial in study.record.trials()}) == 17


def test_rejected_trials_teach_with_less_weight() -> None:
    valley = Valley(layers=3)
    features = Features(valley.space, valley.knowledge())
    study, history = valley.start("random", 0), History(features)
    trial, _ = valley.ask(study)
    partial = {"accuracy_drop": 0.01, "samples": 250, "latency_ratio": 0.5}
    trial.set_user_attr("record", {"state": "rejected", "partial": partial, "size_bytes": 9000})
    study.tell(trial, [0.0, 0.5, 9000])
    history.update(study, 99)
    row = history.rows[0]
    assert row.drop == 0.01
    assert 0.005 < row.drop_sd < 0.02
    outlook = Outlook(features, valley.knowledge())
    outlook.update(history)
    assert not len(outlook.front), "what was not fully measured is no member"


def test_what_is_larger_must_be_better_by_more_than_chance() -> None:
    """Otherwise the front's own rule leaves it out, and the trial bought nothing."""
    valley = Valley(layers=3)
    features = Features(valley.space, valley.knowledge())
    narrow = {f"layer.{name}": "4" for name in valley.names} | {"calibration": "minmax"}
    size = int(valley.measure(narrow)["size_bytes"])
    losses = []
    for deviation in (0.0, 0.002):
        history = History(features)
        history.rows[0] = Row(
            0, features.encode(narrow), "complete", None, 0.003, 0.0, 0.5, 1.0, size, deviation
        )
        outlook = Outlook(features, valley.knowledge())
        outlook.update(history)
        losses.append(outlook.front[0, 0])
    assert losses == pytest.approx([0.003, 0.001])
    seen = {"state": "complete", "accuracy_drop": 0.003, "accuracy_drop_ci": (-0.001, 0.007)}
    trial = optuna.trial.create_trial(values=[0.0], user_attrs={"record": seen})
    study = optuna.create_study()
    study.add_trial(trial)
    history = History(features)
    history.update(study, 99)
    assert history.rows[0].compared_sd == pytest.approx(0.002, rel=0.03)


def look_at(valley: Valley, bounds: Bounds, objectives: Sequence[Kind], *rows: Row) -> Outlook:
    """What is known after some trials."""
    known = Knowledge(valley.layers, objectives=objectives, bounds=bounds)
    features = Features(valley.space, known)
    outlook = Outlook(features, known)
    outlook.update(History(features, {row.number: row for row in rows}))
    return outlook


def encode(valley: Valley, choice: str) -> tuple[int, ...]:
    chosen = {f"layer.{name}": choice for name in valley.names} | {"calibration": "minmax"}
    code = Features(valley.space, valley.knowledge()).encode(chosen)
    assert code is not None
    return code


@pytest.mark.parametrize(
    ("bounds", "objectives", "choice"),
    [
        ({"max_size_mb": 0.08}, ("accuracy", "latency"), "8"),
        ({"max_latency_ms": 0.7}, ("accuracy",), "float"),
    ],
)
def test_a_bound_holds_whether_or_not_its_figure_is_an_objective(
    bounds: dict[str, float], objectives: Sequence[Kind], choice: str
) -> None:
    """A baseline that breaks it is no member, and what breaks it like that gains nothing."""
    valley = Valley()
    wide, narrow = encode(valley, choice), encode(valley, "4")
    ratio = 1.0 if choice == "float" else 0.5
    row = Row(0, wide, "complete", "w8a8", 0.0, 0.0, ratio, 1.0, 125_000)
    other = Row(1, narrow, "rejected", None, 0.01, 0.0, 0.5, 1.0, 62_500)
    outlook = look_at(valley, Bounds(0.02, **bounds), objectives, row, other)
    assert len(outlook.front) == 0
    gains = outlook.score(np.array([wide, narrow]))
    assert gains[0] == 0.0
    assert gains[1] > 0.0


def test_baselines_need_not_be_of_the_space_to_tell_sizes_and_ratios() -> None:
    valley = Valley()
    exact = Row(0, None, "complete", "fp32", 0.0, 0.0, 1.0, 1.0, 500_000)
    eight = Row(1, None, "complete", "w8a8", 0.0, 0.0, 0.2, 1.0, 125_000)
    outlook = look_at(valley, Bounds(0.02), ("accuracy", "latency", "size"), exact, eight)
    latency, size = outlook._costs(np.array([encode(valley, "8")]))[0]
    assert latency == pytest.approx(0.2, abs=0.02)
    assert size == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(("ratio", "gains"), [(0.7, False), (1.3, True)])
def test_where_narrow_weights_are_slower_than_float_they_are_sought_all_the_same(
    ratio: float, gains: bool
) -> None:
    """As on LiteRT: the smallest files are worth their time to those who want small ones."""
    valley = Valley()
    slow = Row(0, encode(valley, "4"), "complete", "w4a8", 0.05, 0.0, ratio, 1.0, 62_500)
    eight = Row(1, encode(valley, "8"), "complete", "w8a8", 0.0, 0.0, 0.5, 1.0, 125_000)
    outlook = look_at(valley, Bounds(0.02), ("accuracy", "latency", "size"), slow, eight)
    assert (outlook.corner[1] > 1.0) == gains
    assert outlook.corner[1] >= ratio


@pytest.mark.parametrize("over", [0.0005, -0.0005])
def test_what_loses_a_little_too_much_takes_nothing_away(over: float) -> None:
    """A bound is a bound: chance excuses nobody, as it does not in the front itself."""
    valley = Valley(layers=3)
    row = Row(0, encode(valley, "4"), "complete", None, 0.02 + over, 0.0, 0.5, 1.0, 900, 0.002)
    outlook = look_at(valley, Bounds(0.02), ["size"], row)
    assert len(outlook.front) == (over < 0)


@pytest.mark.parametrize("bound", [0.0, -0.01])
def test_where_no_drop_is_allowed_the_bound_is_the_corner(bound: float) -> None:
    valley = Valley(layers=3)
    outlook = look_at(valley, Bounds(bound), ("accuracy", "size"))
    assert outlook.corner[0] == pytest.approx(outlook.bend(np.array([bound]))[0])
    expected, _ = outlook.loss.predict(np.array([encode(valley, "8")]))
    assert expected == pytest.approx(outlook.bend(np.zeros(1))), "8 bits are to lose nothing"


def test_what_a_second_look_gave_is_what_is_known(tmp_path: Path) -> None:
    study = fake_study(tmp_path)
    study.run(Budget(20), "random")
    record = study.record
    turned_away = next(t for t in record.trials() if t.state == "rejected")
    figures = next(t for t in record.trials() if t.state == "complete").measurement()
    record.add_reprieve(turned_away.digest, figures)
    read = History(Features(study.space, Knowledge(fake_evaluator().builder.layers)))
    read.update(record.study, -1)
    row = read.rows[turned_away.number]
    assert (row.state, row.drop, row.drop_sd) == ("complete", figures.accuracy_drop, 0.0)


def test_history_of_trials_is_that_of_their_study(tmp_path: Path) -> None:
    """Two ways to the same rows: a field that one of them forgets is a model that differs."""
    study = fake_study(tmp_path)
    study.run(Budget(20), "random")
    trials, space = study.record.trials(), study.space
    features = Features(space, Knowledge(fake_evaluator().builder.layers))
    read = History(features)
    read.update(study.record.study, -1)
    codes = {number: row.code for number, row in read.rows.items()}
    told = History.of(features, [(trial, codes[trial.number]) for trial in trials])
    assert any(row.state == "rejected" for row in read.rows.values())
    assert told.rows == read.rows


def test_study_tells_when_the_sampler_is_lost(tmp_path: Path) -> None:
    events: list[Event] = []
    study = fake_study(tmp_path, on_event=events.append)
    study._begin("auto")
    study.record.study.sampler.inner.tell("lost")
    assert events[-1].kind == "note"
    assert (
        fake_evaluator().builder.layers == study.record.study.sampler.inner.outlook.knowledge.layers
    )
