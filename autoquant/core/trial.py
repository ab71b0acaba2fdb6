"""`Trial`: the immutable record of one evaluated recipe."""

import statistics
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from autoquant.core.evidence import Evidence
from autoquant.core.noise import Interval, log_sd
from autoquant.core.objective import Objective, kind_of, target_of
from autoquant.core.recipe import Recipe
from autoquant.core.training import TrainingCurve

__all__ = [
    "BriefLatency",
    "Latency",
    "LatencyFigures",
    "Measurement",
    "Mode",
    "Parity",
    "Partial",
    "ReportFigures",
    "Timing",
    "Trial",
    "TrialState",
    "mean_ratio",
]

Mode = Literal["ptq", "qat"]
TrialState = Literal["complete", "rejected", "failed"]

_WHERE_THERE_IS_ONE = (
    "knee", "left_front", "report_error", "front_probability", "training", "node", "probe",
    "targets",
)  # fmt: skip


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def mean_ratio(ratios: Sequence[float | None]) -> float | None:
    """The geometric mean; None where one of them was not measured."""
    found = [ratio for ratio in ratios if ratio is not None]
    return statistics.geometric_mean(found) if len(found) == len(ratios) else None


class Parity(_Record):
    """Agreement of the exported file with the quantized model that it came from.

    Attributes:
        top1_agreement: share of samples with the same class.
        max_abs_diff: largest difference of an output value.
        sqnr_db: power of the outputs over that of the differences, decibels; 200 stands for
            outputs that are the same.
        samples: how many were compared.
    """

    top1_agreement: float
    max_abs_diff: float
    sqnr_db: float | None = None
    samples: int


class Timing(_Record):
    """What lies behind a latency.

    Attributes:
        reference_ms: the float model, timed in turns with this one.
        p50_ms: median of all runs that count, and likewise the 90th and 99th percentile.
        samples: timed runs.
        stable: whether the ratio's interval became as narrow as wanted.
        session: trials that were timed together, in turns, share this name.
        search_ratio: of a trial that was timed anew beside the front, the ratio that it had
            been given during the search.
        machine: digest of the fingerprint of what it was timed on.
        over_onnxruntime: of the float model on another runtime, its latency over that of the
            float model on ONNX Runtime, timed in turns; and its 95 % interval.
    """

    reference_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    samples: int
    stable: bool
    session: str | None = None
    search_ratio: float | None = None
    machine: str | None = None
    over_onnxruntime: float | None = None
    over_onnxruntime_ci: Interval | None = None

    @model_serializer(mode="wrap")
    def _leave_out_no_other(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = dump(self)
        others = ("over_onnxruntime", "over_onnxruntime_ci")
        return {key: value for key, value in values.items() if key not in others or value}


class BriefLatency(_Record):
    """Of a short timing; the fields are those of a `Partial`."""

    latency_ratio: float | None = None
    latency_ratio_ci: tuple[float, float] | None = None
    latency_ms: float | None = None
    latency_ms_ci: tuple[float, float] | None = None
    reference_ms: float | None = None


class Partial(_Record):
    """What was seen of a trial that was stopped because it could not enter the front.

    Attributes:
        reason: why it could not.
        samples: how many samples of the search split were looked at, of how many.
        accuracy: on those samples, and the drop on the same.
        latency_ratio: of a short timing, and likewise `latency_ms`.
        reference_ms: the float model beside it.
        targets: its latency on each target, by name, where the study has some; that of the first
            stands beside them too.
    """

    reason: str
    samples: int
    of_samples: int
    accuracy: float
    accuracy_drop: float
    latency_ratio: float | None = None
    latency_ratio_ci: tuple[float, float] | None = None
    latency_ms: float | None = None
    latency_ms_ci: tuple[float, float] | None = None
    reference_ms: float | None = None
    targets: dict[str, BriefLatency] | None = None

    @model_serializer(mode="wrap")
    def _leave_out_no_targets(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = dump(self)
        return {key: value for key, value in values.items() if key != "targets" or value}


class Latency(_Record):
    """What a timing gives."""

    latency_ms: float
    latency_ms_ci: Interval
    latency_ratio: float
    latency_ratio_ci: Interval
    timing: Timing
    peak_memory_bytes: int | None = None


class Measurement(_Record):
    """What was measured of one artifact. None is what was not measured.

    Accuracies are fractions; drops are float minus quantized on the same images, so a gain
    is negative. `latency_ratio` is this model over the float model, timed alternately.
    Intervals are 95 %; that of a drop is paired. `measured_on` is the digest of the fingerprint
    of what the accuracy was measured on; the front may be timed on another machine. `training`
    says how a recipe of mode `qat` was trained. In a study with targets `targets` has the latency
    on each of them, by name, and the figures of the first stand beside them too.
    """

    accuracy: float | None = None
    accuracy_drop: float | None = None
    accuracy_ci: Interval | None = None
    accuracy_drop_ci: Interval | None = None
    report_accuracy: float | None = None
    report_accuracy_ci: Interval | None = None
    report_accuracy_drop: float | None = None
    report_accuracy_drop_ci: Interval | None = None
    latency_ms: float | None = None
    latency_ms_ci: Interval | None = None
    latency_ratio: float | None = None
    latency_ratio_ci: Interval | None = None
    timing: Timing | None = None
    peak_memory_bytes: int | None = None
    size_bytes: int | None = None
    integer_coverage: float | None = None
    float_layers: tuple[str, ...] | None = None
    parity: Parity | None = None
    partial: Partial | None = None
    seconds: dict[str, float] = {}
    measured_on: str | None = None
    training: TrainingCurve | None = None
    targets: dict[str, Latency] | None = None
    evidence: Evidence | None = Field(default=None, exclude=True, repr=False)

    @property
    def latency_sd(self) -> float:
        """Standard error of the logarithm of the latency ratio, from its interval."""
        return log_sd(self.latency_ratio_ci)


class ReportFigures(_Record):
    """Accuracy on the report split, read once for a member of the front."""

    report_accuracy: float
    report_accuracy_ci: Interval | None = None
    report_accuracy_drop: float
    report_accuracy_drop_ci: Interval | None = None


class LatencyFigures(Latency):
    """A member of the front, timed anew beside the others; `targets` as in a `Measurement`."""

    targets: dict[str, Latency] | None = None


class Trial(Measurement):
    """One finished trial.

    Attributes:
        number: number of the trial in the study's storage; gaps are trials that were
            interrupted and tried again under another number.
        name: the baseline that this is (`w8a8`, `ort-static`), or None.
        error: why a failed trial failed.
        node: where it was built and judged, in a search on several workers.
        probe: where it was timed, likewise.
        left_front: why it is no member any more, though it was one until the front was timed
            anew.
        report_error: why a member has no report figures, though there is a report split.
        front_probability: how often it is on the front when every figure is drawn anew.
        knee: it is the recommended one.
    """

    number: int
    state: TrialState
    digest: str
    recipe: Recipe
    name: str | None = None
    error: str | None = None
    seed: int = 0
    node: str | None = None
    probe: str | None = None
    left_front: str | None = None
    report_error: str | None = None
    front_probability: float | None = None
    knee: bool = Field(default=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; a place on the front, a training, a node appear where there is one."""
        values = self.model_dump(mode="json")
        for name in _WHERE_THERE_IS_ONE:
            if values[name] is None or values[name] is False:  # a probability of 0.0 stays
                del values[name]
        return values

    @property
    def mode(self) -> Mode:
        """`qat` if it was trained."""
        return "qat" if self.recipe.is_trained else "ptq"

    @property
    def timing_session(self) -> str | None:
        """Name shared by trials that were timed together."""
        return None if self.timing is None else self.timing.session

    @property
    def machine(self) -> str | None:
        """Digest of the fingerprint that its latency was measured with, or its accuracy."""
        return (self.timing.machine if self.timing is not None else None) or self.measured_on

    def latency_on(self, objective: Objective) -> float | None:
        """The latency ratio that an objective is about; None where it was not measured.

        Of a rejected trial, what was seen until then.
        """
        target, seen = target_of(objective), self.partial or self
        if target is None:
            return seen.latency_ratio
        found = (seen.targets or {}).get(target)
        return None if found is None else found.latency_ratio

    @property
    def mean_latency_ratio(self) -> float | None:
        """One figure for all targets, which weigh the same: the geometric mean of the ratios.

        Of a rejected trial, what was seen until then; None where it was not measured.
        """
        seen = self.partial or self
        return mean_ratio([item.latency_ratio for item in (seen.targets or {}).values()] or [
            seen.latency_ratio
        ])  # fmt: skip

    def seen_from(self, target: str | None) -> "Trial":
        """The trial with its latency on a target in the place of that on the first.

        What it took, and where it was timed, stay those of all targets.

        Args:
            target: its name; None leaves the trial as it is.
        """
        if target is None:
            return self
        latency = (self.targets or {}).get(target)
        figures = {name: getattr(latency, name, None) for name in Latency.model_fields}
        partial = self.partial
        if partial is not None:
            brief = (partial.targets or {}).get(target) or BriefLatency()
            partial = partial.model_copy(update={**dict(brief), "targets": None})
        return self.model_copy(update={**figures, "partial": partial, "targets": None})

    def measurement(self) -> Measurement:
        """The figures alone."""
        return Measurement(**{name: getattr(self, name) for name in Measurement.model_fields})

    def objective(self, name: Objective) -> float:
        """Value of an objective, lower is better: accuracy is negated.

        Of a rejected trial, what was seen until then.

        Raises:
            ValueError: the trial did not measure it.
        """
        seen = self.partial or self
        value: float | None
        match kind_of(name):
            case "accuracy":
                value = None if seen.accuracy is None else -seen.accuracy
            case "latency":
                value = self.latency_on(name)
            case "size":
                value = self.size_bytes
        if value is None:
            raise ValueError(f"trial {self.number} did not measure {name}")
        return float(value)
