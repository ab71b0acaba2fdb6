"""Running a study from the command line, and showing its front."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoquant.backends.machine import has_integer_dot_product
from autoquant.cli.output import STDERR, print_trials, warn, warn_of_oversubscription
from autoquant.cli.progress import SearchProgress
from autoquant.config import parse_space
from autoquant.core.front import find_front, front_probabilities
from autoquant.core.pareto import Bounds
from autoquant.core.recommend import Recommendation, find_nearest_miss, recommend
from autoquant.core.trial import Objective, Trial
from autoquant.errors import NegativeAnswer, StudyError
from autoquant.report import describe_drift, describe_recommendation, describe_saturation
from autoquant.search.record import Record, StudyHeader
from autoquant.search.sampler import SAMPLERS
from autoquant.search.storage import (
    Location,
    create_record,
    hold_driver_lock,
    load_record,
)
from autoquant.search.study import Budget, Keep, Study

__all__ = ["Launch", "read_artifact_of", "run_study", "show_front"]

_STATES = ("complete", "rejected", "failed")


@dataclass(frozen=True)
class Launch:
    """What `search` and `resume` agree on before anything runs."""

    location: Location
    header: StudyHeader
    keep: Keep
    reject_early: bool
    tasks_from: Path | None


def run_study(launch: Launch, kind: str) -> None:
    """Search until the budget is spent, then print the front."""
    from autoquant.build import build_evaluator
    from autoquant.evaluate import EvaluationOptions
    from autoquant.tasks import load_task, load_task_file

    header, location = launch.header, launch.location
    warn_of_oversubscription(header.threads)
    config = parse_space(dict(header.definition), f"study '{location.name}'")
    if launch.tasks_from is not None:
        load_task_file(launch.tasks_from)
    with STDERR.status(f"loading task {header.task} (a first use may take half a minute)"):
        task = load_task(header.task)
        options = EvaluationOptions(header.threads, header.batch)
        evaluator = build_evaluator(task, header.seed, options)
    names = [layer.name for layer in evaluator.layers]
    space = config.to_space(names, is_exact=has_integer_dot_product())
    location.create_folder()
    budget = Budget(header.trials, header.timeout_s)
    sampler = next(name for name in SAMPLERS if name == header.sampler)
    bounds = config.constraints.to_bounds()
    with hold_driver_lock(location), SearchProgress(budget) as progress:
        record = (
            load_record(location, warn=warn, is_driver=True)
            if location.exists()
            else create_record(location, header)
        )
        study = Study(
            record,
            space,
            evaluator,
            location.artifacts,
            keep=launch.keep,
            bounds=bounds,
            reject_early=launch.reject_early,
            on_event=progress.show,
        )
        study.run(budget, sampler)
    show_front(location, record, header.objectives, Bounds(), kind, with_next=True)


def show_front(
    location: Location,
    record: Record,
    objectives: list[Objective],
    bounds: Bounds,
    kind: str,
    *,
    with_next: bool = False,
) -> None:
    """Print the members of a front, each with the probability that it belongs there.

    Args:
        location: where the study lies.
        record: the study.
        objectives: what the front is by.
        bounds: constraints that go before those of the study.
        kind: `table`, `json` or `csv`.
        with_next: say what to do next.

    Raises:
        NegativeAnswer: there is none.
    """
    trials = record.trials()
    bounds = record.header.bounds.overlaid(bounds)
    members = _with_probability(trials, objectives, bounds)
    reference = next((trial for trial in trials if trial.name == "fp32"), None)
    choices = recommend(members, objectives, bounds)
    title = (
        f"Front of study {location.name}: {len(members)} of {len(trials)} trials, "
        f"by {', '.join(objectives)} (* recommended)"
    )
    document = {
        **_document(location, record, objectives, choices),
        "nearest_miss": None if members else _nearest_miss_record(trials, bounds),
    }
    print_trials(_mark_knee(members, choices), document, kind, title)
    if not members:
        raise NegativeAnswer(_describe_nearest_miss(trials, bounds))
    if kind == "table":
        _advise(location, record, _explain(choices, reference), with_next=with_next)


def _document(
    location: Location,
    record: Record,
    objectives: list[Objective],
    choices: Sequence[Recommendation],
) -> dict[str, Any]:
    """What stands beside the members in JSON."""
    trials = record.trials()
    reference = next((trial for trial in trials if trial.name == "fp32"), None)
    return {
        "study": location.name,
        "task": record.header.task,
        "objectives": objectives,
        "reference": None if reference is None else reference.to_dict(),
        "recommendations": [
            {"kind": choice.kind, "trial": choice.trial.number, "reason": reason}
            for choice in choices
            for reason in _explain([choice], reference)
        ],
        "notes": [*_explain_missing_reports(trials), *record.notes.values()],
        "saturation": describe_saturation(trials),
        "drift": describe_drift(trials),
    }


def _with_probability(
    trials: Sequence[Trial], objectives: list[Objective], bounds: Bounds
) -> list[Trial]:
    probabilities = front_probabilities(trials, objectives, bounds)
    return [
        trial.model_copy(update={"front_probability": probabilities[trial.digest]})
        for trial in find_front(trials, objectives, bounds)
    ]


def _explain(choices: Sequence[Recommendation], reference: Trial | None) -> list[str]:
    """One sentence for each trial that is recommended."""
    if reference is None or reference.state != "complete":
        return []
    by_trial: dict[int, list[Recommendation]] = {}
    for choice in choices:
        by_trial.setdefault(choice.trial.number, []).append(choice)
    return [describe_recommendation(group, reference) for group in by_trial.values()]


def _mark_knee(members: Sequence[Trial], choices: Sequence[Recommendation]) -> list[Trial]:
    knee = next((choice.trial.digest for choice in choices if choice.kind == "knee"), None)
    return [trial.model_copy(update={"knee": trial.digest == knee}) for trial in members]


def _advise(location: Location, record: Record, reasons: Sequence[str], *, with_next: bool) -> None:
    if reasons:
        STDERR.print("\nRecommended")
    for reason in reasons:
        STDERR.print(f"  {reason}", markup=False)
    for note in _notes(location, record.trials(), record.notes):
        STDERR.print(note, markup=False)
    if with_next:
        where = _where(location)
        STDERR.print(
            "\nNext:\n"
            f"  autoquant export {location.name}{where} --knee -o model.onnx\n"
            f"  autoquant verify model.onnx\n"
            f"  autoquant front {location.name}{where} --max-drop 0.01",
            markup=False,
        )


def _notes(location: Location, trials: Sequence[Trial], known: Mapping[str, str]) -> list[str]:
    """What else a reader of the front should know."""
    counts = {state: sum(trial.state == state for trial in trials) for state in _STATES}
    notes = [
        "",
        *(f"trial {t.number} left the front: {t.left_front}" for t in trials if t.left_front),
        *_explain_missing_reports(trials),
        *known.values(),
    ]
    if counts["rejected"]:
        notes.append(
            f"{counts['rejected']} of {len(trials)} trials were stopped early: they could not "
            "enter the front"
        )
    if counts["failed"]:
        notes.append(f"{counts['failed']} trials failed; reasons: autoquant trials {location.name}")
    saturation = describe_saturation(trials)
    if saturation is not None:
        notes.append(saturation)
    drift = describe_drift(trials)
    return notes if drift is None else [*notes, drift]


def _explain_missing_reports(trials: Sequence[Trial]) -> list[str]:
    by_reason: dict[str, list[int]] = {}
    for trial in trials:
        if trial.report_error is not None:
            by_reason.setdefault(trial.report_error, []).append(trial.number)
    return [
        f"no report figures for trial {', '.join(map(str, numbers))}: {reason}"
        for reason, numbers in by_reason.items()
    ]


def _where(location: Location) -> str:
    results = "" if location.results == Path("results") else f" --results {location.results}"
    return results + ("" if location.url is None else " --storage URL")


def _describe_nearest_miss(trials: Sequence[Trial], bounds: Bounds) -> str:
    nearest = find_nearest_miss(trials, bounds)
    if nearest is None:
        return _describe_failures(trials)
    latency = "" if nearest.latency_ms is None else f", {nearest.latency_ms:.3g} ms"
    return (
        f"no trial is within the constraint; the nearest miss is trial {nearest.number} "
        f"(drop {nearest.accuracy_drop:.4f}{latency}, {(nearest.size_bytes or 0) / 1e6:.3f} MB)"
    )


def _nearest_miss_record(trials: Sequence[Trial], bounds: Bounds) -> dict[str, Any] | None:
    nearest = find_nearest_miss(trials, bounds)
    return None if nearest is None else nearest.to_dict()


def _describe_failures(trials: Sequence[Trial]) -> str:
    """Why no trial is complete; the most frequent reason stands for all."""
    reasons = Counter(trial.error for trial in trials if trial.state == "failed")
    if not reasons:
        return "no trial is complete yet"
    (reason, count), *_ = reasons.most_common()
    return f"no trial is complete: {sum(reasons.values())} failed, {count} of them with: {reason}"


def read_artifact_of(
    location: Location, record: Record, trial: Trial, tasks_from: Path | None
) -> bytes:
    """A trial's file: the kept one, or rebuilt from its recipe."""
    kept = location.artifacts / f"{trial.digest}.onnx"
    if kept.is_file():
        return kept.read_bytes()
    from autoquant.build import build_evaluator
    from autoquant.evaluate import EvaluationOptions
    from autoquant.tasks import load_task, load_task_file

    if tasks_from is not None:
        load_task_file(tasks_from)
    header = record.header
    with STDERR.status(f"rebuilding trial {trial.number} from its recipe"):
        options = EvaluationOptions(header.threads, header.batch)
        evaluator = build_evaluator(load_task(header.task), header.seed, options)
        artifact = evaluator.rebuild(trial.recipe)
        figures = trial.measurement().model_dump(mode="json")
        sealed = evaluator.builder.seal(artifact, figures, record.fingerprint_of(trial))
    if trial.size_bytes not in (None, sealed.size_bytes):
        raise StudyError(
            f"trial {trial.number} rebuilds to {sealed.size_bytes} bytes instead of "
            f"{trial.size_bytes}: weights, data or library versions have changed since"
        )
    return sealed.content
