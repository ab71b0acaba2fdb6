"""`StudyView`: a study as pages show it."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import pandas as pd

from autoquant.browse.table import build_table
from autoquant.core.overlay import Contribution
from autoquant.core.trial import Trial
from autoquant.search.choice import Advice, FrontView, advise, view_front
from autoquant.search.snapshot import Snapshot

__all__ = ["StudyView"]


@dataclass(frozen=True)
class StudyView:
    """A study as it is shown; everything but the snapshot is derived, once, when asked for.

    Attributes:
        key: that pages and addresses know it by; see `Library`.
        snapshot: what its record says.
    """

    key: str
    snapshot: Snapshot

    @cached_property
    def front(self) -> FrontView:
        """Its front within its constraints."""
        header = self.snapshot.header
        return view_front(self.snapshot.trials, header.objectives, header.bounds)

    @cached_property
    def by_target(self) -> dict[str, "StudyView"]:
        """The study as each of its targets sees it; empty where it has none."""
        return {
            name: StudyView(self.key, self.snapshot.seen_from(name))
            for name in self.snapshot.header.targets
        }

    def shows(self, view: "StudyView") -> bool:
        """Whether a view is of this very snapshot, as a whole or as a target sees it."""
        return view is self or any(view is item for item in self.by_target.values())

    @cached_property
    def table(self) -> pd.DataFrame:
        """Its complete trials; see `build_table`."""
        runtime = self.snapshot.header.backend
        return build_table(self.key, self.snapshot.trials, self.front.members, runtime)

    @property
    def contribution(self) -> Contribution:
        """Its part where fronts of several studies are laid over each other."""
        front = self.front
        return Contribution(self.key, self.snapshot.header.backend, front.members, front.reference)

    @cached_property
    def advice(self) -> list[Advice]:
        """What is recommended, and why."""
        return advise(self.front.choices, self.front.reference)

    @cached_property
    def by_number(self) -> dict[int, Trial]:
        """Trials by number."""
        return {trial.number: trial for trial in self.snapshot.trials}

    @property
    def changed(self) -> datetime | None:
        """When a trial last ended or began; None if the record does not tell."""
        began = [item.began for item in self.snapshot.underway if item.began is not None]
        return max([*self.snapshot.ended.values(), *began], default=None)

    def count(self, state: str) -> int:
        """How many trials are in a state."""
        return sum(trial.state == state for trial in self.snapshot.trials)
