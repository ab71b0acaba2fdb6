"""What a study needs of an evaluator, and what it tells those who watch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from autoquant.core.artifact import Artifact, Builder
from autoquant.core.fingerprint import Fingerprint
from autoquant.core.gate import Gate
from autoquant.core.recipe import Recipe
from autoquant.core.training import TrainingProgress, TrainingWatch
from autoquant.core.trial import LatencyFigures, Measurement, ReportFigures, Trial
from autoquant.errors import AutoquantError

__all__ = ["Evaluates", "Event", "EventKind", "Seat", "TellingWatch", "describe_error"]

EventKind = Literal[
    "begin", "train", "end", "again", "timing", "left", "report", "note", "exhausted", "wait"
]


class Evaluates(Protocol):
    """What a study needs of an evaluator."""

    @property
    def fingerprint(self) -> Fingerprint:
        """The machine and the versions that it measures with."""
        ...

    def fingerprint_on(self, target: str | None) -> Fingerprint:
        """The same of what files are timed on for a target; None where the study names none."""
        ...

    @property
    def builder(self) -> Builder:
        """Makes artifacts."""
        ...

    def evaluate(
        self, recipe: Recipe, gate: Gate | None = None, watch: TrainingWatch | None = None
    ) -> tuple[Measurement, Artifact]:
        """Measure one recipe; raises `Rejection` if it cannot get past the gate."""
        ...

    def rebuild(self, recipe: Recipe) -> Artifact:
        """A recipe's file without figures."""
        ...

    def time_together(
        self, artifacts: Mapping[str, Artifact], session: str
    ) -> Mapping[str, LatencyFigures]:
        """Time files in turns, by digest."""
        ...

    def report(self, artifact: Artifact) -> ReportFigures | None:
        """Accuracy on the report split."""
        ...

    @property
    def has_report(self) -> bool:
        """Whether there is a report split."""
        ...


@dataclass(frozen=True)
class Seat:
    """One worker, for whoever shows progress.

    Attributes:
        name: of the worker.
        node: where it is; empty while that is not decided.
        doing: what it is busy with, in words.
        seconds: for how long.
    """

    name: str
    node: str
    doing: str
    seconds: float


@dataclass(frozen=True)
class Event:
    """Something happened, for whoever shows progress.

    Attributes:
        kind: `begin` and `end` of a trial, `train` while it is trained, a rejected one looked
            at `again`, `timing` of the front, `left` by a member, `report` of a member, a `note`
            on what went wrong or is not as usual, `exhausted` space, `wait` while trials run
            elsewhere.
        done: finished trials so far.
        trial: the trial, at its end.
        front: the front so far.
        message: what is being done, in words.
        seats: what each worker does, where there are several.
    """

    kind: EventKind
    done: int
    front: tuple[Trial, ...]
    trial: Trial | None = None
    message: str = ""
    seats: tuple[Seat, ...] = ()


def describe_error(error: Exception) -> str:
    """Why something failed, in one line; errors that are not ours with their class."""
    text = str(error) if isinstance(error, AutoquantError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


class TellingWatch(TrainingWatch):
    """Makes events of what a training run does.

    Args:
        emit: called with a kind of event and what is done, in words.
    """

    def __init__(self, emit: Callable[[EventKind, str], None]) -> None:
        self._emit = emit

    def on_step(self, progress: TrainingProgress) -> None:
        """Tell how far it is."""
        self._emit("train", progress.describe())

    def on_note(self, text: str) -> None:
        """Tell what is not as usual."""
        self._emit("note", text)
