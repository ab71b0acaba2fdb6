"""Figures and tables of layers: they say what the records say, and nothing by colour alone."""

from pathlib import Path

import pytest

from autoquant.browse.layers import (
    NoiseRecord,
    describe_files,
    explain_no_noise,
    noise_path,
    read_layers,
    read_noises,
)
from autoquant.core.layer import LayerNoise
from autoquant.core.recipe import PtqOptions, Recipe
from autoquant.distribution import keep_record
from autoquant.report.distribution import (
    RANGE_COLUMNS,
    describe_share,
    describe_values,
    flatten_distributions,
    tabulate_clipping,
    tabulate_inputs,
    tabulate_weights,
)
from autoquant.report.distribution_figure import browser_figure, input_figure, weight_figure
from autoquant.report.layer_panels import styles
from autoquant.report.markdown import write_markdown
from autoquant.report.range_figure import input_range_figure, weight_grid_figure
from autoquant.report.trial_noise import tabulate_trial_noise, trial_noise_figure
from autoquant.search.storage import Location
from tests.journals import measured_trials
from tests.layer_records import (
    METHODS,
    layer_names,
    made_up_distributions,
    made_up_sensitivity,
    write_layers,
)
from tests.loss_trials import grid_trials
from tests.test_report import report_of

NAMES = layer_names(5)
FOUND = made_up_distributions(NAMES)


def bars(figure):
    return [trace for trace in figure.data if trace.type == "bar"]


def spans(figure):
    """Rows of ranges, by their labels."""
    rows = [t for t in figure.data if t.type == "scatter" and t.mode == "lines+markers"]
    return {trace.y[0]: tuple(trace.x) for trace in rows}


@pytest.mark.parametrize("symmetry", ["asymmetric", "symmetric"])
def test_an_input_is_drawn_with_every_range_at_its_own_row(symmetry) -> None:
    inputs = FOUND.layers[0].inputs
    figure = input_figure(inputs, symmetry)
    assert sum(count or 0 for count in bars(figure)[0].y) == 1000
    found = spans(figure)
    assert [label.partition(":")[0] for label in found] == ["minmax", "percentile", "mse"]
    wanted = [(one.low, one.high) for one in inputs.ranges if one.symmetry == symmetry]
    assert list(found.values()) == wanted
    upright = [trace for trace in figure.data if trace.hoverinfo == "skip"]
    assert [(trace.x[0], trace.x[-1]) for trace in upright] == wanted
    assert len({trace.line.dash for trace in upright}) == len(METHODS), "not by colour alone"
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.xaxis2.title.text == "Input of the layer (value)"
    assert figure.layout.yaxis.title.text == "Values in a bin"


def test_weights_are_drawn_with_what_every_channel_has() -> None:
    layer = FOUND.layers[0]
    figure = weight_figure(layer, 4)
    assert sum(count or 0 for count in bars(figure)[0].y) == 500
    assert "mse, per tensor: clips 1 %" in spans(figure)
    thick = [t for t in figure.data if t.type == "scatter" and t.line.width == 6]
    ends = {tuple(trace.x) for trace in thick}
    assert ends == {(-layer.grids[0].narrowest, layer.grids[0].narrowest)}
    assert len(thick) == 2, "of the grids per channel"


def test_each_entry_of_the_list_shows_one_layer() -> None:
    figure = browser_figure(FOUND)
    buttons = figure.layout.updatemenus[0].buttons
    assert [button.label for button in buttons] == NAMES
    shown = [button.args[0]["visible"] for button in buttons]
    assert all(len(one) == len(figure.data) for one in shown)
    assert all(sum(column) == 1 for column in zip(*shown, strict=True)), "each trace has one owner"
    assert [trace.visible for trace in figure.data] == shown[0]
    first = [trace for trace, is_shown in zip(figure.data, shown[0], strict=True) if is_shown]
    assert [sum(count or 0 for count in trace.y) for trace in first if trace.type == "bar"] == [
        500,
        1000,
    ]


def test_lines_over_all_layers_keep_the_order_of_the_network() -> None:
    figure = input_range_figure(FOUND, "asymmetric")
    upper = [trace for trace in figure.data if trace.showlegend]
    assert [trace.name for trace in upper] == list(METHODS)
    assert list(upper[0].x) == NAMES[:-1], "the last has no grid for its input"
    assert list(figure.layout.xaxis.categoryarray) == NAMES
    assert set(upper[0].text) == {"none"}
    assert max(upper[0].y) < min(upper[1].y), "none lies below whatever is clipped"
    assert figure.layout.yaxis.title.text == "Clipped (%)"
    weights = weight_grid_figure(FOUND)
    assert [note.text for note in weights.layout.annotations] == [
        "Weights at 8 bits",
        "Weights at 4 bits",
    ]
    assert len(weights.data) == 8


def test_no_two_lines_look_alike() -> None:
    some = [style for style, _ in zip(styles(), range(42), strict=False)]
    assert len(set(some)) == 42
    assert len({dash for _, dash, _ in some[:6]}) == 6


@pytest.mark.parametrize(
    ("share", "finest", "words"),
    [
        (0.0, 0.0, "none"),
        (0.0, 0.1, "none"),
        (0.012345, 0.0, "1.2 %"),
        (0.012345, 0.001, "1 %"),
        (0.012345, 0.00001, "1.2 %"),
        (0.00001, 0.00002, "< 0.002 %"),
        (0.0000012, 0.0, "0.00012 %"),
        (1.0, 0.0, "100 %"),
    ],
)
def test_shares_have_the_digits_that_hold(share: float, finest: float, words: str) -> None:
    assert describe_share(share, finest) == words


def test_tables_have_a_row_for_every_range() -> None:
    layer, last = FOUND.layers[0], FOUND.layers[-1]
    assert [row[0] for row in tabulate_inputs(layer.inputs, "symmetric")] == list(METHODS)
    assert len(tabulate_weights(layer)) == 8
    columns, rows = flatten_distributions(FOUND)
    assert columns == RANGE_COLUMNS
    assert len(rows) == 5 * 8 + 4 * 6
    assert all(len(row) == len(columns) for row in rows)
    assert flatten_distributions(None)[1] == []
    _, clipping = tabulate_clipping(FOUND, "asymmetric")
    assert [row[0] for row in clipping] == NAMES
    assert clipping[0][1] == "none"
    assert clipping[-1][1:] == ["-"] * 3
    assert "it has no integer kernel" in describe_values(FOUND, last)
    sampled = layer.inputs.model_copy(update={"of_values": 5000, "extremes": 4})
    words = describe_values(FOUND, layer.model_copy(update={"inputs": sampled}))
    assert "1,000 of the 5,000 input values of 64 calibration images" in words


# Errors of trials

NOISE = (LayerNoise("conv0", 40.0, 35.0), LayerNoise("fc", 200.0, None))


def test_errors_of_trials_are_drawn_and_listed() -> None:
    noises = {3: NOISE, 7: NOISE[:1]}
    figure = trial_noise_figure(noises)
    assert [trace.name for trace in figure.data if trace.showlegend] == ["trial 3", "trial 7"]
    assert list(figure.data[0].y) == [40.0, None], "no error has no place on the axis"
    assert list(figure.data[0].text) == ["40.0 dB", "no error"]
    columns, rows = tabulate_trial_noise(noises)
    assert columns == ["layer", "trial 3: weights", "trial 3: output", "trial 7: weights",
                       "trial 7: output"]  # fmt: skip
    assert rows == [["conv0", "40.0 dB", "35.0 dB", "40.0 dB", "35.0 dB"],
                    ["fc", "no error", "-", "-", "-"]]  # fmt: skip


def test_errors_are_those_of_the_file_that_is_there(tmp_path: Path) -> None:
    import os

    location, trial = Location(tmp_path, "s"), measured_trials(6)[5]
    location.create_folder()
    assert "build it on the page Export" in explain_no_noise(location, trial)
    file = location.artifacts / f"{trial.digest}.onnx"
    file.write_bytes(b"onnx")
    assert explain_no_noise(location, trial) is None
    assert read_noises(location, [trial]) == {}
    kept = noise_path(location, trial)
    keep_record(NoiseRecord(layers=NOISE), kept)
    assert read_noises(location, [trial]) == {trial.number: NOISE}
    os.utime(file, (2e9, 2e9))  # built anew since
    assert read_noises(location, [trial]) == {}
    os.utime(file, (1e9, 1e9))
    kept.write_text("{")
    assert read_noises(location, [trial]) == {}
    equalized = Recipe.uniform(["conv0"], 8, PtqOptions(equalization=True))
    other = trial.model_copy(update={"recipe": equalized})
    assert "equalized" in explain_no_noise(location, other)


def test_how_much_there_is_to_measure_is_told_beforehand() -> None:
    whole = made_up_sensitivity(NAMES)
    assert describe_files(None, NAMES) == "about 11 files"
    assert describe_files(None, []) == "a file a layer and width"
    assert describe_files(whole, NAMES) is None
    part = whole.model_copy(update={"costs": whole.costs[:4]})
    assert describe_files(part, NAMES) == "about 6 more files"


def test_what_is_damaged_beside_a_study_is_named(tmp_path: Path) -> None:
    folder = write_layers(tmp_path, "s", NAMES)
    assert read_layers(Location(tmp_path, "s")).problems == ()
    for path in folder.iterdir():
        path.write_text("{")
    found = read_layers(Location(tmp_path, "s"))
    assert (found.distributions, found.sensitivity) == (None, None)
    assert len(found.problems) == 2


# The report


def test_the_report_has_layers_where_somebody_looked() -> None:
    trials = grid_trials()
    report = report_of(trials, distributions=FOUND, sensitivity=made_up_sensitivity(NAMES))
    figures = report.figures()
    new = ["distributions", "weight_grids", "ranges_asymmetric", "ranges_symmetric", "sensitivity"]
    assert [name for name in figures if name in new] == new
    text = write_markdown(report, {name: (None, f"{name}.html") for name in figures})
    assert "## Ranges by layer" in text
    assert "| conv0 | none |" in text
    assert "[ranges_symmetric](ranges_symmetric.html)" in text
    assert "## Sensitivity by layer" in text
    without = write_markdown(report_of(trials, unseen="the task is gone"), {})
    assert "## Ranges by layer\n\nLeft out: the task is gone." in without
    assert "Sensitivity by layer" not in without
