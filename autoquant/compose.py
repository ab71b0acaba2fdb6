"""A study's report put together: its trials, and the noise of its cells' files."""

from collections.abc import Sequence

from autoquant.build import TaskBuilder
from autoquant.core.activity import announce
from autoquant.core.analysis import Cell, plan_cells
from autoquant.core.artifact import Artifact, find_kept
from autoquant.core.distribution import Distributions
from autoquant.core.layer import LayerNoise
from autoquant.core.recipe import QatOptions
from autoquant.core.sensitivity import Sensitivity
from autoquant.core.trial import Trial
from autoquant.deliver import read_kept, rebuild_trial
from autoquant.distribution import keep_distributions, reduces_range
from autoquant.errors import AutoquantError, InputError
from autoquant.evaluate import Evaluator
from autoquant.export.formats import read_artifact
from autoquant.report.document import StudyReport
from autoquant.report.grid import LossPoint, describe_cell, find_points, is_main
from autoquant.report.noise_figure import Noises
from autoquant.search.choice import view_front
from autoquant.search.record import Record
from autoquant.search.shelf import Shelf
from autoquant.search.storage import Location
from autoquant.sensitivity import keep_folder, read_sensitivity

__all__ = ["compose_report", "measure_file_noise", "plan_grid"]

_CELLS = "cells"  # beside `artifacts`, which a search sweeps: learned rounding takes minutes
_BATCH_SHARE = 4  # every layer's output of the batch is held at once, twice


def compose_report(
    location: Location, record: Record, evaluator: Evaluator | None, left_out: str | None
) -> StudyReport:
    """Everything that the report of a study says.

    Args:
        location: where the study lies.
        record: the study.
        evaluator: of its task, for what has to be read off files; None leaves it out.
        left_out: why there is no evaluator, in words.

    Raises:
        InputError: the study has no trial of the grid.
    """
    trials = record.trials()
    points = find_points(trials)
    if not any(point.is_complete for point in points):
        raise InputError(
            f"study '{location.name}' has no trials of the grid yet: run autoquant report "
            f"{location.name} --measure"
        )
    noises: Noises = {}
    available, distributions, unseen, sensitivity = None, None, left_out, None
    if evaluator is not None:
        builder = _builder_of(evaluator)
        available = len(builder.task.calibration)
        main = [point for point in points if is_main(point) and point.is_complete]
        noises, left_out = _find_noises(_Files(location, record, evaluator), main)
        distributions, unseen = _find_distributions(location, record, evaluator)
        sensitivity = _find_sensitivity(record, evaluator)
    header = record.header
    return StudyReport(
        location.name, header.task, header.objectives, header.bounds, trials,
        view_front(trials, header.objectives, header.bounds).members,
        noises, left_out, available, distributions, unseen, sensitivity,
    )  # fmt: skip


def plan_grid(evaluator: Evaluator, epochs: int) -> list[Cell]:
    """The cells of the accuracy-loss study for a task.

    Args:
        evaluator: of the task.
        epochs: of training, where the task has training data.
    """
    task = _builder_of(evaluator).task
    training = QatOptions(epochs=epochs) if task.train else None
    return plan_cells(len(task.calibration), training, is_exact=evaluator.is_exact)


def measure_file_noise(evaluator: Evaluator, artifact: Artifact) -> list[LayerNoise]:
    """Quantization noise of every layer of a file, on one small batch of the search split.

    Args:
        evaluator: of the file's task.
        artifact: of a recipe without equalization.
    """
    search = evaluator.search
    inputs = search.first_inputs(max(1, search.batch_size // _BATCH_SHARE))
    with evaluator.place.work():
        return _builder_of(evaluator).measure_noise(artifact, inputs)


def _builder_of(evaluator: Evaluator) -> TaskBuilder:
    assert isinstance(evaluator.builder, TaskBuilder)
    return evaluator.builder


class _Files:
    """Files of cells: kept by the search, by a former report, or rebuilt and kept."""

    def __init__(self, location: Location, record: Record, evaluator: Evaluator) -> None:
        self.location = location
        self.record = record
        self.evaluator = evaluator
        self.folder = location.folder / _CELLS

    def read(self, trial: Trial) -> Artifact | None:
        """A trial's file; None if it would have to be trained anew.

        Raises:
            AutoquantError: it cannot be rebuilt.
        """
        kept = read_kept(self.location, trial)
        mine = find_kept(self.folder, trial.digest)
        if kept is None and mine is not None:
            kept = mine.read_bytes()
        if kept is not None:
            return read_artifact(kept)
        checkpoint = self.location.checkpoints / f"{trial.digest}.pt"
        if trial.recipe.is_trained and not checkpoint.is_file():
            return None
        announce(f"rebuilding trial {trial.number}")
        content = rebuild_trial(self.evaluator, trial, self.record.fingerprint_of(trial))
        self.folder.mkdir(parents=True, exist_ok=True)
        artifact = read_artifact(content)
        Shelf(self.folder, keeps_all=True).put(trial.digest, artifact)
        return artifact


def _find_noises(files: _Files, points: Sequence[LossPoint]) -> tuple[Noises, str | None]:
    """Noise of every cell whose file is at hand or can be, and why others have none."""
    noises: dict[Cell, Sequence[LayerNoise]] = {}
    missing = []
    for point in points:
        name = describe_cell(point.cell)
        try:
            artifact = files.read(point.trial)
            if artifact is None:
                missing.append(f"{name} (it would have to be trained anew)")
                continue
            announce(f"comparing layers: {name}")
            noises[point.cell] = measure_file_noise(files.evaluator, artifact)
        except AutoquantError as error:
            missing.append(f"{name} ({error})")
    return noises, "; ".join(missing) or None


def _find_distributions(
    location: Location, record: Record, evaluator: Evaluator
) -> tuple[Distributions | None, str | None]:
    """What is kept beside the study, or looked at anew; else why there is nothing."""
    try:
        return keep_distributions(location, record.header, evaluator), None
    except AutoquantError as error:
        return None, str(error)


def _find_sensitivity(record: Record, evaluator: Evaluator) -> Sensitivity | None:
    """What was measured before; a report measures none."""
    reduced = reduces_range(record.header, is_exact=evaluator.is_exact)
    return read_sensitivity(evaluator, record.header.task, keep_folder(), reduce_range=reduced)
