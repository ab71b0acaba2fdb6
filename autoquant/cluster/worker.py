"""`Worker`: what runs on the nodes. It builds and judges files, or times them; it knows no Ray."""

import dataclasses
import os
import platform
import socket
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoquant.backends.machine import find_kernel, grant_cores, package_versions
from autoquant.backends.quiet import GuidedPlace, QuietPlace
from autoquant.cluster.capture import capturing
from autoquant.core.artifact import Artifact
from autoquant.core.evidence import Evidence
from autoquant.core.fingerprint import Fingerprint
from autoquant.core.gate import Gate
from autoquant.core.training import Predict, TrainingProgress, TrainingWatch
from autoquant.core.trial import LatencyFigures, Measurement
from autoquant.errors import Rejection
from autoquant.evaluate import Evaluator
from autoquant.search.event import describe_error
from autoquant.search.executor import Job, Outcome, evaluate_job

__all__ = ["Greeting", "Source", "Worker"]

Source = Callable[[], Evaluator]

_PAUSE_S = 0.05


@dataclass(frozen=True)
class Greeting:
    """Where a worker came up.

    Attributes:
        node: Ray's name of the node.
        host: name of the machine.
        kernel: what tells machines, and containers whose processes do not see each other, apart.
        pid: of the worker's process.
        versions: of what must be the same everywhere.
    """

    node: str
    host: str
    kernel: str
    pid: int
    versions: Mapping[str, str]


class PrintingWatch(TrainingWatch):
    """Prints how a training goes, for the trial's log."""

    def on_epoch(self, progress: TrainingProgress, predict: Predict) -> None:
        """A line."""
        print(f"training: {progress.describe()}")

    def on_note(self, text: str) -> None:
        """A line."""
        print(text)


class Worker:
    """One process that evaluates one job at a time.

    Args:
        node: Ray's name of the node.
        cores: that it may keep busy.
    """

    def __init__(self, node: str, cores: int) -> None:
        self.node = node
        grant_cores(cores)
        self._evaluator: Evaluator | None = None

    def greet(self) -> Greeting:
        """Say where it is; nothing is loaded for it."""
        return Greeting(
            self.node, socket.gethostname(), find_kernel(), os.getpid(), find_versions()
        )

    def load(self, source: Source, *, is_probe: bool) -> Fingerprint:
        """Make the evaluator; returns what figures are measured on here.

        Raises:
            InputError: the task, its data or the backend are missing here.
        """
        evaluator = source()
        options = evaluator.options
        if is_probe and options.latency is not None:
            # no work lies between the slices here: a pause lets a burst of noise pass
            latency = dataclasses.replace(options.latency, pause_s=_PAUSE_S)
            evaluator.options = dataclasses.replace(options, latency=latency)
        if not is_probe:
            # files are timed by a probe, and this process gives way to it
            evaluator.options = dataclasses.replace(options, latency=None)
            evaluator.place = GuidedPlace(options.threads)
        self._evaluator = evaluator
        return dict(evaluator.fingerprint)

    def evaluate(self, job: Job) -> Outcome:
        """Build a file and judge it; latency is left out."""
        with capturing() as printed:
            outcome = evaluate_job(self.evaluator, job, PrintingWatch(), node=self.node)
        return dataclasses.replace(
            outcome,
            fingerprints=(self.evaluator.fingerprint,),
            log=self._head("built and judged") + printed.text + outcome.log,
        )

    def time(
        self,
        seen: Outcome,
        gate: Gate | None,
        float_evidence: Evidence | None,
        neighbours: Sequence[int],
    ) -> Outcome:
        """Time the file of an outcome.

        Args:
            seen: what was measured elsewhere.
            gate: what the candidate must get past.
            float_evidence: what the float model did on the same samples.
            neighbours: processes of this search on this machine, which are to be out of the way.

        Returns:
            The same with its latency; its file is left out.
        """
        with self._quiet(neighbours), capturing() as printed:
            timed = self._time(seen, gate, float_evidence)
        return dataclasses.replace(timed, log=self._head("timed") + printed.text + timed.log)

    def _time(self, seen: Outcome, gate: Gate | None, evidence: Evidence | None) -> Outcome:
        assert seen.artifact is not None
        try:
            whole = self.evaluator.time(seen.artifact, seen.measurement, gate, evidence)
        except Rejection as rejection:
            return self._timed(seen, "rejected", rejection.measurement)
        except Exception as error:  # whatever the backend raises: this trial fails
            nothing, trail = self._timed(seen, "failed", Measurement()), traceback.format_exc()
            return dataclasses.replace(nothing, error=describe_error(error), log=trail)
        return self._timed(seen, seen.state, whole)

    def _head(self, verb: str) -> str:
        """The line of a log above what this worker has to say."""
        return f"== {verb} on {self.node}, process {os.getpid()}, {socket.gethostname()}\n"

    def _timed(self, seen: Outcome, state: Any, measurement: Measurement) -> Outcome:
        prints = (*seen.fingerprints, self.evaluator.fingerprint)
        return Outcome(state, measurement, node=seen.node, probe=self.node, fingerprints=prints)

    def time_together(
        self, artifacts: Mapping[str, Artifact], session: str, neighbours: Sequence[int]
    ) -> Mapping[str, LatencyFigures]:
        """Time files in turns; see `Evaluator.time_together`."""
        with self._quiet(neighbours):
            figures: Mapping[str, LatencyFigures] = self.evaluator.time_together(artifacts, session)
        return figures

    @property
    def evaluator(self) -> Evaluator:
        """What measures here; there is one after `load`."""
        assert self._evaluator is not None
        return self._evaluator

    def _quiet(self, neighbours: Sequence[int]) -> Any:
        place: QuietPlace = self.evaluator.place
        return place.keeping_away(neighbours)


def find_versions() -> dict[str, str]:
    """What must be the same everywhere, or figures would not be."""
    return {"python": platform.python_version(), **package_versions("autoquant", "torch")}
