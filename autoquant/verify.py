"""Replay of a passport: does a file still do what it says it was measured to do?"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from autoquant.backends.machine import SATURATES, has_integer_dot_product
from autoquant.backends.registry import backend_of
from autoquant.build import TaskBuilder, build_evaluator
from autoquant.compare import compare_layers
from autoquant.core.activity import announce
from autoquant.core.artifact import Artifact, Candidate
from autoquant.core.check import (
    VERIFY_STAGES,
    Check,
    Verification,
    check_accuracy,
    check_latency,
    describe_machine_change,
    find_condition_changes,
    moves_accuracy,
    moves_latency,
)
from autoquant.core.recipe import Recipe
from autoquant.core.trial import LatencyFigures, Measurement
from autoquant.errors import ArtifactError, ParityError
from autoquant.evaluate import EvaluationOptions, Evaluator
from autoquant.export.formats import format_of, read_artifact
from autoquant.tasks import load_task, resolve_options

__all__ = ["read_verifiable", "verify_artifact"]

_LOADING, _QUANTIZING, _MEASURING, _REPORTING, _EXPLAINING = VERIFY_STAGES

_ROUNDS = "float operators round otherwise on another processor"
_TRAINED = "a training is not repeated"
_OTHER_RUN = "the checkpoint is of another run of this training"
_OTHER_AUGMENT = "a training here would be another"
_UNCOMPARED = (
    "neither parity nor layers were compared: give --checkpoints FOLDER, that of `quantize "
    "--checkpoints` or results/STUDY/checkpoints of a search"
)
_MOVES = "latencies are expected to move, accuracies by rounding alone"


def read_verifiable(content: bytes, name: str) -> Artifact:
    """An artifact with a passport that carries figures.

    Raises:
        ArtifactError: not a model file, or not exported by autoquant.
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


@dataclass(frozen=True)
class _Claims:
    """What a passport says was measured, and how to do it again."""

    recipe: Recipe
    measurement: Measurement
    options: EvaluationOptions
    backend: str
    seed: int
    task: str
    task_options: Mapping[str, Any]

    @classmethod
    def read(cls, passport: Mapping[str, Any]) -> Self:
        """Raises `ArtifactError` of a passport that this version cannot read."""
        try:
            for name in ("machine", "versions", "data_sha256"):
                dict(passport[name])
            conditions = passport["conditions"]
            return cls(
                recipe=Recipe.model_validate(passport["recipe"]),
                measurement=Measurement.model_validate(passport["measurement"]),
                options=EvaluationOptions(
                    int(conditions["threads"]),
                    int(conditions["batch"]),
                    full_integer=bool(conditions.get("full_integer")),
                ),
                backend=backend_of(conditions),
                seed=int(passport["seed"]),
                task=str(passport["task"]),
                task_options=dict(passport.get("task_options", {})),
            )
        except (AttributeError, KeyError, TypeError, ValueError, ValidationError) as error:
            raise ArtifactError(f"the passport cannot be read: {error!r}"[:200]) from error


def verify_artifact(
    artifact: Artifact,
    task_options: Mapping[str, Any] | None = None,
    checkpoints: Path | None = None,
    *,
    with_layers: bool = False,
) -> Verification:
    """Measure a file again, on the backend of its passport, and compare.

    Args:
        artifact: a file with figures.
        task_options: go before those of the passport; data may have moved.
        checkpoints: folder that holds what the training of a trained file ended with; without
            it such a file is not compared with its model.
        with_layers: find the SQNR of every layer's output too.

    Raises:
        ArtifactError: a passport that this version cannot read.
        CheckpointError: the folder holds no end of this training, or it is damaged.
        InputError: the passport's backend is not installed here.
        TaskError: the task is unknown here, or its data are missing.
    """
    claims = _Claims.read(artifact.passport)
    recipe = claims.recipe
    announce(_LOADING)
    here = Path.cwd()
    told = resolve_options(claims.task, (claims.task_options, here), (task_options or {}, here))
    task = load_task(claims.task, told)
    evaluator = build_evaluator(task, claims.seed, claims.options, claims.backend, checkpoints)
    builder = evaluator.builder
    assert isinstance(builder, TaskBuilder)
    is_comparable = checkpoints is not None or not recipe.is_trained
    announce(_QUANTIZING)
    with evaluator.place.work():
        rebuilt = builder.restore(recipe) if is_comparable else None
        origin = builder.provenance(recipe)
    checks = _check_identity(artifact, origin)
    checks.append(_check_rebuild(artifact, rebuilt, recipe))
    checks += _check_figures(artifact, rebuilt, claims.measurement, evaluator)
    announce(_EXPLAINING)
    layers = [proof.to_dict() for proof in evaluator.explain(artifact, recipe)[0]]
    if with_layers and is_comparable:
        found = compare_layers(artifact, recipe, builder, evaluator.search.batches[0])
        layers = _add_comparison(layers, found)
    return Verification(checks, layers)


def _check_identity(artifact: Artifact, origin: Mapping[str, Any]) -> list[Check]:
    """Is this the graph that was measured, made of this task's weights and data?"""
    stored = artifact.passport
    checks = [_check_digest("graph", stored["graph_sha256"], _graph_digest(artifact))]
    checks.append(_check_digest("weights", stored["weights_sha256"], origin["weights_sha256"]))
    checks += [
        _check_digest(f"{split} data", value, origin["data_sha256"].get(split, "missing"))
        for split, value in stored["data_sha256"].items()
    ]
    then, now = stored["conditions"].get("augment"), origin["conditions"].get("augment")
    if "augment" in stored["conditions"] and then != now:
        checks.append(Check("augmentation", str(then), str(now), None, _OTHER_AUGMENT))
    return checks


def _check_rebuild(artifact: Artifact, rebuilt: Candidate | None, recipe: Recipe) -> Check:
    stored, digest = artifact.passport, _graph_digest(artifact)
    if rebuilt is None:
        return Check("rebuild from recipe", digest[:12], "-", None, _TRAINED)
    here = rebuilt.artifact.passport
    is_same = digest == here["graph_sha256"]
    agrees = is_same or (None if stored["versions"] != here["versions"] else False)
    note = _OTHER_RUN if recipe.is_trained and not is_same else ""
    return Check("rebuild from recipe", digest[:12], here["graph_sha256"][:12], agrees, note)


def _graph_digest(artifact: Artifact) -> str:
    return format_of(artifact.content).digest(artifact.content)


def _check_digest(name: str, stored: str, here: str) -> Check:
    return Check(name, stored[:12], here[:12], stored == here)


def _check_figures(
    artifact: Artifact, rebuilt: Candidate | None, stored: Measurement, evaluator: Evaluator
) -> list[Check]:
    candidate = Candidate(artifact, None if rebuilt is None else rebuilt.predict)
    announce(_MEASURING)
    try:
        measured, _ = evaluator.measure(candidate)
    except ParityError as error:
        return [Check("parity", "within rounding", str(error), False)]
    setting = _Setting.of(artifact.passport, stored, evaluator)
    checks = list(setting.changes)
    checks.append(check_accuracy("accuracy", stored.accuracy, measured.accuracy,
                                 stored.accuracy_drop_ci, setting.accuracy_note))  # fmt: skip
    if stored.report_accuracy is not None:
        announce(_REPORTING)
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
        saturates = has_integer_dot_product(passport["machine"]) and not evaluator.is_exact
        note = SATURATES if saturates else _ROUNDS
        is_same = machine is None and not any(map(moves_latency, others))
        return cls([*changes, *others], is_same, note if may_move else None)


def _check_parity(stored: Measurement, measured: Measurement) -> list[Check]:
    """A file that disagrees has no measurement; what is left is to show both figures."""
    if stored.parity is None:
        return []
    then, now = stored.parity, measured.parity
    name, agreement = "parity (top-1 agreement)", f"{then.top1_agreement:.4f}"
    if now is None:
        return [Check(name, agreement, "-", None, _UNCOMPARED)]
    checks = [Check(name, agreement, f"{now.top1_agreement:.4f}", True)]
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


def _check_exact(name: str, stored: object, here: object, same: bool) -> Check:
    agrees = stored == here
    verdict = agrees if same or agrees else None
    return Check(name, str(stored), str(here), verdict, "" if agrees else "another processor")


def _add_comparison(rows: list[dict[str, Any]], found: Mapping[str, float]) -> list[dict[str, Any]]:
    """Layers with how far their outputs are from the model's, and the outputs of the whole."""
    names = {row["name"] for row in rows}
    # what is left are the outputs of a model that has several
    nothing = dict.fromkeys(rows[0])
    no_work = {"kernel": "", "macs": 0, "time_share": 0.0, "integer_kernel": False}
    outputs = [
        {**nothing, **no_work, "name": name, "kind": "output", "sqnr_db": value}
        for name, value in found.items()
        if name not in names
    ]
    return [{**row, "sqnr_db": found.get(row["name"])} for row in rows] + outputs
