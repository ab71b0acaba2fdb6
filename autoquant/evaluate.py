"""`Evaluator`: a recipe in, a measured artifact out. Figures are those of the file itself."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from autoquant.backends.base import Backend, Session
from autoquant.backends.latency import LatencyProtocol, compare
from autoquant.backends.machine import available_cores
from autoquant.core.artifact import Artifact, Builder, Candidate
from autoquant.core.batching import batches
from autoquant.core.layer import Layer
from autoquant.core.metric import agreement, measure_accuracy, wilson_interval
from autoquant.core.recipe import Recipe
from autoquant.core.task import Dataset, Metric
from autoquant.core.trial import Measurement, Parity, ReportFigures
from autoquant.errors import ParityError, TrialError

__all__ = ["MIN_AGREEMENT", "EvaluationOptions", "Evaluator", "Split"]

MIN_AGREEMENT = 0.98
_PARITY_SAMPLES = 1000
_BATCH_VALUES = 2**22  # input values a batch: 16 MB of float32
_MAX_BATCH = 125


@dataclass(frozen=True)
class EvaluationOptions:
    """How artifacts are judged.

    Attributes:
        threads: threads of the timed runs; accuracy uses every core.
        batch: batch size of the timed runs.
        latency: how long to time; None measures no latency.
    """

    threads: int = 1
    batch: int = 1
    latency: LatencyProtocol | None = field(default_factory=LatencyProtocol)


class Split:
    """A data set as stacked batches, read once."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        first, _ = dataset[0]
        values = first.values() if isinstance(first, dict) else [first]
        per_sample = max(1, sum(int(np.prod(np.shape(value))) for value in values))
        self.batch_size = max(1, min(_MAX_BATCH, _BATCH_VALUES // per_sample))

    def __len__(self) -> int:
        return len(self.dataset)

    @cached_property
    def batches(self) -> list[Any]:
        """Stacked inputs, arrays or named arrays."""
        return [inputs for inputs, _ in self._pairs]

    @cached_property
    def targets(self) -> npt.NDArray[Any]:
        """(n, ...) targets."""
        return np.array([np.asarray(target) for _, targets in self._pairs for target in targets])

    @cached_property
    def _pairs(self) -> list[tuple[Any, list[Any]]]:
        every = range(len(self.dataset))
        return list(batches(self.dataset, every, self.batch_size, _stack))


def _stack(values: Any) -> npt.NDArray[Any]:
    return np.stack([np.asarray(value) for value in values])


class Evaluator:
    """Builds and measures recipes of one task on one backend.

    Args:
        builder: makes files from recipes.
        backend: runs them.
        search: data that trials are scored on.
        report: data that the front is reported on, or None.
        metric: how outputs become accuracy.
        options: threads, batch size and patience of the timing.
    """

    def __init__(
        self,
        builder: Builder,
        backend: Backend,
        search: Dataset,
        report: Dataset | None = None,
        metric: Metric = "top1",
        options: EvaluationOptions | None = None,
    ) -> None:
        self.builder = builder
        self.backend = backend
        self.metric = metric
        self.options = options or EvaluationOptions()
        self.search = Split(search)
        self.report_split = Split(report) if report is not None and len(report) else None

    @property
    def layers(self) -> list[Layer]:
        """The task's quantizable layers."""
        return self.builder.layers

    def evaluate(self, recipe: Recipe) -> tuple[Measurement, Artifact]:
        """Build, check and measure one recipe on the search split.

        Raises:
            ParityError: the file does not compute what the quantized model does.
            TrialError: any other reason why this recipe has no figures.
        """
        candidate = self.builder.build(recipe)
        return self.measure(candidate)

    def measure(self, candidate: Candidate) -> tuple[Measurement, Artifact]:
        """Measure a built candidate; see `evaluate`."""
        artifact, seconds = candidate.artifact, dict(candidate.seconds)
        session = self.backend.load(artifact, available_cores())
        with _timed(seconds, "accuracy"):
            outputs = self._predict(session, self.search)
        with _timed(seconds, "parity"):
            parity = self._check_parity(candidate, outputs)
        integer = self._find_integer_layers(artifact)
        with _timed(seconds, "latency"):
            timing = self._time(artifact)
        measurement = Measurement(
            **self._accuracy(outputs),
            **timing,
            size_bytes=artifact.size_bytes,
            integer_coverage=self._coverage(integer),
            float_layers=tuple(layer.name for layer in self.layers if layer.name not in integer),
            parity=parity,
            seconds={stage: round(value, 4) for stage, value in seconds.items()},
        )
        return measurement, self.builder.seal(artifact, measurement.model_dump(mode="json"))

    def report(self, artifact: Artifact) -> ReportFigures | None:
        """Accuracy on the report split; None where the task has none."""
        if self.report_split is None:
            return None
        session = self.backend.load(artifact, available_cores())
        outputs = self._predict(session, self.report_split)
        reference = self._float_report
        targets = self.report_split.targets
        value = measure_accuracy(self.metric, outputs, targets, reference)
        base = measure_accuracy(self.metric, reference, targets, reference)
        return ReportFigures(report_accuracy=value, report_accuracy_drop=base - value)

    @cached_property
    def _float(self) -> Artifact:
        return self.builder.build(Recipe(method="fp32")).artifact

    @cached_property
    def _float_search(self) -> npt.NDArray[np.float32]:
        return self._predict(self.backend.load(self._float, available_cores()), self.search)

    @cached_property
    def _float_report(self) -> npt.NDArray[np.float32]:
        assert self.report_split is not None
        return self._predict(self.backend.load(self._float, available_cores()), self.report_split)

    @cached_property
    def _float_session(self) -> Session:
        return self.backend.load(self._float, self.options.threads)

    def _predict(self, session: Session, split: Split) -> npt.NDArray[np.float32]:
        return np.concatenate([session.predict(batch) for batch in split.batches])

    def _accuracy(self, outputs: npt.NDArray[np.float32]) -> dict[str, Any]:
        targets, reference = self.search.targets, self._float_search
        value = measure_accuracy(self.metric, outputs, targets, reference)
        base = measure_accuracy(self.metric, reference, targets, reference)
        is_share = isinstance(self.metric, str)
        interval = wilson_interval(value, len(targets)) if is_share else None
        return {"accuracy": value, "accuracy_drop": base - value, "accuracy_ci": interval}

    def _check_parity(
        self, candidate: Candidate, outputs: npt.NDArray[np.float32]
    ) -> Parity | None:
        if candidate.predict is None:
            return None
        count = math.ceil(_PARITY_SAMPLES / self.search.batch_size)
        promised = candidate.predict(self.search.batches[:count])
        measured = outputs[: len(promised)]
        if not (np.isfinite(promised).all() and np.isfinite(measured).all()):
            raise TrialError("the quantized model's outputs are not finite")
        parity = Parity(
            top1_agreement=agreement(measured, promised),
            max_abs_diff=float(np.abs(measured - promised).max()),
            samples=len(promised),
        )
        if parity.top1_agreement < MIN_AGREEMENT:
            raise ParityError(
                f"the exported file disagrees with the Brevitas model: top-1 agreement "
                f"{parity.top1_agreement:.4f} on {parity.samples} samples, below {MIN_AGREEMENT}"
            )
        return parity

    def _time(self, artifact: Artifact) -> dict[str, Any]:
        protocol = self.options.latency
        if protocol is None:
            return {}
        session = self.backend.load(artifact, self.options.threads)
        inputs = self._timed_inputs
        reference = self._float_session
        result = compare(
            lambda: session.time_once(inputs), lambda: reference.time_once(inputs), protocol
        )
        return {
            "latency_ms": result.latency_ms,
            "latency_ratio": result.ratio,
            "latency_ratio_ci": result.ratio_ci,
        }

    @cached_property
    def _timed_inputs(self) -> Any:
        chosen = [index % len(self.search) for index in range(self.options.batch)]
        inputs, _ = next(batches(self.search.dataset, chosen, self.options.batch, _stack))
        return inputs

    def _find_integer_layers(self, artifact: Artifact) -> frozenset[str]:
        integer = self.backend.find_integer_layers(artifact, [layer.name for layer in self.layers])
        rogue = sorted(name for name in integer if artifact.precisions.get(name) == "float32")
        if rogue:
            raise TrialError(
                f"layer '{rogue[0]}' is stored as float but the runtime executes it in integers: "
                "its figures would not be those of this recipe"
            )
        return integer

    def _coverage(self, integer: frozenset[str]) -> float:
        total = sum(layer.macs for layer in self.layers)
        covered = sum(layer.macs for layer in self.layers if layer.name in integer)
        return covered / total if total else 0.0


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
