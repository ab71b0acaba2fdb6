"""`Evaluator`: a recipe in, a measured artifact out. Figures are those of the file itself."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
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
    compare,
)
from autoquant.backends.machine import available_cores, has_integer_dot_product
from autoquant.backends.quiet import QuietPlace
from autoquant.backends.registry import DEFAULT_BACKEND, load_backend
from autoquant.core.artifact import Artifact, Builder, Candidate
from autoquant.core.evidence import Evidence
from autoquant.core.fingerprint import Fingerprint, fingerprint_digest
from autoquant.core.gate import Gate, Hits
from autoquant.core.layer import Layer
from autoquant.core.metric import (
    accuracy_interval,
    drop_interval,
    find_evidence,
    find_hits,
    measure_accuracy,
)
from autoquant.core.proof import LayerProof, NodeTime, explain_layers, other_operators
from autoquant.core.recipe import Recipe
from autoquant.core.rehearsal import REHEARSED_SAMPLES, Rehearsal
from autoquant.core.split import Split
from autoquant.core.task import Dataset, Metric
from autoquant.core.training import TrainingWatch
from autoquant.core.trial import (
    LatencyFigures,
    Measurement,
    ReportFigures,
)
from autoquant.errors import Rejection, TrialError
from autoquant.examine import Examination, timing_fields

__all__ = ["FRONT_PROTOCOL", "EvaluationOptions", "Evaluator"]

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
        parity_macs: multiply-accumulates to spend on the quantized model, which runs many times
            slower than its file. A large network is compared on fewer samples then, and on more
            while those leave a doubt. None compares 1,000 samples at any price.
        full_integer: inputs and outputs of the files are int8, for processors without floats;
            .tflite files alone can be so.
    """

    threads: int = 1
    batch: int = 1
    latency: LatencyProtocol | None = field(default_factory=LatencyProtocol)
    front_latency: LatencyProtocol = FRONT_PROTOCOL
    parity_macs: float | None = None
    full_integer: bool = False


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

    def fingerprint_on(self, target: str | None) -> Fingerprint:
        """The same: this process times for itself alone."""
        return self.fingerprint

    @cached_property
    def origin(self) -> str:
        """The fingerprint's digest, for records."""
        return fingerprint_digest(self.fingerprint)

    @property
    def is_exact(self) -> bool:
        """Whether sums of 8-bit products are exact here, by the processor or by the runtime."""
        return self.backend.kernels.is_exact or has_integer_dot_product()

    @property
    def layers(self) -> list[Layer]:
        """The task's quantizable layers."""
        return self.builder.layers

    @property
    def operators(self) -> list[Layer]:
        """Everything that multiplies or looks up, what has to stay float included."""
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
        batches = self.search.batches[: math.ceil(REHEARSED_SAMPLES / self.search.batch_size)]
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
            try:
                measurement = Examination(self, candidate, gate).run()
            except Rejection as rejection:
                rejection.artifact = artifact
                raise
        figures = measurement.model_dump(mode="json")
        return measurement, self.builder.seal(artifact, figures, self.fingerprint)

    def time(
        self, artifact: Artifact, seen: Measurement, gate: Gate | None, evidence: Evidence | None
    ) -> Measurement:
        """Add the latency to what was measured of a file elsewhere.

        One that was turned away there is timed for a moment, so that its record has every
        objective.

        Args:
            artifact: the file.
            seen: everything but the latency.
            gate: what the candidate must get past; None times it in full.
            evidence: of the float model on the search split; None asks no gate.

        Raises:
            Rejection: it certainly cannot get past the gate; carries what was seen.
            TrialError: the clock failed.
        """
        candidate = Candidate(artifact, None, seen.seconds, seen.training)
        try:
            return Examination(self, candidate, gate).time(seen, evidence)
        except Rejection as rejection:  # the accuracy that was seen is another machine's
            where = {"measured_on": seen.measured_on}
            rejection.measurement = rejection.measurement.model_copy(update=where)
            raise

    @property
    def has_report(self) -> bool:
        """Whether the task has a report split."""
        return self.report_split is not None

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

    def compare_with_onnxruntime(self) -> dict[str, Any]:
        """The float model here over the float model on ONNX Runtime, as fields of a `Timing`.

        With it fronts of several runtimes have one reference. Takes place within turns; empty
        where this is ONNX Runtime, or nothing is timed.
        """
        other, protocol = self.builder.float_onnx, self.options.latency
        if self.backend.name == DEFAULT_BACKEND or other is None or protocol is None:
            return {}
        runtime = load_backend(DEFAULT_BACKEND)
        reference = self._load_instances(other, REFERENCE_INSTANCES, runtime)
        model = self._load_instances(self._float, CANDIDATE_INSTANCES)
        result = compare(model, reference, protocol)
        return {"over_onnxruntime": result.ratio, "over_onnxruntime_ci": result.ratio_ci}

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
        """Layers that the runtime executes in integers; rows of a table are copied as they are.

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
        tables = {layer.name for layer in self.operators if layer.kind == "embedding"}
        return integer | {
            name for name in tables if artifact.precisions.get(name, "float32") != "float32"
        }

    def explain(self, artifact: Artifact, recipe: Recipe) -> tuple[list[LayerProof], Shares]:
        """Which kernel ran each layer, and where else the time goes.

        Returns:
            One proof a layer, and the share of the time of every other operator.
        """
        with self.place.turn():
            nodes = self.profile(artifact)
        integer = self.find_integer_layers(artifact)
        proofs = explain_layers(
            self.operators,
            artifact.precisions,
            recipe,
            nodes,
            integer,
            self.backend.kernels.kinds,
        )
        return proofs, other_operators(self.operators, nodes)

    def profile(self, artifact: Artifact) -> list[NodeTime]:
        """Time of every node on the inputs of the timed runs; takes place within turns."""
        options = self.options
        return self.backend.profile_nodes(
            artifact, options.threads, options.batch, inputs=self._timed_inputs
        )

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

    def _load_instances(
        self, artifact: Artifact, count: int, backend: Backend | None = None
    ) -> list[Instance]:
        def load() -> Session:
            return (backend or self.backend).load(artifact, self.options.threads)

        return Instance.several(load, self._timed_inputs, artifact.size_bytes, count)

    @cached_property
    def _timed_inputs(self) -> Any:
        return self.search.first_inputs(self.options.batch)
