"""`Executor`: where the trials of a study are evaluated, one in this process or many elsewhere."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from autoquant.core.artifact import Artifact
from autoquant.core.fingerprint import Fingerprint
from autoquant.core.gate import Gate
from autoquant.core.recipe import Recipe
from autoquant.core.training import TrainingWatch
from autoquant.core.trial import Measurement, Trial, TrialState
from autoquant.errors import Rejection
from autoquant.search.event import Evaluates, Seat, describe_error
from autoquant.search.trial_log import TrialLogs

__all__ = ["Executor", "Job", "Outcome", "SerialExecutor", "evaluate_job", "waste"]


@dataclass(frozen=True)
class Job:
    """What is to be evaluated.

    Attributes:
        number: of the trial in the study's storage; negative for one that is looked at again.
        recipe: what to build.
        gate: what the candidate must get past; None measures it in full.
        reference: the float model's trial, once there is one.
    """

    number: int
    recipe: Recipe
    gate: Gate | None = None
    reference: Trial | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Attributes:
        state: of the trial.
        measurement: what was seen; empty of a failed trial.
        artifact: the file; a rejected trial has one if there was one already.
        error: why it failed, in one line.
        node: where it was built and judged, if that is known by a name.
        probe: where it was timed, likewise.
        fingerprints: what its figures were measured on, where that may be another machine than
            the evaluator's.
        log: what was said on the way, and where it failed; kept beside the study.
    """

    state: TrialState
    measurement: Measurement
    artifact: Artifact | None = None
    error: str | None = None
    node: str | None = None
    probe: str | None = None
    fingerprints: tuple[Fingerprint, ...] = field(default=(), repr=False)
    log: str = field(default="", repr=False)


class Executor(Protocol):
    """Evaluates jobs; some of them at the same time."""

    @property
    def is_remote(self) -> bool:
        """Whether jobs run in other processes, and so while this one waits."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether one more job would be begun at once."""
        ...

    def submit(self, job: Job) -> None:
        """Take a job; only while there is room."""
        ...

    def take(self, timeout_s: float | None = None) -> tuple[Job, Outcome] | None:
        """Wait for a job that is finished.

        Args:
            timeout_s: longest wait, in seconds.

        Returns:
            The job and what came of it; None if none was finished in that time.
        """
        ...

    def listen(self, on_note: Callable[[str], None]) -> None:
        """Say what is not as usual to this listener, in words."""
        ...

    def seats(self) -> list[Seat]:
        """What each worker does; empty where this process does it all."""
        ...


class SerialExecutor:
    """One job at a time, in this process.

    Args:
        evaluator: measures recipes.
        find_watch: who is told how a recipe is trained.
        logs: where it is kept how trials failed.
    """

    def __init__(
        self,
        evaluator: Evaluates,
        find_watch: Callable[[], TrainingWatch],
        logs: TrialLogs | None = None,
    ) -> None:
        self.evaluator = evaluator
        self._find_watch = find_watch
        self._logs = logs
        self._job: Job | None = None

    @property
    def is_remote(self) -> bool:
        """They run in this one."""
        return False

    @property
    def has_room(self) -> bool:
        """Whether nothing waits."""
        return self._job is None

    def submit(self, job: Job) -> None:
        """Keep it until somebody takes what comes of it."""
        self._job = job

    def take(self, timeout_s: float | None = None) -> tuple[Job, Outcome] | None:
        """Evaluate the job that waits, however long that takes."""
        job, self._job = self._job, None
        if job is None:
            return None
        outcome = evaluate_job(self.evaluator, job, self._find_watch())
        if self._logs is not None:
            self._logs.keep(job.number, outcome.log)
        return job, outcome

    def listen(self, on_note: Callable[[str], None]) -> None:
        """Nothing is ever said."""

    def seats(self) -> list[Seat]:
        """None."""
        return []


def waste(recipe: Recipe, seconds: float) -> dict[str, float]:
    """Seconds by stage of a trial that failed: what a training takes is nearly all of it."""
    return {"train" if recipe.is_trained else "failed": round(seconds, 3)}


def evaluate_job(
    evaluator: Evaluates, job: Job, watch: TrainingWatch, *, node: str | None = None
) -> Outcome:
    """What comes of a job, whatever its evaluation raises.

    Args:
        evaluator: measures recipes.
        job: what to evaluate.
        watch: told how the recipe is trained, if it is.
        node: name of the place where this runs.
    """
    start = time.perf_counter()

    def find_wasted() -> dict[str, float]:
        """What it cost though nothing came of it; that counts towards the share of the time."""
        return waste(job.recipe, time.perf_counter() - start)

    try:
        measurement, artifact = evaluator.evaluate(job.recipe, job.gate, watch)
    except Rejection as rejection:
        seen: Measurement = rejection.measurement
        whole = seen.model_copy(update={"seconds": seen.seconds or find_wasted()})
        return Outcome("rejected", whole, rejection.artifact, node=node)
    except Exception as error:  # a backend may raise anything: this trial fails, no other
        nothing = Measurement(seconds=find_wasted())
        trail = traceback.format_exc()
        return Outcome("failed", nothing, error=describe_error(error), node=node, log=trail)
    return Outcome("complete", measurement, artifact, node=node)
