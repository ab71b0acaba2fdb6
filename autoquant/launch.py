"""A study from its header to its front: what the command line and a notebook have in common."""

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from autoquant.backends.machine import has_integer_dot_product
from autoquant.backends.registry import DEFAULT_BACKEND, BackendName
from autoquant.cluster import open_crew
from autoquant.cluster.crew import Crew
from autoquant.cluster.source import TaskSource
from autoquant.cluster.worker import Source
from autoquant.config import SpaceConfig, parse_duration, parse_space
from autoquant.core.analysis import Cell
from autoquant.core.recipe import Recipe
from autoquant.core.space import baselines
from autoquant.core.task import Task
from autoquant.errors import StudyError, TaskError, TrialError
from autoquant.evaluate import EvaluationOptions, Evaluator
from autoquant.progress import SearchProgress
from autoquant.search.crash import watch_crashes
from autoquant.search.event import Evaluates
from autoquant.search.executor import Executor
from autoquant.search.record import Record, StudyHeader
from autoquant.search.sampler import INFORMED, SAMPLERS, SamplerName
from autoquant.search.storage import (
    Location,
    create_record,
    hold_driver_lock,
    lease_record,
    list_studies,
    load_record,
    translate_losses,
)
from autoquant.search.study import Budget, Event, Keep, Study

__all__ = [
    "PARITY_MACS",
    "Launch",
    "build_header",
    "check_same",
    "check_same_model",
    "extend_header",
    "find_source",
    "find_study",
    "load_evaluator",
    "run_cells",
    "run_launch",
]

# Of a search: 250 samples of a ResNet-20, 27 of an EfficientNet-Lite0; see `EvaluationOptions`.
PARITY_MACS = 10e9
# A choice of a layer takes a file, which costs about half a trial. Where there are more than this
# to make, the sampler finds out in the course of the search.
_WORTH_MEASURING = 20  # trials
_FILES_A_TRIAL = 0.5
_SENSITIVITY_SHARE = 0.25  # of the time, at most
_ORIGINS = {"weights_sha256": "weights", "data_sha256": "data"}


@dataclass(frozen=True)
class Launch:
    """What is agreed on before anything runs.

    Attributes:
        location: where the study lies.
        header: what it is, and how far it is to go.
        keep: which files stay.
        reject_early: stop candidates that certainly cannot enter the front.
        crew: workers that evaluate its trials; None evaluates them in this process.
        tasks_from: file that registers the task, for workers that do not have it.
    """

    location: Location
    header: StudyHeader
    keep: Keep = "front"
    reject_early: bool = True
    crew: Crew | None = None
    tasks_from: Path | None = None


def build_header(
    config: SpaceConfig,
    *,
    sampler: SamplerName,
    seed: int,
    threads: int,
    batch: int,
    trials: int | None,
    timeout: str | float | None,
    backend: BackendName = DEFAULT_BACKEND,
) -> StudyHeader:
    """The header of a new study; what the space says of the budget holds where nothing else is.

    Raises:
        InputError: a timeout that is no duration.
    """
    return StudyHeader(
        definition=config.definition(),
        seed=seed,
        sampler=sampler,
        threads=threads,
        batch=batch,
        trials=trials or config.budget.trials,
        timeout_s=config.budget.timeout if timeout is None else parse_duration(timeout),
        backend=backend,
    )


def extend_header(
    known: StudyHeader, trials: int | None, timeout: str | float | None
) -> StudyHeader:
    """The header of a study that goes on, with another budget where one is given."""
    seconds = known.timeout_s if timeout is None else parse_duration(timeout)
    return dataclasses.replace(known, trials=trials or known.trials, timeout_s=seconds)


def check_same(record: Record, header: StudyHeader, name: str, *, resume: str, rename: str) -> None:
    """Refuse to go on with a study that was begun otherwise.

    Args:
        record: the study that exists.
        header: what is to be searched.
        name: the study's name.
        resume: how to go on with what exists.
        rename: how to name a new study.

    Raises:
        StudyError: another space, seed, thread count, batch size or backend.
    """
    if dict(record.header.definition) != dict(header.definition):
        raise StudyError(
            f"study '{name}' exists with another search space; go on with it "
            f"({resume}) or give this one a new name ({rename})"
        )
    known = record.header
    if _conditions(known) != _conditions(header):
        raise StudyError(
            f"study '{name}' exists with seed {known.seed}, {known.threads} threads, batch "
            f"{known.batch} and backend {known.backend}; go on with those or give this one a "
            f"new name ({rename})"
        )


def _conditions(header: StudyHeader) -> tuple[int, int, int, str]:
    """What every trial of a study has in common beside its space."""
    return header.seed, header.threads, header.batch, header.backend


def find_study(results: Path, study: str, storage: str | None) -> Location:
    """Where an existing study lies.

    Raises:
        StudyError: there is none of that name; lists those that there are.
    """
    location = Location(results, study, storage)
    if not location.exists():
        known = list_studies(results, storage)
        there = f"there are {', '.join(known)}" if known else "there is none yet"
        where = "this storage" if storage else f"'{results}'"
        raise StudyError(f"there is no study '{study}' in {where}; {there}")
    return location


def load_evaluator(header: StudyHeader, task: Task, location: Location) -> Evaluator:
    """What measures a study's recipes under the study's conditions.

    Args:
        header: what the study is.
        task: its task.
        location: where it lies, and its checkpoints.

    Raises:
        TaskError: the space asks for training, and the task has no data for it.
    """
    from autoquant.build import build_evaluator

    modes = header.definition.get("quantizer", {}).get("mode", ())
    if "qat" in modes and not task.train:
        raise TaskError(
            f"task '{header.task}' has no training data: drop 'qat' from quantizer.mode in the "
            "search space, or give the task `train`"
        )
    return build_evaluator(
        task, header.seed, _options_of(header), header.backend, location.checkpoints
    )


def _options_of(header: StudyHeader) -> EvaluationOptions:
    return EvaluationOptions(header.threads, header.batch, parity_macs=PARITY_MACS)


def find_source(launch: Launch) -> TaskSource:
    """What a worker makes the study's evaluator of."""
    header, file = launch.header, launch.tasks_from
    return TaskSource(
        header.task,
        header.task_options,
        header.seed,
        _options_of(header),
        header.backend,
        launch.location.checkpoints.resolve(),
        None if file is None else (file.resolve(), file.read_bytes()),
    )


def check_same_model(location: Location, evaluator: Evaluator) -> None:
    """Refuse to mix two models, or two sets of data, in one study, as far as kept files tell.

    Two objects without a name look the same to a study's header.

    Raises:
        StudyError: the study's files were made of other weights or data.
    """
    from autoquant.export.readback import read_artifact

    builder = evaluator.builder
    if not builder.provenance(Recipe(method="fp32")):  # a rehearsal, whose files hold nothing
        return
    for path in sorted(location.artifacts.glob("*.onnx")):
        stored = read_artifact(path.read_bytes()).passport
        here = builder.provenance(Recipe.model_validate(stored["recipe"]))
        for key, what in _ORIGINS.items():
            if _is_other(stored.get(key), here[key]):
                raise StudyError(
                    f"study '{location.name}' was made with other {what} than this task's: hand "
                    "over the task that it was made with, or give a new study another name "
                    '(study="NAME")'
                )


def _is_other(stored: Any, here: Any) -> bool:
    """Whether two digests, or two digests of one split, differ; old files know fewer of them."""
    if isinstance(stored, Mapping):
        return any(here.get(split) != value for split, value in stored.items())
    return stored is not None and stored != here


def run_launch(
    launch: Launch,
    evaluator: Evaluator,
    console: Console | None,
    warn: Callable[[str], None],
    source: Source | None = None,
) -> Record:
    """Search until the budget is spent; whatever is finished stays if this is interrupted.

    Args:
        launch: what to run.
        evaluator: measures recipes.
        console: where progress is shown; None shows none.
        warn: called with one line if a damaged tail of the record was cut off.
        source: makes the evaluator of each worker, where there are workers; the task that the
            header names if left out.

    Raises:
        SpaceError: the space does not fit the task's layers.
        ClusterError: the cluster cannot be reached, or has not what is asked of it.
        StudyError: another process runs this study.
        StorageError: its folder cannot be written.
    """
    header = launch.header
    sampler = next(name for name in SAMPLERS if name == header.sampler)
    budget = Budget(header.trials, header.timeout_s)
    opened = _open_study(launch, evaluator, budget, console, warn, source)
    with opened as study, _draining(study):
        if sampler in INFORMED:
            budget = _inform(study, evaluator, budget, console)
        study.run(budget, sampler)
    return study.record


@contextmanager
def _draining(study: Study) -> Iterator[None]:
    """Ctrl-C lets what runs elsewhere end; a second one stops at once."""
    is_main = threading.current_thread() is threading.main_thread()
    if not (is_main and study.executor.is_remote):
        yield
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: drain())

    def drain() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        study.stop()

    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _inform(study: Study, evaluator: Evaluator, budget: Budget, console: Console | None) -> Budget:
    """Measure sensitivities for the sampler, or read what is kept of them; what time is left."""
    from autoquant.sensitivity import keep_folder, measure_sensitivity, read_sensitivity

    if budget.trials < _WORTH_MEASURING:
        return budget
    task, reduced = study.record.header.task, study.space.reduces_range
    files = sum(len(choices) - 1 for choices in study.space.layers.values())
    if files > _FILES_A_TRIAL * budget.trials:
        study.sensitivity = read_sensitivity(evaluator, task, keep_folder(), reduce_range=reduced)
        return budget
    start = time.monotonic()
    timeout_s = math.inf if budget.timeout_s is None else _SENSITIVITY_SHARE * budget.timeout_s
    try:
        study.sensitivity, refusal = measure_sensitivity(
            evaluator,
            task,
            keep_folder(),
            study.space.layers,
            reduce_range=reduced,
            timeout_s=timeout_s,
        )
    except TrialError as error:
        refusal = f"the sampler has no sensitivities: {error}"
    seconds = time.monotonic() - start
    note = f"sensitivities of the layers took {seconds:.0f} s before the first trial"
    if seconds >= 1:  # less is what reading them takes
        study.record.set_note("sensitivity", note)
    if console is not None:
        console.print(note if refusal is None else f"{note} ({refusal})", markup=False)
    if budget.timeout_s is None:
        return budget
    return Budget(budget.trials, max(1e-3, budget.timeout_s - seconds))  # none is no limit


def run_cells(
    launch: Launch,
    evaluator: Evaluator,
    cells: Sequence[Cell],
    console: Console | None,
    warn: Callable[[str], None],
) -> Record:
    """Evaluate what the accuracy-loss study misses, as trials of the study; see `Study.measure`.

    Args:
        launch: the study.
        evaluator: measures recipes.
        cells: of the grid; those with figures are left as they are.
        console: where progress is shown; None shows none.
        warn: called with one line if a damaged tail of the record was cut off.

    Raises:
        StudyError: another process runs this study.
        StorageError: its folder cannot be written.
    """
    names = [layer.name for layer in evaluator.layers]
    recipes = [cell.to_recipe(names) for cell in cells]
    known = {trial.digest for trial in load_record(launch.location, warn=None).trials()}
    named = baselines(names, is_exact=has_integer_dot_product())
    missing = {recipe.digest for recipe in (*named.values(), *recipes)} - known
    budget = Budget(len(known) + len(missing))
    with _open_study(launch, evaluator, budget, console, warn) as study:
        study.measure(recipes)
    return study.record


@contextmanager
def _open_study(
    launch: Launch,
    evaluator: Evaluator,
    budget: Budget,
    console: Console | None,
    warn: Callable[[str], None],
    source: Source | None = None,
) -> Iterator[Study]:
    header, location = launch.header, launch.location
    config = parse_space(dict(header.definition), f"study '{location.name}'")
    names = [layer.name for layer in evaluator.layers]
    able = {layer.name: layer.activations for layer in evaluator.layers}
    space = config.to_space(names, activations=able, is_exact=has_integer_dot_product())
    location.create_folder()
    with (
        hold_driver_lock(location),
        translate_losses(location),
        watch_crashes(location.crash) as crash,
    ):
        record = _open_record(launch, warn)
        with (
            lease_record(location, record),
            _open_crew(launch, evaluator, source) as (evaluates, executor),
            _progress(budget, console, may_train=space.is_mixed) as show,
        ):
            # with workers, this process evaluates nothing that could have crashed it
            record.recover(crash if executor is None else None)
            yield Study(
                record,
                space,
                evaluates,
                location.artifacts,
                keep=launch.keep,
                bounds=config.constraints.to_bounds(),
                reject_early=launch.reject_early,
                is_exact=has_integer_dot_product(),
                on_event=show,
                executor=executor,
            )


@contextmanager
def _open_crew(
    launch: Launch, evaluator: Evaluator, source: Source | None
) -> Iterator[tuple[Evaluates, Executor | None]]:
    """Workers, where the launch asks for some."""
    if launch.crew is None:
        yield evaluator, None
        return
    with open_crew(launch.crew, source or find_source(launch), evaluator) as cluster:
        yield cluster, cluster.executor


def _open_record(launch: Launch, warn: Callable[[str], None]) -> Record:
    if launch.location.exists():
        return load_record(launch.location, warn=warn, is_driver=True)
    return create_record(launch.location, launch.header)


@contextmanager
def _progress(
    budget: Budget, console: Console | None, *, may_train: bool
) -> Iterator[Callable[[Event], None] | None]:
    if console is None:
        yield None
        return
    with SearchProgress(budget, console, may_train=may_train) as progress:
        yield progress.show
