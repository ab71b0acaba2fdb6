"""`RayExecutor`: trials on many workers at once, none of which waits for another.

A worker builds a file and judges it; a probe times it, one file at a time on its node. Workers,
nodes and probes may die: what they were doing is done again, at most a few times.
"""

import dataclasses
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from autoquant.cluster.connection import Connection, Demand, Lost, Raised
from autoquant.cluster.crew import Crew
from autoquant.cluster.worker import Greeting, Source, find_kernel, find_versions
from autoquant.core.artifact import Artifact
from autoquant.core.fingerprint import Fingerprint
from autoquant.core.trial import LatencyFigures, Measurement
from autoquant.errors import ClusterError, InputError, TrialError
from autoquant.search.event import Seat
from autoquant.search.executor import Job, Outcome

__all__ = ["PROBE", "RayExecutor"]

PROBE = "latency_probe"  # the resource of nodes that stand for the target device

_RETRIES = 3
_TICK_S, _SCAN_S = 0.2, 5.0
_BACKLOG = 2  # files that wait to be timed, for each worker
_MOST_FALSE_STARTS = 5

Role = Literal["worker", "trainer", "probe"]
State = Literal["placing", "loading", "idle", "busy"]


@dataclass(eq=False)
class _Flight:
    """A job on its way."""

    job: Job
    retries: int = 0
    outcome: Outcome | None = None
    promise: Any = None  # of the outcome, so that it goes from node to node


@dataclass(eq=False)
class _Slot:
    """A worker's place; who dies is replaced."""

    name: str
    role: Role
    demand: Demand
    actor: Any = None
    state: State = "placing"
    since: float = field(default_factory=time.monotonic)
    greeting: Greeting | None = None
    fingerprint: Fingerprint | None = None
    flight: _Flight | None = None
    false_starts: int = 0

    def turn(self, state: State, flight: _Flight | None = None) -> None:
        """From now on it is something else."""
        self.state, self.flight, self.since = state, flight, time.monotonic()


class RayExecutor:
    """Evaluates jobs on workers that Ray places.

    Args:
        connection: the cluster.
        source: makes the evaluator, once in each worker.
        crew: how many workers, and what they may take.
        is_timed: files are timed, by probes.
        seal: writes figures into a file's passport.
    """

    is_remote = True

    def __init__(
        self,
        connection: Connection,
        source: Source,
        crew: Crew,
        *,
        is_timed: bool,
        seal: Callable[[Artifact, Mapping[str, Any], Fingerprint], Artifact],
    ) -> None:
        self.connection = connection
        self.crew = crew
        self.is_timed = is_timed
        self.on_note: Callable[[str], None] = lambda text: None
        self._seal = seal
        self._source = connection.share(source)
        self._kernel = find_kernel()
        self._promises: dict[Any, _Slot] = {}
        self._queue: deque[_Flight] = deque()
        self._untimed: deque[_Flight] = deque()
        self._done: deque[tuple[Job, Outcome]] = deque()
        self._has_probe_nodes = bool(connection.nodes_with(PROBE))
        self._told: set[str] = set()
        self._scanned = time.monotonic()
        self._is_manned = False
        self._slots: list[_Slot] = []
        for slot in self._plan():
            self._add(slot)

    # What a study asks

    @property
    def has_room(self) -> bool:
        """Whether a worker is idle, and the probes keep up."""
        idle = sum(slot.state == "idle" for slot in self._of_role("worker"))
        workers = max(1, len(self._of_role("worker")))
        return len(self._queue) < idle and len(self._untimed) < _BACKLOG * workers

    def submit(self, job: Job) -> None:
        """Take a job."""
        self._queue.append(_Flight(job))
        self._assign()

    def take(self, timeout_s: float | None = None) -> tuple[Job, Outcome] | None:
        """Wait for a job that is finished.

        Raises:
            ClusterError: no worker finds a place, or they do not stay alive.
            InputError: the workers cannot load the task.
        """
        end = time.monotonic() + (float("inf") if timeout_s is None else timeout_s)
        while not self._done and (left := end - time.monotonic()) > 0:
            self._tick(min(_TICK_S, left))
        return self._done.popleft() if self._done else None

    def listen(self, on_note: Callable[[str], None]) -> None:
        """Tell this listener who died and what is tried again."""
        self.on_note = on_note

    def seats(self) -> list[Seat]:
        """What each worker does."""
        now = time.monotonic()
        return [
            Seat(
                slot.name,
                "" if slot.greeting is None else slot.greeting.node,
                _describe(slot),
                now - slot.since,
            )
            for slot in self._slots
        ]

    # What the closing of a study asks

    def wait_until_ready(self) -> None:
        """Wait for the first worker, and the first probe where files are timed.

        Raises:
            ClusterError: none finds a place.
            InputError: they cannot load the task.
        """
        needed: list[Role] = ["worker", "probe"] if self.is_timed else ["worker"]
        while not all(any(s.state == "idle" for s in self._of_role(role)) for role in needed):
            self._tick(_TICK_S)

    @property
    def probe_fingerprint(self) -> Fingerprint | None:
        """What files are timed on; None before a probe is ready, or where none are."""
        found = [slot.fingerprint for slot in self._of_role("probe")]
        return next((item for item in found if item is not None), None)

    def evaluate(self, job: Job) -> Outcome:
        """One job, waited for; nothing else is running."""
        while not self.has_room:
            self._tick(_TICK_S)
        self.submit(job)
        taken = self.take()
        assert taken is not None
        return taken[1]

    def time_together(
        self, artifacts: Mapping[str, Artifact], session: str
    ) -> Mapping[str, LatencyFigures]:
        """Time files in turns, on one of the probes.

        Raises:
            TrialError: it failed, or the probes died of it.
        """
        reason = ""
        for _ in range(1 + _RETRIES):
            while not (idle := [s for s in self._of_role("probe") if s.state == "idle"]):
                self._tick(_TICK_S)
            slot = idle[0]
            promise = slot.actor.time_together.remote(artifacts, session, self._near(slot))
            try:
                figures: Mapping[str, LatencyFigures] = self.connection.fetch(promise)
            except Raised as error:
                raise TrialError(str(error)) from error
            except Lost as error:
                reason = str(error)
                self._replace(slot, reason)
                continue
            return figures
        raise TrialError(f"the probe died {1 + _RETRIES} times while it timed the front: {reason}")

    # Who there is

    def _plan(self) -> list[_Slot]:
        crew = self.crew
        plain = Demand(cpus=crew.cpus)
        slots = [_Slot(f"worker {n + 1}", "worker", plain) for n in range(crew.workers)]
        if crew.gpus_per_qat_trial:
            slots.append(_Slot("trainer", "trainer", Demand(crew.cpus, crew.gpus_per_qat_trial)))
        if self.is_timed:
            slots += [self._plan_probe(node) for node in self._find_probe_nodes()]
        return slots

    def _find_probe_nodes(self) -> list[str]:
        return self.connection.nodes_with(PROBE) or (
            [] if self._has_probe_nodes else [self.connection.here]
        )

    def _plan_probe(self, node: str) -> _Slot:
        return _Slot("probe", "probe", Demand(cpus=0, node=node))

    def _add(self, slot: _Slot) -> None:
        self._slots.append(slot)
        self._hire(slot)

    def _hire(self, slot: _Slot) -> None:
        slot.greeting = None
        slot.turn("placing")
        slot.actor = self.connection.hire(slot.demand)
        self._promises[slot.actor.greet.remote()] = slot

    def _of_role(self, role: Role) -> list[_Slot]:
        return [slot for slot in self._slots if slot.role == role]

    def _near(self, probe: _Slot) -> list[int]:
        """Processes of this search on a probe's machine."""
        assert probe.greeting is not None
        kernel = probe.greeting.kernel
        others = [s.greeting for s in self._slots if s is not probe and s.greeting is not None]
        near = [greeting.pid for greeting in others if greeting.kernel == kernel]
        return [*near, os.getpid()] if kernel == self._kernel else near

    # What happens

    def _tick(self, timeout_s: float) -> None:
        self._stop_overdue()
        self._scan()
        self._assign()
        if not self._promises:
            time.sleep(timeout_s)
            return
        for promise in self.connection.listen(list(self._promises), timeout_s):
            slot = self._promises.pop(promise, None)
            if slot is not None:  # else it was dismissed meanwhile
                self._hear(slot, promise)
        self._assign()

    def _hear(self, slot: _Slot, promise: Any) -> None:
        try:
            answer = self.connection.fetch(promise)
        except Lost as error:
            self._lose(slot, str(error))
            return
        except Raised as error:
            self._complain(slot, error.cause)
            return
        match slot.state:
            case "placing":
                self._welcome(slot, answer)
            case "loading":
                slot.fingerprint, slot.false_starts = answer, 0
                slot.turn("idle")
            case _:
                self._land(slot, answer, promise)

    def _welcome(self, slot: _Slot, greeting: Greeting) -> None:
        ours = find_versions()
        for name, version in greeting.versions.items():
            if ours.get(name) != version:
                raise ClusterError(
                    f"node {greeting.node} has {name} {version}, this process {ours.get(name)}: "
                    "install the same on every node"
                )
        slot.greeting = greeting
        self._is_manned |= slot.role != "probe"
        slot.turn("loading")
        promise = slot.actor.load.remote(self._source, is_probe=slot.role == "probe")
        self._promises[promise] = slot

    def _land(self, slot: _Slot, outcome: Outcome, promise: Any) -> None:
        """A worker or a probe is done with a job."""
        flight = slot.flight
        assert flight is not None
        slot.turn("idle")
        if slot.role == "probe":
            self._finish(flight, self._join(flight, outcome))
        elif outcome.state == "complete" and self.is_timed:
            flight.outcome, flight.promise = outcome, promise
            self._untimed.append(flight)
        else:
            self._finish(flight, outcome)

    def _join(self, flight: _Flight, timed: Outcome) -> Outcome:
        """What a probe says, with the file that it was told of."""
        assert flight.outcome is not None
        artifact = flight.outcome.artifact
        if timed.state != "complete" or artifact is None:
            return timed
        figures = timed.measurement.model_dump(mode="json")
        sealed = self._seal(artifact, figures, timed.fingerprints[-1])
        return dataclasses.replace(timed, artifact=sealed)

    def _finish(self, flight: _Flight, outcome: Outcome) -> None:
        self._done.append((flight.job, outcome))

    # Who does what

    def _assign(self) -> None:
        for slot in self._slots:
            if slot.state != "idle":
                continue
            if slot.role == "probe":
                self._time_next(slot)
            else:
                self._evaluate_next(slot)

    def _evaluate_next(self, slot: _Slot) -> None:
        flight = next((f for f in self._queue if self._suits(slot, f)), None)
        if flight is None:
            return
        self._queue.remove(flight)
        slot.turn("busy", flight)
        self._promises[slot.actor.evaluate.remote(flight.job)] = slot

    def _suits(self, slot: _Slot, flight: _Flight) -> bool:
        if not self.crew.gpus_per_qat_trial:
            return True
        return flight.job.recipe.is_trained == (slot.role == "trainer")

    def _time_next(self, slot: _Slot) -> None:
        if not self._untimed:
            return
        flight = self._untimed.popleft()
        slot.turn("busy", flight)
        reference = flight.job.reference
        promise = slot.actor.time.remote(
            flight.promise if flight.promise is not None else flight.outcome,
            flight.job.gate,
            None if reference is None else reference.evidence,
            self._near(slot),
        )
        self._promises[promise] = slot

    # What goes wrong

    def _lose(self, slot: _Slot, reason: str) -> None:
        """A worker is gone; what it did is done again."""
        flight = slot.flight
        if flight is None:
            slot.false_starts += 1
            if slot.false_starts > _MOST_FALSE_STARTS:
                raise ClusterError(f"{slot.name} does not stay alive: {reason}")
        else:
            self._retry(flight, reason, is_built=slot.role == "probe")
        self._replace(slot, reason)

    def _retry(self, flight: _Flight, reason: str, *, is_built: bool) -> None:
        flight.retries += 1
        flight.promise = None  # it may be gone with its node; what came of it is here
        number = flight.job.number
        if flight.retries > _RETRIES:
            text = f"the worker died {flight.retries} times while it was evaluated: {reason}"
            self._finish(flight, Outcome("failed", Measurement(), error=text))
            return
        self.on_note(f"trial {number} is tried again ({flight.retries} of {_RETRIES}): {reason}")
        (self._untimed if is_built else self._queue).appendleft(flight)

    def _replace(self, slot: _Slot, reason: str) -> None:
        """Hire another in its place; a probe only as long as its node lives."""
        self._forget(slot)
        node = slot.demand.node
        if node is None or self.connection.lives(node):
            self._hire(slot)
            return
        self._slots.remove(slot)
        if not self._of_role("probe"):
            self._tell("the last probe node is gone: files wait to be timed until one is back")

    def _forget(self, slot: _Slot) -> None:
        self._promises = {p: owner for p, owner in self._promises.items() if owner is not slot}
        self.connection.dismiss(slot.actor)

    def _complain(self, slot: _Slot, cause: BaseException) -> None:
        """Code of ours, or of the task, raised in a worker."""
        if slot.flight is None:
            if isinstance(cause, InputError):
                raise cause
            raise ClusterError(f"{slot.name} cannot begin: {type(cause).__name__}: {cause}")
        flight = slot.flight
        slot.turn("idle")
        text = " ".join(f"{type(cause).__name__}: {cause}".split())
        self._finish(flight, Outcome("failed", Measurement(), error=text))

    def _stop_overdue(self) -> None:
        limit = self.crew.trial_timeout_s
        if limit is None:
            return
        now = time.monotonic()
        for slot in list(self._slots):
            if slot.flight is not None and now - slot.since > limit:
                text = f"{_describe(slot)} took longer than the {limit:g} s that a trial may take"
                node = None if slot.greeting is None else slot.greeting.node
                self._finish(slot.flight, Outcome("failed", Measurement(), error=text, node=node))
                self._replace(slot, text)

    def _scan(self) -> None:
        """Now and then: are there probe nodes that came back, and workers that find no place?"""
        now = time.monotonic()
        if now - self._scanned < min(_SCAN_S, self.crew.place_s):
            return
        self._scanned = now
        if self.is_timed:
            known = {slot.demand.node for slot in self._of_role("probe")}
            for node in self._find_probe_nodes():
                if node not in known:
                    self._add(self._plan_probe(node))
        self._check_places(now)

    def _check_places(self, now: float) -> None:
        waiting = [s for s in self._slots if s.role != "probe" and s.greeting is None]
        if not waiting or now - min(slot.since for slot in waiting) < self.crew.place_s:
            return
        asked = f"{self.crew.describe()}, {self.connection.describe_resources()}"
        if not self._is_manned:
            limit = f"{self.crew.place_s:g} s"
            raise ClusterError(f"no worker found a place within {limit}: asked for {asked}")
        self._tell(f"{len(waiting)} workers find no place: asked for {asked}")

    def _tell(self, text: str) -> None:
        """A note, once."""
        if text not in self._told:
            self._told.add(text)
            self.on_note(text)


def _describe(slot: _Slot) -> str:
    """What a worker does, in words."""
    if slot.flight is None:
        return {"placing": "finding a place", "loading": "loading the task"}.get(slot.state, "idle")
    verb = "timing" if slot.role == "probe" else "building and judging"
    return f"{verb} trial {slot.flight.job.number}"
