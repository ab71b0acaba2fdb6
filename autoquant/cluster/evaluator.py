"""`ClusterEvaluator`: a study's evaluator where workers judge and probes time."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from autoquant.cluster.connection import connect
from autoquant.cluster.crew import Crew
from autoquant.cluster.executor import RayExecutor
from autoquant.cluster.pool import Pool
from autoquant.cluster.worker import Source
from autoquant.core.artifact import Artifact, Builder
from autoquant.core.fingerprint import Fingerprint
from autoquant.core.gate import Gate
from autoquant.core.recipe import Recipe
from autoquant.core.training import TrainingWatch
from autoquant.core.trial import LatencyFigures, Measurement, ReportFigures
from autoquant.errors import Rejection, TrialError
from autoquant.evaluate import Evaluator
from autoquant.search.executor import Job
from autoquant.search.trial_log import TrialLogs

__all__ = ["ClusterEvaluator", "open_crew"]

_AGAIN = -1  # a trial that has its number, and is looked at once more


class ClusterEvaluator:
    """Closes a study: files are rebuilt and reported on here, timed and judged there.

    Args:
        local: this process's own evaluator.
        executor: the workers.
    """

    def __init__(self, local: Evaluator, executor: RayExecutor) -> None:
        self.local = local
        self.executor = executor

    @property
    def dashboard(self) -> str | None:
        """Address of Ray's dashboard, where there is one."""
        return self.executor.pool.connection.dashboard

    @property
    def fingerprint(self) -> Fingerprint:
        """What files are timed on: the first target."""
        return self.fingerprint_on(self.executor.pool.targets[0])

    def fingerprint_on(self, target: str | None) -> Fingerprint:
        """What files are timed on for a target."""
        return self.executor.pool.fingerprints.get(target, self.local.fingerprint)

    @property
    def builder(self) -> Builder:
        """This process's own."""
        return self.local.builder

    def evaluate(
        self, recipe: Recipe, gate: Gate | None = None, watch: TrainingWatch | None = None
    ) -> tuple[Measurement, Artifact]:
        """Measure one recipe by a worker and a probe.

        Raises:
            Rejection: it cannot get past the gate.
            TrialError: it failed.
        """
        outcome = self.executor.evaluate(Job(_AGAIN, recipe, gate))
        if outcome.state == "rejected":
            raise Rejection("rejected by a worker", outcome.measurement)
        if outcome.state == "failed" or outcome.artifact is None:
            raise TrialError(outcome.error or "it failed")
        return outcome.measurement, outcome.artifact

    def rebuild(self, recipe: Recipe) -> Artifact:
        """A recipe's file without figures, built here."""
        return self.local.rebuild(recipe)

    def time_together(
        self, artifacts: Mapping[str, Artifact], session: str
    ) -> Mapping[str, LatencyFigures]:
        """Time files in turns on a probe."""
        if self.local.options.latency is None or not artifacts:
            return {}
        return self.executor.time_together(artifacts, session)

    def report(self, artifact: Artifact) -> ReportFigures | None:
        """Accuracy on the report split, read here."""
        return self.local.report(artifact)

    @property
    def has_report(self) -> bool:
        """Whether the task has a report split."""
        return self.local.has_report


@contextmanager
def open_crew(
    crew: Crew, source: Source, local: Evaluator, logs: TrialLogs | None = None
) -> Iterator[ClusterEvaluator]:
    """Workers of a search, ready to begin; they end with this.

    Args:
        crew: how many, where.
        source: makes the evaluator of each of them.
        local: the same of this process.
        logs: where it is kept what workers say of each trial.

    Raises:
        ClusterError: the cluster cannot be reached, or has not what is asked of it.
        InputError: the workers cannot load the task.
    """
    with connect(crew.address, (crew.workers or 1) * crew.cpus) as connection:
        if crew.workers is None:
            crew = dataclasses.replace(crew, workers=max(1, connection.cpus // crew.cpus))
        is_timed = local.options.latency is not None
        pool = Pool(connection, source, crew, is_timed=is_timed)
        executor = RayExecutor(pool, local.builder.seal, logs)
        executor.wait_until_ready()
        yield ClusterEvaluator(local, executor)
