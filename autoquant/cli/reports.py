"""The command that writes a study's report."""

from pathlib import Path
from typing import Annotated

import typer

from autoquant.agreement import find_study, load_evaluator
from autoquant.cli.options import (
    FormatOption,
    ResultsOption,
    StorageOption,
    TasksFromOption,
)
from autoquant.cli.output import STDERR, open_backend, print_json, print_rows, show_activity, warn
from autoquant.cli.searches import RESULTS
from autoquant.core.recipe import QatOptions
from autoquant.errors import InputError
from autoquant.evaluate import Evaluator
from autoquant.launch import Launch, run_cells
from autoquant.publish import Published, publish_report
from autoquant.report.document import StudyReport
from autoquant.report.grid import LOSS_COLUMNS, tabulate_losses
from autoquant.search.record import Record
from autoquant.search.storage import Location, load_record
from autoquant.tasks import load_task, load_task_file

__all__ = ["report"]

_EPOCHS = QatOptions().epochs


def report(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder to write; RESULTS/STUDY/report if left out."),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="First evaluate the cells of the grid that are missing."),
    ] = False,
    epochs: Annotated[
        int, typer.Option("--epochs", min=1, help="With --measure: of training the QAT cells.")
    ] = _EPOCHS,
    layers: Annotated[
        bool,
        typer.Option("--layers/--no-layers", help="Quantization noise by layer; loads the task."),
    ] = True,
    results: ResultsOption = RESULTS,
    storage: StorageOption = None,
    tasks_from: TasksFromOption = None,
    format_: FormatOption = "table",
) -> None:
    """Write what quantization loses: PTQ against QAT, in tables, figures and words.

    The grid is 8 and 4 bits, per channel and per tensor, each by nearest rounding, corrected
    biases, learned rounding and training. A search measures a few of its cells, --measure the
    others, as trials of the same study; with training data that takes as long as four
    trainings.

    Examples:
      autoquant report digits --measure
      autoquant report cifar10-resnet20 -o report --no-layers
      autoquant report digits --format json > report.json
    """
    location = find_study(results, study, storage)
    record = load_record(location, warn=warn)
    if measure and record.header.targets:
        raise InputError(
            f"--measure times on this machine, and study '{study}' is timed on targets "
            f"{', '.join(record.header.targets)}: leave out --measure"
        )
    if tasks_from is not None:
        load_task_file(tasks_from)
    evaluator: Evaluator | None = None
    left_out: str | None = "not asked for"
    if measure or layers:
        evaluator, left_out = _load(location, record, is_needed=measure)
    if measure:
        assert evaluator is not None
        record = _measure(location, record, evaluator, epochs)
    from autoquant.compose import compose_report

    with show_activity("reading the trials"):
        found = compose_report(location, record, evaluator if layers else None, left_out)
        published = publish_report(found, output or location.folder / "report")
    _show(found, published, format_)


def _load(
    location: Location, record: Record, *, is_needed: bool
) -> tuple[Evaluator | None, str | None]:
    """What measures, or why there is nothing, where that may be."""
    header = record.header
    try:
        open_backend(header.backend)
        with STDERR.status(f"loading task {header.task} (a first use may take half a minute)"):
            task = load_task(header.task, header.task_options)
            return load_evaluator(header, task, location), None
    except InputError as error:
        if is_needed:
            raise
        return None, f"the task cannot be loaded ({error})"


def _measure(location: Location, record: Record, evaluator: Evaluator, epochs: int) -> Record:
    from autoquant.compose import plan_grid

    cells = plan_grid(evaluator, epochs)
    return run_cells(Launch(location, record.header), evaluator, cells, STDERR, warn)


def _show(found: StudyReport, published: Published, kind: str) -> None:
    files = [str(path) for path in published.files]
    if kind == "json":
        print_json({**found.to_dict(), "files": files, "pictures": published.pictures})
    else:
        title = f"What quantization loses in study {found.study}"
        print_rows(LOSS_COLUMNS, tabulate_losses(found.rows), kind, title)
    if kind == "table":
        for paragraph in found.advice:
            STDERR.print(f"\n{paragraph}", markup=False)
        _explain_gaps(found)
    if published.pictures is not None:
        warn(published.pictures)
    STDERR.print(f"\nwrote {published.files[0]} and {len(files) - 1} files beside it")


def _explain_gaps(found: StudyReport) -> None:
    missing = sum(row.trial is None for row in found.rows)
    if missing:
        STDERR.print(
            f"\n{missing} cells are not measured: autoquant report {found.study} --measure"
        )
    if found.left_out is not None:
        STDERR.print(f"\nnoise by layer left out: {found.left_out}", markup=False)
    if found.unseen is not None:
        STDERR.print(f"\nranges by layer left out: {found.unseen}", markup=False)
