"""Commands on studies: search, resume, studies, trials, front, export."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from autoquant.backends.registry import DEFAULT_BACKEND
from autoquant.cli.options import (
    BackendOption,
    BatchOption,
    FormatOption,
    MaxDropOption,
    OutputOption,
    ResultsOption,
    SeedOption,
    StorageOption,
    TasksFromOption,
    ThreadsOption,
)
from autoquant.cli.output import STDERR, check_output, print_json, print_rows, print_trials, warn
from autoquant.cli.running import Launch, run_study, show_front
from autoquant.config import find_space, load_space, parse_duration
from autoquant.core.front import find_front
from autoquant.core.pareto import Bounds, find_knee, pick_fastest, pick_smallest
from autoquant.core.recommend import find_nearest_miss
from autoquant.core.trial import Objective, Trial
from autoquant.errors import InputError, NegativeAnswer, StudyError
from autoquant.report import describe_trade
from autoquant.search.record import Record, StudyHeader
from autoquant.search.sampler import SamplerName
from autoquant.search.storage import Location, is_running, list_studies, load_record
from autoquant.search.study import Keep

RESULTS = Path("results")

TrialsOption = Annotated[
    int | None,
    typer.Option("--trials", min=1, help="Finished trials to reach, baselines included."),
]
TimeoutOption = Annotated[
    str | None, typer.Option("--timeout", help="Stop after so long: 90s, 30m or 2h.")
]
KeepOption = Annotated[
    Keep, typer.Option("--keep", help="Which files stay on disk; all others are rebuilt on demand.")
]
FullOption = Annotated[
    bool,
    typer.Option("--full", help="Evaluate every trial in full: stop none early."),
]


def search(
    space: Annotated[str, typer.Argument(help="Search space: a YAML file, or a shipped name.")],
    study: Annotated[
        str | None, typer.Option("--study", help="Name of the study; the file's name if left out.")
    ] = None,
    trials: TrialsOption = None,
    timeout: TimeoutOption = None,
    sampler: Annotated[SamplerName, typer.Option("--sampler", help="Search strategy.")] = "tpe",
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    batch: BatchOption = 1,
    backend: BackendOption = DEFAULT_BACKEND,
    keep: KeepOption = "front",
    full: FullOption = False,
    results: ResultsOption = RESULTS,
    storage: StorageOption = None,
    tasks_from: TasksFromOption = None,
    format_: FormatOption = "table",
) -> None:
    """Search a space and show the front.

    Every trial is exported and judged as the file that would ship, on the runtime that would
    run it. Stop it at any moment; `autoquant resume` goes on.

    Examples:
      autoquant search digits
      autoquant search search_spaces/cifar10-resnet20.yaml --trials 60 --timeout 10m
      autoquant search my.yaml --tasks-from my_tasks.py --study night-run --sampler nsga2
      autoquant search digits --study digits-openvino --backend openvino
    """
    path = find_space(space)
    config = load_space(path)
    seconds = config.budget.timeout if timeout is None else parse_duration(timeout)
    header = StudyHeader(
        definition=config.definition(),
        seed=seed,
        sampler=sampler,
        threads=threads,
        batch=batch,
        trials=trials or config.budget.trials,
        timeout_s=seconds,
        backend=backend,
    )
    location = Location(results, study or path.stem, storage)
    launch = Launch(location, header, keep, not full, tasks_from)
    if location.exists():
        _check_same(load_record(location), header, location.name)
        STDERR.print(f"study '{location.name}' exists with this space: going on with it")
    run_study(launch, format_)


def _check_same(record: Record, header: StudyHeader, name: str) -> None:
    if dict(record.header.definition) != dict(header.definition):
        raise StudyError(
            f"study '{name}' exists with another search space; go on with it "
            f"(autoquant resume {name}) or give this one a new name (--study NAME)"
        )
    known = record.header
    if _conditions(known) != _conditions(header):
        raise StudyError(
            f"study '{name}' exists with seed {known.seed}, {known.threads} threads, batch "
            f"{known.batch} and backend {known.backend}; go on with those or give this one a "
            "new name (--study NAME)"
        )


def _conditions(header: StudyHeader) -> tuple[int, int, int, str]:
    """What every trial of a study has in common beside its space."""
    return header.seed, header.threads, header.batch, header.backend


def resume(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    trials: TrialsOption = None,
    timeout: TimeoutOption = None,
    keep: KeepOption = "front",
    full: FullOption = False,
    results: ResultsOption = RESULTS,
    storage: StorageOption = None,
    tasks_from: TasksFromOption = None,
    format_: FormatOption = "table",
) -> None:
    """Go on with a study that was stopped, killed or is to grow.

    Finished trials stay as they are; one that was running is tried again.

    Examples:
      autoquant resume digits
      autoquant resume cifar10-resnet20 --trials 200
    """
    location = _existing(results, study, storage)
    known = load_record(location, warn=None).header
    seconds = known.timeout_s if timeout is None else parse_duration(timeout)
    header = StudyHeader(**{**vars(known), "trials": trials or known.trials, "timeout_s": seconds})
    run_study(Launch(location, header, keep, not full, tasks_from), format_)


def _existing(results: Path, study: str, storage: str | None) -> Location:
    location = Location(results, study, storage)
    if not location.exists():
        known = list_studies(results, storage)
        there = f"there are {', '.join(known)}" if known else "there is none yet"
        where = "this storage" if storage else f"'{results}'"
        raise StudyError(f"there is no study '{study}' in {where}; {there}")
    return location


def studies(
    results: ResultsOption = RESULTS,
    storage: StorageOption = None,
    format_: FormatOption = "table",
) -> None:
    """List the studies and what they hold.

    Example:
      autoquant studies --format json
    """
    rows = []
    for name in list_studies(results, storage):
        location = Location(results, name, storage)
        try:
            record = load_record(location, warn=warn)
        except InputError as error:
            warn(str(error))
            continue
        rows.append(_summarize(location, record))
    if format_ == "json":
        print_json({"studies": rows})
        return
    columns = ["study", "task", "state", "trials", "rejected", "failed", "front", "sampler"]
    print_rows(columns, [[str(row[name]) for name in columns] for row in rows], format_)


def _summarize(location: Location, record: Record) -> dict[str, str | int]:
    trials = record.trials()
    is_full = len(trials) >= record.header.trials
    return {
        "study": location.name,
        "task": record.header.task,
        "state": "running" if is_running(location) else "done" if is_full else "stopped",
        "trials": len(trials),
        "target": record.header.trials,
        "rejected": sum(trial.state == "rejected" for trial in trials),
        "failed": sum(trial.state == "failed" for trial in trials),
        "front": len(find_front(trials, record.header.objectives, record.header.bounds)),
        "sampler": record.header.sampler,
    }


def trials(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    results: ResultsOption = RESULTS,
    storage: StorageOption = None,
    format_: FormatOption = "table",
) -> None:
    """List every finished trial of a study.

    Examples:
      autoquant trials digits
      autoquant trials digits --format csv > trials.csv
    """
    record = load_record(_existing(results, study, storage), warn=warn)
    found = record.trials()
    print_trials(found, {"study": study, "task": record.header.task}, format_)
    failed = [trial for trial in found if trial.state == "failed"]
    if format_ == "table":
        for trial in failed:
            STDERR.print(f"trial {trial.number} failed: {trial.error}", markup=False)
        for trial in found:
            if trial.partial is not None:
                STDERR.print(f"trial {trial.number} rejected: {trial.partial.reason}", markup=False)


def front(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    objectives: Annotated[
        str | None,
        typer.Option("--objectives", help="Comma-separated: accuracy, latency, size."),
    ] = None,
    max_drop: MaxDropOption = None,
    max_latency_ms: Annotated[
        float | None, typer.Option("--max-latency-ms", help="Longest median latency.")
    ] = None,
    max_size_mb: Annotated[
        float | None, typer.Option("--max-size-mb", help="Largest file, in 10**6 bytes.")
    ] = None,
    results: ResultsOption = RESULTS,
    storage: StorageOption = None,
    format_: FormatOption = "table",
) -> None:
    """Show the trials that no other trial beats.

    Examples:
      autoquant front digits
      autoquant front cifar10-resnet20 --objectives accuracy,size --max-drop 0.01
    """
    location = _existing(results, study, storage)
    record = load_record(location, warn=warn)
    wanted = _parse_objectives(objectives) or record.header.objectives
    bounds = Bounds(max_drop, max_latency_ms, max_size_mb)
    show_front(location, record, wanted, bounds, format_)


def _parse_objectives(text: str | None) -> list[Objective]:
    known: tuple[Objective, ...] = get_args(Objective)
    names = [] if text is None else [part.strip() for part in text.split(",")]
    for name in names:
        if name not in known:
            raise InputError(f"'{name}' is no objective; there are {', '.join(known)}")
    return [name for name in known if name in names]


def export(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    output: OutputOption,
    trial: Annotated[int | None, typer.Option("--trial", help="Number of the trial.")] = None,
    knee: Annotated[bool, typer.Option("--knee", help="The recommended one.")] = False,
    fastest: Annotated[bool, typer.Option("--fastest", help="Least latency ratio.")] = False,
    smallest: Annotated[bool, typer.Option("--smallest", help="Smallest file.")] = False,
    max_drop: MaxDropOption = None,
    results: ResultsOption = RESULTS,
    storage: StorageOption = None,
    tasks_from: TasksFromOption = None,
) -> None:
    """Write the ONNX file of a trial, its passport inside.

    Examples:
      autoquant export digits --knee -o model.onnx
      autoquant export digits --smallest --max-drop 0.01 -o model.onnx
      autoquant export digits --trial 17 -o model.onnx
    """
    from autoquant.cli.running import read_artifact_of

    if sum([trial is not None, knee, fastest, smallest]) != 1:
        raise InputError("name one of --trial N, --knee, --fastest, --smallest")
    check_output(output)
    location = _existing(results, study, storage)
    record = load_record(location, warn=warn)
    chosen = _choose(record, trial, knee=knee, fastest=fastest, bounds=Bounds(max_drop))
    content = read_artifact_of(location, record, chosen, tasks_from)
    output.write_bytes(content)
    reference = next((item for item in record.trials() if item.name == "fp32"), None)
    if reference is not None and reference.state == "complete":
        STDERR.print(f"trial {chosen.number}: {describe_trade(chosen, reference)}", markup=False)
    STDERR.print(f"wrote {output} ({len(content):,} bytes); check it: autoquant verify {output}")


def _choose(
    record: Record, number: int | None, *, knee: bool, fastest: bool, bounds: Bounds
) -> Trial:
    complete = [trial for trial in record.trials() if trial.state == "complete"]
    if number is not None:
        found = next((trial for trial in complete if trial.number == number), None)
        if found is None:
            raise InputError(f"trial {number} is not among the complete trials of this study")
        return found
    objectives = record.header.objectives
    bounds = record.header.bounds.overlaid(bounds)
    members = find_front(complete, objectives, bounds)
    if knee:
        picked = find_knee(members, objectives)
    else:
        picked = (pick_fastest if fastest else pick_smallest)(members, bounds)
    if picked is None:
        miss = find_nearest_miss(complete, bounds)
        nearest = f"; the nearest miss is trial {miss.number}" if miss else ""
        drop = f" with a drop of {miss.accuracy_drop:.4f}" if miss and miss.accuracy_drop else ""
        raise NegativeAnswer(f"no trial on the front is within the constraint{nearest}{drop}")
    return picked
