"""Printing: tables for people, JSON and CSV for programs."""

import csv
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.status import Status
from rich.table import Table

from autoquant.backends.machine import explain_oversubscription
from autoquant.backends.registry import load_backend
from autoquant.core.activity import listening
from autoquant.core.trial import Trial
from autoquant.report import flatten_trials, tabulate_trials

__all__ = [
    "STDERR",
    "open_backend",
    "print_json",
    "print_rows",
    "print_trials",
    "show_activity",
    "warn",
    "warn_of_oversubscription",
]

# Progress, logs and warnings go here, so that standard output holds results alone.
STDERR = Console(stderr=True, highlight=False, soft_wrap=True)
_WIDTH = 160  # of a table that goes to a file or a pipe
_SILENCE_S = 10.0  # between two lines about one activity


def warn(text: str) -> None:
    """One line on standard error."""
    STDERR.print(f"warning: {text}", markup=False, style="yellow")


def open_backend(name: str) -> None:
    """Say what is missing of a backend, before anything that takes long.

    Raises:
        InputError: it cannot be imported; says what to install.
    """
    caveat = load_backend(name).caveat
    if caveat is not None:
        warn(caveat)


def warn_of_oversubscription(threads: int) -> None:
    """One line if more threads are to be timed than this process may use."""
    text = explain_oversubscription(threads)
    if text is not None:
        warn(text)


@contextmanager
def show_activity(text: str) -> Iterator[Status]:
    """A spinner that says what is being done; without a terminal, a line now and then."""
    said_at = time.monotonic()

    def hear(announced: str) -> None:
        nonlocal said_at
        status.update(announced)
        if not STDERR.is_terminal and time.monotonic() - said_at > _SILENCE_S:
            STDERR.print(announced, markup=False)
            said_at = time.monotonic()

    with STDERR.status(text) as status, listening(hear):
        yield status


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(document, indent=2))


def print_rows(
    columns: Sequence[str], rows: Sequence[Sequence[str]], kind: str, title: str | None = None
) -> None:
    """A table or CSV on standard output.

    Args:
        columns: headings.
        rows: cells as text.
        kind: `table` or `csv`.
        title: heading of the table.
    """
    if kind == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        is_text = all(not cell[:1].isdigit() and cell[:1] not in "+-" for row in rows
                      if (cell := str(row[index])))  # fmt: skip
        table.add_column(column, justify="left" if is_text else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table, markup=False) if not rows else console.print(table)


def print_trials(
    trials: Sequence[Trial], document: dict[str, Any], kind: str, title: str | None = None
) -> None:
    """Trials as a table, as CSV of every field, or inside a JSON document.

    Args:
        trials: what to print.
        document: JSON fields to stand beside `trials`.
        kind: `table`, `json` or `csv`.
        title: heading of the table.
    """
    if kind == "json":
        print_json({**document, "trials": [trial.to_dict() for trial in trials]})
    elif kind == "csv":
        print_rows(*flatten_trials(trials), kind="csv")
    else:
        columns, rows = tabulate_trials(trials)
        print_rows(columns, rows, "table", title)
