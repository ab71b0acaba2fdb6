"""Running a study from the command line, and showing its front."""

import shlex
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from autoquant.agreement import load_evaluator
from autoquant.cli.output import STDERR, open_backend, print_trials, warn, warn_of_oversubscription
from autoquant.core.artifact import suffix_of
from autoquant.core.hypervolume import find_mode_yields, seconds_by_mode
from autoquant.core.objective import Objective
from autoquant.core.pareto import Bounds
from autoquant.core.recommend import find_nearest_misses
from autoquant.core.trial import Trial
from autoquant.errors import NegativeAnswer
from autoquant.launch import Launch, check_reach, run_launch
from autoquant.report import (
    describe_drift,
    describe_first_target,
    describe_report_gap,
    describe_saturation,
)
from autoquant.search.choice import FrontView, advise, view_front
from autoquant.search.header import StudyHeader
from autoquant.search.record import Record
from autoquant.search.storage import Location, load_record
from autoquant.search.trial_log import TrialLogs
from autoquant.tasks import load_task, load_task_file

__all__ = ["print_log", "run_study", "show_front"]

_MISSES = 3  # named where no trial is within the bounds
_STATES = ("complete", "rejected", "failed")


def run_study(launch: Launch, kind: str) -> None:
    """Search until the budget is spent, then print the front."""
    header, location = launch.header, launch.location
    # what is missing is said before the task is loaded
    check_reach(launch)
    open_backend(header.backend)
    warn_of_oversubscription(header.threads)
    if launch.tasks_from is not None:
        load_task_file(launch.tasks_from)
    with STDERR.status(f"loading task {header.task} (a first use may take half a minute)"):
        task = load_task(header.task, header.task_options)
        evaluator = load_evaluator(header, task, location)
    try:
        record = run_launch(launch, evaluator, STDERR, warn)
    except NegativeAnswer:  # given up; what there is was closed all the same
        with suppress(NegativeAnswer):  # no baseline is within the bounds either
            show_front(location, load_record(location), header.objectives, Bounds(), kind)
        raise
    show_front(location, record, header.objectives, Bounds(), kind, with_next=True)


def print_log(location: Location, number: int) -> None:
    """Print what was said while a trial was evaluated.

    Raises:
        NegativeAnswer: nothing is kept of it.
    """
    text = TrialLogs(location.logs).read(number)
    if text is None:
        raise NegativeAnswer(
            f"there is no log of trial {number} in '{location.logs}': workers keep one of every "
            "trial, a search without workers of those that failed, both where the search was run"
        )
    print(text, end="" if text.endswith("\n") else "\n")


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
    view = view_front(trials, objectives, bounds)
    title = (
        f"Front of study {location.name}: {len(view.members)} of {len(trials)} trials, "
        f"by {', '.join(objectives)} (* recommended)"
    )
    document = {
        **_document(location, record, trials, objectives, view),
        "nearest_miss": None if view.members else _nearest_miss_record(trials, bounds),
    }
    print_trials(view.members, document, kind, title)
    if not view.members:
        raise NegativeAnswer(_describe_nearest_miss(trials, bounds))
    if kind == "table":
        _show_advice(location, record, trials, view, with_next=with_next)


def _document(
    location: Location,
    record: Record,
    trials: Sequence[Trial],
    objectives: list[Objective],
    view: FrontView,
) -> dict[str, Any]:
    """What stands beside the members in JSON."""
    return {
        "study": location.name,
        "task": record.header.task,
        "objectives": objectives,
        "reference": None if view.reference is None else view.reference.to_dict(),
        "recommendations": [
            {"kind": choice.kind, "trial": choice.trial.number, "reason": advice.reason}
            for choice in view.choices
            for advice in advise([choice], view.reference)
        ],
        "notes": [*_explain_missing_reports(trials), *record.notes.values()],
        "report_gap": describe_report_gap(view.members),
        "saturation": describe_saturation(trials),
        "drift": describe_drift(trials),
        "seconds_by_mode": seconds_by_mode(trials),
    }


def _show_advice(
    location: Location,
    record: Record,
    trials: Sequence[Trial],
    view: FrontView,
    *,
    with_next: bool,
) -> None:
    reasons = [advice.reason for advice in advise(view.choices, view.reference)]
    if reasons:
        STDERR.print("\nRecommended")
    for reason in reasons:
        STDERR.print(f"  {reason}", markup=False)
    for note in _notes(location, record, trials, view.members):
        STDERR.print(note, markup=False)
    if with_next:
        where = _where(location)
        file = f"model{suffix_of(record.header.backend)}"
        STDERR.print(
            "\nNext:\n"
            f"  autoquant export {location.name}{where} --knee -o {file}\n"
            f"  autoquant verify {file}\n"
            f"  autoquant front {location.name}{where} --max-drop 0.01",
            markup=False,
        )


def _notes(
    location: Location, record: Record, trials: Sequence[Trial], members: Sequence[Trial]
) -> list[str]:
    """What else a reader of the front should know."""
    counts = {state: sum(trial.state == state for trial in trials) for state in _STATES}
    notes = [
        "",
        *(f"trial {t.number} left the front: {t.left_front}" for t in trials if t.left_front),
        *_explain_missing_reports(trials),
        *record.notes.values(),
    ]
    said = (describe_report_gap(members), describe_first_target(record.header.targets))
    notes += [text for text in said if text is not None]
    if counts["rejected"]:
        notes.append(
            f"{counts['rejected']} of {len(trials)} trials were stopped early: they could not "
            "enter the front"
        )
    if counts["failed"]:
        notes.append(f"{counts['failed']} trials failed; reasons: autoquant trials {location.name}")
    seconds = seconds_by_mode(trials)
    if seconds["qat"]:
        trained = sum(trial.recipe.is_trained for trial in trials)
        total = sum(seconds.values())
        notes.append(
            f"{trained} trials were trained, in {seconds['qat']:.0f} of {total:.0f} s; "
            f"{_describe_yields(record.header, trials)}"
        )
    saturation = describe_saturation(trials)
    if saturation is not None:
        notes.append(saturation)
    drift = describe_drift(trials)
    return notes if drift is None else [*notes, drift]


def _describe_yields(header: StudyHeader, trials: Sequence[Trial]) -> str:
    """What a minute of either mode bought, as `autoquant report` explains it."""
    ptq, qat = (
        "-" if item.gained_per_minute is None else f"{item.gained_per_minute:.2g}"
        for item in find_mode_yields(trials, header.objectives, header.bounds)
    )
    return f"hypervolume gained per minute: {ptq} without training, {qat} with it"


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
    place = shlex.quote(str(location.results))
    results = "" if location.results == Path("results") else f" --results {place}"
    return results + ("" if location.url is None else " --storage URL")


def _describe_nearest_miss(trials: Sequence[Trial], bounds: Bounds) -> str:
    misses = [_describe_miss(trial) for trial in find_nearest_misses(trials, bounds)[:_MISSES]]
    if not misses:
        return _describe_failures(trials)
    others = f", then {' and '.join(misses[1:])}" if misses[1:] else ""
    return f"no trial is within the constraint; the nearest miss is {misses[0]}{others}"


def _describe_miss(trial: Trial) -> str:
    figures = trial.partial or trial
    latency = "" if figures.latency_ms is None else f", {figures.latency_ms:.3g} ms"
    size = "" if trial.size_bytes is None else f", {trial.size_bytes / 1e6:.3f} MB"
    stopped = "" if trial.partial is None else "; stopped early"
    return f"trial {trial.number} (drop {figures.accuracy_drop:.4f}{latency}{size}{stopped})"


def _nearest_miss_record(trials: Sequence[Trial], bounds: Bounds) -> dict[str, Any] | None:
    nearest = next(iter(find_nearest_misses(trials, bounds)), None)
    return None if nearest is None else nearest.to_dict()


def _describe_failures(trials: Sequence[Trial]) -> str:
    """Why no trial is complete; the most frequent reason stands for all."""
    reasons = Counter(trial.error for trial in trials if trial.state == "failed")
    if not reasons:
        return "no trial is complete yet"
    (reason, count), *_ = reasons.most_common()
    return f"no trial is complete: {sum(reasons.values())} failed, {count} of them with: {reason}"
