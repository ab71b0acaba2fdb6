"""Running a study from the command line, and showing its front."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoquant.cli.output import STDERR, print_trials, warn
from autoquant.cli.progress import SearchProgress
from autoquant.config import parse_space
from autoquant.core.pareto import Bounds, find_front, find_knee
from autoquant.core.trial import Objective, Trial
from autoquant.errors import NegativeAnswer, StudyError
from autoquant.report import describe_trade
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


@dataclass(frozen=True)
class Launch:
    """What `search` and `resume` agree on before anything runs."""

    location: Location
    header: StudyHeader
    keep: Keep
    tasks_from: Path | None


def run_study(launch: Launch, kind: str) -> None:
    """Search until the budget is spent, then print the front."""
    from autoquant.build import build_evaluator
    from autoquant.evaluate import EvaluationOptions
    from autoquant.tasks import load_task, load_task_file

    header, location = launch.header, launch.location
    config = parse_space(dict(header.definition), f"study '{location.name}'")
    if launch.tasks_from is not None:
        load_task_file(launch.tasks_from)
    with STDERR.status(f"loading task {header.task} (a first use may take half a minute)"):
        task = load_task(header.task)
        options = EvaluationOptions(header.threads, header.batch)
        evaluator = build_evaluator(task, header.seed, options)
    space = config.to_space([layer.name for layer in evaluator.layers])
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
    """Print the members of a front that stay within bounds.

    Raises:
        NegativeAnswer: there is none.
    """
    trials = record.trials()
    members = find_front(trials, objectives)
    admitted = [trial for trial in members if bounds.admits(trial)]
    knee = find_knee(admitted, objectives)
    shown = [_mark(trial) if knee and trial.digest == knee.digest else trial for trial in admitted]
    reference = next((trial for trial in trials if trial.name == "fp32"), None)
    document = {
        "study": location.name,
        "task": record.header.task,
        "objectives": objectives,
        "reference": None if reference is None else reference.to_dict(),
    }
    title = (
        f"Front of study {location.name}: {len(shown)} of {len(trials)} trials, "
        f"by {', '.join(objectives)} (* recommended)"
    )
    print_trials(shown, document, kind, title)
    if not shown:
        raise NegativeAnswer(_nearest_miss(members))
    if kind == "table" and knee is not None:
        _advise(location, knee, reference, trials, with_next=with_next)


def _mark(trial: Trial) -> Trial:
    """The same trial, marked as the recommended one."""
    return trial.model_copy(update={"knee": True})


def _advise(
    location: Location,
    knee: Trial,
    reference: Trial | None,
    trials: Sequence[Trial],
    *,
    with_next: bool,
) -> None:
    if reference is not None and reference.state == "complete":
        STDERR.print(
            f"\nRecommended: trial {knee.number}. {describe_trade(knee, reference)}.", markup=False
        )
    failed = sum(trial.state == "failed" for trial in trials)
    if failed:
        STDERR.print(f"{failed} trials failed; reasons: autoquant trials {location.name}")
    if with_next:
        where = _where(location)
        STDERR.print(
            "\nNext:\n"
            f"  autoquant export {location.name}{where} --knee -o model.onnx\n"
            f"  autoquant verify model.onnx\n"
            f"  autoquant front {location.name}{where} --max-drop 0.01",
            markup=False,
        )


def _where(location: Location) -> str:
    results = "" if location.results == Path("results") else f" --results {location.results}"
    return results + ("" if location.url is None else " --storage URL")


def _nearest_miss(members: list[Trial]) -> str:
    measured = [trial for trial in members if trial.accuracy_drop is not None]
    if not measured:
        return "no trial is complete yet"
    nearest = min(measured, key=lambda trial: trial.accuracy_drop or 0.0)
    return (
        f"no trial on the front is within the constraint; the nearest in accuracy is trial "
        f"{nearest.number} (drop {nearest.accuracy_drop:.4f}, {nearest.latency_ms:.3g} ms, "
        f"{(nearest.size_bytes or 0) / 1e6:.3f} MB)"
    )


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
        artifact = evaluator.builder.build(trial.recipe).artifact
        sealed = evaluator.builder.seal(artifact, trial.measurement().model_dump(mode="json"))
    if trial.size_bytes not in (None, sealed.size_bytes):
        raise StudyError(
            f"trial {trial.number} rebuilds to {sealed.size_bytes} bytes instead of "
            f"{trial.size_bytes}: weights, data or library versions have changed since"
        )
    return sealed.content
