"""Commands on studies: search, resume, studies, trials, front, export."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from autoquant.agreement import build_header, check_same, extend_header, find_study, load_evaluator
from autoquant.backends.registry import DEFAULT_BACKEND
from autoquant.cli.crew import (
    GpusOption,
    JoinOption,
    RayOption,
    TargetOption,
    TrialTimeoutOption,
    WorkersOption,
)
from autoquant.cli.figure import check_page
from autoquant.cli.options import (
    BackendOption,
    BatchOption,
    FormatOption,
    FullIntegerOption,
    MaxDropOption,
    OutputOption,
    ResultsOption,
    SeedOption,
    StorageOption,
    TaskOptionOption,
    TasksFromOption,
    ThreadsOption,
    collect_task_options,
    leave_out,
)
from autoquant.cli.output import STDERR, print_json, print_rows, print_trials, warn
from autoquant.cli.running import print_log, run_study, show_front
from autoquant.cluster.hire import build_crew
from autoquant.config import find_space, load_space
from autoquant.core.front import find_front
from autoquant.core.hypervolume import seconds_by_mode
from autoquant.core.pareto import Bounds
from autoquant.core.trial import Trial
from autoquant.deliver import (
    check_output,
    check_suffix,
    load_single_evaluator,
    measure_recipe,
    read_kept,
    rebuild_trial,
    seal_for_target,
)
from autoquant.errors import InputError, StudyError
from autoquant.launch import Launch
from autoquant.report import describe_trade
from autoquant.search.choice import choose_trial, find_reference, parse_objectives
from autoquant.search.presence import Presence
from autoquant.search.record import Record
from autoquant.search.sampler import DEFAULT_SAMPLER, SamplerName
from autoquant.search.storage import (
    Location,
    find_presences,
    is_running,
    list_studies,
    load_record,
)
from autoquant.search.study import Keep
from autoquant.tasks import load_task, load_task_file

RESULTS = Path("results")

TrialsOption = Annotated[
    int | None,
    typer.Option("--trials", min=1, help="Finished trials to reach, baselines included."),
]
TimeoutOption = Annotated[
    str | None, typer.Option("--timeout", help="Be done by then, front and all: 90s, 30m or 2h.")
]
KeepOption = Annotated[
    Keep, typer.Option("--keep", help="Which files stay on disk; all others are rebuilt on demand.")
]
OneTargetOption = Annotated[
    str | None,
    typer.Option("--target", metavar="NAME", help="As this target of the study alone sees it."),
]
FullOption = Annotated[
    bool,
    typer.Option("--full", help="Evaluate every trial in full: stop none early."),
]


SamplerOption = Annotated[
    SamplerName | None,
    typer.Option(
        "--sampler",
        help="Search strategy; auto if left out, or that of the study that it goes on with.",
    ),
]


def search(
    space: Annotated[str, typer.Argument(help="Search space: a YAML file, or a shipped name.")],
    study: Annotated[
        str | None, typer.Option("--study", help="Name of the study; the file's name if left out.")
    ] = None,
    trials: TrialsOption = None,
    timeout: TimeoutOption = None,
    sampler: SamplerOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    batch: BatchOption = 1,
    backend: BackendOption = DEFAULT_BACKEND,
    keep: KeepOption = "front",
    full: FullOption = False,
    workers: WorkersOption = None,
    ray: RayOption = None,
    target: TargetOption = None,
    gpus_per_qat_trial: GpusOption = 0.0,
    trial_timeout: TrialTimeoutOption = None,
    join: JoinOption = False,
    results: ResultsOption = RESULTS,
    storage: StorageOption = None,
    tasks_from: TasksFromOption = None,
    task_option: TaskOptionOption = None,
    format_: FormatOption = "table",
) -> None:
    """Search a space and show the front.

    Every trial is exported and judged as the file that would ship, on the runtime that would
    run it. Stop it at any moment; `autoquant resume` goes on.

    Examples:
      autoquant search digits
      autoquant search search_spaces/cifar10-resnet20.yaml --trials 60 --timeout 10m
      autoquant search my.yaml --tasks-from my_tasks.py --study night-run --sampler nsga2
      autoquant search imagefolder --task-option data=photos --task-option model=timm:resnet18
      autoquant search digits --study digits-openvino --backend openvino
      autoquant search cifar10-resnet20 --workers 2
      autoquant search cifar10-resnet20 --ray 10.0.0.5:6379 --storage postgresql://USER@HOST/aq
      autoquant search cifar10-resnet20 --ray auto --target edge --target server
      autoquant search cifar10-resnet20 --join
    """
    crew = build_crew(workers, ray, gpus_per_qat_trial, trial_timeout)
    path = find_space(space)
    config = load_space(path)
    told = collect_task_options(
        config.task, task_option, config.task_options, path.parent, tasks_from
    )
    header = build_header(
        config.with_task_options(told),
        sampler=sampler or DEFAULT_SAMPLER,
        seed=seed,
        threads=threads,
        batch=batch,
        trials=trials,
        timeout=timeout,
        backend=backend,
        targets=target or (),
    )
    location = Location(results, study or path.stem, storage)
    if location.exists():
        ways = {"resume": f"autoquant resume {location.name}", "rename": "--study NAME"}
        record = load_record(location)
        check_same(record, header, location.name, **ways)
        header = dataclasses.replace(header, sampler=sampler or record.header.sampler)
        header = extend_header(header, trials or record.header.trials, None)
        STDERR.print(f"study '{location.name}' exists with this space: going on with it")
    elif join:
        raise StudyError(f"there is no study '{location.name}' to join: begin it without --join")
    run_study(Launch(location, header, keep, not full, crew, tasks_from, join), format_)


def resume(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    trials: TrialsOption = None,
    timeout: TimeoutOption = None,
    keep: KeepOption = "front",
    full: FullOption = False,
    workers: WorkersOption = None,
    ray: RayOption = None,
    gpus_per_qat_trial: GpusOption = 0.0,
    trial_timeout: TrialTimeoutOption = None,
    join: JoinOption = False,
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
      autoquant resume cifar10-resnet20 --workers 2 --trial-timeout 10m
      autoquant resume cifar10-resnet20 --join --storage postgresql://USER@HOST/aq
    """
    crew = build_crew(workers, ray, gpus_per_qat_trial, trial_timeout)
    location = find_study(results, study, storage)
    known = load_record(location, warn=None).header
    header = extend_header(known, trials, timeout)
    run_study(Launch(location, header, keep, not full, crew, tasks_from, join), format_)


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
        try:
            location = Location(results, name, storage)
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
    if format_ == "table":
        for row in rows:
            for driver in ([] if row["runs"] is None else [row["runs"]]) + row["joined"]:
                what = Presence.from_dict(driver).describe()
                STDERR.print(f"study {row['study']}: {what}", markup=False)


def _summarize(location: Location, record: Record) -> dict[str, Any]:
    trials = record.trials()
    is_full = len(trials) >= record.header.trials
    drivers = [presence.to_dict() for presence in find_presences(location)]
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
        "runs": drivers[0] if drivers else None,
        "joined": drivers[1:],
    }


def trials(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    results: ResultsOption = RESULTS,
    storage: StorageOption = None,
    target: OneTargetOption = None,
    log: Annotated[
        int | None,
        typer.Option("--log", metavar="N", help="What was said while trial N was evaluated."),
    ] = None,
    format_: FormatOption = "table",
) -> None:
    """List every finished trial of a study.

    Examples:
      autoquant trials digits
      autoquant trials digits --format csv > trials.csv
      autoquant trials digits --log 17
    """
    location = find_study(results, study, storage)
    if log is not None:
        print_log(location, log)
        return
    record = load_record(location, warn=warn).seen_from(target)
    found = record.trials()
    document = {
        "study": study,
        "task": record.header.task,
        "seconds_by_mode": seconds_by_mode(found),
    }
    print_trials(found, document, format_)
    failed = [trial for trial in found if trial.state == "failed"]
    if format_ == "table":
        for trial in failed:
            STDERR.print(f"trial {trial.number} failed: {trial.error}", markup=False)
        for trial in found:
            if trial.partial is not None:
                STDERR.print(f"trial {trial.number} rejected: {trial.partial.reason}", markup=False)


def front(
    studies: Annotated[
        list[str],
        typer.Argument(metavar="STUDY...", help="Name of the study; of several, of one task."),
    ],
    objectives: Annotated[
        str | None,
        typer.Option(
            "--objectives",
            help="Comma-separated: accuracy, latency, size; of several targets latency:NAME.",
        ),
    ] = None,
    max_drop: MaxDropOption = None,
    max_latency_ms: Annotated[
        float | None, typer.Option("--max-latency-ms", help="Longest median latency.")
    ] = None,
    max_size_mb: Annotated[
        float | None, typer.Option("--max-size-mb", help="Largest file, in 10**6 bytes.")
    ] = None,
    target: OneTargetOption = None,
    why: Annotated[
        int | None,
        typer.Option("--why", help="Instead: the evidence for this trial's recipe, by layer."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Of several studies: plot them, a .html or .png file."),
    ] = None,
    results: ResultsOption = RESULTS,
    storage: StorageOption = None,
    format_: FormatOption = "table",
) -> None:
    """Show the trials that no other trial beats.

    Fronts of several studies of one task are laid over each other, each latency as a ratio to
    the float model on ONNX Runtime: which runtime is best for what.

    Examples:
      autoquant front digits
      autoquant front digits digits-openvino digits-litert -o runtimes.html
      autoquant front cifar10-resnet20 --objectives accuracy,size --max-drop 0.01
      autoquant front digits --why 33
      autoquant front night --target edge
    """
    names = [] if objectives is None else [part.strip() for part in objectives.split(",")]
    bounds = Bounds(max_drop, max_latency_ms, max_size_mb)
    if len(studies) > 1:
        from autoquant.cli.overlay import show_overlay

        leave_out({"--why": why, "--target": target}, "that is of one study")
        if output is not None:
            check_page(output)
        if len({*studies}) < len(studies):
            raise InputError(f"a study is named twice: {', '.join(studies)}")
        places = {name: find_study(results, name, storage) for name in studies}
        records = {name: load_record(place, warn=warn) for name, place in places.items()}
        show_overlay(records, parse_objectives(names, ()) or [], bounds, format_, output)
        return
    leave_out({"-o": output}, "the figure is of several studies")
    location = find_study(results, studies[0], storage)
    record = load_record(location, warn=warn).seen_from(target)
    if why is not None:
        from autoquant.cli.why import show_why

        limits = {"--max-drop": max_drop, "--max-latency-ms": max_latency_ms}
        others = {"--max-size-mb": max_size_mb, "--target": target}
        leave_out({"--objectives": objectives, **limits, **others}, "--why explains one trial")
        show_why(location, record, why, format_)
        return
    wanted = parse_objectives(names, record.header.targets) or record.header.objectives
    show_front(location, record, wanted, bounds, format_)


def export(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    output: OutputOption,
    trial: Annotated[int | None, typer.Option("--trial", help="Number of the trial.")] = None,
    knee: Annotated[bool, typer.Option("--knee", help="The recommended one.")] = False,
    fastest: Annotated[bool, typer.Option("--fastest", help="Least latency ratio.")] = False,
    smallest: Annotated[bool, typer.Option("--smallest", help="Smallest file.")] = False,
    max_drop: MaxDropOption = None,
    target: OneTargetOption = None,
    file_format: Annotated[
        Literal["onnx", "tflite"] | None,
        typer.Option("--format", help="Format of the file; that of the study's runtime."),
    ] = None,
    full_integer: FullIntegerOption = False,
    results: ResultsOption = RESULTS,
    storage: StorageOption = None,
    tasks_from: TasksFromOption = None,
) -> None:
    """Write the file of a trial, its passport inside: ONNX, or .tflite of a study on LiteRT.

    Examples:
      autoquant export digits --knee -o model.onnx
      autoquant export digits --smallest --max-drop 0.01 -o model.onnx
      autoquant export digits --trial 17 -o model.onnx
      autoquant export night --fastest --target edge -o edge.onnx
      autoquant export digits-litert --knee --format tflite -o model.tflite
    """
    if sum([trial is not None, knee, fastest, smallest]) != 1:
        raise InputError("name one of --trial N, --knee, --fastest, --smallest")
    check_output(output, "-o ")
    location = find_study(results, study, storage)
    record = load_record(location, warn=warn).seen_from(target)
    check_suffix(output, record.header.backend, study, file_format)
    if full_integer and record.header.backend != "litert":
        raise InputError(
            f"--full-integer: study '{study}' was judged on {record.header.backend}; search with "
            "--backend litert"
        )
    leave_out({"--target": target if full_integer else None}, "--full-integer measures here")
    chosen = choose_trial(record, trial, knee=knee, fastest=fastest, bounds=Bounds(max_drop))
    kept = None if full_integer else read_kept(location, chosen)
    if full_integer:
        content = _measure_integer(location, record, chosen, tasks_from)
    elif kept is None:
        content = _rebuild(location, record, chosen, tasks_from)
    else:
        content = seal_for_target(kept, chosen, record)
    output.write_bytes(content)
    reference = find_reference(record.trials())
    if reference is not None and reference.state == "complete":
        STDERR.print(f"trial {chosen.number}: {describe_trade(chosen, reference)}", markup=False)
    STDERR.print(f"wrote {output} ({len(content):,} bytes); check it: autoquant verify {output}")


def _measure_integer(
    location: Location, record: Record, trial: Trial, tasks_from: Path | None
) -> bytes:
    """A trial's file with inputs and outputs in integers: another file, so it is measured too."""
    if tasks_from is not None:
        load_task_file(tasks_from)
    header = record.header
    with STDERR.status(f"building trial {trial.number} with int8 inputs and outputs, measuring"):
        task = load_task(header.task, header.task_options)
        evaluator = load_single_evaluator(
            task,
            header.seed,
            header.threads,
            header.batch,
            header.backend,
            location.checkpoints,
            full_integer=True,
        )
        return measure_recipe(evaluator, trial.recipe)[0].content


def _rebuild(location: Location, record: Record, trial: Trial, tasks_from: Path | None) -> bytes:
    if tasks_from is not None:
        load_task_file(tasks_from)
    with STDERR.status(f"rebuilding trial {trial.number} from its recipe"):
        header = record.header
        task = load_task(header.task, header.task_options)
        evaluator = load_evaluator(header, task, location)
        return rebuild_trial(evaluator, trial, record.fingerprint_of(trial))
