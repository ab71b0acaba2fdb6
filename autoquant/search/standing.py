"""`Standing`: what one driver knows of its study: trials, front, and what others are at."""

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from autoquant.core.front import extend_front, find_front
from autoquant.core.pareto import Bounds
from autoquant.core.recipe import Recipe
from autoquant.core.trial import Trial
from autoquant.search.record import Record, read_trial

__all__ = ["Standing"]


@dataclass(frozen=True)
class _Begun:
    """A trial that is not finished, and that this process does not evaluate.

    Attributes:
        digest: of its recipe; None while it has none.
        is_running: somebody evaluates it; otherwise it waits for anybody.
    """

    digest: str | None
    is_running: bool


class Standing:
    """Kept up to date by looking at what is new alone, however many trials there are.

    Args:
        record: the study.
        bounds: constraints; only trials within can be members of the front.
    """

    def __init__(self, record: Record, bounds: Bounds) -> None:
        self.record = record
        self.bounds = bounds
        self.trials: list[Trial] = []
        self.front: list[Trial] = []
        self.seen: frozenset[str] = frozenset()
        self._next = 0
        self._own: set[int] = set()
        self._others: dict[int, _Begun] = {}

    def load(self) -> None:
        """Read everything."""
        self.replace(self.record.trials())
        self.seen = frozenset(trial.digest for trial in self.trials)
        self._next, self._others = 0, {}
        self._own = {trial.number for trial in self.trials}
        self.look()

    def replace(self, trials: Sequence[Trial], front: Sequence[Trial] | None = None) -> None:
        """Take these trials, and their front where it is known."""
        self.trials = list(trials)
        self.front = self._find_front() if front is None else list(front)

    def look(self) -> None:
        """Take in what others have begun and finished since."""
        for frozen in self.record.read_recent(self._next, sorted(self._others)):
            self._next = max(self._next, frozen.number + 1)
            if frozen.number in self._own:
                continue
            if not frozen.state.is_finished():
                self._note(frozen)
                continue
            self._others.pop(frozen.number, None)
            trial = read_trial(frozen)
            if trial is not None and trial.digest not in self.seen:
                self.add(trial)

    def _note(self, frozen: FrozenTrial) -> None:
        known = self._others.get(frozen.number)
        digest = None if known is None else known.digest
        if digest is None and "recipe" in frozen.user_attrs:
            digest = Recipe.model_validate(frozen.user_attrs["recipe"]).digest
        self._others[frozen.number] = _Begun(digest, frozen.state is TrialState.RUNNING)

    def claim(self, number: int) -> None:
        """Note that this process evaluates a trial, or has closed it."""
        self._own.add(number)
        self._others.pop(number, None)

    def add(self, trial: Trial) -> None:
        """Take in a finished trial."""
        self.trials.append(trial)
        self.seen |= {trial.digest}
        if trial.state == "complete":
            objectives = self.record.header.objectives
            self.front = extend_front(self.front, trial, self.trials, objectives, self.bounds)

    def drop(self, trial: Trial) -> None:
        """Take back a trial that does not count."""
        self.trials.remove(trial)
        self.seen -= {trial.digest}
        self.front = self._find_front()

    @property
    def elsewhere(self) -> int:
        """Trials that others evaluate."""
        return sum(item.is_running and item.digest is not None for item in self._others.values())

    @property
    def taken(self) -> int:
        """Trials that count towards a budget: those that are finished, and those of others."""
        return len(self.seen) + self.elsewhere

    @property
    def decided(self) -> frozenset[str]:
        """Digests of what is finished, and of what others evaluate or anybody will."""
        if not self._others:
            return self.seen
        return self.seen | {item.digest for item in self._others.values() if item.digest}

    def _find_front(self) -> list[Trial]:
        return find_front(self.trials, self.record.header.objectives, self.bounds)
