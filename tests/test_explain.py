"""Why a recipe: what is measured, what is estimated, and how good the estimates are."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from autoquant.cli import app
from autoquant.config import parse_space
from autoquant.core.evidence import Evidence
from autoquant.core.explanation import Explanation
from autoquant.core.layer import Layer
from autoquant.core.pareto import Bounds
from autoquant.core.recipe import QatOptions
from autoquant.core.space import SearchSpace
from autoquant.core.trial import Partial, Timing, Trial
from autoquant.errors import InputError
from autoquant.launch import _find_exactness, _find_space
from autoquant.report.why import (
    describe_trust,
    find_step_down,
    flatten_reasons,
    summarize_reasons,
    tabulate_reasons,
)
from autoquant.report.why_figure import why_figure
from autoquant.search.explain import explain_trial
from autoquant.search.features import Features
from autoquant.search.header import StudyHeader
from autoquant.search.prior import Knowledge
from autoquant.search.reader import StudyReader
from autoquant.search.recall import KNOWLEDGE, recall_knowledge, recall_space
from autoquant.search.storage import Location
from autoquant.search.study import Budget
from autoquant.search.surrogate import LossModel
from tests.fakes import DEFINITION, fake_record, fake_space, fake_study
from tests.test_samplers import Valley, make_sensitivity

GOLDEN = Path(__file__).parent / "golden"


def make_trials(valley: Valley, count: int, seed: int = 0) -> list[Trial]:
    """Complete trials of random recipes, half of the layers at 4 bits; their figures add up."""
    generator = np.random.default_rng(seed)
    drawn = [
        {
            name: str(generator.choice(choices, p=[0.4, 0.5, 0.1]) if "layer" in name else "minmax")
            for name, choices in valley.space.parameters.items()
        }
        for _ in range(count)
    ]
    return [make_trial(valley, number, parameters) for number, parameters in enumerate(drawn)]


def make_trial(valley: Valley, number: int, parameters: dict[str, str]) -> Trial:
    figures = valley.measure(parameters)
    recipe = valley.space.decode(parameters)
    ratio = figures["latency_ratio"]
    timing = Timing(
        reference_ms=2.0, p50_ms=2 * ratio, p90_ms=2 * ratio, p99_ms=2 * ratio, samples=9,
        stable=True,
    )  # fmt: skip
    return Trial(
        number=number, state="complete", digest=recipe.digest, recipe=recipe, accuracy=0.9,
        accuracy_drop=figures["accuracy_drop"], latency_ratio=ratio, timing=timing,
        size_bytes=figures["size_bytes"],
    )  # fmt: skip


def changed(trial: Trial, valley: Valley, name: str, choice: str) -> dict[str, str]:
    return {**valley.space.encode(trial.recipe), name: choice}


@pytest.fixture(scope="module")
def valley() -> Valley:
    return Valley()


@pytest.fixture(scope="module")
def trials(valley: Valley) -> list[Trial]:
    return make_trials(valley, 60)


@pytest.fixture(scope="module")
def found(valley: Valley, trials: list[Trial]) -> Explanation:
    return explain_trial(trials, valley.space, valley.knowledge(), 50)


def test_estimates_are_what_would_be_measured(
    valley: Valley, trials: list[Trial], found: Explanation
) -> None:
    own, errors, sizes = trials[50], [], []
    for layer in found.layers:
        for outcome in layer.outcomes:
            true = valley.measure(changed(own, valley, f"layer.{layer.layer}", outcome.choice))
            if outcome.source == "estimate":
                change = true["accuracy_drop"] - (own.accuracy_drop or 0.0)
                errors.append((outcome.drop_change - change) / outcome.drop_change_se)
                sizes.append(outcome.size_change_bytes - (true["size_bytes"] - own.size_bytes))
    assert len(errors) > 20
    assert np.mean(np.abs(errors) < 2) > 0.9, "two standard errors cover nearly all"
    assert np.abs(sizes).max() <= 3, "sizes add up here"
    assert found.trust.size_error_bytes < 10


def test_differences_are_surer_than_their_ends(valley: Valley, trials: list[Trial]) -> None:
    features = Features(valley.space, valley.knowledge())
    model = LossModel(features, 0.01)
    codes = np.array([features.encode(valley.space.encode(trial.recipe)) for trial in trials])
    model.fit(codes, np.array([trial.accuracy_drop for trial in trials]), np.zeros(len(codes)))
    base = codes[:1]
    change, error = model.compare(codes, base)
    mean, deviation = model.predict(codes)
    assert change == pytest.approx(mean - mean[0])
    assert error[0] == pytest.approx(0.0, abs=1e-7)
    assert (error <= deviation + deviation[0] + 1e-9).all()
    one = codes[5].copy()
    one[0] = (one[0] + 1) % 3
    (change,), (error,) = model.compare(one[None, :], codes[5:6])
    ends = np.sqrt(model.predict(one[None, :])[1] ** 2 + model.predict(codes[5:6])[1] ** 2)
    assert error < 0.9 * ends, "what both have in common cancels"


def test_recipe_that_was_evaluated_stands_with_its_own_figures(
    valley: Valley, trials: list[Trial]
) -> None:
    own, hits = trials[50], np.arange(1000) < 900
    lost = hits.copy()
    lost[:30] = False
    layer = next(name for name in valley.names if own.recipe.layers[name] == 8)
    twin = make_trial(valley, 77, changed(own, valley, f"layer.{layer}", "4"))
    twin = twin.model_copy(update={"accuracy": 0.87, "evidence": Evidence.from_hits(lost)})
    seen = own.model_copy(update={"accuracy": 0.9, "evidence": Evidence.from_hits(hits)})
    every = [*trials[:50], seen, *trials[51:], twin]
    found = explain_trial(every, valley.space, valley.knowledge(), 50)
    outcome = next(
        o for item in found.layers if item.layer == layer for o in item.outcomes if o.choice == "4"
    )
    assert (outcome.source, outcome.trial) == ("complete", 77)
    assert outcome.drop_change == pytest.approx(twin.accuracy_drop - own.accuracy_drop)
    assert outcome.drop_change_se is None
    low, high = outcome.drop_change_ci
    assert low < 0.03 < high, "thirty of a thousand images, paired"
    assert outcome.size_change_bytes == twin.size_bytes - own.size_bytes
    assert "(#77)" in str(tabulate_reasons(found))


def test_rejected_and_failed_neighbours_are_named(valley: Valley, trials: list[Trial]) -> None:
    own = trials[50]
    first, second = [name for name in valley.names if own.recipe.layers[name] == 8][:2]
    partial = Partial(reason="x", samples=10, of_samples=99, accuracy=0.8, accuracy_drop=0.1)
    gone = make_trial(valley, 71, changed(own, valley, f"layer.{first}", "4"))
    gone = gone.model_copy(update={"state": "rejected", "partial": partial, "accuracy_drop": None})
    broken = make_trial(valley, 72, changed(own, valley, f"layer.{second}", "4"))
    broken = Trial(
        number=72, state="failed", digest=broken.digest, recipe=broken.recipe, error="no kernel"
    )
    found = explain_trial([*trials, gone, broken], valley.space, valley.knowledge(), 50)
    by_name = {layer.layer: {o.choice: o for o in layer.outcomes} for layer in found.layers}
    assert by_name[first]["4"].source == "rejected"
    assert by_name[first]["4"].drop_change == pytest.approx(0.1 - own.accuracy_drop)
    assert by_name[second]["4"].source == "failed"
    assert by_name[second]["4"].drop_change is None
    text = str(tabulate_reasons(found))
    assert "rejected (#71)" in text
    assert "failed (#72)" in text


@pytest.mark.parametrize("options", [{}, {"calibration": ("minmax",)}])
def test_a_space_of_one_recipe_is_explained_all_the_same(options: dict) -> None:
    valley = Valley(layers=3)
    valley.space = SearchSpace(dict.fromkeys(valley.names, ("8",)), options)
    (recipe,) = [valley.space.decode({})]
    figures = make_trial(Valley(layers=3), 0, {f"layer.{n}": "8" for n in valley.names}
                         | {"calibration": "minmax"})  # fmt: skip
    trial = figures.model_copy(update={"recipe": recipe, "digest": recipe.digest})
    found = explain_trial([trial], valley.space, valley.knowledge(), 0)
    assert [layer.choice for layer in found.layers] == ["8"] * 3
    assert all(layer.outcomes == () for layer in found.layers)


def test_trials_of_a_space_that_only_trains_are_explained() -> None:
    """Their training is a decision as any other is, and another one is another recipe."""
    valley = Valley(layers=3)
    options = {"mode": ("qat",), "qat.epochs": (2, 4)}
    space = SearchSpace(dict.fromkeys(valley.names, ("8", "4")), options)
    plain = make_trial(valley, 0, {f"layer.{n}": "8" for n in valley.names}
                       | {"calibration": "minmax"})  # fmt: skip
    trials = []
    for number, bits in enumerate("8484"):
        drawn = {name: choices[number // 2 % len(choices)] if "epochs" in name else bits
                 for name, choices in space.parameters.items()}  # fmt: skip
        recipe = space.decode(drawn)
        trials.append(plain.model_copy(
            update={"number": number, "recipe": recipe, "digest": recipe.digest}
        ))  # fmt: skip
    found = explain_trial(trials, space, valley.knowledge(), 3)
    assert found.is_trained
    (epochs,) = [option for option in found.options if option.option == "qat.epochs"]
    assert [outcome.choice for outcome in epochs.outcomes] == ["2"]
    assert all(layer.outcomes for layer in found.layers)


def test_without_sensitivities_it_says_what_it_rests_on(found: Explanation) -> None:
    assert found.proxy is None
    assert all(layer.evidence is None for layer in found.layers)
    assert all(layer.saved_us_to_8 is None for layer in found.layers)
    assert "the trials alone teach" in describe_trust(found)
    columns, _ = tabulate_reasons(found)
    assert "us to 8" not in columns


def test_with_sensitivities_bytes_and_microseconds_are_those_of_the_files(
    valley: Valley, trials: list[Trial]
) -> None:
    told = make_sensitivity(valley)
    costs = [cost.model_copy(update={"latency_change": -0.01}) for cost in told.costs]
    told = told.model_copy(update={"costs": tuple(costs)})
    found = explain_trial(trials, valley.space, valley.knowledge(sensitivity=told), 50)
    (low,) = [layer for layer in found.layers if layer.choice == "4"][:1]
    cost = told.by_choice[low.layer, "4"]
    assert low.saved_bytes_to_8 == cost.bytes_saved
    assert low.saved_us_to_8 == pytest.approx(0.01 * 2.0 * 1000), "a hundredth of two milliseconds"
    assert low.saved_us_to_float is None, "float was not profiled"
    assert low.evidence.expected_drop == pytest.approx(told.expected_drop(low.layer, "4"))
    assert low.evidence.extra_drop_ci == cost.extra_drop_ci
    assert "proxy (the KL divergence" in describe_trust(found)


def test_sizes_of_layers_are_read_off_the_files_of_an_old_study(
    valley: Valley, trials: list[Trial]
) -> None:
    few = trials[35:51]  # fewer than there are choices, more than there are layers
    found = explain_trial(few, valley.space, Knowledge(bounds=Bounds(0.02)), 50)
    assert found.layers[0].kind is None
    assert found.layers[0].parameters is None
    sizes = dict(zip(valley.names, valley.parameters, strict=True))
    narrow = [layer for layer in found.layers if layer.choice == "4"]
    assert narrow
    for layer in narrow:
        assert layer.saved_bytes_to_8 == pytest.approx(sizes[layer.layer] / 2, rel=0.02, abs=20)
        assert layer.size_source == "estimate"


def test_layers_that_always_change_together_share_their_bytes(valley: Valley) -> None:
    first, second = valley.names[:2]
    twins = []
    for trial in make_trials(valley, 40):
        drawn = valley.space.encode(trial.recipe)
        drawn[f"layer.{second}"] = drawn[f"layer.{first}"]
        twins.append(make_trial(valley, trial.number, drawn))
    number = next(trial.number for trial in twins if trial.recipe.layers[first] == 4)
    found = explain_trial(twins, valley.space, Knowledge(bounds=Bounds(0.02)), number)
    one, other = (layer.saved_bytes_to_8 for layer in found.layers[:2])
    assert one == pytest.approx(other, rel=0.05)
    assert one + other == pytest.approx(sum(valley.parameters[:2]) / 2, rel=0.02)


def test_a_trained_trial_is_compared_with_trained_twins(
    valley: Valley, trials: list[Trial]
) -> None:
    space = SearchSpace(valley.space.layers, {**valley.space.options, "mode": ("ptq", "qat")})
    training, own = QatOptions(epochs=2), trials[50]
    recipe = own.recipe.trained(training)
    layer = next(name for name in valley.names if own.recipe.layers[name] == 8)
    twin = valley.space.decode(changed(own, valley, f"layer.{layer}", "4")).trained(training)
    figures = {"recipe": recipe, "digest": recipe.digest, "number": 90}
    mine = own.model_copy(update=figures)
    other = own.model_copy(update={"recipe": twin, "digest": twin.digest, "number": 91})
    found = explain_trial([*trials, mine, other], space, valley.knowledge(), 90)
    assert found.is_trained
    sources = [o.trial for item in found.layers for o in item.outcomes if o.source == "complete"]
    assert sources == [91]
    assert "before training" in describe_trust(found)


def test_a_trial_that_cannot_be_explained_names_others(valley: Valley, trials: list[Trial]) -> None:
    some = [trials[0].model_copy(update={"state": "rejected"}), *trials[1:3]]
    static = Trial.model_validate(
        {"number": 9, "state": "complete", "digest": "x", "recipe": {"method": "ort-static"},
         "name": "ort-static"}
    )  # fmt: skip
    for number, words in ((4, "no trial 4"), (0, "is rejected"), (9, "ort-static")):
        with pytest.raises(InputError, match=words) as caught:
            explain_trial([*some, static], valley.space, valley.knowledge(), number)
        assert "there are 1, 2 (autoquant trials lists all)" in str(caught.value)
    with pytest.raises(InputError, match="autoquant resume"):
        explain_trial([static], valley.space, valley.knowledge(), 9)


def test_sizes_are_what_files_have_and_not_what_weights_would_take(
    valley: Valley, trials: list[Trial]
) -> None:
    """Every layer at 4 bits takes a tenth more than half of its weights."""
    larger = dict(zip(valley.names, valley.parameters // 20, strict=True))
    padded = [
        trial.model_copy(update={"size_bytes": trial.size_bytes + sum(
            int(larger[name]) for name, bits in trial.recipe.layers.items() if bits == 4
        )})
        for trial in trials
    ]  # fmt: skip
    found = explain_trial(padded, valley.space, valley.knowledge(), 50)
    for layer in found.layers:
        for outcome in layer.outcomes:
            if {layer.choice, outcome.choice} == {"8", "4"}:
                half = dict(zip(valley.names, valley.parameters, strict=True))[layer.layer] / 2
                change = abs(outcome.size_change_bytes)
                assert change == pytest.approx(half - larger[layer.layer], abs=20)


def test_a_long_study_is_explained_by_its_last_trials(
    valley: Valley, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    encode = SearchSpace.encode
    monkeypatch.setattr(
        SearchSpace, "encode", lambda self, recipe: seen.append(recipe) or encode(self, recipe)
    )
    first = trials[0].model_copy(update={"name": "w8a8"})
    many = [first, *(trials[1 + n % 59] for n in range(3000)), trials[50]]
    explain_trial(many, valley.space, valley.knowledge(), 50)
    assert 1000 < len(seen) < 1010, "and the baselines before them"


def test_words_name_what_stays_and_what_it_would_cost(found: Explanation) -> None:
    sentence = summarize_reasons(found)
    low = [layer for layer in found.layers if layer.choice == "4"]
    assert f"4 bits in {len(low)} of 12 layers save" in sentence
    steps = {layer.layer: find_step_down(layer) for layer in found.layers if layer.choice != "4"}
    dearest = max(steps, key=lambda name: steps[name].drop_change)
    step = steps[dearest]
    margin = 1.96 * 100 * step.drop_change_se
    assert f"{dearest} stays at" in sentence
    assert f"would cost about {100 * step.drop_change:.2f} ±{margin:.2f} points" in sentence


def test_bytes_within_their_error_are_not_told(found: Explanation) -> None:
    stays = summarize_reasons(found).partition("; ")[2]
    assert " for less than " not in stays
    unsure = found.trust.model_copy(update={"size_error_bytes": 1e6})
    words = summarize_reasons(found.model_copy(update={"trust": unsure}))
    assert "points for less than 1000 kB" in words


def test_csv_has_a_row_a_layer_and_plain_figures(found: Explanation) -> None:
    columns, rows = flatten_reasons(found)
    assert [row[0] for row in rows] == [layer.layer for layer in found.layers]
    values = dict(zip(columns, rows[0], strict=True))
    other = found.layers[0].outcomes[0]
    assert float(values[f"{other.choice}.drop_change"]) == other.drop_change


def test_figure_tells_estimates_from_measurements_without_colour(
    valley: Valley, trials: list[Trial]
) -> None:
    own = trials[50]
    layer = next(name for name in valley.names if own.recipe.layers[name] == 8)
    twin = make_trial(valley, 77, changed(own, valley, f"layer.{layer}", "4"))
    found = explain_trial([*trials, twin], valley.space, valley.knowledge(), 50)
    figure = why_figure(found)
    traces = {trace.name: trace for trace in figure.data if trace.name}
    assert list(traces["measured in this study"].y) == [layer]
    symbols = {trace.marker.symbol for trace in traces.values()}
    assert len(symbols) == len(traces)
    narrowest = sum(item.choice == "4" for item in found.layers)
    assert len([a for a in figure.layout.annotations if "its narrowest" in a.text]) == narrowest
    assert list(figure.layout.yaxis.categoryarray) == valley.names


# What the record keeps


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """A study of the fake network, whose search knew its layers and its sensitivities."""
    results = tmp_path_factory.mktemp("results")
    location = Location(results, "fake")
    record = fake_record(location, "auto", trials=24)
    study = fake_study(results, record)
    wide = Valley(layers=8)
    wide.names = list(fake_space().layers)
    told = make_sensitivity(wide)
    study.sensitivity = told
    study.run(Budget(24), "auto")
    return location


def test_what_the_search_knew_is_in_its_record(searched: Location) -> None:
    snapshot = StudyReader(searched).read()
    knowledge = recall_knowledge(snapshot.knowledge, snapshot.header)
    assert [layer.name for layer in knowledge.layers] == list(fake_space().layers)
    assert knowledge.layers[0].kind == "conv"
    assert knowledge.sensitivity is not None
    assert len(knowledge.sensitivity.costs) == 8


def test_a_run_without_sensitivities_does_not_forget_them(searched: Location) -> None:
    from autoquant.search.storage import load_record

    before = load_record(searched).study.user_attrs[KNOWLEDGE]
    fake_study(searched.results, load_record(searched)).run(Budget(24), "auto")
    assert load_record(searched).study.user_attrs[KNOWLEDGE] == before


@pytest.mark.parametrize(
    "kept",
    [
        '{"layers": [{"name": "a", "shape": [1], "activations": []}], "sensitivity": null}',
        '{"layers": [], "sensitivity": {"version": 2}}',
        '{"layers": [1], "sensitivity": null}',
        '{"layers": [{"na',
        "[]",
        {"layers": "all"},
        None,
    ],
)
def test_knowledge_that_is_not_as_written_here_is_passed_over(kept: object) -> None:
    definition = {"version": 1, "task": "fake", "objectives": ["accuracy", "size"]}
    known = recall_knowledge(kept, StudyHeader(definition, 0, "auto"))
    assert known.layers == ()
    assert known.sensitivity is None
    assert known.objectives == ["accuracy", "size"]


def test_a_study_that_goes_on_has_the_choices_that_it_began_with(tmp_path: Path) -> None:
    """Optuna takes no parameter whose choices change, and a runtime may learn new ones."""
    layer = Layer("conv0", "conv", 1, 1, 0, activations=("static", "dynamic"))
    evaluator = SimpleNamespace(layers=[layer], is_exact=True)
    rule = {"weight_bits": [8], "activation": ["static", "dynamic"]}
    config = parse_space({**DEFINITION, "layers": {"*": rule}}, "s")
    assert _find_space(config, evaluator).layers == {"conv0": ("8", "8:dynamic")}
    record = fake_record(Location(tmp_path, "s"))
    assert _find_space(config, evaluator, record).layers == {"conv0": ("8", "8:dynamic")}
    old = dataclasses.asdict(dataclasses.replace(layer, activations=("static",)))
    del old["weight_only"]
    record.study.set_user_attr(KNOWLEDGE, json.dumps({"layers": [old], "sensitivity": None}))
    assert _find_space(config, evaluator, record).layers == {"conv0": ("8",)}


@pytest.mark.parametrize("begun", [True, False])
def test_a_study_keeps_its_space_on_a_processor_that_saturates_otherwise(
    tmp_path: Path, *, begun: bool
) -> None:
    """Its trials would else be of another space, to the sampler and to `--why`."""
    location = Location(tmp_path, "fake")
    record, config = fake_record(location), parse_space(dict(DEFINITION), "s")
    layer = Layer("conv0", "conv", 10, 10, 0)
    first, second = (SimpleNamespace(layers=[layer], is_exact=e) for e in (begun, not begun))
    space = _find_space(config, first, record)
    assert space.parameters != _find_space(config, second, record).parameters, "nothing known yet"
    study = fake_study(tmp_path, record)
    study.is_exact = begun
    study.run(Budget(6), "random")
    is_exact = _find_exactness(second, record.trials())
    again = _find_space(config, second, record, is_exact=is_exact)
    assert again.parameters == space.parameters


def test_a_study_of_the_first_version_can_be_explained(tmp_path: Path) -> None:
    location = Location(tmp_path, "old")
    location.create_folder()
    location.journal.write_bytes((GOLDEN / "study-v1.journal").read_bytes())
    snapshot = StudyReader(location).read()
    assert snapshot.knowledge is None
    knowledge = recall_knowledge(None, snapshot.header)
    space = recall_space(snapshot.header, knowledge, snapshot.trials, "old")
    able = [t for t in snapshot.trials if t.state == "complete" and t.recipe in space]
    found = explain_trial(snapshot.trials, space, knowledge, able[-1].number)
    assert [layer.layer for layer in found.layers] == list(able[-1].recipe.layers)
    assert "too few" in describe_trust(found)


# The command


def ask(location: Location, *arguments: str) -> tuple[int, str, str]:
    given = ["front", location.name, "--results", str(location.results), *arguments]
    result = CliRunner().invoke(app, given)
    return result.exit_code, result.stdout, str(result.exception or "")


def explained(location: Location) -> int:
    trials = StudyReader(location).read().trials
    return next(t.number for t in trials if t.state == "complete" and t.name is None)


def test_front_why_is_one_json_document(searched: Location) -> None:
    number = explained(searched)
    status, output, _ = ask(searched, "--why", str(number), "--format", "json")
    document = json.loads(output)
    assert status == 0
    assert set(document) == {"study", "task", "trial", "summary", "trust", "why"}
    assert document["trial"]["number"] == document["why"]["trial"] == number
    assert Explanation.model_validate(document["why"]).layers[0].layer == "conv0"


def test_front_why_has_a_row_a_layer(searched: Location) -> None:
    number = str(explained(searched))
    _, output, _ = ask(searched, "--why", number)
    assert all(f"conv{index}" in output for index in range(8))
    _, output, _ = ask(searched, "--why", number, "--format", "csv")
    assert len(output.splitlines()) == 9


def test_front_why_refuses_what_chooses_a_front(searched: Location) -> None:
    _, _, error = ask(searched, "--why", "7", "--max-drop", "0.01", "--objectives", "size")
    assert "leave out --objectives, --max-drop" in error
    _, _, error = ask(searched, "--why", "999")
    assert "there is no trial 999 in this study; there are" in error
