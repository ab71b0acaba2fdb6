"""Searches by processes of their own, to be joined or killed, on the fake backend.

Each is forked from a process that has done nothing but import, so that it begins at once.
"""

import ctypes
import dataclasses
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

from rich.console import Console

from autoquant.core.artifact import Artifact
from autoquant.core.gate import Gate
from autoquant.core.recipe import Recipe
from autoquant.core.training import TrainingWatch
from autoquant.core.trial import Measurement
from autoquant.evaluate import Evaluator
from autoquant.launch import run_launch
from autoquant.search.record import Record
from autoquant.search.storage import Location
from tests.crews import FakeSource
from tests.ray_driver import fake_launch

__all__ = ["Habits", "start_driver", "wait_for"]

_SERVER = get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.driver"])


@dataclasses.dataclass(frozen=True)
class Habits:
    """How a process searches.

    Attributes:
        trials: how many to reach.
        seconds: that each takes.
        joins: take part in the study if another process runs it.
        timeout_s: seconds that its search takes, or None.
        dawdles: it takes its time between looking at what others do and beginning a trial.
        is_deadly: it crashes of the first recipe that is no baseline.
        layers: of the network.
    """

    trials: int
    seconds: float
    joins: bool = False
    timeout_s: float | None = None
    dawdles: bool = False
    is_deadly: bool = False
    layers: int = 8


def start_driver(location: Location, log: Path, habits: Habits) -> BaseProcess:
    """Begin a search; what it says goes to the log."""
    process = _SERVER.Process(target=_run, args=(location, log, habits))
    # the main module of a test session is none that a process should import
    with patch.dict(sys.modules, {"__main__": ModuleType("__main__")}):
        process.start()
    return process


def _run(location: Location, log: Path, habits: Habits) -> None:
    # a shell's background job ignores Ctrl-C, and so does whatever it begins
    signal.signal(signal.SIGINT, signal.default_int_handler)
    evaluator = FakeSource(habits.layers, habits.seconds)()
    if habits.is_deadly:
        evaluator.__class__ = _Deadly
    if habits.dawdles:
        ask = Record.ask
        Record.ask = lambda self, space: time.sleep(0.05) or ask(self, space)
    launch = fake_launch(location.results, habits.trials, None)
    header = dataclasses.replace(launch.header, timeout_s=habits.timeout_s)
    launch = dataclasses.replace(launch, location=location, header=header, joins=habits.joins)
    with log.open("w", buffering=1) as file:
        console = Console(file=file, width=200)
        run_launch(launch, evaluator, console, lambda text: console.print(text))


class _Deadly(Evaluator):
    """Its runtime cannot take mixtures."""

    def evaluate(
        self, recipe: Recipe, gate: Gate | None = None, watch: TrainingWatch | None = None
    ) -> tuple[Measurement, Artifact]:
        if len(set(recipe.layers.values())) > 1:
            ctypes.string_at(0)
        return super().evaluate(recipe, gate, watch)


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Look again and again until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.1)
