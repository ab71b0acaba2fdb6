"""The command that opens the app in a browser."""

import ipaddress
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from autoquant.browse.setting import AppSetting
from autoquant.cli.options import ResultsOption, StorageOption, TasksFromOption
from autoquant.cli.output import STDERR
from autoquant.cli.searches import RESULTS
from autoquant.errors import InputError
from autoquant.search.database import check_url

__all__ = ["app"]

_UPLOAD_MB = 1  # a search space is the largest thing that a visitor hands over


def app(
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="Where the app listens.")
    ] = 8501,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            help="Address to listen on. Whoever can reach it can start searches; there is no "
            "password.",
        ),
    ] = "127.0.0.1",
    results: ResultsOption = RESULTS,
    storage: StorageOption = None,
    tasks_from: TasksFromOption = None,
) -> None:
    """Open the app: start searches, watch them, choose a model, export it.

    Searches that it starts go on when it is closed.

    Examples:
      autoquant app
      autoquant app --port 8600 --results night --tasks-from my_tasks.py
      AUTOQUANT_STORAGE=postgresql://USER:PASSWORD@HOST/DATABASE autoquant app
    """
    if find_spec("streamlit") is None:
        raise InputError("the app needs Streamlit: pip install 'autoquant[app]'")
    if tasks_from is not None and not tasks_from.is_file():
        raise InputError(f"--tasks-from: there is no file '{tasks_from}'")
    if results.exists() and not results.is_dir():
        raise InputError(f"--results {results}: is a file; name a folder")
    if storage is not None:
        check_url(storage)
    _check_port(host, port)
    STDERR.print(f"the app is at http://{host}:{port} (Ctrl-C ends it)", markup=False)
    setting = AppSetting(results, tasks_from, storage, not _is_loopback(host))
    environment = {**os.environ, **setting.to_environment()}
    command = _command(host, port)  # whose own greeting would say the address once more
    child = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    if child.returncode not in (0, -2, 130):
        raise InputError("the app ended; what it said stands above")


def _check_port(host: str, port: int) -> None:
    """Raises an error if nobody can listen there."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot listen on {host}, port {port} ({reason}); choose another: --port N"
        ) from error


def _is_loopback(host: str) -> bool:
    """Whether this machine alone reaches an address."""
    found = {item[4][0] for item in socket.getaddrinfo(host, None)}
    return all(ipaddress.ip_address(str(address)).is_loopback for address in found)


def _command(host: str, port: int) -> list[str]:
    options = {
        "server.address": host,
        "server.port": port,
        "server.headless": "true",  # it would ask for an e-mail address
        "server.maxUploadSize": _UPLOAD_MB,
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "viewer",
        "client.showErrorDetails": "none",
        "logger.level": "warning",
        # of both themes: one for all would be a theme of its own, and no dark one
        "theme.light.primaryColor": "#2f7fd0",
        "theme.dark.primaryColor": "#4a9be8",
    }
    told = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "streamlit", "run", str(_find_main()), *told]


def _find_main() -> Path:
    """Of an installed package, or of a checkout.

    Raises:
        InputError: it is in neither.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "app", package.parent / "app"):
        if (folder / "main.py").is_file():
            return folder / "main.py"
    raise InputError("the pages of the app are missing: install autoquant anew")
