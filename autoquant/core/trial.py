"""`Trial`: the immutable record of one evaluated recipe."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from autoquant.core.recipe import Recipe

__all__ = ["Measurement", "Objective", "Parity", "ReportFigures", "Trial", "TrialState"]

TrialState = Literal["complete", "rejected", "failed"]
Objective = Literal["accuracy", "latency", "size"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Parity(_Record):
    """Agreement of the exported file with the quantized model that it came from."""

    top1_agreement: float
    max_abs_diff: float
    samples: int


class Measurement(_Record):
    """What was measured of one artifact. None is what was not measured.

    Accuracies are fractions; drops are float minus quantized on the same images, so a gain
    is negative. `latency_ratio` is this model over the float model, timed alternately.
    """

    accuracy: float | None = None
    accuracy_drop: float | None = None
    accuracy_ci: tuple[float, float] | None = None
    report_accuracy: float | None = None
    report_accuracy_drop: float | None = None
    latency_ms: float | None = None
    latency_ratio: float | None = None
    latency_ratio_ci: tuple[float, float] | None = None
    size_bytes: int | None = None
    integer_coverage: float | None = None
    float_layers: tuple[str, ...] | None = None
    parity: Parity | None = None
    seconds: dict[str, float] = {}


class ReportFigures(_Record):
    """Accuracy on the report split, read once for a member of the front."""

    report_accuracy: float
    report_accuracy_drop: float


class Trial(Measurement):
    """One finished trial.

    Attributes:
        number: number of the trial in the study's storage; gaps are trials that were
            interrupted and tried again under another number.
        name: the baseline that this is (`w8a8`, `ort-static`), or None.
        error: why a failed trial failed.
    """

    number: int
    state: TrialState
    digest: str
    recipe: Recipe
    name: str | None = None
    error: str | None = None
    seed: int = 0
    knee: bool = Field(default=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; `knee` appears only where it is true."""
        values = self.model_dump(mode="json")
        if not self.knee:
            del values["knee"]
        return values

    def measurement(self) -> Measurement:
        """The figures alone."""
        return Measurement(**{name: getattr(self, name) for name in Measurement.model_fields})

    def objective(self, name: Objective) -> float:
        """Value of an objective, lower is better: accuracy is negated.

        Raises:
            ValueError: the trial did not measure it.
        """
        value = {
            "accuracy": None if self.accuracy is None else -self.accuracy,
            "latency": self.latency_ratio,
            "size": self.size_bytes,
        }[name]
        if value is None:
            raise ValueError(f"trial {self.number} did not measure {name}")
        return float(value)
