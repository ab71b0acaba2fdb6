"""Replay of a passport: does a file still do what it says it was measured to do?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from autoquant.build import TaskBuilder, build_evaluator
from autoquant.core.artifact import Artifact, Candidate
from autoquant.core.recipe import Recipe
from autoquant.core.trial import Measurement
from autoquant.errors import ArtifactError, ParityError
from autoquant.evaluate import MIN_AGREEMENT, EvaluationOptions, Evaluator
from autoquant.export.passport import graph_digest, load_model
from autoquant.export.readback import read_artifact
from autoquant.tasks import load_task

__all__ = ["Check", "Verification", "read_verifiable", "verify_artifact"]

# Two measured ratios agree if their intervals touch, or if they lie this close.
_LATENCY_TOLERANCE = 0.05
# The float model itself runs this much faster or slower than when the passport was written:
# the machine is in another state (frequency, neighbours), and a ratio may have moved with it.
_DRIFT = 0.05
# Accuracies of one file may differ on another processor: float kernels round otherwise.
_ACCURACY_TOLERANCE = 0.002


@dataclass(frozen=True)
class Check:
    """One figure of the passport against the same figure here.

    Attributes:
        name: which figure.
        stored: what the passport says, as text.
        measured: what was found, as text.
        agrees: the verdict; None where the machine, or its state, differs and the figure may
            move.
    """

    name: str
    stored: str
    measured: str
    agrees: bool | None

    @property
    def verdict(self) -> str:
        """In a word, for a table."""
        return {True: "yes", False: "NO", None: "other conditions"}[self.agrees]


@dataclass(frozen=True)
class Verification:
    """Every check, and what runs each layer."""

    checks: list[Check]
    layers: list[dict[str, Any]]

    @property
    def ok(self) -> bool:
        """No check disagrees."""
        return all(check.agrees is not False for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "ok": self.ok,
            "checks": [vars(check) for check in self.checks],
            "layers": self.layers,
        }


def read_verifiable(content: bytes, name: str) -> Artifact:
    """An artifact with a passport that carries figures.

    Raises:
        ArtifactError: not ONNX, or not exported by autoquant.
    """
    try:
        artifact = read_artifact(content)
    except ArtifactError as error:
        raise ArtifactError(f"{name}: {error}") from error
    if not artifact.passport:
        raise ArtifactError(
            f"{name} carries no passport: it was not exported by autoquant "
            "(`autoquant bench` can time it all the same)"
        )
    if not artifact.passport.get("measurement"):
        raise ArtifactError(f"{name}: the passport holds no figures to replay")
    return artifact


def verify_artifact(artifact: Artifact) -> Verification:
    """Measure a file again and compare.

    Raises:
        ArtifactError: a passport that this version cannot read.
        TaskError: the task is unknown here, or its data are missing.
    """
    passport = artifact.passport
    try:
        recipe = Recipe.model_validate(passport["recipe"])
        stored = Measurement.model_validate(passport["measurement"])
        conditions = passport["conditions"]
        options = EvaluationOptions(int(conditions["threads"]), int(conditions["batch"]))
        seed = int(passport["seed"])
        task_name = str(passport["task"])
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise ArtifactError(f"the passport cannot be read: {error!r}"[:200]) from error
    evaluator = build_evaluator(load_task(task_name), seed, options)
    builder = evaluator.builder
    assert isinstance(builder, TaskBuilder)
    rebuilt = builder.build(recipe)
    checks = _check_identity(artifact, rebuilt)
    checks += _check_figures(artifact, rebuilt, stored, evaluator)
    return Verification(checks, _describe_layers(artifact, evaluator))


def _check_identity(artifact: Artifact, rebuilt: Candidate) -> list[Check]:
    """Is this the graph that was measured, made of this task's weights and data?"""
    stored, here = artifact.passport, rebuilt.artifact.passport
    digest = graph_digest(load_model(artifact.content))
    checks = [_check_digest("graph", stored["graph_sha256"], digest)]
    checks.append(_check_digest("weights", stored["weights_sha256"], here["weights_sha256"]))
    data: Mapping[str, str] = stored["data_sha256"]
    checks += [
        _check_digest(f"{split} data", value, here["data_sha256"].get(split, "missing"))
        for split, value in data.items()
    ]
    is_same = digest == here["graph_sha256"]
    agrees = is_same or (None if stored["versions"] != here["versions"] else False)
    checks.append(Check("rebuild from recipe", digest[:12], here["graph_sha256"][:12], agrees))
    return checks


def _check_digest(name: str, stored: str, here: str) -> Check:
    return Check(name, stored[:12], here[:12], stored == here)


def _check_figures(
    artifact: Artifact, rebuilt: Candidate, stored: Measurement, evaluator: Evaluator
) -> list[Check]:
    candidate = Candidate(artifact, rebuilt.predict)
    try:
        measured, _ = evaluator.measure(candidate)
    except ParityError as error:
        return [Check("parity", f">= {MIN_AGREEMENT}", str(error), False)]
    same = artifact.passport["machine"] == rebuilt.artifact.passport["machine"]
    checks = [_check_accuracy("accuracy", stored.accuracy, measured.accuracy, same)]
    if stored.report_accuracy is not None:
        figures = evaluator.report(artifact)
        value = None if figures is None else figures.report_accuracy
        checks.append(_check_accuracy("report accuracy", stored.report_accuracy, value, same))
    if stored.parity is not None and measured.parity is not None:
        agreement = measured.parity.top1_agreement
        checks.append(
            Check(
                "parity (top-1 agreement)",
                f"{stored.parity.top1_agreement:.4f}",
                f"{agreement:.4f}",
                agreement >= MIN_AGREEMENT,
            )
        )
    checks.append(_check_exact("size (bytes)", stored.size_bytes, measured.size_bytes, True))
    checks.append(
        _check_exact(
            "integer coverage",
            f"{stored.integer_coverage:.4f}",
            f"{measured.integer_coverage:.4f}",
            same,
        )
    )
    if stored.latency_ratio is not None:
        checks.append(_check_latency(stored, measured, same))
    return checks


def _check_accuracy(name: str, stored: float | None, here: float | None, same: bool) -> Check:
    if stored is None or here is None:
        return Check(name, str(stored), str(here), stored == here)
    tolerance = 0.0 if same else _ACCURACY_TOLERANCE
    agrees = abs(stored - here) <= tolerance
    return Check(name, f"{stored:.4%}", f"{here:.4%}", agrees if same or agrees else None)


def _check_exact(name: str, stored: object, here: object, same: bool) -> Check:
    agrees = stored == here
    return Check(name, str(stored), str(here), agrees if same or agrees else None)


def _check_latency(stored: Measurement, measured: Measurement, same: bool) -> Check:
    assert stored.latency_ratio is not None
    assert measured.latency_ratio is not None
    is_comparable = same and abs(_reference_ms(measured) / _reference_ms(stored) - 1) <= _DRIFT
    low, high = stored.latency_ratio_ci or (stored.latency_ratio, stored.latency_ratio)
    here_low, here_high = measured.latency_ratio_ci or (0.0, 0.0)
    touches = here_low <= high and low <= here_high
    is_near = abs(measured.latency_ratio / stored.latency_ratio - 1) <= _LATENCY_TOLERANCE
    return Check(
        "latency ratio",
        f"{stored.latency_ratio:.3f} ({low:.3f} to {high:.3f})",
        f"{measured.latency_ratio:.3f} ({here_low:.3f} to {here_high:.3f})",
        True if touches or is_near else False if is_comparable else None,
    )


def _reference_ms(measurement: Measurement) -> float:
    """Latency of the float model beside which a file was timed."""
    assert measurement.latency_ms is not None
    assert measurement.latency_ratio is not None
    return measurement.latency_ms / measurement.latency_ratio


def _describe_layers(artifact: Artifact, evaluator: Evaluator) -> list[dict[str, Any]]:
    names = [layer.name for layer in evaluator.layers]
    integer = evaluator.backend.find_integer_layers(artifact, names)
    return [
        {
            "name": layer.name,
            "kind": layer.kind,
            "macs": layer.macs,
            "stored_as": artifact.precisions.get(layer.name, "float32"),
            "integer_kernel": layer.name in integer,
        }
        for layer in evaluator.layers
    ]
