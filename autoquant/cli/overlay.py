"""`front STUDY STUDY ...`: the fronts of several runtimes laid over each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoquant.cli.figure import write_figure
from autoquant.cli.output import STDERR, print_json, print_rows, warn
from autoquant.core.check import describe_machine_change
from autoquant.core.front import find_front
from autoquant.core.objective import Objective, kinds_of
from autoquant.core.overlay import (
    Contribution,
    OverlayMember,
    explain_lost_factor,
    find_other_models,
    has_several_runtimes,
    lay_over,
    shared_objectives,
)
from autoquant.core.pareto import Bounds
from autoquant.errors import InputError, NegativeAnswer, StudyError
from autoquant.report.overlay_figure import overlay_figure
from autoquant.report.row import (
    describe_recipe,
    format_drop,
    format_megabytes,
    format_percent,
)
from autoquant.search.alike import find_difference
from autoquant.search.choice import find_reference
from autoquant.search.record import Record

__all__ = ["show_overlay"]

_COLUMNS = ["study", "runtime", "#", "recipe", "accuracy", "drop", "report", "x float",
            "x ONNX Runtime's float", "size", "integer"]  # fmt: skip


def show_overlay(
    records: dict[str, Record],
    objectives: Sequence[Objective],
    bounds: Bounds,
    kind: str,
    output: Path | None,
) -> None:
    """Print the members of all fronts; those that no other beats are marked.

    Args:
        records: by name of the study.
        objectives: what the fronts are by; none for those that all the studies have.
        bounds: constraints that go before those of the studies.
        kind: `table`, `json` or `csv`.
        output: figure to write, .html or .png; None for none.

    Raises:
        StudyError: the studies are of different tasks, or a runtime was never timed beside ONNX
            Runtime.
        NegativeAnswer: there are no members.
    """
    _check_alike(records)
    own = [record.header.objectives for record in records.values()]
    wanted = list(objectives) or shared_objectives(own)
    if not wanted:
        raise StudyError("the studies have no objective in common: name fewer of them")
    parts = [_contribute(name, record, wanted, bounds) for name, record in records.items()]
    if "latency" in kinds_of(wanted) and has_several_runtimes(parts):
        _check_factors(parts)
    _warn_of_machines(records, parts)
    for text in find_other_models(parts):
        warn(text)
    members = lay_over(parts, wanted)
    if not members:
        raise NegativeAnswer("no trial of any of the studies is within the constraints")
    if kind == "json":
        print_json(
            {
                "studies": {part.study: _describe_runtime(part) for part in parts},
                "objectives": wanted,
                "members": [member.to_dict() for member in members],
            }
        )
    else:
        best = sum(member.is_on_front for member in members)
        title = (
            f"Fronts of {len(parts)} studies: {len(members)} members, {best} that no other beats "
            f"(+), by {', '.join(wanted)}"
        )
        print_rows(_COLUMNS, [_row(member) for member in members], kind, title)
    if kind == "table":
        _say_factors(parts)
    if output is not None:
        write_figure(overlay_figure(members, _title(members)), output, 620)
        STDERR.print(f"wrote {output}", markup=False)


def _describe_runtime(part: Contribution) -> dict[str, Any]:
    factor, interval = part.factor or (None, None)
    return {
        "backend": part.backend,
        "float_over_onnxruntime": factor,
        "float_over_onnxruntime_ci": interval,
    }


def _check_alike(records: dict[str, Record]) -> None:
    first, *others = records
    for other in others:
        difference = find_difference(records[first].header, records[other].header)
        if difference is not None:
            raise StudyError(
                f"studies '{first}' and '{other}' {difference}: their figures do not compare"
            )
    targets = [name for name, record in records.items() if record.header.targets]
    if targets:
        raise InputError(
            f"study '{targets[0]}' has several targets: name one study, with --target NAME"
        )


def _contribute(
    name: str, record: Record, objectives: Sequence[Objective], bounds: Bounds
) -> Contribution:
    trials = record.trials()
    limits = record.header.bounds.overlaid(bounds)
    members = find_front(trials, objectives, limits)
    return Contribution(name, record.header.backend, members, find_reference(trials))


def _check_factors(parts: Sequence[Contribution]) -> None:
    for part in parts:
        if part.factor is None:
            raise StudyError(f"study {explain_lost_factor(part)}")


def _warn_of_machines(records: dict[str, Record], parts: Sequence[Contribution]) -> None:
    """Say so where the latencies are of different machines."""
    found = []
    for part in parts:
        trial = part.reference or next(iter(part.members), None)
        fingerprint = None if trial is None else records[part.study].fingerprint_of(trial)
        if fingerprint is not None:
            found.append((part.study, fingerprint["machine"]))
    for study, machine in found[1:]:
        change = describe_machine_change(found[0][1], machine)
        if change is not None:
            warn(f"'{found[0][0]}' and '{study}' were measured on different machines: {change}")


def _row(member: OverlayMember) -> list[str]:
    trial = member.trial
    return [
        member.study,
        member.backend,
        f"{trial.number}{'+' if member.is_on_front else ''}",
        describe_recipe(trial.recipe, trial.name),
        format_percent(trial.accuracy),
        format_drop(trial.accuracy_drop, trial.accuracy_drop_ci),
        format_percent(trial.report_accuracy),
        "-" if trial.latency_ratio is None else f"{trial.latency_ratio:.3f}",
        "-" if member.ratio is None else f"{member.ratio:.3f}",
        "-" if trial.size_bytes is None else format_megabytes(trial.size_bytes),
        "-" if trial.integer_coverage is None else f"{trial.integer_coverage:.0%}",
    ]


def _say_factors(parts: Sequence[Contribution]) -> None:
    for part in parts:
        if part.factor is not None and part.backend != "onnxruntime":
            factor, (low, high) = part.factor
            STDERR.print(
                f"{part.backend} runs the float model in {factor:.3f} ({low:.3f} to {high:.3f}) of "
                f"ONNX Runtime's time (study {part.study})",
                markup=False,
            )


def _title(members: Sequence[OverlayMember]) -> str:
    best = [member for member in members if member.is_on_front]
    counts = {b: sum(m.backend == b for m in best) for b in dict.fromkeys(m.backend for m in best)}
    words = ", ".join(f"{count} on {backend}" for backend, count in counts.items())
    return f"Of {len(members)} members of the fronts no other beats {len(best)} (filled): {words}"
