"""`StudyHeader`: what a study was started with, as its record keeps it; read without Optuna."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoquant.core.objective import Objective, spread
from autoquant.core.pareto import Bounds
from autoquant.errors import StudyError

__all__ = ["FORMAT", "GOAL", "StudyHeader", "check_header"]

FORMAT = 1
GOAL = "goal"  # attribute of a study: the trials that it was last told to reach


@dataclass(frozen=True)
class StudyHeader:
    """What a study was started with; written once, but for how far it is to go.

    Attributes:
        definition: the search space as configuration, budget left out.
        seed: seed of the study.
        sampler: name of the strategy.
        threads: threads of timed runs.
        batch: batch size of timed runs.
        trials: finished trials to reach, as it was last told.
        timeout_s: seconds that one run may take, or None.
        backend: name of the runtime that judges the trials; studies from before there was a
            choice have none.
        targets: machines that stand for those it ships to, each with a latency of its own, by
            name; none where there is one latency.
    """

    definition: Mapping[str, Any]
    seed: int
    sampler: str
    threads: int = 1
    batch: int = 1
    trials: int = 50
    timeout_s: float | None = None
    backend: str = "onnxruntime"
    targets: Sequence[str] = ()

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.definition["task"])

    @property
    def task_options(self) -> Mapping[str, Any]:
        """What the task is told."""
        options: Mapping[str, Any] = self.definition.get("task_options", {})
        return options

    @property
    def objectives(self) -> list[Objective]:
        """What the study optimizes, in order."""
        return spread(self.definition["objectives"], self.targets)

    def seen_from(self, target: str) -> "StudyHeader":
        """As one of the targets sees the study: one latency, and a bound only on its own."""
        definition = dict(self.definition)
        if target != self.targets[0] and "constraints" in definition:
            given = definition["constraints"]
            definition["constraints"] = {k: v for k, v in given.items() if k != "max_latency_ms"}
        return dataclasses.replace(self, definition=definition, targets=())

    def with_goal(self, attributes: Mapping[str, Any]) -> "StudyHeader":
        """As it goes on since, by the attributes of the study."""
        return dataclasses.replace(self, trials=attributes.get(GOAL) or self.trials)

    @property
    def bounds(self) -> Bounds:
        """The constraints of the search space; `max_latency_ms` is about the first target."""
        given = self.definition.get("constraints", {})
        names = ("max_accuracy_drop", "max_latency_ms", "max_size_mb")
        return Bounds(*(given.get(name) for name in names))


def check_header(name: str, attributes: Mapping[str, Any]) -> StudyHeader:
    """What a study was started with, and how far it is to go by now.

    Args:
        name: of the study.
        attributes: of the study.

    Raises:
        StudyError: it is not one of ours, or of a newer format.
    """
    known = attributes.get("format")
    if not isinstance(known, int) or "header" not in attributes:
        raise StudyError(f"study '{name}' was not written by autoquant")
    if known > FORMAT:
        raise StudyError(
            f"study '{name}' is of format {known}, newer than {FORMAT}: update autoquant"
        )
    return StudyHeader(**attributes["header"]).with_goal(attributes)
