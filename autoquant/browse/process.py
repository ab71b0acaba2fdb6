"""Searches as processes of their own: begun, gone on with and stopped from the app.

They outlive the app. What is known of one lies in its study's folder: `space.yaml`, what was
asked for; `search.log`, what it said; `process.json`, which process it is and what workers it
was given. Of a study in a database each name begins with `database-`: the folder may hold a
journal of that name.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoquant.browse.crew_draft import CrewDraft
from autoquant.browse.setting import STORAGE_VARIABLE
from autoquant.errors import StorageError, StudyError
from autoquant.search.storage import Location

__all__ = [
    "find_process",
    "is_prepared",
    "known_crew",
    "read_log",
    "resume_search",
    "start_search",
    "stop_search",
]

_SPACE, _LOG, _PROCESS = "space.yaml", "search.log", "process.json"
_STARTING = threading.Lock()  # pages in two windows are threads of one process
_LOG_BYTES = 64 * 1024  # from the end; a log may be long
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f]")
# A shell's background job ignores Ctrl-C, and hands that on to all that it starts.
_ENTRY = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from autoquant.__main__ import main; main()"
)


def is_prepared(location: Location) -> bool:
    """Whether the app was to begin a study here."""
    return _file(location, _SPACE).is_file()


def _file(location: Location, name: str) -> Path:
    return location.folder / (name if location.url is None else f"database-{name}")


def start_search(
    location: Location,
    space: str,
    options: Sequence[str] = (),
    tasks_from: Path | None = None,
    crew: CrewDraft | None = None,
) -> int:
    """Begin a search that outlives this process.

    Args:
        location: where; nothing may lie there yet, but what a search left that never began.
        space: the search space as YAML; already found to be valid.
        options: of the command, `--seed` and its like.
        tasks_from: file that registers tasks.
        crew: its workers.

    Returns:
        The number of its process.

    Raises:
        InputError: the workers are not as they should be.
        StudyError: there is such a study.
        StorageError: the folder cannot be written, or the database does not answer.
    """
    crew = crew or CrewDraft()
    crew.check(is_reached=True)
    with _STARTING:
        if location.exists() or location.is_others or find_process(location) is not None:
            raise StudyError(f"there is a study '{location.name}' already; choose another name")
        location.create_folder()
        path = _file(location, _SPACE)
        path.write_text(space, encoding="utf-8")
        _file(location, _LOG).unlink(missing_ok=True)
        command = ["search", str(path), "--study", location.name, *options]
        return _run(location, command, tasks_from, crew)


def resume_search(
    location: Location,
    trials: int | None = None,
    tasks_from: Path | None = None,
    crew: CrewDraft | None = None,
) -> int:
    """Go on with a study that is not running.

    Args:
        location: of the study.
        trials: how far; as it was last told if None.
        tasks_from: file that registers tasks.
        crew: its workers.

    Raises:
        InputError: the workers are not as they should be.
        StudyError: it is running.
        StorageError: its folder is gone or cannot be written, or the database does not answer.
    """
    crew = crew or CrewDraft()
    crew.check(is_reached=True)
    with _STARTING:
        if find_process(location) is not None:
            raise StudyError(f"study '{location.name}' is running")
        if not location.exists():
            raise StorageError(f"there is no study '{location.name}' any more")
        more = [] if trials is None else ["--trials", str(trials)]
        location.create_folder()  # of a study in a database it may lie on another machine
        return _run(location, ["resume", location.name, *more], tasks_from, crew)


def known_crew(location: Location) -> CrewDraft:
    """The workers that the app last ran a study with; none of several if it never did."""
    return CrewDraft.from_dict(_read_process(location).get("crew"))


def stop_search(location: Location) -> None:
    """Interrupt a search as Ctrl-C would; everything finished is kept.

    Raises:
        StudyError: no process that the app began runs this study.
    """
    process = find_process(location)
    if process is None:
        raise StudyError(
            f"study '{location.name}' was not started from here: stop it where it was, by Ctrl-C"
        )
    os.killpg(process, signal.SIGINT)


def find_process(location: Location) -> int | None:
    """The process that the app began for this study, if it still runs."""
    try:
        known = _read_process(location)
        process, began = int(known["process"]), str(known["began"])
    except (ValueError, TypeError, KeyError):
        return None
    return process if began and _began(process) == began else None


def _read_process(location: Location) -> dict[str, Any]:
    try:
        known = json.loads(_file(location, _PROCESS).read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def read_log(location: Location, lines: int) -> list[str]:
    """The last lines that a search said, as plain text."""
    try:
        with _file(location, _LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    cleaned = [_CONTROL.sub("", line).rstrip() for line in text.splitlines()]
    return [line for line in cleaned if line.strip()][-lines:]


def _run(
    location: Location, arguments: Sequence[str], tasks_from: Path | None, crew: CrewDraft
) -> int:
    command = [sys.executable, "-c", _ENTRY, *arguments, "--results", str(location.results)]
    command += crew.to_options()
    if tasks_from is not None:
        command += ["--tasks-from", str(tasks_from)]
    try:
        with _file(location, _LOG).open("ab") as log:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, STORAGE_VARIABLE: location.url or ""},
            )  # fmt: skip
    except OSError as error:
        raise StorageError(f"cannot start a search: {error.strerror or error}") from error
    _CHILDREN.append(child)
    known = {"process": child.pid, "began": _began(child.pid), "crew": crew.to_dict()}
    _file(location, _PROCESS).write_text(json.dumps(known))
    return child.pid


# Kept so that they are reaped when they end: nobody else waits for them.
_CHILDREN: list[subprocess.Popen[bytes]] = []


def _began(process: int) -> str | None:
    """When a process began, as the kernel counts, since numbers are used again; None if it ended.

    Where there is no /proc, only whether it runs.
    """
    for child in [*_CHILDREN]:
        if child.poll() is not None:
            _CHILDREN.remove(child)
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None if Path("/proc/self").exists() else _is_alive(process)
    state, *fields = text.rpartition(")")[2].split()
    return None if state == "Z" else fields[18]


def _is_alive(process: int) -> str | None:
    try:
        os.kill(process, 0)
    except OSError:
        return None
    return "alive"
