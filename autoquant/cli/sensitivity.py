"""The command that measures what each layer costs and buys."""

from pathlib import Path
from typing import Annotated, Any

import typer

from autoquant.backends.registry import DEFAULT_BACKEND
from autoquant.cli.figure import check_page, write_figure
from autoquant.cli.options import (
    BackendOption,
    BatchOption,
    FormatOption,
    SeedOption,
    TaskOptionOption,
    TasksFromOption,
    ThreadsOption,
    collect_task_options,
)
from autoquant.cli.output import STDERR, open_backend, print_json, print_rows, show_activity, warn
from autoquant.core.sensitivity import Sensitivity
from autoquant.deliver import load_single_evaluator
from autoquant.report.sensitivity import (
    SENSITIVITY_COLUMNS,
    describe_base,
    sensitivity_figure,
    tabulate_sensitivity,
)
from autoquant.tasks import load_task, load_task_file

__all__ = ["sensitivity"]


def sensitivity(
    task: Annotated[str, typer.Argument(help="Name of the task.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Plot it: a .html or .png file.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure anew what was measured before.")
    ] = False,
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    batch: BatchOption = 1,
    backend: BackendOption = DEFAULT_BACKEND,
    tasks_from: TasksFromOption = None,
    task_option: TaskOptionOption = None,
    format_: FormatOption = "table",
) -> None:
    """Measure what each choice of each layer costs in accuracy and buys in bytes and time.

    Every layer alone goes to 4 bits and to float while all others have 8; the file is run on a
    thousand samples of the search split at most. What was measured is kept under AUTOQUANT_CACHE
    for the same weights, data, versions and machine; searches that use it find it there.

    Examples:
      autoquant sensitivity digits
      autoquant sensitivity cifar10-resnet20 -o sensitivity.html
      autoquant sensitivity digits --format json > sensitivity.json
    """
    if output is not None:
        check_page(output)
    open_backend(backend)
    if tasks_from is not None:
        load_task_file(tasks_from)
    told = collect_task_options(task, task_option)
    with show_activity(f"loading task {task}"):
        evaluator = load_single_evaluator(load_task(task, told), seed, threads, batch, backend)
        found, refusal = _measure(evaluator, task, fresh=fresh)
    if refusal is not None:
        warn(f"{refusal}: measured anew")
    _show(found, format_)
    if output is not None:
        title = f"What each layer of {found.task} costs and buys"
        write_figure(sensitivity_figure(found, title), output, 960)
        STDERR.print(f"wrote {output}")


def _measure(evaluator: Any, task: str, *, fresh: bool) -> tuple[Sensitivity, str | None]:
    from autoquant.sensitivity import keep_folder, measure_sensitivity

    is_reduced = not evaluator.is_exact
    return measure_sensitivity(evaluator, task, keep_folder(), reduce_range=is_reduced, fresh=fresh)


def _show(found: Sensitivity, kind: str) -> None:
    if kind == "json":
        document = found.model_dump(mode="json")
        for cost in document["costs"]:
            cost["expected_drop"] = found.expected_drop(cost["layer"], cost["choice"])
        print_json(document)
    elif kind == "csv":
        columns = list(type(found.costs[0]).model_fields)
        rows = [[_cell(getattr(cost, name)) for name in columns] for cost in found.costs]
        print_rows(columns, rows, "csv")
    else:
        title = f"Sensitivity of the layers of task {found.task}"
        print_rows(SENSITIVITY_COLUMNS, tabulate_sensitivity(found), "table", title)
        STDERR.print(f"\n{describe_base(found)}", markup=False)


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(str(item) for item in value)
    return "" if value is None else str(value)
