"""`Slot`: the place of one worker, and `Flight`: a job on its way through them."""

import time
from dataclasses import dataclass, field
from typing import Any, Literal

from autoquant.cluster.connection import Demand
from autoquant.cluster.worker import Greeting
from autoquant.search.event import Seat
from autoquant.search.executor import Job, Outcome

__all__ = ["Flight", "Role", "Slot", "State"]

Role = Literal["worker", "trainer", "probe"]
State = Literal["placing", "loading", "idle", "busy"]


@dataclass(eq=False)
class Flight:
    """A job on its way.

    Attributes:
        job: what is to be evaluated.
        retries: how often it was begun again since a worker died.
        outcome: what a worker said of it, before it is timed.
        promise: of the outcome, so that it can go from node to node.
        timings: what targets said of it so far, by name; see `Slot.target`.
        log: what was said of it so far, by workers and by us.
    """

    job: Job
    retries: int = 0
    outcome: Outcome | None = None
    promise: Any = None
    timings: dict[str | None, Outcome] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)


@dataclass(eq=False)
class Slot:
    """The place of a worker; who dies is replaced.

    Attributes:
        name: in tables.
        role: what it does: `trainer` builds what is trained, `probe` times.
        demand: what it asks of its node.
        target: the machine that a probe stands for; None where the study names none.
        actor: the worker, as Ray knows it.
        state: what it is about.
        since: when that began, by `time.monotonic`.
        greeting: where it came up.
        flight: what it is busy with.
        false_starts: how often in a row it died before it was ready.
    """

    name: str
    role: Role
    demand: Demand
    target: str | None = None
    actor: Any = None
    state: State = "placing"
    since: float = field(default_factory=time.monotonic)
    greeting: Greeting | None = None
    flight: Flight | None = None
    false_starts: int = 0

    def turn(self, state: State, flight: Flight | None = None) -> None:
        """From now on it is about something else."""
        self.state, self.flight, self.since = state, flight, time.monotonic()

    @property
    def node(self) -> str | None:
        """Name of the node; None while that is not decided."""
        return None if self.greeting is None else self.greeting.node

    def describe(self) -> str:
        """What it does, in words."""
        if self.flight is None:
            return {"placing": "finding a place", "loading": "loading the task"}.get(
                self.state, "idle"
            )
        where = "" if self.target is None else f" for target {self.target}:"
        verb = f"timing{where}" if self.role == "probe" else "building and judging"
        number = self.flight.job.number
        return f"{verb} trial {number}" if number >= 0 else f"{verb} a trial again"

    def seat(self) -> Seat:
        """The same for whoever shows progress."""
        return Seat(self.name, self.node or "", self.describe(), time.monotonic() - self.since)
