"""`Study`: ask, evaluate, tell, until the budget is spent."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from autoquant.core.artifact import Artifact
from autoquant.core.gate import Gate
from autoquant.core.objective import kinds_of
from autoquant.core.pareto import Bounds
from autoquant.core.recipe import Recipe
from autoquant.core.sensitivity import Sensitivity
from autoquant.core.space import SearchSpace, baselines
from autoquant.core.training import TrainingWatch
from autoquant.core.trial import Trial
from autoquant.errors import NegativeAnswer, SpaceError
from autoquant.search.closing import Closing
from autoquant.search.company import Company
from autoquant.search.deadline import Deadline
from autoquant.search.event import Evaluates, Event, EventKind, TellingWatch
from autoquant.search.executor import Executor, Job, Outcome, SerialExecutor
from autoquant.search.giving_up import explain_failures
from autoquant.search.membership import Membership
from autoquant.search.prior import Knowledge
from autoquant.search.promotion import find_promising, has_time_to_train, hoped_bounds
from autoquant.search.recall import keep_knowledge
from autoquant.search.record import Asked, Record
from autoquant.search.sampler import SamplerName, build_sampler
from autoquant.search.shelf import Shelf
from autoquant.search.standing import Standing
from autoquant.search.trial_log import TrialLogs

__all__ = ["Budget", "Evaluates", "Event", "Keep", "Study"]

Keep = Literal["front", "all"]

_PATIENCE_S = 0.5  # between two looks at what else happens
_EXHAUSTED = "every recipe of the space has been evaluated"
_UNPROMISING = (
    "every recipe has been evaluated without training, and every one trained whose training may "
    "pay, as far as there was time"
)
_STARTUP = 12  # untrained trials before the first training, or a third of a small budget


@dataclass(frozen=True)
class Budget:
    """When to stop.

    Attributes:
        trials: finished trials, baselines and failures included.
        timeout_s: seconds from the start of `run` in which the front is to be found and made
            whole, or None.
    """

    trials: int
    timeout_s: float | None = None


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
        is_exact: the processor adds 8-bit products without saturating; see `baselines`.
        on_event: called as the search goes on.
        sensitivity: what was measured of single layers, for samplers that use it.
        executor: where trials are evaluated; in this process, one by one, if left out.
        membership: this process among those that run the study; the only one if left out.
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
        is_exact: bool = True,
        on_event: Callable[[Event], None] | None = None,
        sensitivity: Sensitivity | None = None,
        executor: Executor | None = None,
        membership: Membership | None = None,
    ) -> None:
        self.sensitivity = sensitivity
        self.record = record
        self.space = space
        self.evaluator = evaluator
        self.artifacts = artifacts
        self.keep = keep
        self.bounds = bounds or record.header.bounds
        self.reject_early = reject_early
        self.is_exact = is_exact
        self.on_event = on_event or (lambda event: None)
        self._standing = Standing(record, self.bounds)
        self._company = Company(membership or Membership(), record, self._standing, self._emit)
        # trained recipes are promoted from others, not proposed by the sampler
        self._proposed = space.untrained
        logs = TrialLogs(artifacts.parent / "logs")
        self.executor: Executor = executor or SerialExecutor(evaluator, lambda: self._watch, logs)
        self.executor.listen(lambda text: self._emit("note", text))
        self.is_stopping = self._is_stop_told = False
        self._deadline = Deadline()
        self._exhausted_after: int | None = None  # trials that had been queued again by then
        self._is_walked = False  # every untrained recipe is decided
        self._running: dict[int, Asked] = {}
        self._mine: list[Trial] = []  # that this process has finished
        self._before: frozenset[int] = frozenset()  # trials that were finished when it began

    @property
    def leads(self) -> bool:
        """Whether this process leads the study, where several run it."""
        return self._company.leads

    def agree(self, budget: Budget) -> Budget:
        """The budget of whoever leads the study, but for the time, which everyone has alone."""
        goal = self._company.agree(budget.trials)
        return Budget(goal, budget.timeout_s)

    def run(self, budget: Budget, sampler: SamplerName) -> list[Trial]:
        """Search until the budget is spent; returns the front, its report figures read.

        Whatever is finished stays in the record, also when this is interrupted.

        Raises:
            NegativeAnswer: everything that was proposed fails; says why.
        """
        self._deadline = Deadline(budget.timeout_s)
        self._begin(sampler)
        self._enqueue_baselines()
        self._exhausted_after, self._is_walked = None, False
        while True:
            self._company.tend()
            if self._may_begin(budget) and self._begin_next(budget):
                continue
            if self._running:
                self._announce_stop()
                self._take()
            elif self.is_stopping or self._company.is_done():
                break
        if self.is_stopping:
            raise KeyboardInterrupt
        if self._is_exhausted:
            self._emit("exhausted", _UNPROMISING if self.space.is_mixed else _EXHAUSTED)
        return self._conclude()

    def stop(self) -> None:
        """Begin no further trial; `run` ends, interrupted, when those that run are finished."""
        self.is_stopping = True

    def _announce_stop(self) -> None:
        if self.is_stopping and not self._is_stop_told:
            self._is_stop_told = True
            count = len(self._running)
            self._emit("note", f"stopping when the {count} running trials are finished; again: now")

    def _may_begin(self, budget: Budget) -> bool:
        return (
            not (self._is_exhausted or self.is_stopping or self._company.is_closing)
            and self._has_room(budget)
            and self.executor.has_room
            and self._left_for_trials() > 0
            # before a search is given up, what runs elsewhere may show that it need not be
            and not (self._running and explain_failures(self._mine))
        )

    def _left_for_trials(self) -> float:
        return self._deadline.left_for_trials(
            self._trials, self._front, has_report=self.evaluator.has_report
        )

    @property
    def _is_exhausted(self) -> bool:
        """Whether there is no recipe left, and none has come back since."""
        return self._exhausted_after == self._company.queued_again

    def _has_room(self, budget: Budget) -> bool:
        return self._standing.taken + len(self._running) < budget.trials

    @property
    def _trials(self) -> list[Trial]:
        return self._standing.trials

    @property
    def _front(self) -> list[Trial]:
        return self._standing.front

    @property
    def _decided(self) -> frozenset[str]:
        """Digests of what is finished or runs."""
        decided = self._standing.decided
        if not self._running:
            return decided
        return decided | {asked.recipe.digest for asked in self._running.values()}

    def _begin_next(self, budget: Budget) -> bool:
        """Begin a trial, as far as others have left any; no two processes do so at once."""
        self._give_up_if_all_fail()
        with self.record.together():
            if not (self._company.look() and self._has_room(budget)):
                return False
            left_s = self._left_for_trials()
            if left_s <= 0:  # others may have held the record for long
                return False
            asked = self._ask_next(budget, left_s)
        if asked is None:
            if not (self.space.is_mixed and self._running):  # they may earn their training
                self._exhausted_after = self._company.queued_again
            return False
        self._emit("begin", asked.name or asked.recipe.digest)
        self._submit(asked)
        return True

    def _ask_next(self, budget: Budget, left_s: float) -> Asked | None:
        """The next trial: a training that has been earned, or what the sampler proposes."""
        self._promote(budget, left_s)
        asked = None
        if not self._is_walked or self.record.waiting_digests():
            asked = self._ask()
        if asked is None and not self._is_walked:
            self._is_walked = True  # nothing is left but to train
            self._promote(budget, left_s)
            asked = self._ask() if self.record.waiting_digests() else None
        return asked

    @property
    def _is_training(self) -> bool:
        return any(asked.recipe.is_trained for asked in self._running.values())

    def _submit(self, asked: Asked) -> None:
        gate = None if asked.name is not None else self._gate(asked.recipe)
        reference = next((trial for trial in self._trials if trial.name == "fp32"), None)
        self._running[asked.number] = asked
        self.executor.submit(Job(asked.number, asked.recipe, gate, reference))

    def _take(self) -> None:
        """Wait a moment for a trial to be finished, and write it down."""
        taken = self.executor.take(_PATIENCE_S)
        if taken is None:
            self._emit("wait")
            return
        job, outcome = taken
        trial = self._finish(self._running.pop(job.number), outcome)
        if trial is not None:
            self._emit("end", trial=trial)

    def _begin(self, sampler: SamplerName) -> None:
        self._company.begin()
        self._standing.load()
        self._mine = []
        self._before = frozenset(trial.number for trial in self._trials)
        self._register_machine()
        self._use_sampler(sampler)

    def _conclude(self) -> list[Trial]:
        """Close the study, or leave that to whoever leads it."""
        if self._company.leads:
            return self.close()
        self._company.say_who_closes()
        return self._front

    def close(self) -> list[Trial]:
        """Make sure that the front is whole: timed together, files kept, report split read.

        What fails for a member is noted in words; the others, and the search, stand.
        """

        def tell(kind: EventKind, message: str, front: Sequence[Trial]) -> None:
            self._standing.front = list(front)
            self._emit(kind, message)

        closing = Closing(
            self.record, self.evaluator, self._shelf, self.bounds,
            reject_early=self.reject_early, tell=tell, deadline=self._deadline,
        )  # fmt: skip
        closing.run()
        self._standing.replace(closing.trials, closing.front)
        return self._front

    @cached_property
    def _shelf(self) -> Shelf:
        return Shelf(self.artifacts, keeps_all=self.keep == "all")

    def _register_machine(self) -> None:
        change = self.record.describe_moves(self._trials, self.evaluator.fingerprint_on)
        for target in self.record.header.targets or (None,):
            self.record.add_fingerprint(self.evaluator.fingerprint_on(target))
        if change is not None:
            where = "this one" if self._company.leads else "the leading driver's"
            self._emit(
                "note",
                f"trials of this study were measured on another machine ({change}): the front "
                f"is timed on {where} at the end",
            )

    def _use_sampler(self, name: SamplerName) -> None:
        # A resumed study goes on with other random numbers than it began with.
        seed = self.record.header.seed + len(self._standing.seen) + self._company.seed
        knowledge = Knowledge(
            self.evaluator.builder.layers,
            self.sensitivity,
            kinds_of(self.record.header.objectives),
            self.bounds,
        )
        if self._company.leads:
            keep_knowledge(self.record.study, knowledge)
        self.record.study.sampler = build_sampler(
            name,
            self._proposed,
            lambda: self._decided,
            seed,
            knowledge,
            lambda text: self._emit("note", text),
        )

    def _enqueue_baselines(self) -> None:
        named = baselines(
            list(self.space.layers),
            reduce_range=self.space.reduces_range,
            is_exact=self.is_exact,
            backend=self.record.header.backend,
        )
        with self.record.together(is_durable=True):
            self._standing.look()
            known = self._decided
            if not self._company.leads and named["fp32"].digest in known:
                return  # another machine may have others
            for name, recipe in named.items():
                if recipe.digest not in known:
                    self.record.enqueue(recipe, self._parameters_of(recipe), name)

    def _parameters_of(self, recipe: Recipe) -> dict[str, str] | None:
        try:
            return self._proposed.encode(recipe)
        except SpaceError:
            return None

    def _promote(self, budget: Budget, seconds_left: float) -> None:
        """Queue the training of a recipe that has earned it, if there is time for one."""
        if not self.space.is_mixed or self.record.waiting_digests():
            return
        untrained = [trial for trial in self._trials if not trial.recipe.is_trained]
        if len(untrained) < min(_STARTUP, budget.trials // 3) and not self._is_walked:
            return
        if self._is_training:
            return  # what it costs is not known yet
        if not has_time_to_train(
            self._trials, budget.timeout_s, seconds_left, self._before, is_all=self._is_walked
        ):
            return
        objectives = self.record.header.objectives
        for trial in find_promising(self._trials, objectives, self.bounds):
            if self._parameters_of(trial.recipe) is None:
                continue  # a baseline that is not of the space
            for twin in self.space.trained_twins(trial.recipe):
                if twin.digest not in self._decided:
                    self.record.enqueue(twin, None)
                    return

    def _give_up_if_all_fail(self) -> None:
        reason = explain_failures(self._mine)
        if reason is not None:
            self._mine = []
            while not (self.is_stopping or self._company.is_done()):
                self._company.tend()
            self._conclude()
            raise NegativeAnswer(reason)

    def _ask(self) -> Asked | None:
        """The next trial; None when there is nothing new to propose."""
        while True:
            asked = self.record.ask(self._proposed)
            self._standing.claim(asked.number)
            if asked.recipe.digest not in self._decided:
                return asked
            self.record.discard(asked.number)
            if not asked.is_queued:
                return None

    def _finish(self, asked: Asked, outcome: Outcome) -> Trial | None:
        """Write down what came of a trial; its file is kept if it is on the front.

        None if this process was taken for dead, and another one tries that recipe now.
        """
        figures = outcome.measurement.model_dump()
        trial = Trial(
            **{**figures, "evidence": outcome.measurement.evidence},
            number=asked.number,
            digest=asked.recipe.digest,
            recipe=asked.recipe,
            name=asked.name,
            seed=self.record.header.seed,
            state=outcome.state,
            error=outcome.error,
            node=outcome.node,
            probe=outcome.probe,
        )
        for fingerprint in outcome.fingerprints:
            self.record.add_fingerprint(fingerprint)
        self._standing.add(trial)
        self._mine.append(trial)
        if outcome.state == "complete" and outcome.artifact is not None:
            self._keep(trial, outcome.artifact)
        if self.record.finish(asked, trial, self._violations(trial)):
            return trial
        self._standing.drop(trial)
        self._emit("note", f"trial {trial.number} does not count: it was given to another process")
        return None

    def _gate(self, recipe: Recipe) -> Gate | None:
        if not self.reject_early:
            return None
        scout = self._find_scout(recipe) if recipe.is_trained else None
        may_gain = self.space.is_mixed and not recipe.is_trained  # once it is trained itself
        bounds = hoped_bounds(self.bounds) if may_gain else self.bounds
        return Gate(self._front, self.record.header.objectives, bounds, scout)

    def _find_scout(self, recipe: Recipe) -> Trial | None:
        """The trial of the same recipe without training."""
        digest = recipe.trained(None).digest
        return next((trial for trial in self._trials if trial.digest == digest), None)

    @property
    def _watch(self) -> TrainingWatch:
        return TellingWatch(self._emit)

    def _violations(self, trial: Trial) -> dict[str, float]:
        """How far a trial exceeds the allowed drop; the other bounds filter afterwards."""
        drop = (trial.partial or trial).accuracy_drop
        if self.bounds.max_drop is None or drop is None:
            return {}
        return {"max_accuracy_drop": drop - self.bounds.max_drop}

    def _keep(self, trial: Trial, artifact: Artifact) -> None:
        if self._company.leads and self._standing.elsewhere:
            self._standing.look()  # what others have put there is not to be swept away
        wanted = {member.digest for member in self._front}
        if self.keep == "all" or trial.digest in wanted:
            self._shelf.put(trial.digest, artifact)
        if self._company.leads:
            self._shelf.sweep(wanted)

    def _emit(
        self,
        kind: EventKind,
        message: str = "",
        trial: Trial | None = None,
    ) -> None:
        seats = tuple(self.executor.seats())
        event = Event(kind, len(self._standing.seen), tuple(self._front), trial, message, seats)
        self.on_event(event)
