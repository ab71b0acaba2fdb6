"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from autoquant.backends.registry import BackendName

__all__ = [
    "BackendOption",
    "BatchOption",
    "FormatOption",
    "MaxDropOption",
    "OutputOption",
    "ResultsOption",
    "SeedOption",
    "StorageOption",
    "TasksFromOption",
    "ThreadsOption",
]

FormatOption = Annotated[
    Literal["table", "json", "csv"],
    typer.Option("--format", help="How to print; json puts one document on standard output."),
]
ResultsOption = Annotated[
    Path,
    typer.Option("--results", help="Folder that holds the studies.", envvar="AUTOQUANT_RESULTS"),
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Database URL for the record, such as sqlite:///studies.db; "
        "a journal file in the results folder if left out.",
    ),
]
TasksFromOption = Annotated[
    Path | None,
    typer.Option("--tasks-from", help="Python file that registers tasks of your own."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of every random choice.")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="Threads of the timed runs.")]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Batch size of the timed runs.")]
BackendOption = Annotated[
    BackendName, typer.Option("--backend", help="Runtime that runs and judges the files.")
]
MaxDropOption = Annotated[
    float | None,
    typer.Option("--max-drop", help="Largest accuracy drop against float, 0.01 is one point."),
]
OutputOption = Annotated[Path, typer.Option("-o", "--output", help="File to write.")]
