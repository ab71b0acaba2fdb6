"""`Evaluator`: a recipe in, a measured artifact out. Figures are those of the file itself."""

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from autoquant.backends.base import Backend, Session
from autoquant.backends.latency import (
    CANDIDATE_INSTANCES,
    PROTOCOL_VERSION,
    REFERENCE_INSTANCES,
    Comparison,
    Instance,
    LatencyProtocol,
    Race,
)
from autoquant.backends.machine import available_cores
from autoquant.backends.quiet import QuietPlace
from autoquant.core.artifact import Artifact, Builder, Candidate
from autoquant.core.evidence import Evidence
from autoquant.core.fingerprint import Fingerprint, fingerprint_digest
from autoquant.core.gate import Gate, Glimpse, Hits
from autoquant.core.layer import Layer
from autoquant.core.metric import (
    accuracy_interval,
    drop_interval,
    find_evidence,
    find_hits,
    measure_accuracy,
)
from autoquant.core.noise import log_sd
from autoquant.core.parity import check_parity
from autoquant.core.proof import LayerProof, explain_layers, other_operators
from autoquant.core.recipe import Recipe
from autoquant.core.rehearsal import Rehearsal
from autoquant.core.split import Split
from autoquant.core.task import Dataset, Metric
from autoquant.core.training import TrainingWatch
from autoquant.core.trial import (
    LatencyFigures,
    Measurement,
    Parity,
    Partial,
    ReportFigures,
    Timing,
)
from autoquant.errors import Rejection, TrialError

__all__ = ["FRONT_PROTOCOL", "EvaluationOptions", "Evaluator"]

_PARITY_SAMPLES = 1000
_REHEARSED_SAMPLES = 500
_SHORT_SLICES = 2
_REMEMBERED_RACES = 20  # few, since a machine that gets warm is slower for good

# The front is timed once, beside itself, with more patience than a trial gets.
FRONT_PROTOCOL = LatencyProtocol(slice_s=0.2, min_slices=10, max_s=4.0, pause_s=0.1)

Outputs = npt.NDArray[np.float32]
Shares = list[tuple[str, float]]  # of the time, by operator


@dataclass(frozen=True)
class EvaluationOptions:
    """How artifacts are judged.

    Attributes:
        threads: threads of the timed runs; accuracy uses every core.
        batch: batch size of the timed runs.
        latency: how long to time; None measures no latency.
        front_latency: how long to time a front, for each member.
    """

    threads: int = 1
    batch: int = 1
    latency: LatencyProtocol | None = field(default_factory=LatencyProtocol)
    front_latency: LatencyProtocol = FRONT_PROTOCOL


class Evaluator:
    """Builds and measures recipes of one task on one backend.

    Args:
        builder: makes files from recipes.
        backend: runs them.
        search: data that trials are scored on.
        report: data that the front is reported on, or None.
        metric: how outputs become accuracy.
        options: threads, batch size and patience of the timing.
        place: where timings take their turns.
    """

    def __init__(
        self,
        builder: Builder,
        backend: Backend,
        search: Dataset,
        report: Dataset | None = None,
        metric: Metric = "top1",
        options: EvaluationOptions | None = None,
        place: QuietPlace | None = None,
    ) -> None:
        self.builder = builder
        self.backend = backend
        self.metric = metric
        self.options = options or EvaluationOptions()
        self.place = place or QuietPlace(self.options.threads)
        self.search = Split(search)
        self._reference_ms: deque[float] = deque(maxlen=_REMEMBERED_RACES)
        self.report_split = Split(report) if report is not None and len(report) else None

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """This machine, the versions that build and run files, and that of the protocol."""
        found = self.backend.fingerprint()
        versions = {**self._float.passport.get("versions", {}), **found["versions"]}
        return {**found, "versions": versions, "latency_protocol": PROTOCOL_VERSION}

    @cached_property
    def origin(self) -> str:
        """The fingerprint's digest, for records."""
        return fingerprint_digest(self.fingerprint)

    @property
    def layers(self) -> list[Layer]:
        """The task's quantizable layers."""
        return self.builder.layers

    @property
    def operators(self) -> list[Layer]:
        """Everything that multiplies and accumulates, what has to stay float included."""
        return self.builder.operators

    def evaluate(
        self, recipe: Recipe, gate: Gate | None = None, watch: TrainingWatch | None = None
    ) -> tuple[Measurement, Artifact]:
        """Build, check and measure one recipe on the search split.

        Args:
            recipe: what to build.
            gate: what the candidate must get past; None measures it in full.
            watch: told how it is trained, if it is.

        Raises:
            Rejection: it certainly cannot get past the gate; carries what was seen.
            ParityError: the file does not compute what the quantized model does.
            TrialError: any other reason why this recipe has no figures.
        """
        with self.place.work():
            candidate = self.builder.build(recipe, self._rehearse(recipe, gate, watch))
            self.place.look_around()
            return self.measure(candidate, gate)

    def _rehearse(
        self, recipe: Recipe, gate: Gate | None, watch: TrainingWatch | None
    ) -> TrainingWatch | None:
        """Who watches a training: whoever asked for it, and the gate."""
        if not recipe.is_trained:
            return None
        batches = self.search.batches[: math.ceil(_REHEARSED_SAMPLES / self.search.batch_size)]
        count = min(len(self.search), len(batches) * self.search.batch_size)
        targets, reference = self.search.targets, self.float_outputs

        def find(outputs: Outputs) -> Hits | None:
            return find_hits(self.metric, outputs, targets, reference)

        return Rehearsal(
            batches,
            find(reference[:count]),
            find,
            len(self.search),
            gate,
            watch or TrainingWatch(),
            self.place.look_around,
        )

    def rebuild(self, recipe: Recipe) -> Artifact:
        """A recipe's file without figures, built where it disturbs no timing."""
        with self.place.work():
            return self.builder.build(recipe).artifact

    def measure(
        self, candidate: Candidate, gate: Gate | None = None
    ) -> tuple[Measurement, Artifact]:
        """Measure a built candidate; see `evaluate`."""
        artifact = candidate.artifact
        with self.place.work():
            measurement = _Examination(self, candidate, gate).run()
        figures = measurement.model_dump(mode="json")
        return measurement, self.builder.seal(artifact, figures, self.fingerprint)

    def report(self, artifact: Artifact) -> ReportFigures | None:
        """Accuracy on the report split; None where the task has none."""
        if self.report_split is None:
            return None
        with self.place.work():
            session = self.backend.load(artifact, available_cores())
            outputs = self.predict(session, self.report_split.batches)
            figures = self.judge(outputs, self.report_split, self._float_report)
        return ReportFigures(
            report_accuracy=figures["accuracy"],
            report_accuracy_ci=figures["accuracy_ci"],
            report_accuracy_drop=figures["accuracy_drop"],
            report_accuracy_drop_ci=figures["accuracy_drop_ci"],
        )

    def time_together(self, artifacts: Mapping[str, Artifact], session: str) -> Any:
        """Time files in turns with each other and the float model.

        Each gets what `front_latency` gives one alone, up to a minute for all together.

        Args:
            artifacts: by name.
            session: what to call this occasion.

        Returns:
            `LatencyFigures` by name; empty where no latency is measured.
        """
        if self.options.latency is None or not artifacts:
            return {}
        protocol = self.options.front_latency.shared_by(len(artifacts))
        with self.place.turn():
            results = self.finish(self.race([*artifacts.values()], protocol))
        return {
            name: LatencyFigures(
                **timing_fields(result, self.origin, session),
                peak_memory_bytes=self.measure_memory(artifact),
            )
            for (name, artifact), result in zip(artifacts.items(), results, strict=True)
        }

    def measure_memory(self, artifact: Artifact) -> int | None:
        """Peak memory of a file at the batch size of the timed runs, bytes; None if unknown."""
        with self.place.turn():  # the process that runs it inherits its cores
            return self.backend.measure_memory(artifact, self.options.threads, self.options.batch)

    def race(self, artifacts: Sequence[Artifact], protocol: LatencyProtocol) -> Race:
        """Files against the float model, on the same inputs; takes place within turns."""
        models = [self._load_instances(item, CANDIDATE_INSTANCES) for item in artifacts]
        best = min(self._reference_ms, default=math.inf)
        return Race(models, self._float_instances, protocol, best)

    def finish(self, race: Race) -> list[Comparison]:
        """Results of a race, and what later ones know the quiet machine by."""
        results = race.finish()
        self._reference_ms.append(results[0].reference_ms)
        return results

    def predict(self, session: Session, batches: Sequence[Any]) -> Outputs:
        """Outputs of many batches, (n, ...)."""
        return np.concatenate([session.predict(batch) for batch in batches])

    def judge(self, outputs: Outputs, split: Split, reference: Outputs) -> dict[str, Any]:
        """Accuracy and drop of outputs for a whole split, with intervals and evidence."""
        targets = split.targets
        value = measure_accuracy(self.metric, outputs, targets, reference)
        base = measure_accuracy(self.metric, reference, targets, reference)
        evidence = find_evidence(self.metric, outputs, targets, reference)
        return {
            "accuracy": value,
            "accuracy_ci": accuracy_interval(value, evidence),
            "accuracy_drop": base - value,
            "accuracy_drop_ci": drop_interval(self._evidence_of(split), evidence, base - value),
            "evidence": evidence,
        }

    @cached_property
    def float_outputs(self) -> Outputs:
        """What the float model answers on the search split."""
        return self._predict_float(self.search)

    def find_integer_layers(self, artifact: Artifact) -> frozenset[str]:
        """Layers that the runtime executes in integers.

        Raises:
            TrialError: one of them is stored as float.
        """
        names = [layer.name for layer in self.operators]
        integer = self.backend.find_integer_layers(artifact, names)
        rogue = sorted(name for name in integer if artifact.precisions.get(name) == "float32")
        if rogue:
            raise TrialError(
                f"layer '{rogue[0]}' is stored as float but the runtime executes it in integers: "
                "its figures would not be those of this recipe"
            )
        return integer

    def explain(self, artifact: Artifact, recipe: Recipe) -> tuple[list[LayerProof], Shares]:
        """Which kernel ran each layer, and where else the time goes.

        Returns:
            One proof a layer, and the share of the time of every other operator.
        """
        with self.place.turn():
            nodes = self.backend.profile_nodes(artifact, self.options.threads, self.options.batch)
        integer = self.find_integer_layers(artifact)
        proofs = explain_layers(self.operators, artifact.precisions, recipe, nodes, integer)
        return proofs, other_operators(self.operators, nodes)

    @cached_property
    def _float(self) -> Artifact:
        return self.builder.build(Recipe(method="fp32")).artifact

    @cached_property
    def _float_report(self) -> Outputs:
        assert self.report_split is not None
        return self._predict_float(self.report_split)

    def _predict_float(self, split: Split) -> Outputs:
        return self.predict(self.backend.load(self._float, available_cores()), split.batches)

    def _evidence_of(self, split: Split) -> Evidence:
        """Of the float model."""
        return self._float_evidence if split is self.search else self._float_report_evidence

    @cached_property
    def _float_evidence(self) -> Evidence:
        reference = self.float_outputs
        return find_evidence(self.metric, reference, self.search.targets, reference)

    @cached_property
    def _float_report_evidence(self) -> Evidence:
        assert self.report_split is not None
        reference = self._float_report
        return find_evidence(self.metric, reference, self.report_split.targets, reference)

    @cached_property
    def _float_instances(self) -> list[Instance]:
        return self._load_instances(self._float, REFERENCE_INSTANCES)

    def _load_instances(self, artifact: Artifact, count: int) -> list[Instance]:
        def load() -> Session:
            return self.backend.load(artifact, self.options.threads)

        return Instance.several(load, self._timed_inputs, artifact.size_bytes, count)

    @cached_property
    def _timed_inputs(self) -> Any:
        return self.search.first_inputs(self.options.batch)


class _Examination:
    """One candidate's way through the stages.

    Cheap figures come first: size, two slices of timing, accuracy in growing chunks; after
    each chunk the gate may turn the candidate away. Slices of timing lie between the chunks,
    because a burst of noise outlasts slices that follow each other.
    """

    def __init__(self, evaluator: Evaluator, candidate: Candidate, gate: Gate | None) -> None:
        self.evaluator = evaluator
        self.candidate = candidate
        self.gate = gate
        self.seconds = dict(candidate.seconds)
        self.outputs: Outputs | None = None

    def run(self) -> Measurement:
        evaluator, artifact = self.evaluator, self.candidate.artifact
        reference = evaluator.float_outputs
        self._begin_race()
        self._time(_SHORT_SLICES)
        self._predict(reference)
        assert self.outputs is not None
        with _timed(self.seconds, "accuracy"):
            figures = evaluator.judge(self.outputs, evaluator.search, reference)
        with _timed(self.seconds, "parity"):
            parity = self._check_parity(self.outputs)
        integer = evaluator.find_integer_layers(artifact)
        return Measurement(
            **figures,
            **self._finish_timing(),
            size_bytes=artifact.size_bytes,
            integer_coverage=self._coverage(integer),
            float_layers=tuple(
                layer.name for layer in evaluator.operators if layer.name not in integer
            ),
            parity=parity,
            seconds=self._rounded_seconds(),
            measured_on=self.evaluator.origin,
            training=self.candidate.training,
        )

    def _begin_race(self) -> None:
        protocol = self.evaluator.options.latency
        self.race: Race | None = None
        if protocol is not None:
            self.race = self.evaluator.race([self.candidate.artifact], protocol)

    def _time(self, slices: int) -> None:
        if self.race is None or self.race.is_over():
            self.evaluator.place.look_around()
            return
        with self._turn(), _timed(self.seconds, "latency"):
            for _ in range(slices):
                if not self.race.is_over():
                    self.race.run_slice()

    def _finish_timing(self) -> dict[str, Any]:
        if self.race is None:
            return {}
        with self._turn(), _timed(self.seconds, "latency"):
            return timing_fields(self.evaluator.finish(self.race)[0], self.evaluator.origin)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        start = time.perf_counter()
        with self.evaluator.place.turn():
            self.seconds["waiting"] = self.seconds.get("waiting", 0.0) + time.perf_counter() - start
            yield

    def _predict(self, reference: Outputs) -> None:
        evaluator = self.evaluator
        session = evaluator.backend.load(self.candidate.artifact, available_cores())
        for chunk in evaluator.search.chunks():
            with _timed(self.seconds, "accuracy"):
                found = evaluator.predict(session, chunk)
            self.outputs = found if self.outputs is None else np.concatenate([self.outputs, found])
            self._pass_gate(reference)
            self._time(1)

    def _pass_gate(self, reference: Outputs) -> None:
        """Raises `Rejection` if the candidate is hopeless."""
        assert self.outputs is not None
        if self.gate is None:
            return
        evaluator, total = self.evaluator, len(self.evaluator.search)
        targets = evaluator.search.targets
        hits = find_hits(evaluator.metric, self.outputs, targets, reference)
        float_hits = find_hits(evaluator.metric, reference, targets, reference)
        if hits is None or float_hits is None:
            return
        float_hits = float_hits[: len(hits)]
        so_far = None if self.race is None else self.race.results()[0]
        seen = (
            Measurement()
            if so_far is None
            else Measurement(**timing_fields(so_far, evaluator.origin))
        )
        glimpse = Glimpse(
            hits, float_hits, total, self.candidate.artifact.size_bytes,
            seen.latency_ratio, seen.latency_sd, seen.latency_ms, log_sd(seen.latency_ms_ci),
        )  # fmt: skip
        reason = self.gate.find_reason(glimpse)
        if reason is not None:
            raise Rejection(reason, self._partial(glimpse, seen, reason))

    def _partial(self, glimpse: Glimpse, seen: Measurement, reason: str) -> Measurement:
        """What was seen of a rejected candidate."""
        accuracy, base = float(glimpse.hits.mean()), float(glimpse.float_hits.mean())
        partial = Partial(
            reason=reason,
            samples=len(glimpse.hits),
            of_samples=glimpse.total,
            accuracy=accuracy,
            accuracy_drop=base - accuracy,
            latency_ratio=seen.latency_ratio,
            latency_ratio_ci=seen.latency_ratio_ci,
            latency_ms=seen.latency_ms,
            latency_ms_ci=seen.latency_ms_ci,
            reference_ms=None if seen.timing is None else seen.timing.reference_ms,
        )
        return Measurement(
            partial=partial,
            size_bytes=glimpse.size_bytes,
            seconds=self._rounded_seconds(),
            measured_on=self.evaluator.origin,
            training=self.candidate.training,
            evidence=Evidence.from_hits(glimpse.hits),
        )

    def _check_parity(self, outputs: Outputs) -> Parity | None:
        if self.candidate.predict is None:
            return None
        search = self.evaluator.search
        count = math.ceil(_PARITY_SAMPLES / search.batch_size)
        promised = self.candidate.predict(search.batches[:count])
        return check_parity(promised, outputs[: len(promised)], self.evaluator.metric)

    def _coverage(self, integer: frozenset[str]) -> float:
        layers = self.evaluator.operators
        total = sum(layer.macs for layer in layers)
        covered = sum(layer.macs for layer in layers if layer.name in integer)
        return covered / total if total else 0.0

    def _rounded_seconds(self) -> dict[str, float]:
        return {stage: round(value, 4) for stage, value in self.seconds.items()}


def timing_fields(result: Comparison, machine: str, session: str | None = None) -> dict[str, Any]:
    """A comparison with the float model, as fields of a measurement."""
    p50, p90, p99 = result.percentiles_ms
    return {
        "latency_ms": result.latency_ms,
        "latency_ms_ci": result.latency_ms_ci,
        "latency_ratio": result.ratio,
        "latency_ratio_ci": result.ratio_ci,
        "timing": Timing(
            reference_ms=result.reference_ms,
            p50_ms=p50,
            p90_ms=p90,
            p99_ms=p99,
            samples=result.samples,
            stable=result.stable,
            session=session,
            machine=machine,
        ),
    }


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
