"""`Study`: ask, evaluate, tell, until the budget is spent."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from autoquant.core.artifact import Artifact, Builder
from autoquant.core.front import find_front
from autoquant.core.gate import Gate, Glimpse
from autoquant.core.pareto import Bounds
from autoquant.core.recipe import Recipe
from autoquant.core.space import SearchSpace, baselines
from autoquant.core.trial import LatencyFigures, Measurement, ReportFigures, Trial
from autoquant.errors import AutoquantError, Rejection, SpaceError
from autoquant.search.record import Asked, Record
from autoquant.search.sampler import SamplerName, build_sampler

__all__ = ["Budget", "Evaluates", "Event", "Keep", "Study"]

Keep = Literal["front", "all"]
EventKind = Literal["begin", "end", "again", "timing", "left", "report", "exhausted"]

_MAX_TIMING_ROUNDS = 3


class Evaluates(Protocol):
    """What a study needs of an evaluator."""

    @property
    def builder(self) -> Builder:
        """Makes artifacts."""
        ...

    def evaluate(self, recipe: Recipe, gate: Gate | None = None) -> tuple[Measurement, Artifact]:
        """Measure one recipe; raises `Rejection` if it cannot get past the gate."""
        ...

    def time_together(
        self, artifacts: Mapping[str, Artifact], session: str
    ) -> Mapping[str, LatencyFigures]:
        """Time files in turns, by digest."""
        ...

    def report(self, artifact: Artifact) -> ReportFigures | None:
        """Accuracy on the report split."""
        ...


@dataclass(frozen=True)
class Budget:
    """When to stop.

    Attributes:
        trials: finished trials, baselines and failures included.
        timeout_s: seconds from the start of `run`, or None. The trial that runs then ends.
    """

    trials: int
    timeout_s: float | None = None


@dataclass(frozen=True)
class Event:
    """Something happened, for whoever shows progress.

    Attributes:
        kind: `begin` and `end` of a trial, a rejected one looked at `again`, `timing` of the
            front, `left` by a member, `report` of a member, `exhausted` space.
        done: finished trials so far.
        trial: the trial, at its end.
        front: the front so far.
        message: what is being done, in words.
    """

    kind: EventKind
    done: int
    front: tuple[Trial, ...]
    trial: Trial | None = None
    message: str = ""


class Study:
    """One search.

    Args:
        record: where trials are written.
        space: the recipes allowed.
        evaluator: measures recipes.
        artifacts: folder for the files of front members.
        keep: `front` keeps files of front members alone, `all` every one.
        bounds: constraints; only trials within can be members of the front.
        reject_early: stop evaluating candidates that certainly cannot enter the front.
        on_event: called as the search goes on.
    """

    def __init__(
        self,
        record: Record,
        space: SearchSpace,
        evaluator: Evaluates,
        artifacts: Path,
        *,
        keep: Keep = "front",
        bounds: Bounds | None = None,
        reject_early: bool = True,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.record = record
        self.space = space
        self.evaluator = evaluator
        self.artifacts = artifacts
        self.keep = keep
        self.bounds = bounds or record.header.bounds
        self.reject_early = reject_early
        self.on_event = on_event or (lambda event: None)
        self._trials: list[Trial] = []
        self._seen: frozenset[str] = frozenset()
        self._front: list[Trial] = []

    def run(self, budget: Budget, sampler: SamplerName) -> list[Trial]:
        """Search until the budget is spent; returns the front, its report figures read.

        Whatever is finished stays in the record, also when this is interrupted.
        """
        deadline = time.monotonic() + (budget.timeout_s or float("inf"))
        self.record.recover()
        self._trials = self.record.trials()
        self._seen = frozenset(trial.digest for trial in self._trials)
        self._front = self._find_front()
        self._use_sampler(sampler)
        self._enqueue_baselines()
        while len(self._seen) < budget.trials and time.monotonic() < deadline:
            asked = self._ask()
            if asked is None:
                self._emit("exhausted", "every recipe of the space has been evaluated")
                break
            self._emit("begin", asked.name or asked.recipe.digest)
            trial = self._evaluate(asked)
            self._emit("end", trial=trial)
        return self.close()

    def close(self) -> list[Trial]:
        """Make sure that the front is whole: timed together, files kept, report split read."""
        self._reload()
        self._settle_front()
        for trial in self._front:
            if trial.report_accuracy is None:
                self._emit("report", f"reading the report split for trial {trial.number}")
                figures = self.evaluator.report(self.artifact(trial))
                if figures is not None:
                    self.record.add_report(trial.digest, figures)
        self._reload()
        for trial in self._front:
            self._write(trial.digest, self.artifact(trial).content)
        self._sweep()
        return self._front

    def _reload(self) -> None:
        self._trials = self.record.trials()
        self._front = self._find_front()

    def _find_front(self) -> list[Trial]:
        return find_front(self._trials, self.record.header.objectives, self.bounds)

    def _settle_front(self) -> None:
        """Second looks and common timings; who falls off lets others in, so again."""
        for _ in range(_MAX_TIMING_ROUNDS):
            self._look_again()
            if _are_timed_together(self._front) or not self._time_front():
                return

    def _look_again(self) -> None:
        """Evaluate in full who was turned away by members that are none any more."""
        tried: set[str] = set()
        while (trial := self._find_hopeful(tried)) is not None:
            tried.add(trial.digest)
            self._emit("again", f"trial {trial.number} is no longer dominated: evaluating it")
            with suppress(AutoquantError):  # it stays rejected, with the reason that it had
                measurement, _ = self.evaluator.evaluate(trial.recipe)
                seconds = Counter(trial.seconds) + Counter(measurement.seconds)
                both = measurement.model_copy(update={"seconds": dict(seconds)})
                self.record.add_reprieve(trial.digest, both)
                self._reload()

    def _find_hopeful(self, tried: Collection[str]) -> Trial | None:
        """A rejected trial that the gate would let pass now."""
        gate = self._gate()
        reference = next((trial for trial in self._trials if trial.name == "fp32"), None)
        if gate is None or reference is None:
            return None
        for trial in self._trials:
            if trial.state == "rejected" and trial.digest not in tried:
                glimpse = Glimpse.of(trial, reference)
                if glimpse is not None and gate.find_reason(glimpse) is None:
                    return trial
        return None

    def _time_front(self) -> bool:
        """Time the members in turns with each other; False where no latency is measured."""
        members = self._front
        self._emit("timing", f"timing the {len(members)} members of the front in turns")
        artifacts = {trial.digest: self.artifact(trial) for trial in members}
        session = f"front of {len(self._trials)} trials, {time.time_ns():x}"
        figures = self.evaluator.time_together(artifacts, session)
        if not figures:
            return False
        self.record.add_latency(figures)
        self._reload()
        self._note_departures(members)
        return True

    def _note_departures(self, before: Sequence[Trial]) -> None:
        now = {trial.digest for trial in self._front}
        reasons = {
            trial.digest: None
            if trial.digest in now
            else "another member dominates it when all of them are timed in turns"
            for trial in before
        }
        self.record.add_departures(reasons)
        for trial in before:
            if reasons[trial.digest] is not None:
                self._emit("left", f"trial {trial.number} left the front: {reasons[trial.digest]}")
        self._reload()

    def artifact(self, trial: Trial) -> Artifact:
        """A trial's file, rebuilt from its recipe, its figures in the passport."""
        rebuilt = self.evaluator.builder.build(trial.recipe).artifact
        return self._seal(rebuilt, trial)

    def _seal(self, artifact: Artifact, trial: Trial) -> Artifact:
        figures = trial.measurement().model_dump(mode="json")
        return self.evaluator.builder.seal(artifact, figures)

    def _use_sampler(self, name: SamplerName) -> None:
        # A resumed study goes on with other random numbers than it began with.
        seed = self.record.header.seed + len(self._seen)
        self.record.study.sampler = build_sampler(name, self.space, lambda: self._seen, seed)

    def _enqueue_baselines(self) -> None:
        queued = self.record.waiting_digests() | self._seen
        named = baselines(list(self.space.layers), reduce_range=self.space.reduces_range)
        for name, recipe in named.items():
            if recipe.digest not in queued:
                self.record.enqueue(recipe, self._parameters_of(recipe), name)

    def _parameters_of(self, recipe: Recipe) -> dict[str, str] | None:
        try:
            return self.space.encode(recipe)
        except SpaceError:
            return None

    def _ask(self) -> Asked | None:
        """The next trial; None when there is nothing new to propose."""
        while True:
            asked = self.record.ask(self.space)
            if asked.recipe.digest not in self._seen:
                return asked
            self.record.discard(asked.number)
            if not asked.is_queued:
                return None

    def _evaluate(self, asked: Asked) -> Trial:
        common = {
            "number": asked.number,
            "digest": asked.recipe.digest,
            "recipe": asked.recipe,
            "name": asked.name,
            "seed": self.record.header.seed,
        }
        gate = None if asked.name is not None else self._gate()
        try:
            measurement, artifact = self.evaluator.evaluate(asked.recipe, gate)
        except Rejection as rejection:
            seen = rejection.measurement.model_dump()
            evidence = rejection.measurement.evidence
            trial = Trial(**common, state="rejected", **seen, evidence=evidence)
            self._trials.append(trial)
        except AutoquantError as error:
            trial = Trial(**common, state="failed", error=str(error))
        except (RuntimeError, ValueError, ArithmeticError, MemoryError, OSError) as error:
            trial = Trial(**common, state="failed", error=f"{type(error).__name__}: {error}")
        else:
            figures = {**measurement.model_dump(), "evidence": measurement.evidence}
            trial = Trial(**common, state="complete", **figures)
            self._keep(trial, artifact)
        self.record.finish(asked, trial, self._violations(trial))
        self._seen |= {trial.digest}
        return trial

    def _gate(self) -> Gate | None:
        if not self.reject_early:
            return None
        return Gate(self._front, self.record.header.objectives, self.bounds)

    def _violations(self, trial: Trial) -> dict[str, float]:
        """How far a trial exceeds the allowed drop; the other bounds filter afterwards."""
        drop = (trial.partial or trial).accuracy_drop
        if self.bounds.max_drop is None or drop is None:
            return {}
        return {"max_accuracy_drop": drop - self.bounds.max_drop}

    def _keep(self, trial: Trial, artifact: Artifact) -> None:
        self._trials.append(trial)
        self._front = self._find_front()
        if self.keep == "all" or any(member.digest == trial.digest for member in self._front):
            self._write(trial.digest, artifact.content)
        self._sweep()

    def _path(self, digest: str) -> Path:
        return self.artifacts / f"{digest}.onnx"

    def _write(self, digest: str, content: bytes) -> None:
        """Write beside the target and rename, so that no reader ever sees half a file."""
        with tempfile.NamedTemporaryFile(dir=self.artifacts, delete=False) as file:
            file.write(content)
        Path(file.name).replace(self._path(digest))

    def _sweep(self) -> None:
        if self.keep == "all":
            return
        wanted = {trial.digest for trial in self._front}
        for path in self.artifacts.glob("*.onnx"):
            if path.stem not in wanted:
                with suppress(FileNotFoundError):
                    path.unlink()

    def _emit(
        self,
        kind: EventKind,
        message: str = "",
        trial: Trial | None = None,
    ) -> None:
        event = Event(kind, len(self._seen), tuple(self._front), trial, message)
        self.on_event(event)


def _are_timed_together(members: Sequence[Trial]) -> bool:
    sessions = {trial.timing_session for trial in members}
    return len(sessions) <= 1 and None not in sessions
