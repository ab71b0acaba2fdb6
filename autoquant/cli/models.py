"""Commands on single models: quantize, verify, bench."""

from pathlib import Path
from typing import Annotated

import typer

from autoquant.cli.options import (
    BatchOption,
    FormatOption,
    OutputOption,
    SeedOption,
    TasksFromOption,
    ThreadsOption,
)
from autoquant.cli.output import STDERR, check_output, print_json, print_rows, print_trials
from autoquant.core.recipe import Recipe
from autoquant.core.space import baselines
from autoquant.core.trial import Trial
from autoquant.errors import ArtifactError, NegativeAnswer, RecipeError


def quantize(
    task: Annotated[str, typer.Argument(help="Name of the task.")],
    output: OutputOption,
    recipe: Annotated[
        str, typer.Option("--recipe", help="fp32, w8a8, w4a8, ort-static, ort-dynamic or a file.")
    ] = "w8a8",
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    batch: BatchOption = 1,
    tasks_from: TasksFromOption = None,
    format_: FormatOption = "table",
) -> None:
    """Quantize a task by one recipe, without a search, and measure the file.

    Both splits are measured: the one that searches use and the one that reports.

    Examples:
      autoquant quantize digits --recipe w4a8 -o model.onnx
      autoquant quantize my-model --recipe recipe.json --tasks-from my_tasks.py -o model.onnx
    """
    from autoquant.build import build_evaluator
    from autoquant.evaluate import EvaluationOptions
    from autoquant.tasks import load_task, load_task_file

    check_output(output)
    wanted = _read_recipe(recipe)
    if tasks_from is not None:
        load_task_file(tasks_from)
    with STDERR.status(f"loading task {task}") as status:
        loaded = load_task(task)
        evaluator = build_evaluator(loaded, seed, EvaluationOptions(threads, batch))
        chosen = wanted or baselines([layer.name for layer in evaluator.layers])[recipe]
        status.update(f"quantizing by {recipe} and measuring")
        measurement, artifact = evaluator.evaluate(chosen)
        figures = evaluator.report(artifact)
    if figures is not None:
        measurement = measurement.model_copy(update=figures.model_dump())
        artifact = evaluator.builder.seal(artifact, measurement.model_dump(mode="json"))
    output.write_bytes(artifact.content)
    trial = Trial(
        **measurement.model_dump(), number=0, state="complete", digest=chosen.digest,
        recipe=chosen, name=None if wanted else recipe, seed=seed,
    )  # fmt: skip
    if format_ == "json":
        print_json(trial.to_dict())
    else:
        print_trials([trial], {}, format_)
        _explain_float_layers(trial)
    STDERR.print(f"wrote {output} ({artifact.size_bytes:,} bytes)")


def _read_recipe(text: str) -> Recipe | None:
    """A recipe from a file; None for a known name."""
    names = list(baselines([]))
    if text in names:
        return None
    path = Path(text)
    if not path.is_file():
        raise RecipeError(f"'{text}' is neither a file nor a named recipe: {', '.join(names)}")
    return Recipe.from_json(path.read_text(encoding="utf-8", errors="replace"))


def _explain_float_layers(trial: Trial) -> None:
    if trial.float_layers and trial.recipe.method != "fp32":
        excluded = trial.recipe.excluded
        named = [
            f"{name} ({'excluded' if name in excluded else 'not fused by the runtime'})"
            for name in trial.float_layers
        ]
        STDERR.print(f"float layers: {', '.join(named)}", markup=False)


def verify(
    model: Annotated[Path, typer.Argument(help="ONNX file that autoquant exported.")],
    tasks_from: TasksFromOption = None,
    format_: FormatOption = "table",
) -> None:
    """Replay a file's passport on this machine: parity, accuracy, latency.

    Exit status 1 if a figure does not agree.

    Example:
      autoquant verify model.onnx
    """
    from autoquant.tasks import load_task_file
    from autoquant.verify import read_verifiable, verify_artifact

    artifact = read_verifiable(_read(model), str(model))
    if tasks_from is not None:
        load_task_file(tasks_from)
    with STDERR.status("replaying the passport"):
        verification = verify_artifact(artifact)
    if format_ == "json":
        print_json(verification.to_dict())
    else:
        rows = [
            [check.name, check.stored, check.measured, check.verdict]
            for check in verification.checks
        ]
        print_rows(["check", "stored", "measured", "agrees"], rows, format_)
    if not verification.ok:
        failed = ", ".join(check.name for check in verification.checks if check.agrees is False)
        raise NegativeAnswer(f"{model} does not hold what its passport says: {failed}")
    STDERR.print(f"{model} holds what its passport says")


def bench(
    model: Annotated[Path, typer.Argument(help="ONNX file.")],
    versus: Annotated[
        Path | None, typer.Option("--vs", help="ONNX file to time it against, alternately.")
    ] = None,
    threads: ThreadsOption = 1,
    batch: BatchOption = 1,
    format_: FormatOption = "table",
) -> None:
    """Time any ONNX file, alone or against another.

    Needs onnxruntime alone: no torch, no Brevitas.

    Examples:
      autoquant bench model.onnx
      autoquant bench model.onnx --vs float.onnx --threads 2 --format json
    """
    from autoquant.bench import bench_files

    contents = {str(path): _read(path) for path in (model, versus) if path is not None}
    with STDERR.status("timing"):
        result = bench_files(contents, str(model), threads, batch)
    if format_ == "json":
        print_json(result)
        return
    rows = [[str(model), *_milliseconds(result, "latency_ms")]]
    if versus is not None:
        rows.append([str(versus), *_milliseconds(result, "vs_latency_ms")])
    print_rows(["file", "ms", "95 % interval"], rows, format_)
    if versus is not None and format_ == "table":
        low, high = result["ratio_ci"]
        STDERR.print(f"ratio {result['ratio']:.3f} ({low:.3f} to {high:.3f})")
    if not result["stable"]:
        STDERR.print("the machine is too noisy for an interval of 2 %: close other programs")


def _milliseconds(result: dict[str, object], key: str) -> list[str]:
    low, high = result[f"{key}_ci"]  # type: ignore[misc]
    return [f"{result[key]:.4f}", f"{low:.4f} to {high:.4f}"]  # type: ignore[has-type]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read '{path}': {error.strerror}") from error
