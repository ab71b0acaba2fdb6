"""The grid of the accuracy-loss study, and its trials in a study."""

from pathlib import Path

import pytest

from autoquant.core.analysis import CALIBRATION_IMAGES, Cell, plan_cells
from autoquant.core.front import find_front
from autoquant.core.recipe import PtqOptions, QatOptions, Recipe
from autoquant.search.cells import CellStudy
from autoquant.search.study import Budget
from tests.fakes import fake_study

LAYERS = [f"conv{index}" for index in range(8)]
TRAINING = QatOptions(epochs=2)


@pytest.mark.parametrize(
    "cell", [*plan_cells(20_000, TRAINING), *plan_cells(20_000, TRAINING, is_exact=False)]
)
def test_a_recipe_is_the_cell_that_it_was_made_of(cell: Cell) -> None:
    assert Cell.of(cell.to_recipe(LAYERS)) == cell


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(method="fp32"),
        Recipe(method="ort-static"),
        Recipe.quantized({"conv0": 8, "conv1": 4}),
        Recipe.quantized({"conv0": 8, "conv1": None}),
        Recipe.uniform(LAYERS, 4, PtqOptions(calibration="mse")),
        Recipe.uniform(LAYERS, 4, PtqOptions(rounding="gptq")),
        Recipe.quantized({"conv0": 8}, activations={"conv0": "dynamic"}),
    ],
)
def test_other_recipes_are_no_cells(recipe: Recipe) -> None:
    assert Cell.of(recipe) is None


def test_every_cell_is_another_recipe_and_none_trains_without_data() -> None:
    cells = plan_cells(20_000, TRAINING)
    assert len({cell.to_recipe(LAYERS).digest for cell in cells}) == len(cells)
    assert {cell.calibration_images for cell in cells} >= set(CALIBRATION_IMAGES)
    without = plan_cells(200, None)
    assert all(cell.training is None for cell in without)
    assert max(cell.calibration_images for cell in without if cell.calibration_images != 512) == 100


def test_cells_are_measured_in_full_reported_and_named(tmp_path: Path) -> None:
    study = fake_study(tmp_path, kind=CellStudy)
    study.run(Budget(20), "random")
    recipes = [cell.to_recipe(LAYERS) for cell in plan_cells(100, TRAINING)]
    before = {trial.digest: trial for trial in study.record.trials()}
    study.measure(recipes)
    trials = {trial.digest: trial for trial in study.record.trials()}
    assert len(study.record.trials()) == len(trials)
    assert set(trials) == set(before) | {recipe.digest for recipe in recipes}
    for recipe in recipes:
        assert trials[recipe.digest].state == "complete"
        assert trials[recipe.digest].report_accuracy is not None
    untouched = set(before) - {recipe.digest for recipe in recipes}
    assert all(trials[digest] == before[digest] for digest in untouched)


def test_cells_of_a_new_study_come_after_the_named_baselines(tmp_path: Path) -> None:
    study = fake_study(tmp_path, kind=CellStudy)
    study.measure([Cell(4, "per_tensor", "nearest").to_recipe(LAYERS)])
    names = [trial.name for trial in study.record.trials()]
    assert names == ["fp32", "w8a8", "w4a8", "ort-static", "ort-dynamic", None]


def test_a_cell_that_was_turned_away_is_measured_after_all(tmp_path: Path) -> None:
    study = fake_study(tmp_path, kind=CellStudy)
    study.run(Budget(60), "random")
    rejected = [trial for trial in study.record.trials() if trial.state == "rejected"]
    assert rejected
    study.measure([trial.recipe for trial in rejected])
    known = {trial.digest: trial for trial in study.record.trials()}
    assert all(known[trial.digest].state == "complete" for trial in rejected)
    assert all(known[trial.digest].report_accuracy is not None for trial in rejected)
    assert find_front(study.record.trials(), ["accuracy", "size"])


def test_a_cell_that_the_search_measured_is_reported_too(tmp_path: Path) -> None:
    study = fake_study(tmp_path, kind=CellStudy)
    study.reject_early = False
    front = {trial.digest for trial in study.run(Budget(30), "random")}
    off = [t for t in study.record.trials() if t.state == "complete" and t.digest not in front]
    assert off
    assert all(trial.report_accuracy is None for trial in off)
    study.measure([trial.recipe for trial in off])
    known = {trial.digest: trial for trial in study.record.trials()}
    assert all(known[trial.digest].report_accuracy is not None for trial in off)
    assert all(known[trial.digest].accuracy == trial.accuracy for trial in off)
