"""`Closing`: what makes the front of a search whole.

Rejected trials get a second look, the members are timed in turns with each other, their files
are kept, the report split is read. Hours of search lie behind it, so what fails here for one
member is noted in words, and the others go on.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from autoquant.core.artifact import Artifact
from autoquant.core.forecast import ClosingForecast, Cost, forecast_closing, forecast_trial
from autoquant.core.front import find_front
from autoquant.core.gate import Gate, Glimpse, enough_certainty
from autoquant.core.pareto import Bounds
from autoquant.core.trial import Trial
from autoquant.errors import Rejection
from autoquant.search.deadline import Deadline
from autoquant.search.event import Evaluates, EventKind, describe_error
from autoquant.search.record import Record
from autoquant.search.shelf import Shelf

__all__ = ["Closing", "measure_after_all", "read_report"]

_MAX_TIMING_ROUNDS = 3
_TIMING = "timing"  # the note on the common timing
_MIXED = (
    "the members of the front were still not timed in one session: latencies of different "
    "sessions differ by more than their intervals say; resume the study to time them again"
)
_SECOND_LOOKS = "second looks"
_NO_TIME = (
    "the time was over before every trial could be evaluated that had been stopped early and that "
    "no member of the front dominates any more: resume the study to have that done"
)

Tell = Callable[[EventKind, str, Sequence[Trial]], None]


class Closing:
    """The end of one search.

    Args:
        record: where trials are written.
        evaluator: measures recipes.
        shelf: where files go.
        bounds: only trials within can be members of the front.
        reject_early: trials were turned away by members that may be none any more.
        tell: called with what is being done, in words, and the front.
        deadline: when all of it is to be over. The front is timed once and its members are
            reported however late it is; further rounds and second looks take time that is left.
    """

    def __init__(
        self,
        record: Record,
        evaluator: Evaluates,
        shelf: Shelf,
        bounds: Bounds,
        *,
        reject_early: bool,
        tell: Tell,
        deadline: Deadline | None = None,
    ) -> None:
        self.record = record
        self.evaluator = evaluator
        self.shelf = shelf
        self.bounds = bounds
        self.reject_early = reject_early
        self._tell = tell
        self._deadline = deadline or Deadline()
        self.trials: list[Trial] = []
        self.front: list[Trial] = []
        self._members: list[Trial] = []
        self._is_short_of_time = False

    def run(self) -> None:
        """Make the front whole; `front` and `trials` are what came of it."""
        self._reload()
        self._settle_front()
        for trial in self._members:
            if trial.report_accuracy is None:
                self._report(trial)
        self._reload()
        for trial in self._members:
            self._keep(trial)
        self.shelf.sweep({trial.digest for trial in self._members})

    def _reload(self) -> None:
        self.trials = self.record.trials()
        self.front = find_front(self.trials, self.record.header.objectives, self.bounds)
        self._members = self._find_members()

    def _find_members(self) -> list[Trial]:
        """The front, and who is on it as one target alone sees it: its file may be asked for."""
        header, found = self.record.header, {trial.digest: trial for trial in self.front}
        for target in header.targets:
            view = header.seen_from(target)
            seen = [trial.seen_from(target) for trial in self.trials]
            wanted = {trial.digest for trial in find_front(seen, view.objectives, view.bounds)}
            found |= {trial.digest: trial for trial in self.trials if trial.digest in wanted}
        return [*found.values()]

    def _emit(self, kind: EventKind, message: str) -> None:
        self._tell(kind, message, self.front)

    # Who is on the front

    def _settle_front(self) -> None:
        """Second looks and common timings; who falls off lets others in, so again."""
        self._settle_members()
        text = _NO_TIME if self._is_short_of_time else None
        self.record.set_note(_SECOND_LOOKS, text)
        if text is not None:
            self._emit("note", text)

    def _settle_members(self) -> None:
        needed, rounds = self._forecast().round, 0
        while True:
            self._look_again(needed)
            if self._is_timed():
                self.record.set_note(_TIMING, None)
                return
            if rounds == _MAX_TIMING_ROUNDS or (rounds and not self._has_time_for(needed)):
                break
            begin = time.monotonic()
            if not self._time_front():
                return
            needed, rounds = time.monotonic() - begin, rounds + 1
        self._note_timing(f"after {rounds} round{'s'[: rounds > 1]} {_MIXED}")

    def _forecast(self) -> ClosingForecast:
        costs = [Cost.of(trial) for trial in self.trials]
        return forecast_closing(costs, front=len(self._members))

    def _has_time_for(self, seconds: float) -> bool:
        """Whether so much can be done, and the members reported, before it is to be over."""
        unread = sum(trial.report_accuracy is None for trial in self._members)
        reports = unread * self._forecast().report if self.evaluator.has_report else 0.0
        return self._deadline.left_s > seconds + reports

    def _is_timed(self) -> bool:
        sessions = {trial.timing_session for trial in self._members}
        is_together = len(sessions) <= 1 and None not in sessions
        return is_together and not self._has_moved()

    def _has_moved(self) -> bool:
        """Whether one of the targets is another machine than it was, or times otherwise."""
        find = self.evaluator.fingerprint_on
        if self.record.describe_moves(self._members, find) is not None:
            return True
        targets = self.record.header.targets
        protocol = find(targets[0] if targets else None).get("latency_protocol")
        told = [self.record.fingerprint_of(trial) or {} for trial in self._members]
        return any(item.get("latency_protocol", protocol) != protocol for item in told)

    def _look_again(self, round_s: float) -> None:
        """Evaluate in full who was turned away by members that are none any more.

        Args:
            round_s: seconds to leave for timing the front.
        """
        tried: set[str] = set()
        self._is_short_of_time = False
        while (trial := self._find_hopeful(tried)) is not None:
            if not self._has_time_for(round_s + self._expect(trial)):
                self._is_short_of_time = True
                return
            tried.add(trial.digest)
            self._emit("again", f"trial {trial.number} is no longer dominated: evaluating it")
            try:
                measure_after_all(self.record, self.evaluator, trial, self._gate())
            except Rejection:
                continue  # with more of it seen, it is hopeless after all
            except Exception as error:  # any backend's: it stays rejected, as it was
                reason = describe_error(error)
                self._emit("note", f"trial {trial.number} stays rejected; it failed: {reason}")
                continue
            self._reload()

    def _expect(self, trial: Trial) -> float:
        """Seconds that evaluating a trial in full takes, with its training if it has one."""
        if trial.recipe.is_trained:
            return max(sum(t.seconds.values()) for t in self.trials if t.recipe.is_trained)
        return forecast_trial([Cost.of(item) for item in self.trials])

    def _find_hopeful(self, tried: Collection[str]) -> Trial | None:
        """The most promising of the rejected trials that the gate would let pass now."""
        reference = next((trial for trial in self.trials if trial.name == "fp32"), None)
        if not self.reject_early or reference is None:
            return None
        gate = self._gate()
        hopeful = [
            (certainty, trial.number, trial)
            for trial in self.trials
            if trial.state == "rejected"
            and trial.digest not in tried
            and (glimpse := Glimpse.of(trial, reference)) is not None
            and (certainty := gate.judge(glimpse)[1]) < enough_certainty(glimpse)
        ]
        return min(hopeful)[2] if hopeful else None

    def _gate(self) -> Gate:
        return Gate(self.front, self.record.header.objectives, self.bounds)

    def _time_front(self) -> bool:
        """Time the members in turns with each other; False where that gave nothing."""
        members = self._members
        self._emit("timing", f"timing the {len(members)} members of the front in turns")
        session = f"front of {len(self.trials)} trials, {time.time_ns():x}"
        try:
            artifacts = {trial.digest: self._rebuild(trial) for trial in members}
            figures = self.evaluator.time_together(artifacts, session)
        except Exception as error:  # whatever the backend raises: the search's figures stand
            self._note_timing(
                "the members of the front could not be timed in turns and keep the latencies of "
                f"the search: {describe_error(error)}"
            )
            return False
        if not figures:
            return False
        self.record.add_latency(figures)
        self._reload()
        self._note_departures(members)
        return True

    def _note_timing(self, text: str) -> None:
        self.record.set_note(_TIMING, text)
        self._emit("note", text)

    def _note_departures(self, before: Sequence[Trial]) -> None:
        now = {trial.digest: trial for trial in self.trials}
        staying = {trial.digest for trial in self._members}
        reasons = {
            trial.digest: None
            if trial.digest in staying
            else self._explain_departure(now[trial.digest])
            for trial in before
        }
        self.record.add_departures(reasons)
        for trial in before:
            if reasons[trial.digest] is not None:
                self._emit("left", f"trial {trial.number} left the front: {reasons[trial.digest]}")
        self._reload()

    def _explain_departure(self, trial: Trial) -> str:
        """Why a trial is no member, by its new figures."""
        limit = self.bounds.max_latency_ms
        if limit is not None and trial.latency_ms is not None and trial.latency_ms > limit:
            return (
                f"its latency of {trial.latency_ms:.3g} ms, timed in turns with the others, "
                f"exceeds the allowed {limit:g} ms"
            )
        return "another member dominates it when all of them are timed in turns"

    # What is kept of its members

    def _report(self, trial: Trial) -> None:
        if not self.evaluator.has_report:
            return
        self._emit("report", f"reading the report split for trial {trial.number}")
        reason = read_report(self.record, self.evaluator, trial, self._rebuild)
        if reason is not None:
            self._emit("note", f"trial {trial.number} has no report figures: {reason}")

    def _keep(self, trial: Trial) -> None:
        try:
            artifact = self._rebuild(trial)
        except Exception as error:  # whatever the builder raises: the file of the search stays
            reason = describe_error(error)
            self._emit("note", f"the file of trial {trial.number} was not rebuilt: {reason}")
            return
        self.shelf.put(trial.digest, artifact)

    def _rebuild(self, trial: Trial) -> Artifact:
        """A trial's file, kept or rebuilt from its recipe, its figures in the passport."""
        rebuilt = self.shelf.get(trial.digest)
        if rebuilt is None:
            # the file of an earlier run makes room for one with figures, or `verify` has none
            sealed = self._seal(trial, self.evaluator.rebuild(trial.recipe))
            self.shelf.put(trial.digest, sealed)
            return sealed
        return self._seal(trial, rebuilt)

    def _seal(self, trial: Trial, artifact: Artifact) -> Artifact:
        figures = trial.measurement().model_dump(mode="json")
        fingerprint = self.record.fingerprint_of(trial)
        return self.evaluator.builder.seal(artifact, figures, fingerprint)


def measure_after_all(
    record: Record, evaluator: Evaluates, trial: Trial, gate: Gate | None = None
) -> Artifact:
    """Evaluate a trial that had been turned away, and note its figures.

    Raises:
        Rejection: it cannot get past this gate either.
        Exception: whatever the backend raises.
    """
    measurement, artifact = evaluator.evaluate(trial.recipe, gate)
    seconds = Counter(trial.seconds) + Counter(measurement.seconds)
    both = measurement.model_copy(update={"seconds": dict(seconds)})
    record.add_reprieve(trial.digest, both)
    return artifact


def read_report(
    record: Record, evaluator: Evaluates, trial: Trial, find_file: Callable[[Trial], Artifact]
) -> str | None:
    """Read the report split for a trial and note what it gives; returns why it gives nothing."""
    try:
        figures = evaluator.report(find_file(trial))
    except Exception as error:  # the metric's or the backend's: no report figures
        reason = describe_error(error)
        if reason != trial.report_error:
            record.add_report_error(trial.digest, reason)
        return reason
    if figures is not None:
        record.add_report(trial.digest, figures)
    return None
