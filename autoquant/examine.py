"""`Examination`: one candidate's way from a file to its figures, cheap ones first."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autoquant.backends.latency import Comparison, Race
from autoquant.backends.machine import SATURATES, available_cores
from autoquant.core.artifact import Candidate
from autoquant.core.evidence import Evidence
from autoquant.core.gate import Gate, Glimpse, Hits
from autoquant.core.metric import find_hits
from autoquant.core.noise import log_sd
from autoquant.core.parity import MIN_SQNR_DB, check_parity
from autoquant.core.trial import Measurement, Parity, Partial, Timing
from autoquant.errors import ParityError, Rejection

if TYPE_CHECKING:
    from autoquant.evaluate import Evaluator

__all__ = ["Examination", "timing_fields"]

_SHORT_SLICES = 2
_PARITY_SAMPLES = 1000
_MIN_PARITY_SAMPLES = 24
_TELLING_SAMPLES = 64  # so many of the same class leave little doubt, whatever the values

Outputs = npt.NDArray[np.float32]


class Examination:
    """One candidate's way through the stages.

    Cheap figures come first: size, two slices of timing, accuracy in growing chunks; after
    each chunk the gate may turn the candidate away. Slices of timing lie between the chunks,
    because a burst of noise outlasts slices that follow each other.
    """

    def __init__(self, evaluator: "Evaluator", candidate: Candidate, gate: Gate | None) -> None:
        self.evaluator = evaluator
        self.candidate = candidate
        self.gate = gate
        self.seconds = dict(candidate.seconds)
        self.outputs: Outputs | None = None
        self.promised: list[Outputs] = []  # by the quantized model, from the first batch on
        self.promised_batches = 0

    def run(self) -> Measurement:
        """The figures.

        Raises:
            Rejection: the candidate cannot get past the gate; carries what was seen.
            ParityError: the file does not compute what the quantized model does.
            TrialError: any other reason why there are no figures.
        """
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

    def time(self, seen: Measurement, float_evidence: Evidence | None) -> Measurement:
        """Add the latency to what was measured of the file on another machine.

        Args:
            seen: everything but the latency.
            float_evidence: what the float model did on the same samples; None asks no gate.

        Raises:
            Rejection: after a short timing, the candidate cannot get past the gate.
            TrialError: the clock failed.
        """
        self._begin_race()
        self._time(_SHORT_SLICES)
        if seen.partial is not None:
            return self._complete_partial(seen, seen.partial)
        hits = None if seen.evidence is None else seen.evidence.hits
        float_hits = None if float_evidence is None else float_evidence.hits
        if hits is not None and float_hits is not None:
            self._judge(hits, float_hits)
        figures = self._finish_timing()
        return seen.model_copy(update={**figures, "seconds": self._rounded_seconds()})

    def _complete_partial(self, seen: Measurement, partial: Partial) -> Measurement:
        if self.race is not None:
            timed = Measurement(**timing_fields(self.race.results()[0], self.evaluator.origin))
            partial = partial.model_copy(update=_partial_latency(timed))
        update = {"partial": partial, "seconds": self._rounded_seconds()}
        return seen.model_copy(update=update)

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
            result = self.evaluator.finish(self.race)[0]
            fields = timing_fields(result, self.evaluator.origin)
            if self._is_float_model():
                other = self.evaluator.compare_with_onnxruntime()
                fields["timing"] = fields["timing"].model_copy(update=other)
            return fields

    def _is_float_model(self) -> bool:
        recipe = self.candidate.artifact.passport.get("recipe", {})
        return bool(recipe.get("method") == "fp32")

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
        evaluator, targets = self.evaluator, self.evaluator.search.targets
        hits = find_hits(evaluator.metric, self.outputs, targets, reference)
        float_hits = find_hits(evaluator.metric, reference, targets, reference)
        if hits is not None and float_hits is not None:
            self._judge(hits, float_hits[: len(hits)])

    def _judge(self, hits: Hits, float_hits: Hits) -> None:
        """Raises `Rejection` if the candidate is hopeless by what was seen so far."""
        if self.gate is None:
            return
        evaluator, total = self.evaluator, len(self.evaluator.search)
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
            **_partial_latency(seen),
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
        """Parity on a part of the samples, on twice as many as long as they leave a doubt.

        The same classes say little on few samples: there the values must agree as well.
        """
        if self.candidate.predict is None:
            return None
        samples, most = self._few_samples(), min(_PARITY_SAMPLES, len(outputs))
        while samples < most:
            with suppress(ParityError):
                parity = self._compare(outputs, samples)
                is_telling = parity.samples >= _TELLING_SAMPLES
                if is_telling or parity.sqnr_db is None or parity.sqnr_db >= MIN_SQNR_DB:
                    return parity
            samples *= 2
        return self._compare(outputs, most)

    def _compare(self, outputs: Outputs, samples: int) -> Parity:
        assert self.candidate.predict is not None
        search = self.evaluator.search
        count = max(1, round(samples / search.batch_size))
        if samples == len(outputs):  # all there are
            count = len(search.batches)
        if count > self.promised_batches:  # those before are known
            self.promised.append(
                self.candidate.predict(search.batches[self.promised_batches : count])
            )
            self.promised_batches = count
        promised = np.concatenate(self.promised)
        try:
            return check_parity(promised, outputs[: len(promised)], self.evaluator.metric)
        except ParityError as error:
            if self.evaluator.is_exact:
                raise
            raise ParityError(f"{error}; {SATURATES}") from error

    def _few_samples(self) -> int:
        allowed = self.evaluator.options.parity_macs
        if allowed is None:
            return _PARITY_SAMPLES
        macs = sum(layer.macs for layer in self.evaluator.operators)
        return min(_PARITY_SAMPLES, max(_MIN_PARITY_SAMPLES, int(allowed // max(1, macs))))

    def _coverage(self, integer: frozenset[str]) -> float:
        layers = self.evaluator.operators
        total = sum(layer.macs for layer in layers)
        covered = sum(layer.macs for layer in layers if layer.name in integer)
        return covered / total if total else 0.0

    def _rounded_seconds(self) -> dict[str, float]:
        return {stage: round(value, 4) for stage, value in self.seconds.items()}


def _partial_latency(seen: Measurement) -> dict[str, Any]:
    return {
        "latency_ratio": seen.latency_ratio,
        "latency_ratio_ci": seen.latency_ratio_ci,
        "latency_ms": seen.latency_ms,
        "latency_ms_ci": seen.latency_ms_ci,
        "reference_ms": None if seen.timing is None else seen.timing.reference_ms,
    }


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
