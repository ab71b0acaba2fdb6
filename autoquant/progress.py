"""Progress of searches and trainings: a bar on a terminal and in a notebook, lines elsewhere."""

import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from autoquant.core.activity import listening
from autoquant.core.forecast import Cost, Forecast, forecast_rest
from autoquant.core.training import Predict, TrainingProgress, TrainingWatch
from autoquant.core.trial import Trial
from autoquant.report import describe_ratios, trial_row
from autoquant.search.event import Seat
from autoquant.search.study import Budget, Event

__all__ = ["SearchProgress", "TrainingShow"]

_SILENCE_S = 10.0  # between two lines about one activity


class _Show:
    """A bar that hears what long work is busy with, from entering to leaving."""

    progress: Progress
    listening: AbstractContextManager[None]

    def __enter__(self) -> Self:
        self.listening.__enter__()
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trail: TracebackType | None,
    ) -> None:
        self.progress.stop()
        self.listening.__exit__(kind, error, trail)


class _SeatProgress(Progress):
    """A bar, and below it what each worker does, where there are several."""

    seats: tuple[Seat, ...] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar first."""
        yield from super().get_renderables()
        if self.seats:
            yield _tabulate_seats(self.seats)


class SearchProgress(_Show):
    """Shows events of a study as they come.

    Args:
        budget: what the bar runs to.
        console: where to show them.
        known: trials of a study that goes on, which tell how long the others may take.
        may_train: recipes may be promoted to training.
    """

    def __init__(
        self,
        budget: Budget,
        console: Console,
        known: Sequence[Trial] = (),
        *,
        may_train: bool = False,
    ) -> None:
        self.budget = budget
        self.may_train = may_train
        self.console = console
        self.has_bar = _has_bar(console)
        self.started = self.ended = time.monotonic()
        self.first_done: int | None = None
        self.costs = [Cost.of(trial) for trial in known]
        self.forecast: Forecast | None = None
        self.progress = self._seating = _SeatProgress(
            SpinnerColumn(),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not self.has_bar,
        )
        self.bar = self.progress.add_task("search", total=budget.trials, status="starting")
        self.listening = listening(self._show_activity)

    def _show_activity(self, text: str) -> None:
        self.progress.update(self.bar, status=text)

    def show(self, event: Event) -> None:
        """Take in one event."""
        if self.first_done is None:
            self.first_done = event.done
        status = self._status(event)
        self._seating.seats = event.seats
        self.progress.update(self.bar, completed=event.done, status=status)
        if event.kind in ("exhausted", "left", "note"):
            self.console.print(event.message, markup=False)
        elif event.trial is not None and (event.trial.state == "failed" or not self.has_bar):
            self.console.print(_line(event.trial, event.done, self.budget.trials), markup=False)

    def _status(self, event: Event) -> str:
        parts = [f"front {len(event.front)}"]
        if event.front:
            parts.append(_best(event.front))
        left = self._forecast(event)
        if left is not None:
            parts.append(f"about {left} left")
        if event.seats:
            minutes = (time.monotonic() - self.started) / 60
            parts.append(f"{(event.done - (self.first_done or 0)) / minutes:.1f} trials/min")
        elif event.kind in ("begin", "train", "again", "report", "timing"):
            parts.append(event.message)
        return " | ".join(parts)

    def _forecast(self, event: Event) -> str | None:
        """How long it may still take; None before anything tells, and when that time is over."""
        now = time.monotonic()
        if event.trial is not None:
            self.costs.append(Cost.of(event.trial, now - self.ended))
            self.ended = now
        if event.trial is not None or (self.forecast is None and self.costs):
            self.forecast = self._forecast_rest(event, now)
        if self.forecast is None:
            return None
        left = self.forecast.after(now - self.ended)
        return left.describe() if left.high > 0 else None

    def _forecast_rest(self, event: Event, now: float) -> Forecast | None:
        timeout_s, elapsed = self.budget.timeout_s, now - self.started
        return forecast_rest(
            self.costs,
            self.budget.trials,
            front=len(event.front),
            timeout_left_s=None if timeout_s is None else timeout_s - elapsed,
            may_train=self.may_train,
        )


class TrainingShow(_Show, TrainingWatch):
    """Shows how one recipe is built, and trained if it is: a bar of steps, or a line an epoch.

    Args:
        console: where; None shows nothing.
        text: what is done, in words.
    """

    def __init__(self, console: Console | None, text: str) -> None:
        self.console = console or Console(quiet=True)
        self.has_bar = console is not None and _has_bar(console)
        self.progress = Progress(
            SpinnerColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            console=self.console,
            disable=not self.has_bar,
            transient=True,
        )
        self.bar = self.progress.add_task(text, total=None)
        self.said_at = time.monotonic()
        self.listening = listening(self._show_activity)

    def _show_activity(self, text: str) -> None:
        self.progress.update(self.bar, description=text)
        if not self.has_bar and time.monotonic() - self.said_at > _SILENCE_S:
            self.console.print(text, markup=False)
            self.said_at = time.monotonic()

    def on_step(self, progress: TrainingProgress) -> None:
        """Move the bar."""
        text = f"training: {progress.describe()}"
        if progress.step == progress.steps:
            text = "measuring"
        self.progress.update(
            self.bar, completed=progress.step, total=progress.steps, description=text
        )

    def on_epoch(self, progress: TrainingProgress, predict: Predict) -> None:
        """A line, where there is no bar."""
        if not self.has_bar:
            self.console.print(f"training: {progress.describe()}", markup=False)

    def on_note(self, text: str) -> None:
        """A line."""
        self.console.print(text, markup=False)


def _tabulate_seats(seats: Sequence[Seat]) -> Table:
    table = Table("worker", "node", "doing", "for", box=None, pad_edge=False)
    for seat in seats:
        table.add_row(seat.name, seat.node, seat.doing, f"{seat.seconds:.0f} s")
    return table


def _has_bar(console: Console) -> bool:
    """Whether a bar can be redrawn; in a notebook that takes widgets, without them rich warns."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)


def _best(front: tuple[Trial, ...]) -> str:
    """The end of the front that people ask for first: the smallest near float accuracy."""
    near = [trial for trial in front if (trial.accuracy_drop or 0.0) <= 0.01] or list(front)
    best = min(near, key=lambda trial: trial.size_bytes or 0)
    drop, size = (best.accuracy_drop or 0.0) * 100, (best.size_bytes or 0) / 1e6
    return f"best {size:.3f} MB at {drop:+.2f} points"


def _line(trial: Trial, done: int, total: int) -> str:
    if trial.state == "failed":
        return f"[{done}/{total}] trial {trial.number} failed: {trial.error}"
    if trial.partial is not None:
        seen = f"after {trial.partial.samples} of {trial.partial.of_samples} samples"
        recipe = trial_row(trial)[1]
        return f"[{done}/{total}] {recipe}: rejected {seen}: {trial.partial.reason}"
    _, recipe, accuracy, drop, _, _, _, size, *_ = trial_row(trial)
    return f"[{done}/{total}] {recipe}: {accuracy} (drop {drop}), {describe_ratios(trial)}, {size}"
