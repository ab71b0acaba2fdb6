"""Replay of a passport: does a file still do what it says it was measured to do?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autoquant.backends.registry import backend_of
from autoquant.build import TaskBuilder, build_evaluator
from autoquant.core.artifact import Artifact, Candidate
from autoquant.core.check import Check, Verification, check_latency, describe_machine_change
from autoquant.core.recipe import Recipe
from autoquant.core.trial import Measurement
from autoquant.errors import ArtifactError, ParityError
from autoquant.evaluate import MIN_AGREEMENT, EvaluationOptions, Evaluator
from autoquant.export.passport import graph_digest, load_model
from autoquant.export.readback import read_artifact
from autoquant.tasks import load_task, resolve_options

__all__ = ["read_verifiable", "verify_artifact"]

# Accuracies of one file may differ on another processor: float kernels round otherwise.
_ACCURACY_TOLERANCE = 0.002
_ROUNDS = "float operators round otherwise on another processor"
_MOVES = "latencies are expected to move, accuracies by rounding alone"


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


def verify_artifact(
    artifact: Artifact, task_options: Mapping[str, Any] | None = None
) -> Verification:
    """Measure a file again, on the backend of its passport, and compare.

    Args:
        artifact: a file with figures.
        task_options: go before those of the passport; data may have moved.

    Raises:
        ArtifactError: a passport that this version cannot read.
        InputError: the passport's backend is not installed here.
        TaskError: the task is unknown here, or its data are missing.
    """
    passport = artifact.passport
    try:
        recipe = Recipe.model_validate(passport["recipe"])
        stored = Measurement.model_validate(passport["measurement"])
        conditions = passport["conditions"]
        options = EvaluationOptions(int(conditions["threads"]), int(conditions["batch"]))
        backend = backend_of(conditions)
        seed = int(passport["seed"])
        task_name = str(passport["task"])
        stored_options = dict(passport.get("task_options", {}))
    except (AttributeError, KeyError, TypeError, ValueError, ValidationError) as error:
        raise ArtifactError(f"the passport cannot be read: {error!r}"[:200]) from error
    here = Path.cwd()
    told = resolve_options(task_name, (stored_options, here), (task_options or {}, here))
    evaluator = build_evaluator(load_task(task_name, told), seed, options, backend)
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
    here = rebuilt.artifact.passport["machine"]
    change = describe_machine_change(artifact.passport["machine"], here)
    same = change is None
    checks = [] if same else [Check("machine", "another", str(change), None, _MOVES)]
    checks += [_check_accuracy("accuracy", stored.accuracy, measured.accuracy, same)]
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


def _check_latency(stored: Measurement, measured: Measurement, same: bool) -> Check:
    assert measured.latency_ratio is not None
    assert measured.latency_ratio_ci is not None
    assert measured.timing is not None
    return check_latency(
        stored.model_dump(mode="json"),
        measured.latency_ratio,
        measured.latency_ratio_ci,
        measured.timing.reference_ms,
        same,
    )


def _check_accuracy(name: str, stored: float | None, here: float | None, same: bool) -> Check:
    if stored is None or here is None:
        return Check(name, str(stored), str(here), stored == here)
    tolerance = 0.0 if same else _ACCURACY_TOLERANCE
    agrees = abs(stored - here) <= tolerance
    verdict = agrees if same or agrees else None
    return Check(name, f"{stored:.4%}", f"{here:.4%}", verdict, "" if agrees else _ROUNDS)


def _check_exact(name: str, stored: object, here: object, same: bool) -> Check:
    agrees = stored == here
    verdict = agrees if same or agrees else None
    return Check(name, str(stored), str(here), verdict, "" if agrees else "another processor")


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
