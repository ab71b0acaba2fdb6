"""Fronts of several runtimes laid over each other, by one reference."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoquant.browse.library import Library
from autoquant.browse.overlay import overlay_studies
from autoquant.browse.table import shape_rows
from autoquant.core.overlay import Contribution, find_other_models, lay_over
from autoquant.core.trial import Timing, Trial
from autoquant.report.explore_figure import explore_figure
from autoquant.report.overlay_figure import overlay_figure
from tests.command import autoquant
from tests.journals import measured_trials, write_study
from tests.trials import make_trial, right

KINDS = ["accuracy", "latency", "size"]
FACTOR = 0.5


def with_factor(trial: Trial, factor: float = FACTOR) -> Trial:
    """A trial of the float model that was timed beside ONNX Runtime."""
    assert trial.timing is not None
    ends = (factor * 0.99, factor * 1.01)
    more = {"over_onnxruntime": factor, "over_onnxruntime_ci": ends}
    return trial.model_copy(update={"timing": trial.timing.model_copy(update=more)})


def part(name: str, backend: str, members: list[Trial], factor: float = FACTOR) -> Contribution:
    return Contribution(name, backend, members, with_factor(make_trial(0, 0.9, 1.0), factor))


def test_latencies_of_another_runtime_are_told_by_onnx_runtimes_float() -> None:
    here, there = make_trial(1, 0.9, ratio=0.4), make_trial(1, 0.9, ratio=0.6)
    members = lay_over([part("a", "onnxruntime", [here]), part("b", "litert", [there])], KINDS)
    ratios = {member.study: member.ratio for member in members}
    assert ratios == {"a": 0.4, "b": pytest.approx(0.3)}
    # by their own ratios it would be the other one
    assert {member.study for member in members if member.is_on_front} == {"b"}
    low, high = next(member.ratio_ci for member in members if member.study == "b")
    assert high / low > 1.02, "the interval holds that of the factor too"


@pytest.mark.parametrize(("width", "is_kept"), [(0.01, False), (0.2, True)])
def test_a_doubtful_factor_turns_no_study_away(width: float, is_kept: bool) -> None:
    """0.8 x 0.6 is less than 0.5 if the factor is sure; accuracies and sizes are equal."""
    here, there = make_trial(1, 0.9, ratio=0.5), make_trial(1, 0.9, ratio=0.6)
    timing = make_trial(0, 0.9, 1.0).timing
    ends = (0.8 * (1 - width), 0.8 * (1 + width))
    known = timing.model_copy(update={"over_onnxruntime": 0.8, "over_onnxruntime_ci": ends})
    reference = make_trial(0, 0.9, 1.0).model_copy(update={"timing": known})
    parts = [
        part("a", "onnxruntime", [here]),
        Contribution("b", "litert", [there], reference),
    ]
    members = {member.study: member for member in lay_over(parts, KINDS)}
    assert members["b"].is_on_front
    assert members["a"].is_on_front == is_kept


def test_a_factor_decides_nothing_among_members_of_one_study() -> None:
    fast = make_trial(1, right(900), ratio=0.50, size=1000)
    other = make_trial(2, right(901), ratio=0.55, size=1000)
    wide = {"over_onnxruntime": 0.8, "over_onnxruntime_ci": (0.5, 1.2)}
    timing = make_trial(0, 0.9, 1.0).timing.model_copy(update=wide)
    reference = make_trial(0, 0.9, 1.0).model_copy(update={"timing": timing})
    parts = [
        Contribution("b", "litert", [fast, other], reference),
        part("a", "onnxruntime", [make_trial(3, right(100), ratio=3.0, size=9000)]),
    ]
    members = {member.trial.number: member for member in lay_over(parts, KINDS)}
    assert members[1].is_on_front, "it is faster beyond doubt, whatever the factor"


def test_studies_of_one_runtime_compare_as_they_are() -> None:
    """Each has a factor of its own, which is noise here."""
    one, other = make_trial(1, 0.9, ratio=0.5), make_trial(1, 0.9, ratio=0.4)
    parts = [part("a", "litert", [one], 0.5), part("b", "litert", [other], 0.9)]
    assert [m.study for m in lay_over(parts, KINDS) if m.is_on_front] == ["b"]


def test_studies_of_other_weights_or_data_are_told() -> None:
    def of(study: str, hits: np.ndarray) -> Contribution:
        return Contribution(study, "onnxruntime", [], make_trial(0, hits))

    first = of("a", right(900))
    assert find_other_models([first, of("b", right(905))]) == []
    assert (
        "'a' and 'b' differ on 5% of the samples"
        in find_other_models([first, of("b", right(950))])[0]
    )
    assert "on 1,000 and 500 samples" in find_other_models([first, of("b", right(450, 500))])[0]


def test_trials_of_one_number_are_kept_apart() -> None:
    fast, small = make_trial(3, 0.9, 0.2, size=900), make_trial(3, 0.9, 0.9, size=300)
    members = lay_over([part("a", "onnxruntime", [fast]), part("b", "openvino", [small])], KINDS)
    assert [member.is_on_front for member in members] == [True, True]
    assert {member.trial.number for member in members} == {3}


@given(st.lists(st.tuples(st.floats(0.1, 2.0), st.integers(100, 1000)), min_size=1, max_size=12))
def test_a_study_alone_is_its_own_front(points) -> None:
    trials = [make_trial(n, 0.9, ratio, size) for n, (ratio, size) in enumerate(points)]
    alone = lay_over([part("a", "onnxruntime", trials)], KINDS)
    shared = lay_over([part("a", "litert", trials, factor=3.0)], KINDS)
    assert [m.is_on_front for m in alone] == [m.is_on_front for m in shared]
    assert any(member.is_on_front for member in alone)


def test_a_timing_without_another_runtime_is_written_as_before() -> None:
    assert not any("onnxruntime" in key for key in make_trial(0, 0.9).timing.model_dump())
    again = Timing.model_validate(with_factor(make_trial(0, 0.9)).timing.model_dump(mode="json"))
    assert again.over_onnxruntime == FACTOR


def test_the_figure_tells_runtimes_apart_and_fills_the_front() -> None:
    parts = [
        part("a", "onnxruntime", [make_trial(1, 0.9, 0.9, size=900)]),
        part("b", "litert", [make_trial(2, 0.95, 0.2, size=500)]),
    ]
    figure = overlay_figure(lay_over(parts, KINDS), "title")
    assert sorted(trace.name for trace in figure.data) == ["litert (b)", "onnxruntime (a)"]
    assert len({trace.marker.symbol for trace in figure.data}) == 2
    fills = {trace.name: trace.marker.color[0] for trace in figure.data}
    assert fills["onnxruntime (a)"] == "white"
    assert fills["litert (b)"] != "white"


class TestApp:
    def test_studies_of_several_runtimes_have_one_reference(self, results: Path) -> None:
        library = Library(results / "results")
        here, there = library.view("ort"), library.view("lite")
        overlay = overlay_studies([here, there])
        assert overlay.reference == "float on ONNX Runtime"
        assert not overlay.notes
        table = overlay.table.set_index(["runtime", "number"])
        own = here.table.set_index("number")["latency"].dropna()
        assert len(own) > 5
        assert np.allclose(table.loc["onnxruntime", "latency"].loc[own.index], own)
        lite = table.loc["litert"].loc[own.index]
        assert np.allclose(lite["latency"], FACTOR * own)
        width = (lite["latency_high"] / lite["latency_low"]).to_numpy()
        before = here.table.set_index("number").loc[own.index]
        assert (width > (before["latency_high"] / before["latency_low"]).to_numpy()).all()
        # the trials are the same, so that only what is as good though slower is on it
        front = overlay.table[overlay.table["is_front"]]
        twins = {m.number for m in there.front.members}
        assert set(front.loc[front["runtime"] == "litert", "number"]) == twins
        assert len(front) < 2 * len(twins)
        figure = explore_figure(overlay.table, color_by="runtime", reference=overlay.reference)
        assert figure.layout.xaxis.title.text == "Latency (x float on ONNX Runtime)"
        rows, _ = shape_rows(overlay.table, [("ort", 7), ("lite", 7)], overlay.reference)
        assert {"study", "runtime", "x float on ONNX Runtime"} <= set(rows.columns)

    def test_a_study_that_was_never_compared_is_shown_without_latencies(self, results) -> None:
        library = Library(results / "results")
        overlay = overlay_studies([library.view("ort"), library.view("untimed")])
        assert "'untimed' does not tell how openvino runs the float model" in overlay.notes[0]
        lost = overlay.table[overlay.table["runtime"] == "openvino"]
        assert lost["latency"].isna().all()
        assert lost["accuracy"].notna().any()
        assert not lost["is_front"].any()

    def test_studies_that_do_not_compare_are_left_out_with_a_reason(self, results) -> None:
        trials = measured_trials(6)
        write_study(results / "results", "served", trials, targets=["a", "b"])
        library = Library(results / "results")
        first = library.view("ort")
        for name, words in (("other", "of different tasks"), ("served", "several targets")):
            overlay = overlay_studies([first, library.view(name)])
            assert words in overlay.notes[0]
            assert len(overlay.table) == len(first.table)

    def test_studies_without_a_finished_trial_are_no_error(self, results: Path) -> None:
        for name in ("early", "late"):
            write_study(results / "results", name, [])
        library = Library(results / "results")
        overlay = overlay_studies([library.view("early"), library.view("late")])
        assert explore_figure(overlay.table).data
        assert not len(shape_rows(overlay.table, [])[0])

    def test_studies_of_one_runtime_keep_their_own_ratios(self, results: Path) -> None:
        view = Library(results / "results").view("untimed")
        overlay = overlay_studies([view, view])
        assert (overlay.reference, overlay.notes) == ("float", ())
        assert overlay.table["latency"].dropna().max() == view.table["latency"].max()


@pytest.fixture
def results(tmp_path: Path) -> Path:
    trials = measured_trials(20)
    write_study(tmp_path / "results", "ort", trials)
    timed = [with_factor(trial) if trial.name == "fp32" else trial for trial in trials]
    write_study(tmp_path / "results", "lite", timed, backend="litert")
    write_study(tmp_path / "results", "untimed", trials, backend="openvino")
    write_study(tmp_path / "results", "other", trials, task="cifar10-resnet20")
    for name, objectives in (
        ("fast", ["accuracy", "latency"]),
        ("small", ["accuracy", "size"]),
        ("wide", ["latency", "size"]),
    ):
        write_study(tmp_path / "results", name, trials, objectives=objectives)
    return tmp_path


class TestCommand:
    def test_table_names_the_runtime_at_each_point(self, results: Path) -> None:
        done = autoquant("front", "ort", "lite", "-o", "both.html", cwd=results)
        assert done.returncode == 0, done.stderr
        assert "onnxruntime" in done.stdout
        assert "litert" in done.stdout
        assert "litert runs the float model in 0.500 (0.495 to 0.505)" in done.stderr
        assert (results / "both.html").is_file()

    def test_json_has_both_ratios(self, results: Path) -> None:
        done = autoquant("front", "ort", "lite", "--format", "json", cwd=results)
        document = json.loads(done.stdout)
        assert document["studies"]["lite"]["float_over_onnxruntime"] == FACTOR
        assert document["studies"]["ort"]["float_over_onnxruntime"] == 1.0
        for member in document["members"]:
            factor = document["studies"][member["study"]]["float_over_onnxruntime"]
            assert member["ratio_to_onnxruntime"] == pytest.approx(factor * member["latency_ratio"])

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["ort", "other"], "'ort' and 'other' are of different tasks"),
            (["ort", "untimed"], "'untimed' does not tell how openvino runs the float model"),
            (["ort", "missing"], "'missing'"),
            (["fast", "small", "wide"], "the studies have no objective in common"),
            (["ort", "lite", "--why", "3"], "of one study: leave out --why"),
            (["ort", "-o", "x.html"], "of several studies: leave out -o"),
            (["ort", "lite", "-o", "x.pdf"], "a plot is a .html or a .png file"),
        ],
    )
    def test_bad_input_is_one_line(self, results: Path, arguments, words) -> None:
        done = autoquant("front", *arguments, cwd=results)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
