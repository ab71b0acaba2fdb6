"""Replay of a passport: does a file still do what it says it was measured to do?"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autoquant.backends.machine import has_integer_dot_product
from autoquant.backends.registry import backend_of
from autoquant.build import TaskBuilder, build_evaluator
from autoquant.core.artifact import Artifact, Candidate
from autoquant.core.check import (
    Check,
    Verification,
    check_latency,
    describe_machine_change,
    find_condition_changes,
    moves_accuracy,
    moves_latency,
)
from autoquant.core.noise import Interval
from autoquant.core.recipe import Recipe
from autoquant.core.trial import LatencyFigures, Measurement
from autoquant.errors import ArtifactError, ParityError
from autoquant.evaluate import EvaluationOptions, Evaluator
from autoquant.export.passport import graph_digest, load_model
from autoquant.export.readback import read_artifact
from autoquant.tasks import load_task, resolve_options

__all__ = ["check_accuracy", "read_verifiable", "verify_artifact"]

# Accuracies of one file may differ on another processor: float kernels round otherwise.
_ACCURACY_TOLERANCE = 0.002
_ROUNDS = "float operators round otherwise on another processor"
_SATURATES = (
    "sums of 8-bit products saturate on this processor: quantize with reduce_range (7-bit weights)"
)
_TRAINED = "a training is not repeated"
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
    artifact: Artifact,
    task_options: Mapping[str, Any] | None = None,
    *,
    compare_layers: bool = False,
) -> Verification:
    """Measure a file again, on the backend of its passport, and compare.

    Args:
        artifact: a file with figures.
        task_options: go before those of the passport; data may have moved.
        compare_layers: find the SQNR of every layer's output too.

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
        for name in ("machine", "versions", "data_sha256"):
            dict(passport[name])
    except (AttributeError, KeyError, TypeError, ValueError, ValidationError) as error:
        raise ArtifactError(f"the passport cannot be read: {error!r}"[:200]) from error
    here = Path.cwd()
    told = resolve_options(task_name, (stored_options, here), (task_options or {}, here))
    evaluator = build_evaluator(load_task(task_name, told), seed, options, backend)
    builder = evaluator.builder
    assert isinstance(builder, TaskBuilder)
    with evaluator.place.work():
        # a training is not repeated: what its recipe made before tells weights and data
        rebuilt = builder.build(recipe.trained(None) if recipe.is_trained else recipe)
    if recipe.is_trained:
        rebuilt = replace(rebuilt, predict=None)
    checks = _check_identity(artifact, rebuilt, recipe)
    checks += _check_figures(artifact, rebuilt, stored, evaluator)
    layers = _describe_layers(artifact, recipe, evaluator, compare=compare_layers)
    return Verification(checks, layers)


def _check_identity(artifact: Artifact, rebuilt: Candidate, recipe: Recipe) -> list[Check]:
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
    if recipe.is_trained:
        return [*checks, Check("rebuild from recipe", digest[:12], "-", None, _TRAINED)]
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
        return [Check("parity", "within rounding", str(error), False)]
    setting = _Setting.of(artifact.passport, stored, evaluator)
    checks = list(setting.changes)
    checks.append(check_accuracy("accuracy", stored.accuracy, measured.accuracy,
                                 stored.accuracy_drop_ci, setting.accuracy_note))  # fmt: skip
    if stored.report_accuracy is not None:
        figures = evaluator.report(artifact)
        value = None if figures is None else figures.report_accuracy
        checks.append(check_accuracy("report accuracy", stored.report_accuracy, value,
                                     stored.report_accuracy_drop_ci,
                                     setting.accuracy_note))  # fmt: skip
    checks += _check_parity(stored, measured)
    checks.append(_check_exact("size (bytes)", stored.size_bytes, measured.size_bytes, True))
    coverage = f"{stored.integer_coverage:.4f}", f"{measured.integer_coverage:.4f}"
    checks.append(_check_exact("integer coverage", *coverage, setting.accuracy_note is None))
    if stored.latency_ratio is not None:
        checks.append(_check_latency(artifact, stored, measured, evaluator, setting.is_same))
    return checks


@dataclass(frozen=True)
class _Setting:
    """How this machine differs from the one of the passport.

    Attributes:
        changes: what differs, for the reader.
        is_same: latencies may not move.
        accuracy_note: why accuracies may move; None if they may not.
    """

    changes: list[Check]
    is_same: bool
    accuracy_note: str | None

    @classmethod
    def of(
        cls, passport: Mapping[str, Any], stored: Measurement, evaluator: Evaluator
    ) -> "_Setting":
        here = evaluator.fingerprint
        machine = describe_machine_change(passport["machine"], here["machine"])
        changes = [] if machine is None else [Check("machine", "another", machine, None, _MOVES)]
        others = find_condition_changes(
            passport, here["machine"], here["versions"], here["latency_protocol"]
        )
        # the front of a study that moved was timed elsewhere than its accuracy was measured
        is_mixed = stored.timing is not None and stored.timing.machine != stored.measured_on
        may_move = machine is not None or is_mixed or any(map(moves_accuracy, others))
        saturates = has_integer_dot_product(passport["machine"]) and not has_integer_dot_product()
        note = _SATURATES if saturates else _ROUNDS
        is_same = machine is None and not any(map(moves_latency, others))
        return cls([*changes, *others], is_same, note if may_move else None)


def _check_parity(stored: Measurement, measured: Measurement) -> list[Check]:
    """A file that disagrees has no measurement; what is left is to show both figures."""
    if stored.parity is None or measured.parity is None:
        return []
    then, now = stored.parity, measured.parity
    checks = [
        Check("parity (top-1 agreement)", f"{then.top1_agreement:.4f}", f"{now.top1_agreement:.4f}",
              True)
    ]  # fmt: skip
    if then.sqnr_db is not None and now.sqnr_db is not None:
        pair = f"{then.sqnr_db:.1f}", f"{now.sqnr_db:.1f}"
        checks.append(Check("parity (SQNR, dB)", *pair, True))
    return checks


def _check_latency(
    artifact: Artifact,
    stored: Measurement,
    measured: Measurement,
    evaluator: Evaluator,
    is_same: bool,
) -> Check:
    """A ratio that disagrees is measured once more: of intervals at 95 %, one in twenty does."""
    check = _compare_latency(stored, measured, is_same)
    if check.agrees is not False:
        return check
    again = evaluator.time_together({"file": artifact}, "verification")
    return _compare_latency(stored, again["file"], is_same)


def _compare_latency(
    stored: Measurement, measured: Measurement | LatencyFigures, is_same: bool
) -> Check:
    assert measured.latency_ratio is not None
    assert measured.latency_ratio_ci is not None
    assert measured.timing is not None
    return check_latency(
        stored.model_dump(mode="json"),
        measured.latency_ratio,
        measured.latency_ratio_ci,
        measured.timing.reference_ms,
        is_same,
    )


def check_accuracy(
    name: str, stored: float | None, here: float | None, drop_ci: Interval | None, note: str | None
) -> Check:
    """An accuracy of the passport against the one measured here.

    Args:
        name: which.
        stored: of the passport, a fraction.
        here: measured on this machine.
        drop_ci: 95 % interval of the passport's drop. Half of it is what the images that two
            versions of a model judge differently are worth: rounding moves no more of them
            than quantization did.
        note: why it may move; None if it must be the same to the last digit.
    """
    if stored is None or here is None:
        return Check(name, str(stored), str(here), stored == here)
    figures = f"{stored:.4%}", f"{here:.4%}"
    if note is None:
        return Check(name, *figures, stored == here)
    low, high = drop_ci or (0.0, 0.0)
    if abs(stored - here) <= _ACCURACY_TOLERANCE + (high - low) / 2:
        return Check(name, *figures, True)
    return Check(name, *figures, False if here < stored else None, note)


def _check_exact(name: str, stored: object, here: object, same: bool) -> Check:
    agrees = stored == here
    verdict = agrees if same or agrees else None
    return Check(name, str(stored), str(here), verdict, "" if agrees else "another processor")


def _describe_layers(
    artifact: Artifact, recipe: Recipe, evaluator: Evaluator, *, compare: bool
) -> list[dict[str, Any]]:
    """Which kernel ran each layer, and on demand how far its output is from the model's."""
    proofs, _ = evaluator.explain(artifact, recipe)
    rows = [proof.to_dict() for proof in proofs]
    if not compare:
        return rows
    builder = evaluator.builder
    assert isinstance(builder, TaskBuilder)
    found = builder.compare_layers(artifact, recipe, evaluator.search.batches[0])
    compared = [{**row, "sqnr_db": found.pop(row["name"], None)} for row in rows]
    # what is left are the outputs of a model that has several
    nothing = dict.fromkeys(rows[0])
    no_work = {"kernel": "", "macs": 0, "time_share": 0.0, "integer_kernel": False}
    outputs = [
        {**nothing, **no_work, "name": name, "kind": "output", "sqnr_db": value}
        for name, value in found.items()
    ]
    return compared + outputs
