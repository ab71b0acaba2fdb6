"""`RayExecutor`: trials on many workers at once, none of which waits for another.

A worker builds a file and judges it; a probe times it, one file at a time on its node. Workers,
nodes and probes may die: what they were doing is done again, at most a few times.
"""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from autoquant.cluster.connection import Lost, Raised
from autoquant.cluster.pool import Pool
from autoquant.cluster.slot import Flight, Slot
from autoquant.cluster.timings import join_figures, join_timings, next_to_time
from autoquant.core.artifact import Artifact
from autoquant.core.fingerprint import Fingerprint
from autoquant.core.trial import LatencyFigures, Measurement
from autoquant.errors import TrialError
from autoquant.search.event import Seat
from autoquant.search.executor import Job, Outcome, waste
from autoquant.search.trial_log import TrialLogs

__all__ = ["RayExecutor"]

_RETRIES = 3
_TICK_S = 0.2
_BACKLOG = 2  # files that wait to be timed, for each worker

Seal = Callable[[Artifact, Mapping[str, Any], Fingerprint], Artifact]


class RayExecutor:
    """Evaluates jobs on workers that Ray places.

    Args:
        pool: the workers.
        seal: writes figures into a file's passport.
        logs: where it is kept what was said of each trial.
    """

    is_remote = True

    def __init__(self, pool: Pool, seal: Seal, logs: TrialLogs | None = None) -> None:
        self.pool = pool
        self._seal = seal
        self._logs = logs
        self._queue: deque[Flight] = deque()
        self._untimed: deque[Flight] = deque()
        self._done: deque[tuple[Job, Outcome]] = deque()

    # What a study asks

    @property
    def has_room(self) -> bool:
        """Whether a worker is idle, and the probes keep up."""
        workers = max(1, len(self.pool.of_role("worker")))
        is_free = len(self._queue) < len(self.pool.idle("worker"))
        return is_free and len(self._untimed) < _BACKLOG * workers

    def submit(self, job: Job) -> None:
        """Take a job."""
        self._queue.append(Flight(job))
        self._assign()

    def take(self, timeout_s: float | None = None) -> tuple[Job, Outcome] | None:
        """Wait for a job that is finished; see `Pool.listen` for what is raised."""
        end = time.monotonic() + (float("inf") if timeout_s is None else timeout_s)
        while not self._done and (left := end - time.monotonic()) > 0:
            self._tick(min(_TICK_S, left))
        return self._done.popleft() if self._done else None

    def listen(self, on_note: Callable[[str], None]) -> None:
        """Tell this listener who died and what is tried again."""
        self.pool.on_note = on_note
        while self.pool.early_notes:
            on_note(self.pool.early_notes.pop(0))

    def seats(self) -> list[Seat]:
        """What each worker does."""
        return [slot.seat() for slot in self.pool.slots]

    # What the beginning and the closing of a study ask

    def wait_until_ready(self) -> None:
        """Wait for the first worker, and the first probe where files are timed."""
        while not (self.pool.idle("worker") and self._is_equipped()):
            self._tick(_TICK_S)

    def _is_equipped(self) -> bool:
        """Whether there is a probe for each target, or none is needed."""
        return not self.pool.is_timed or all(map(self._idle_probes, self.pool.targets))

    def _idle_probes(self, target: str | None) -> list[Slot]:
        return [slot for slot in self.pool.probes(target) if slot.state == "idle"]

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
        """Time files in turns, on one of the probes of each target.

        Raises:
            TrialError: it failed, or the probes died of it.
        """
        return join_figures({
            target: self._time_together(target, artifacts, session) for target in self.pool.targets
        })  # fmt: skip

    def _time_together(
        self, target: str | None, artifacts: Mapping[str, Artifact], session: str
    ) -> Mapping[str, LatencyFigures]:
        reason = ""
        for _ in range(1 + _RETRIES):
            while not (idle := self._idle_probes(target)):
                self._tick(_TICK_S)
            slot = idle[0]
            promise = slot.actor.time_together.remote(artifacts, session, self.pool.near(slot))
            try:
                figures: Mapping[str, LatencyFigures] = self.pool.connection.fetch(promise)
            except Raised as error:
                raise TrialError(str(error)) from error
            except Lost as error:
                reason = str(error)
                self.pool.replace(slot)
                continue
            return figures
        raise TrialError(f"the probe died {1 + _RETRIES} times while it timed the front: {reason}")

    # What happens

    def _tick(self, timeout_s: float) -> None:
        self._assign()
        for slot, answer, promise in self.pool.listen(timeout_s):
            self._hear(slot, answer, promise)
        # after the answers: this process may have been away, waiting for a database
        self._stop_overdue()
        self._assign()

    def _hear(self, slot: Slot, answer: Any, promise: Any) -> None:
        flight = slot.flight
        assert flight is not None
        if isinstance(answer, Lost):
            self._retry(flight, str(answer), is_built=slot.role == "probe")
            self.pool.replace(slot)
            return
        slot.turn("idle")
        if isinstance(answer, Outcome):
            flight.log.append(answer.log)
        if isinstance(answer, Raised):  # not by the evaluation, which tells what it raises
            cause = answer.cause
            self._fail(flight, " ".join(f"{type(cause).__name__}: {cause}".split()), slot.node)
        elif slot.role == "probe":
            self._take_timing(flight, slot.target, answer)
        elif answer.artifact is not None and self.pool.is_timed:
            flight.outcome, flight.promise = answer, promise
            self._untimed.append(flight)
        else:
            self._finish(flight, answer)

    def _take_timing(self, flight: Flight, target: str | None, timed: Outcome) -> None:
        flight.timings[target] = timed
        if timed.state != "failed" and self._targets_left(flight):
            self._untimed.append(flight)
            return
        self._finish(flight, self._join(flight))

    def _targets_left(self, flight: Flight) -> list[str | None]:
        """Those that have not timed it yet; the first of them is next."""
        return [target for target in self.pool.targets if target not in flight.timings]

    def _join(self, flight: Flight) -> Outcome:
        """What the probes say, with the file that they were told of."""
        assert flight.outcome is not None
        artifact, first = flight.outcome.artifact, next(iter(flight.timings.values()))
        joined = join_timings(flight.outcome, flight.timings)
        if joined.state != "complete" or artifact is None:
            return joined
        figures = joined.measurement.model_dump(mode="json")
        sealed = self._seal(artifact, figures, first.fingerprints[-1])
        return dataclasses.replace(joined, artifact=sealed)

    def _finish(self, flight: Flight, outcome: Outcome) -> None:
        if self._logs is not None:
            self._logs.keep(flight.job.number, "".join(flight.log))
        self._done.append((flight.job, outcome))

    def _fail(
        self, flight: Flight, error: str, node: str | None, seconds: float | None = None
    ) -> None:
        flight.log.append(f"== {error}\n")
        lost = {} if seconds is None else waste(flight.job.recipe, seconds)
        self._finish(flight, Outcome("failed", Measurement(seconds=lost), error=error, node=node))

    # Who does what

    def _assign(self) -> None:
        for slot in self.pool.slots:
            if slot.state != "idle":
                continue
            if slot.role == "probe":
                self._time_next(slot)
            else:
                self._evaluate_next(slot)

    def _evaluate_next(self, slot: Slot) -> None:
        flight = next((item for item in self._queue if self._suits(slot, item)), None)
        if flight is None:
            return
        self._queue.remove(flight)
        slot.turn("busy", flight)
        self.pool.expect(slot, slot.actor.evaluate.remote(flight.job))

    def _suits(self, slot: Slot, flight: Flight) -> bool:
        if not self.pool.of_role("trainer"):
            return True
        return flight.job.recipe.is_trained == (slot.role == "trainer")

    def _time_next(self, slot: Slot) -> None:
        waiting = (f for f in self._untimed if self._targets_left(f)[0] == slot.target)
        flight = next(waiting, None)
        if flight is None:
            return
        assert flight.outcome is not None
        self._untimed.remove(flight)
        slot.turn("busy", flight)
        reference = flight.job.reference
        seen: Any = next_to_time(flight.outcome, flight.timings)
        if flight.promise is not None and seen is flight.outcome:
            seen = flight.promise  # the file goes from node to node
        promise = slot.actor.time.remote(
            seen,
            None if flight.timings else flight.job.gate,  # it is about the first target
            None if reference is None else reference.evidence,
            self.pool.near(slot),
        )
        self.pool.expect(slot, promise)

    # What goes wrong

    def _retry(self, flight: Flight, reason: str, *, is_built: bool) -> None:
        flight.retries += 1
        flight.promise = None  # it may be gone with its node; what came of it is here
        if flight.retries > _RETRIES:
            text = f"its worker died {flight.retries} times, at last: {reason}"
            self._fail(flight, text, None)
            return
        number = flight.job.number
        note = f"trial {number} is tried again ({flight.retries} of {_RETRIES}): {reason}"
        flight.log.append(f"== {note}\n")
        self.pool.on_note(note)
        (self._untimed if is_built else self._queue).appendleft(flight)

    def _stop_overdue(self) -> None:
        limit = self.pool.crew.trial_timeout_s
        if limit is None:
            return
        now = time.monotonic()
        for slot in list(self.pool.slots):
            if slot.flight is not None and now - slot.since > limit:
                what = slot.describe()
                text = f"{what} took longer than the {limit:g} s that a trial may take"
                self._fail(slot.flight, text, slot.node, now - slot.since)
                self.pool.replace(slot)
