"""Options that several commands share."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from autoquant.backends.registry import BackendName
from autoquant.errors import InputError

__all__ = [
    "BackendOption",
    "BatchOption",
    "FormatOption",
    "FullIntegerOption",
    "MaxDropOption",
    "OutputOption",
    "ResultsOption",
    "SeedOption",
    "StorageOption",
    "TaskOptionOption",
    "TasksFromOption",
    "ThreadsOption",
    "collect_task_options",
    "leave_out",
    "parse_task_options",
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
        envvar="AUTOQUANT_STORAGE",  # a URL may hold a password, and everybody sees arguments
    ),
]
TasksFromOption = Annotated[
    Path | None,
    typer.Option("--tasks-from", help="Python file that registers tasks of your own."),
]
TaskOptionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--task-option",
        metavar="KEY=VALUE",
        help="Tell the task something, such as data=my/images; may be given several times.",
    ),
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
FullIntegerOption = Annotated[
    bool,
    typer.Option(
        "--full-integer",
        help="int8 inputs and outputs, for micro-controllers; of .tflite files.",
    ),
]
OutputOption = Annotated[Path, typer.Option("-o", "--output", help="File to write.")]


def parse_task_options(pairs: Sequence[str] | None) -> dict[str, Any]:
    """Options from `key=value`; `images.search=500` goes one down.

    Values are JSON where they can be, and otherwise text: YAML would take `no` for a boolean.

    Raises:
        InputError: no key, or no value.
    """
    options: dict[str, Any] = {}
    for pair in pairs or ():
        key, separator, text = pair.partition("=")
        if not (separator and key.strip() and text.strip()):
            raise InputError(f"--task-option '{pair}': write KEY=VALUE")
        name, _, below = key.strip().partition(".")
        if below:
            known = options.get(name)
            options[name] = {**(known if isinstance(known, dict) else {}), below: _read(text)}
        else:
            options[name] = _read(text)
    return options


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def collect_task_options(
    task: str,
    pairs: Sequence[str] | None,
    written: Mapping[str, Any] | None = None,
    folder: Path = Path(),
    tasks_from: Path | None = None,
) -> dict[str, Any] | None:
    """What a task is told, by the command line and before that by a space file.

    Args:
        task: its name.
        pairs: `key=value`; paths start from the working directory.
        written: `task_options` of a space file.
        folder: where that file lies; its paths start from there.
        tasks_from: file that may register the task.

    Raises:
        InputError: told something wrong.
    """
    from autoquant.tasks import load_task_file, resolve_options

    given = parse_task_options(pairs)
    if not (given or written):
        return None
    if tasks_from is not None:
        load_task_file(tasks_from)
    return resolve_options(task, (written or {}, folder), (given, Path.cwd()))


def leave_out(options: Mapping[str, object], why: str) -> None:
    """Refuse options that make no sense beside another.

    Args:
        options: by name; None is one that was not given.
        why: they do not.

    Raises:
        InputError: one of them was given.
    """
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise InputError(f"{why}: leave out {', '.join(given)}")
