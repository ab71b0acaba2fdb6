"""The analysis of PTQ against QAT: tables, figures, advice, and their laws."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoquant.core.analysis import Cell, plan_cells
from autoquant.core.gain import find_gain
from autoquant.core.layer import LayerNoise
from autoquant.core.pareto import Bounds
from autoquant.core.trial import Partial
from autoquant.report.advice import advise_on_training
from autoquant.report.document import StudyReport
from autoquant.report.grid import find_points, find_rows, tabulate_losses
from autoquant.report.loss_figure import loss_figure
from autoquant.report.markdown import write_markdown
from autoquant.report.verdict import find_verdicts
from tests.loss_trials import (
    FLOAT_HITS,
    LAYERS,
    TRAINING,
    cell_trial,
    float_trial,
    grid_trials,
    hits_with,
)

W4_NEAREST = Cell(4, "per_channel", "nearest")
W4_LEARNED = Cell(4, "per_channel", "learned")
W4_QAT = Cell(4, "per_channel", "qat", training=TRAINING)


def report_of(trials, **changes) -> StudyReport:
    objectives = ["accuracy", "latency", "size"]
    front = [trial for trial in trials if trial.state == "complete"][:2]
    return StudyReport("study", "task", objectives, Bounds(), trials, front, **changes)


def advise(trials) -> list[str]:
    return advise_on_training(find_points(trials))


def test_the_table_has_every_cell_and_invents_nothing() -> None:
    rows = find_rows([float_trial(), cell_trial(1, W4_NEAREST, hits_with(30))])
    assert len(rows) == 14
    assert not any(row.weight_bits == 8 and row.method == "learned" for row in rows)
    measured = [row for row in rows if row.trial is not None]
    assert [(row.method, row.size_ratio) for row in measured] == [("nearest", 0.15)]
    for row, cells in zip(rows, tabulate_losses(rows), strict=True):
        if row.trial is None:
            assert set(cells[2:-1]) == {"-"}
            assert cells[-1] == "not measured"


def test_a_trained_cell_tells_its_time_and_its_data_apart() -> None:
    rows = find_rows([cell_trial(1, W4_QAT, hits_with(1))])
    cells = next(cells for cells in tabulate_losses(rows) if cells[-1] == "")
    assert cells[4:8] == ["2 s", "60 s", "512", "1,000 x 2"]
    for kept_step, note in (
        (0, "made worse by training: kept as it was before"),
        (100, "best after epoch 1 of 2, which is kept"),
    ):
        rows = find_rows([cell_trial(1, W4_QAT, hits_with(1), kept_step)])
        assert [row.note for row in rows if row.trial is not None] == [note]
    few = find_rows([cell_trial(1, W4_NEAREST, hits_with(1))], available=200)
    assert {row.calibration_images for row in few} == {None, 200}


def test_failed_and_rejected_cells_say_why() -> None:
    failed = cell_trial(1, W4_NEAREST, FLOAT_HITS).model_copy(
        update={"state": "failed", "error": "the loss is nan"}
    )
    seen = Partial(reason="dominated", samples=1, of_samples=2, accuracy=0.5, accuracy_drop=0.4)
    rejected = cell_trial(2, W4_LEARNED, FLOAT_HITS).model_copy(
        update={"state": "rejected", "partial": seen}
    )
    notes = {row.method: row.note for row in find_rows([failed, rejected]) if row.trial}
    assert notes == {"nearest": "the loss is nan", "learned": "stopped early: dominated"}
    assert all(row.accuracy_drop is None for row in find_rows([failed, rejected]))


def test_the_order_of_trials_changes_nothing() -> None:
    trials = grid_trials()
    shuffled = random.Random(0).sample(trials, len(trials))
    one, other = report_of(trials), report_of(shuffled)
    assert one.to_dict() == other.to_dict()
    assert one.figures()["losses"] == other.figures()["losses"]
    assert one.figures()["calibration"] == other.figures()["calibration"]


def test_advice_of_a_whole_grid() -> None:
    wide, narrow, both = advise(grid_trials())
    assert wide.startswith("At 8 bits, PTQ (nearest, per channel) cannot be told from float")
    assert "buys nothing that can be told from chance" in wide
    assert wide.endswith("So: PTQ (nearest, per channel).")
    assert "At 4 bits, PTQ (learned, per channel) loses: 3.00 points below float" in narrow
    assert "bias-corrected alone is 9.00 points below" in narrow
    assert "QAT (per channel) is better than that (+2.80 points" in narrow
    assert "2 epochs over 1,000 training images" in narrow
    assert "Calibration (bias-corrected): 32 images are enough" in narrow
    assert "with less than 2 minutes or no training data, PTQ (learned, per channel)" in narrow
    assert both.startswith("From 8 to 4 bits the file shrinks to 60% and loses nothing that")


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(*[st.integers(0, 40)] * 4),
    st.tuples(*[st.integers(0, 40)] * 4),
)
def test_advice_never_claims_a_difference_within_the_interval(lost, gained) -> None:
    cells = [W4_NEAREST, Cell(4, "per_channel", "bias-corrected"), W4_LEARNED, W4_QAT]
    trials = [
        cell_trial(number, cell, hits_with(lost[number], gained[number]))
        for number, cell in enumerate(cells)
    ]
    (text,) = advise(trials)
    (verdict,) = find_verdicts(find_points(trials))
    low, high = verdict.plain.trial.accuracy_drop_ci
    drop = verdict.plain.trial.accuracy_drop
    assert ("loses:" in text) == (low > 0 and drop > 0)
    assert ("cannot be told from float" in text) == (low <= 0 <= high or (low > 0) != (drop > 0))
    gain = find_gain(trials[3], verdict.plain.trial)
    assert ("is better than that" in text) == gain.is_better
    assert ("is worse than that" in text) == gain.is_worse
    assert ("otherwise QAT" in text) == gain.is_better
    for other in trials[:3]:
        assert not find_gain(other, verdict.plain.trial).is_better
    if "alone is" in text:
        assert find_gain(verdict.plain.trial, verdict.simpler.trial).is_better


def test_where_all_are_the_same_the_cheapest_is_advised() -> None:
    cells = [cell for cell in plan_cells(1000, TRAINING) if cell.calibration_images == 512]
    texts = advise([cell_trial(n, cell, hits_with(3, 3)) for n, cell in enumerate(cells)])
    assert all("So: PTQ (nearest, per channel)." in text for text in texts[:2])
    assert not any(word in " ".join(texts) for word in ("loses:", "better", "worse"))


@settings(deadline=None, max_examples=12)
@given(st.sets(st.integers(1, 17)))
def test_whatever_is_missing_there_is_a_report(chosen: set[int]) -> None:
    trials = [trial for trial in grid_trials() if trial.number in chosen]
    report = report_of(trials)
    text = write_markdown(report, {name: (None, f"{name}.html") for name in report.figures()})
    assert text.startswith("# study: PTQ against QAT")
    assert "None" not in text
    assert "nan" not in text


def test_without_evidence_no_difference_is_claimed() -> None:
    bare = [trial.model_copy(update={"evidence": None}) for trial in grid_trials()]
    text = " ".join(advise(bare))
    assert "is better than that" not in text
    assert "alone is" not in text
    assert "are enough" not in text


def test_training_that_failed_says_why_in_the_advice() -> None:
    failed = cell_trial(2, W4_QAT, FLOAT_HITS).model_copy(
        update={"state": "failed", "error": "memory does not suffice"}
    )
    (text,) = advise([cell_trial(1, W4_NEAREST, hits_with(60)), failed])
    assert "QAT has no figures: memory does not suffice." in text


def test_every_figure_shows_what_was_measured() -> None:
    noise = [LayerNoise(name, 20.0 + index, 30.0) for index, name in enumerate(LAYERS)]
    noises = {W4_NEAREST: noise, Cell(8, "per_tensor", "nearest"): noise}
    figures = report_of(grid_trials(), noises=noises).figures()
    assert list(figures) == [
        "losses", "calibration", "training", "noise_per_channel", "noise_per_tensor", "front",
    ]  # fmt: skip
    (line,) = figures["calibration"].data
    assert list(line.text) == ["10 images", "32 images", "100 images", "512 images"]
    assert list(line.y) == pytest.approx([20.0, 9.2, 9.1, 9.0])
    curves = [trace for trace in figures["training"].data if "in training" in trace.name]
    assert list(curves[0].x) == [0.5, 1.0]
    levels = [note.text for note in figures["training"].layout.annotations]
    assert "100.0 float" in levels
    weights = [trace for trace in figures["noise_per_channel"].data if trace.y[0] == 20.0]
    assert list(weights[0].x) == LAYERS


def test_a_cell_that_collapsed_does_not_flatten_the_others() -> None:
    figure = loss_figure(find_rows(grid_trials()))
    arrows = [note.text for note in figure.layout.annotations if note.arrowhead]
    assert arrows == ["40.0", "40.0"] * 2, "both splits, both granularities"
    assert figure.layout.xaxis2.range[1] < 20
    even = loss_figure(find_rows([cell_trial(1, W4_NEAREST, hits_with(400))]))
    assert not [note for note in even.layout.annotations if note.arrowhead]


def test_the_document_is_built_as_it_always_is() -> None:
    report = report_of(grid_trials(), left_out="no data")
    links = {name: (f"{name}.png", f"{name}.html") for name in report.figures()}
    text = write_markdown(report, links)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# study: PTQ against QAT",
        "## Advice",
        "## What each cell loses, takes and needs",
        "## Calibration images",
        "## Minutes of training",
        "## Quantization noise by layer",
        "## What each mode bought",
        "## The front and all trials",
    ]
    assert "Left out: no data." in text
    assert all(f"[![{name}]({name}.png)]({name}.html)" in text for name in links)
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert np.all([table.splitlines()[1].startswith("| ---") for table in tables])
