"""`autoquant report` as a process, from a short search to the folder."""

import csv
import json
from pathlib import Path

import pytest

from autoquant.backends.machine import has_integer_dot_product
from autoquant.config import find_space, load_space
from autoquant.core.trial import Trial
from autoquant.publish import publish_report
from autoquant.search.header import StudyHeader
from autoquant.search.storage import Location, create_record
from tests.command import autoquant
from tests.loss_trials import grid_trials
from tests.test_cli import refused
from tests.test_report import report_of

pytestmark = pytest.mark.long

SPACE = """
version: 1
task: tiny
objectives: [accuracy, size]
layers: {"*": {weight_bits: [8, 4]}}
"""
TASK = """
import torch
from torch import nn
from autoquant import Task, register_task

class Data:
    def __init__(self, count, seed):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, 1, 8, 8, generator=generator)
        self.y = (self.x.mean((1, 2, 3)) > 0).long()
    def __len__(self):
        return len(self.x)
    def __getitem__(self, index):
        return self.x[index], int(self.y[index])

@register_task("tiny")
def tiny():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    return Task(model=net, example_input=torch.zeros(1, 1, 8, 8), calibration=Data(20, 1),
                search=Data(200, 2), report=Data(100, 3), train=Data(100, 4), metric="agreement")
"""
MINE = ("--tasks-from", "tiny.py")
TABLES = {"losses.csv", "modes.csv", "noise.csv", "distributions.csv", "trials.csv"}


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Path:
    """A folder with a study of the baselines alone: two cells of the grid."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "small.yaml").write_text(SPACE)
    (folder / "tiny.py").write_text(TASK)
    result = autoquant("search", "small.yaml", "--trials", "5", *MINE, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


def test_a_report_says_what_there_is_and_how_to_get_the_rest(searched: Path) -> None:
    result = autoquant("report", "small", *MINE, "--format", "json", cwd=searched)
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    measured = [cell for cell in document["cells"] if cell["trial"] is not None]
    assert [(cell["weight_bits"], cell["method"]) for cell in measured] == [
        (8, "bias-corrected"),
        (4, "bias-corrected"),
    ]
    assert len(document["noise"]) == 2
    layers = document["noise"][0]["layers"]
    assert len(layers) == 3
    assert all(layer["weight_db"] > 30 and layer["output_db"] > 10 for layer in layers)
    folder = searched / "results" / "small" / "report"
    names = {path.name for path in folder.iterdir()}
    assert {Path(name).name for name in document["files"]} <= names
    assert names >= TABLES | {"report.md", "losses.html", "front.html", "plotly.min.js"}
    text = (folder / "report.md").read_text()
    assert all(paragraph in text for paragraph in document["advice"])
    assert "not measured" in text
    table = autoquant("report", "small", "--no-layers", "-o", "elsewhere", cwd=searched)
    assert "12 cells are not measured: autoquant report small --measure" in table.stderr
    assert (searched / "elsewhere" / "report.md").is_file()
    with (folder / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14
    assert {row["accuracy"] for row in rows if not row["trial"]} == {""}


def test_a_task_that_cannot_be_loaded_leaves_the_noise_out_and_says_so(searched: Path) -> None:
    result = autoquant("report", "small", "-o", "away", cwd=searched)
    assert result.returncode == 0, result.stderr
    assert "noise by layer left out: the task cannot be loaded" in result.stderr
    assert not (searched / "away" / "noise.csv").exists()
    refused(autoquant("report", "small", "--measure", cwd=searched), "tiny")


@pytest.mark.skipif(
    not has_integer_dot_product(),
    reason="8-bit sums saturate here: the baseline w8a8-full is one row more, without a report",
)
def test_measuring_fills_the_grid_once(searched: Path) -> None:
    result = autoquant(
        "report", "small", "--measure", "--epochs", "1", *MINE, "--format", "json", cwd=searched
    )
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert all(cell["state"] == "complete" for cell in document["cells"])
    assert all(cell["report_accuracy_drop"] is not None for cell in document["cells"])
    trained = [cell for cell in document["cells"] if cell["method"] == "qat"]
    assert all(cell["train_seconds"] > 0 and cell["epochs"] == 1 for cell in trained)
    assert len(document["noise"]) == 14, "trained files come back from their checkpoints"
    assert {point["calibration_images"] for point in document["calibration"]} == {10}
    assert sum(mode["trials"] for mode in document["modes"]) == len(
        json.loads(autoquant("trials", "small", "--format", "json", cwd=searched).stdout)["trials"]
    )
    again = autoquant("report", "small", "--measure", "--epochs", "1", "--no-layers", *MINE,
                      "--format", "json", cwd=searched)  # fmt: skip
    for one, other in zip(json.loads(again.stdout)["cells"], document["cells"], strict=True):
        # how many calibration images there are is known from the task alone
        assert {**one, "calibration_images": 20} == other, "nothing is measured twice"


def test_studies_without_a_report_are_refused_in_one_line(tmp_path: Path) -> None:
    refused(autoquant("report", "nothing", cwd=tmp_path), "no study 'nothing'")
    location = Location(tmp_path / "results", "empty")
    location.create_folder()
    definition = load_space(find_space("digits")).definition()
    create_record(location, StudyHeader(definition, 0, "tpe"))
    refused(autoquant("report", "empty", cwd=tmp_path), "autoquant report empty --measure")
    assert not (location.folder / "report").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    from autoquant.errors import StorageError

    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageError, match=r"cannot write to '.*taken'.*choose another folder"):
        publish_report(report_of(grid_trials()), tmp_path / "taken")


def test_without_kaleido_one_line_says_how_to_get_pictures(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("autoquant.publish.find_spec", lambda name: None)
    trials: list[Trial] = grid_trials()
    published = publish_report(report_of(trials), tmp_path)
    assert 'pip install -e ".[figures]"' in (published.pictures or "")
    assert not list(tmp_path.glob("*.png"))
    assert "[losses](losses.html)" in (tmp_path / "report.md").read_text()
