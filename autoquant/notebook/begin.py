"""The three ways in: search, quantize, load a study."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from autoquant.agreement import build_header, check_same, extend_header, find_study
from autoquant.backends.registry import DEFAULT_BACKEND, BackendName
from autoquant.core.artifact import Artifact
from autoquant.core.recipe import Recipe
from autoquant.core.task import Task
from autoquant.core.trial import Measurement
from autoquant.deliver import (
    find_named_recipe,
    load_single_evaluator,
    measure_recipe,
    read_recipe,
)
from autoquant.errors import InputError, RecipeError, StudyError
from autoquant.launch import Launch, check_reach
from autoquant.notebook.check import (
    check_choices,
    check_counts,
    find_crew,
    find_task,
    name_of,
    speaking_python,
    warn,
    warn_of_backend,
)
from autoquant.notebook.space import Space, check_complete, name_space, read_space
from autoquant.notebook.study import NotebookStudy, open_console
from autoquant.progress import TrainingShow
from autoquant.search.header import StudyHeader
from autoquant.search.sampler import DEFAULT_SAMPLER, SamplerName
from autoquant.search.storage import Location, list_studies, load_record
from autoquant.search.study import Keep

__all__ = ["load_study", "quantize", "search"]


def search(
    task: Task | str,
    space: Space = None,
    *,
    study: str | None = None,
    trials: int | None = None,
    timeout: str | float | None = None,
    sampler: SamplerName | None = None,
    seed: int = 0,
    threads: int = 1,
    batch: int = 1,
    backend: BackendName = DEFAULT_BACKEND,
    results: str | Path = "results",
    storage: str | None = None,
    keep: Keep = "front",
    full: bool = False,
    workers: int | None = None,
    ray: str | None = None,
    targets: Sequence[str] = (),
    gpus_per_qat_trial: float = 0.0,
    trial_timeout: str | float | None = None,
    join: bool = False,
    progress: bool = True,
) -> NotebookStudy:
    """Search a space: every trial is judged as the file that would ship, on its runtime.

    Interrupt it at any moment: what is finished is kept, and the study so far comes back.

    Args:
        task: a task, or the name of one.
        space: a SearchSpace, a dict as in a YAML file, a file, a shipped name, or None for
            every layer at 8 or 4 bits or float and all calibration methods. The task goes
            before one that the space names. On a processor whose 8-bit sums saturate,
            `reduce_range` is a choice unless the space decides on it.
        study: name of the study; that of the space's file, or of the task, if left out. One
            that exists with this space goes on.
        trials: finished trials to reach, baselines included.
        timeout: be done by then, front and all: seconds, or text such as `30m`.
        sampler: `auto`, `tpe` or another one, as the command line has them; `auto` if left out, or
            that of the study that goes on.
        seed: of every random choice.
        threads: of the timed runs.
        batch: batch size of the timed runs.
        backend: runtime that judges every trial: `onnxruntime`, `openvino` or `litert`.
        results: folder that holds the studies.
        storage: database URL for the record; a journal in the results folder if left out.
        keep: which files stay on disk; all others are rebuilt on demand.
        full: stop no trial early.
        workers: trials that are built and judged at the same time, in processes of their own.
        ray: head of a Ray cluster to search on, `HOST:PORT` or `auto`; a task that no name leads
            to travels there, once to each node, with its model and its data.
        targets: machines that you ship to, by name: each is timed on the cluster's nodes with the
            resource `latency_probe:NAME`, an objective of its own.
        gpus_per_qat_trial: GPUs, or a share of one, for a trial that trains.
        trial_timeout: stop a trial that takes longer: seconds, or text such as `10m`.
        join: take part in the study if another process runs it.
        progress: show it.

    Raises:
        InputError: an argument that cannot be; names it and the way out.
    """
    check_counts(threads, batch, trials)
    check_choices(keep, sampler or DEFAULT_SAMPLER, backend)
    crew = find_crew(workers, ray, gpus_per_qat_trial, trial_timeout)
    name = name_of(task)
    with speaking_python():
        header = build_header(
            read_space(space, name),
            sampler=sampler or DEFAULT_SAMPLER,
            seed=seed,
            threads=threads,
            batch=batch,
            trials=trials,
            timeout=timeout,
            backend=backend,
            targets=targets,
        )
    location = Location(Path(results), study or name_space(space, name), storage)
    console = open_console(progress=progress)
    known = _find_existing(location, header, console)
    if known is not None:
        header = dataclasses.replace(header, sampler=sampler or known.sampler)
        header = extend_header(header, trials or known.trials, None)
    launch = Launch(location, header, keep, not full, crew, joins=join)
    with speaking_python():
        check_reach(launch)
    found = NotebookStudy(location, task if isinstance(task, Task) else None)
    check_complete(space, [layer.name for layer in found.evaluator(header, console).layers])
    return found.run(launch, console)


def _find_existing(
    location: Location, header: StudyHeader, console: Console | None
) -> StudyHeader | None:
    """What an existing study was begun with; None if there is none.

    Raises:
        StudyError: it was begun otherwise.
    """
    if not location.exists():
        return None
    ways = {"resume": f'load_study("{location.folder}").resume()', "rename": 'study="NAME"'}
    record = load_record(location, warn=warn)
    check_same(record, header, location.name, **ways)
    if console is not None:
        console.print(f"study '{location.name}' exists with this space: going on with it")
    return record.header


def quantize(
    task: Task | str,
    recipe: Recipe | Mapping[str, Any] | str | Path = "w8a8",
    *,
    seed: int = 0,
    threads: int = 1,
    batch: int = 1,
    backend: BackendName = DEFAULT_BACKEND,
    full_integer: bool = False,
    checkpoints: str | Path | None = None,
    progress: bool = True,
) -> tuple[Artifact, Measurement]:
    """Quantize a task by one recipe, without a search, and measure the file on both splits.

    Args:
        task: a task, or the name of one.
        recipe: a recipe, its content as a dict, a JSON file, or a name such as `w8a8`.
        seed: draws the calibration images, and the order of training images.
        threads: of the timed runs.
        batch: batch size of the timed runs.
        backend: runtime that judges the file; `litert` makes a .tflite file, the others ONNX.
        full_integer: inputs and outputs are int8 too, for processors without floats; of .tflite
            files alone.
        checkpoints: folder from which a training goes on that was interrupted.
        progress: show how a training goes.

    Returns:
        The file (`artifact.save("model.onnx")` writes it, or `model.tflite`) and its figures.

    Raises:
        InputError: an argument that cannot be; names it and the way out.
        TrialError: this recipe cannot be built, or its file does not hold what it promises.
    """
    check_counts(threads, batch)
    check_choices(backend=backend)
    wanted = _read_recipe(recipe)
    folder = None if checkpoints is None else Path(checkpoints)
    if full_integer and backend != "litert":
        raise InputError('full_integer=True is of .tflite files alone: take backend="litert"')
    evaluator = load_single_evaluator(
        find_task(task), seed, threads, batch, backend, folder, full_integer=full_integer
    )
    warn_of_backend(evaluator)
    chosen = wanted or find_named_recipe(str(recipe), evaluator)
    console = open_console(progress=progress and chosen.is_trained)
    with TrainingShow(console, "quantizing and measuring") as watch:
        return measure_recipe(evaluator, chosen, watch)


def _read_recipe(recipe: Recipe | Mapping[str, Any] | str | Path) -> Recipe | None:
    """A recipe in any of its forms; None for a known name."""
    match recipe:
        case Recipe():
            return recipe
        case str() | Path():
            return read_recipe(str(recipe))
        case Mapping():
            return Recipe.from_json(json.dumps(dict(recipe)))
    raise RecipeError(
        f"a recipe is a Recipe, a dict, a file or a name, not {type(recipe).__name__}"
    )


def load_study(
    path: str | Path, *, storage: str | None = None, task: Task | None = None
) -> NotebookStudy:
    """Open a study.

    Args:
        path: the study's folder, such as `results/digits`.
        storage: database URL of its record, if that is not in the folder.
        task: the task, if no name leads to it; only needed to resume or to rebuild files.

    Raises:
        StudyError: there is no study; lists those that there are.
    """
    folder = Path(path)
    location = Location(folder.parent, folder.name, storage)
    inside = list_studies(folder) if folder.is_dir() and not location.exists() else []
    if inside:
        raise StudyError(f"'{folder}' holds studies: name one, {folder / inside[0]} for instance")
    load_record(find_study(folder.parent, folder.name, storage), warn=warn)
    return NotebookStudy(location, task)
