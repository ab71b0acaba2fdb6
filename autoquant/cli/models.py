"""Commands on single models: quantize, verify, bench."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from autoquant.backends.registry import DEFAULT_BACKEND, BackendName
from autoquant.cli.options import (
    BackendOption,
    BatchOption,
    FormatOption,
    FullIntegerOption,
    OutputOption,
    SeedOption,
    TaskOptionOption,
    TasksFromOption,
    ThreadsOption,
    collect_task_options,
    parse_task_options,
)
from autoquant.cli.output import (
    STDERR,
    open_backend,
    print_json,
    print_rows,
    print_trials,
    show_activity,
    warn,
    warn_of_oversubscription,
)
from autoquant.core.artifact import Artifact
from autoquant.core.check import Verification
from autoquant.core.trial import Trial
from autoquant.deliver import (
    check_output,
    check_suffix,
    find_named_recipe,
    load_single_evaluator,
    measure_recipe,
    read_recipe,
)
from autoquant.errors import ArtifactError, InputError, NegativeAnswer
from autoquant.progress import TrainingShow
from autoquant.report import describe_shares, find_first_disagreement, tabulate_layers
from autoquant.tasks import load_task, load_task_file


def quantize(
    task: Annotated[str, typer.Argument(help="Name of the task.")],
    output: OutputOption,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            help="fp32, w8a8, w4a8, w4a8-learned, w8a8-qat, w4a8-qat, ort-static, ort-dynamic "
            "(with --backend litert: litert-static, litert-dynamic) or a file.",
        ),
    ] = "w8a8",
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    batch: BatchOption = 1,
    backend: BackendOption = DEFAULT_BACKEND,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            "--checkpoints",
            help="Folder from which a killed training goes on; `verify` reads it too.",
        ),
    ] = None,
    full_integer: FullIntegerOption = False,
    tasks_from: TasksFromOption = None,
    task_option: TaskOptionOption = None,
    format_: FormatOption = "table",
) -> None:
    """Quantize a task by one recipe, without a search, and measure the file.

    Both splits are measured: the one that searches use and the one that reports. Recipes that
    end in -qat train on the task's training data, which takes minutes.

    Examples:
      autoquant quantize digits --recipe w4a8 -o model.onnx
      autoquant quantize digits --recipe w4a8-learned -o model.onnx
      autoquant quantize digits --recipe w8a8 --backend openvino -o model.onnx
      autoquant quantize digits --recipe w8a8 --backend litert -o model.tflite
      autoquant quantize digits --recipe w8a8 --backend litert --full-integer -o mcu.tflite
      autoquant quantize cifar10-resnet20 --recipe w4a8-qat --checkpoints runs -o model.onnx
      autoquant quantize my-model --recipe recipe.json --tasks-from my_tasks.py -o model.onnx
      autoquant quantize imagefolder --task-option data=photos --task-option model=net.pt2 -o m.onnx
    """
    check_output(output, "-o ")
    check_suffix(output, backend)
    open_backend(backend)
    warn_of_oversubscription(threads)
    wanted = read_recipe(recipe)
    if tasks_from is not None:
        load_task_file(tasks_from)
    told = collect_task_options(task, task_option)
    with show_activity(f"loading task {task}"):
        evaluator = load_single_evaluator(
            load_task(task, told),
            seed,
            threads,
            batch,
            backend,
            checkpoints,
            full_integer=full_integer,
        )
        chosen = wanted or find_named_recipe(recipe, evaluator)
    with TrainingShow(STDERR, f"quantizing by {recipe} and measuring") as watch:
        artifact, measurement = measure_recipe(evaluator, chosen, watch)
    artifact.save(output)  # before anything else can fail: it may have been trained for hours
    with STDERR.status("looking at what the runtime executes"):
        proofs, others = evaluator.explain(artifact, chosen)
    trial = Trial(
        **measurement.model_dump(), number=0, state="complete", digest=chosen.digest,
        recipe=chosen, name=None if wanted else recipe, seed=seed,
    )  # fmt: skip
    _show(trial, [proof.to_dict() for proof in proofs], format_)
    if format_ == "table":
        STDERR.print(f"\nother operators: {describe_shares(others)}", markup=False)
    STDERR.print(f"wrote {output} ({artifact.size_bytes:,} bytes)")


def _show(trial: Trial, layers: Sequence[Mapping[str, Any]], kind: str) -> None:
    if kind == "json":
        print_json({**trial.to_dict(), "layers": layers})
        return
    print_trials([trial], {}, kind)
    if kind == "table":
        print_rows(*tabulate_layers(layers), kind, "Layers")


def verify(
    model: Annotated[Path, typer.Argument(help="File that autoquant exported.")],
    latency: Annotated[
        bool, typer.Option("--latency", help="Latency alone; needs no torch and no task.")
    ] = False,
    versus: Annotated[
        Path | None,
        typer.Option("--vs", help="With --latency: the float model's file, for the ratio."),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Also compare every layer's output with the model's.")
    ] = False,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            "--checkpoints",
            help="Of a trained file: folder that its training was kept in, for parity and layers.",
        ),
    ] = None,
    tasks_from: TasksFromOption = None,
    task_option: TaskOptionOption = None,
    format_: FormatOption = "table",
) -> None:
    """Replay a file's passport on this machine and its backend: parity, accuracy, latency.

    On another machine than the passport's, figures that are expected to move are measured
    again and shown, and decide nothing. Exit status 1 if a figure does not agree.

    A training is not repeated. To compare a trained file with its model, name the folder that
    holds what the training ended with: that of `quantize --checkpoints`, or of a search
    results/STUDY/checkpoints.

    Examples:
      autoquant verify model.onnx
      autoquant verify model.onnx --latency --vs float.onnx
      autoquant verify model.onnx --layers
      autoquant verify trained.onnx --checkpoints results/digits/checkpoints --layers
      autoquant verify model.onnx --task-option data=where/the/images/are/now
    """
    if versus is not None and not latency:
        raise InputError("--vs belongs to --latency; without it the float model is built anew")
    with show_activity("replaying the passport"):
        verification = (
            _verify_latency(model, versus)
            if latency
            else _verify_everything(
                model, tasks_from, parse_task_options(task_option), checkpoints, with_layers=layers
            )
        )
    if format_ == "json":
        print_json(verification.to_dict())
    else:
        rows = [
            [check.name, check.stored, check.measured, check.verdict]
            for check in verification.checks
        ]
        print_rows(["check", "stored", "measured", "agrees"], rows, format_)
    if format_ == "table" and verification.layers:
        print_rows(*tabulate_layers(verification.layers), format_, "Layers")
        first = find_first_disagreement(verification.layers)
        if first is not None:
            STDERR.print(first, markup=False)
    if not verification.ok:
        failed = ", ".join(check.name for check in verification.checks if check.agrees is False)
        raise NegativeAnswer(f"{model} does not hold what its passport says: {failed}")
    STDERR.print(f"{model} holds what its passport says")


def _verify_everything(
    model: Path,
    tasks_from: Path | None,
    task_options: dict[str, Any],
    checkpoints: Path | None,
    *,
    with_layers: bool,
) -> Verification:
    content = _read(model)
    from autoquant.verify import read_verifiable, verify_artifact

    artifact = read_verifiable(content, str(model))
    if tasks_from is not None:
        load_task_file(tasks_from)
    warn_of_oversubscription(_threads_of(artifact))
    return verify_artifact(artifact, task_options, checkpoints, with_layers=with_layers)


def _threads_of(artifact: Artifact) -> int:
    """Of the passport; what is no number is refused later."""
    conditions = artifact.passport.get("conditions")
    threads = conditions.get("threads") if isinstance(conditions, dict) else None
    return threads if isinstance(threads, int) else 1


def _verify_latency(model: Path, versus: Path | None) -> Verification:
    from autoquant.bench import verify_latency

    reference = None if versus is None else (str(versus), _read(versus))
    return verify_latency(str(model), _read(model), reference, warn)


def bench(
    model: Annotated[Path, typer.Argument(help="ONNX or .tflite file.")],
    versus: Annotated[
        Path | None, typer.Option("--vs", help="File to time it against, alternately.")
    ] = None,
    threads: ThreadsOption = 1,
    batch: BatchOption = 1,
    backend: Annotated[
        BackendName | None,
        typer.Option(
            "--backend",
            help="Runtime; onnxruntime for ONNX files and litert for .tflite files if left out.",
        ),
    ] = None,
    format_: FormatOption = "table",
) -> None:
    """Time any ONNX or .tflite file, alone or against another.

    Needs the backend's package alone: no torch, no Brevitas. Files of two formats are timed each
    on a runtime of its own, in turns.

    Examples:
      autoquant bench model.onnx
      autoquant bench model.onnx --vs float.onnx --threads 2 --format json
      autoquant bench model.onnx --vs float.onnx --backend openvino
      autoquant bench model.tflite --vs float.onnx
    """
    from autoquant.bench import bench_files, find_caveats

    warn_of_oversubscription(threads)
    file = str(model), _read(model)
    other = None if versus is None else (str(versus), _read(versus))
    with STDERR.status("timing"):
        result = bench_files(file, other, threads, batch, backend)
    for caveat in find_caveats(result):
        warn(caveat)
    if format_ == "json":
        print_json(result)
        return
    if format_ == "csv":
        print_rows(*_bench_columns(result), kind="csv")
        return
    rows = [[str(model), *_milliseconds(result, "latency_ms"), *_memory(result, "model")]]
    if versus is not None:
        rows.append([str(versus), *_milliseconds(result, "vs_latency_ms"), *_memory(result, "vs")])
    print_rows(["file", "ms", "95 % interval", "peak memory"], rows, "table")
    typer.echo()
    columns = ["kernel", *result["files"].values()]
    print_rows(columns, _operator_rows(result), "table")
    if versus is not None:
        low, high = result["ratio_ci"]
        STDERR.print(f"\nratio {result['ratio']:.3f} ({low:.3f} to {high:.3f})")
    if not result["stable"]:
        STDERR.print("the machine is too noisy for an interval of 2 %: close other programs")


def _milliseconds(result: dict[str, Any], key: str) -> list[str]:
    low, high = result[f"{key}_ci"]
    return [f"{result[key]:.4f}", f"{low:.4f} to {high:.4f}"]


def _bench_columns(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """For CSV: a row a file, numbers as they are; the ratio stands in the first one's."""
    columns = ["file", "latency_ms", "latency_ms_low", "latency_ms_high", "ratio", "ratio_low",
               "ratio_high", "stable", "peak_memory_bytes"]  # fmt: skip
    rows = []
    for role, prefix in (("model", ""), ("vs", "vs_")):
        if role not in result["files"]:
            continue
        ratio = (result["ratio"], *result["ratio_ci"]) if _has_ratio(result, role) else ("",) * 3
        values = [
            result["files"][role],
            result[f"{prefix}latency_ms"],
            *result[f"{prefix}latency_ms_ci"],
            *ratio,
            json.dumps(result["stable"]),
            result["peak_memory_bytes"][role] or "",
        ]
        rows.append([str(value) for value in values])
    return columns, rows


def _has_ratio(result: dict[str, Any], role: str) -> bool:
    return role == "model" and result["ratio"] is not None


def _memory(result: dict[str, Any], role: str) -> list[str]:
    peak = result["peak_memory_bytes"].get(role)
    return ["-" if peak is None else f"{peak / 1e6:.1f} MB"]


def _operator_rows(result: dict[str, Any]) -> list[list[str]]:
    """Milliseconds, share of the file's time and number of nodes by kernel."""
    files = list(result["files"])
    totals = {
        name: sum(row["files"][name]["ms"] for row in result["operators"] if name in row["files"])
        for name in files
    }
    return [
        [row["kernel"], *(_operator_cell(row["files"].get(name), totals[name]) for name in files)]
        for row in result["operators"]
    ]


def _operator_cell(cell: dict[str, float] | None, total: float) -> str:
    if cell is None:
        return "-"
    share = cell["ms"] / total if total else 0.0
    return f"{cell['ms']:.4f} ms  {share:4.0%}  {cell['nodes']:.0f} nodes"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read '{path}': {error.strerror}") from error
