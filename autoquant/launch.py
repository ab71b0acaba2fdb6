"""A study from its header to its front: what the command line and a notebook have in common."""

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from autoquant.agreement import options_of
from autoquant.cluster import open_crew
from autoquant.cluster.crew import Crew
from autoquant.cluster.source import TaskSource
from autoquant.cluster.worker import Source
from autoquant.config import SpaceConfig, parse_space
from autoquant.core.analysis import Cell
from autoquant.core.space import SearchSpace, baselines
from autoquant.core.trial import Trial
from autoquant.errors import InputError
from autoquant.evaluate import Evaluator
from autoquant.progress import SearchProgress
from autoquant.search.cells import CellStudy
from autoquant.search.crash import watch_crashes
from autoquant.search.event import Evaluates, describe_error
from autoquant.search.executor import Executor
from autoquant.search.header import StudyHeader
from autoquant.search.joining import take_part
from autoquant.search.presence import Announcement
from autoquant.search.recall import KNOWLEDGE, recall_exactness, recall_knowledge
from autoquant.search.record import Record
from autoquant.search.sampler import INFORMED, SAMPLERS, SamplerName
from autoquant.search.storage import Location, load_record, translate_losses
from autoquant.search.study import Budget, Event, Keep, Study
from autoquant.search.trial_log import TrialLogs

__all__ = [
    "Launch",
    "check_reach",
    "find_source",
    "run_cells",
    "run_launch",
]

# A choice of a layer takes a file, which costs about half a trial. Where there are more than this
# to make, the sampler finds out in the course of the search.
_WORTH_MEASURING = 20  # trials
_FILES_A_TRIAL = 0.5
_SENSITIVITY_SHARE = 0.25  # of the time, at most
_SHORTEST_S = 5.0  # in which it is worth beginning with them

_SATURATES_OTHERWISE = (
    "sums of products saturate otherwise on this processor than where the study began: its 8-bit "
    "weights keep as many of their bits as they had there"
)

AnyStudy = TypeVar("AnyStudy", bound=Study)


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
        joins: take part in it if another process runs it.
    """

    location: Location
    header: StudyHeader
    keep: Keep = "front"
    reject_early: bool = True
    crew: Crew | None = None
    tasks_from: Path | None = None
    joins: bool = False


def find_source(launch: Launch) -> TaskSource:
    """What a worker makes the study's evaluator of."""
    header, file = launch.header, launch.tasks_from
    return TaskSource(
        header.task,
        header.task_options,
        header.seed,
        options_of(header),
        header.backend,
        launch.location.checkpoints.resolve(),
        None if file is None else (file.resolve(), file.read_bytes()),
    )


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
        InputError: the study has targets, and there is no cluster.
        StudyError: another process runs this study.
        StorageError: its folder cannot be written.
    """
    header = launch.header
    sampler = next(name for name in SAMPLERS if name == header.sampler)
    budget = Budget(header.trials, header.timeout_s)
    opened = _open_study(Study, launch, evaluator, budget, console, warn, source)
    with opened as study:
        budget = study.agree(budget)
        if sampler in INFORMED:  # nothing runs elsewhere yet that Ctrl-C would wait for
            budget = _inform(study, sampler, evaluator, budget, console)
        with _draining(study):
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


def _inform(
    study: Study,
    sampler: SamplerName,
    evaluator: Evaluator,
    budget: Budget,
    console: Console | None,
) -> Budget:
    """Measure sensitivities for the sampler, or read what is kept of them; what time is left."""
    from autoquant.sensitivity import keep_folder, measure_sensitivity, read_sensitivity

    learns = sampler == "auto"  # the others know nothing else
    if learns and budget.trials < _WORTH_MEASURING:
        return budget
    task, reduced = study.record.header.task, study.space.reduces_range
    files = sum(len(choices) - 1 for choices in study.space.layers.values())
    timeout_s = math.inf if budget.timeout_s is None else _SENSITIVITY_SHARE * budget.timeout_s
    is_dear = learns and (files > _FILES_A_TRIAL * budget.trials or timeout_s < _SHORTEST_S)
    if is_dear or not study.leads:
        study.sensitivity = read_sensitivity(evaluator, task, keep_folder(), reduce_range=reduced)
        return budget
    start = time.monotonic()
    try:
        study.sensitivity, refusal = measure_sensitivity(
            evaluator,
            task,
            keep_folder(),
            study.space.layers,
            reduce_range=reduced,
            timeout_s=timeout_s,
        )
    except Exception as error:  # as of a trial; a search goes on without
        refusal = f"the sampler has no sensitivities: {describe_error(error)}"
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
    """Evaluate what the accuracy-loss study misses, as trials of the study; see `CellStudy`.

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
    trials = load_record(launch.location, warn=None).trials()
    known = {trial.digest for trial in trials}
    is_exact = _find_exactness(evaluator, trials)
    named = baselines(names, is_exact=is_exact, backend=launch.header.backend)
    missing = {recipe.digest for recipe in (*named.values(), *recipes)} - known
    budget = Budget(len(known) + len(missing))
    with _open_study(CellStudy, launch, evaluator, budget, console, warn) as study:
        study.measure(recipes)
    return study.record


@contextmanager
def _open_study(
    kind: type[AnyStudy],
    launch: Launch,
    evaluator: Evaluator,
    budget: Budget,
    console: Console | None,
    warn: Callable[[str], None],
    source: Source | None = None,
) -> Iterator[AnyStudy]:
    header, location = launch.header, launch.location
    check_reach(launch)
    config = parse_space(dict(header.definition), f"study '{location.name}'")
    _find_space(config, evaluator)  # what does not fit is refused before anything is begun
    location.create_folder()
    with (
        translate_losses(location),
        take_part(location, header, warn, joins=launch.joins) as member,
    ):
        trials = member.record.trials()
        is_exact = _find_exactness(evaluator, trials)
        space = _find_space(config, evaluator, member.record, is_exact=is_exact)
        if is_exact != evaluator.is_exact:
            warn(_SATURATES_OTHERWISE)
        with (
            # with workers, this process evaluates nothing that could crash it
            watch_crashes(member.crash) if launch.crew is None else nullcontext(),
            _open_crew(launch, evaluator, source, member.announcement) as (evaluates, executor),
            _progress(budget, console, trials, may_train=space.is_mixed) as show,
        ):
            if launch.joins and console is not None:
                console.print(member.describe(), markup=False)
            yield kind(
                member.record,
                space,
                evaluates,
                location.artifacts,
                keep=launch.keep,
                bounds=config.constraints.to_bounds(),
                reject_early=launch.reject_early,
                is_exact=is_exact,
                on_event=_hearing(member.announcement, show),
                executor=executor,
                membership=member,
            )


def _find_space(
    config: SpaceConfig,
    evaluator: Evaluator,
    record: Record | None = None,
    *,
    is_exact: bool | None = None,
) -> SearchSpace:
    """The recipes allowed; of a study that goes on, by what could be when it began.

    A later version may know more of a runtime, another processor may saturate where the first did
    not, and Optuna takes no parameter whose choices change.
    """
    able = {layer.name: layer.choices for layer in evaluator.layers}
    if record is not None:
        known = recall_knowledge(record.study.user_attrs.get(KNOWLEDGE), record.header)
        for layer in known.layers:
            able[layer.name] = tuple(c for c in able.get(layer.name, ()) if c in layer.choices)
    names = [layer.name for layer in evaluator.layers]
    exact = evaluator.is_exact if is_exact is None else is_exact
    return config.to_space(names, able=able, is_exact=exact)


def _find_exactness(evaluator: Evaluator, trials: Sequence[Trial]) -> bool:
    """Whether sums of products do not saturate here; of a study that goes on, where it began."""
    begun = recall_exactness(trials)
    return evaluator.is_exact if begun is None else begun


def check_reach(launch: Launch) -> None:
    """Refuse a study of several targets where there is no cluster on which they could stand.

    Raises:
        InputError: it has targets, and no address of a cluster is given.
    """
    targets = launch.header.targets
    if targets and (launch.crew is None or launch.crew.address is None):
        raise InputError(
            f"targets ({', '.join(targets)}) are nodes of a cluster: say where it is with --ray "
            "ADDRESS"
        )


def _hearing(
    announcement: Announcement, show: Callable[[Event], None] | None
) -> Callable[[Event], None]:
    """Whoever hears events: what says where workers are, and what is shown."""

    def hear(event: Event) -> None:
        announcement.see(event.seats)
        if show is not None:
            show(event)

    return hear


@contextmanager
def _open_crew(
    launch: Launch, evaluator: Evaluator, source: Source | None, announcement: Announcement
) -> Iterator[tuple[Evaluates, Executor | None]]:
    """Workers, where the launch asks for some."""
    if launch.crew is None:
        yield evaluator, None
        return
    logs = TrialLogs(launch.location.logs)
    crew = dataclasses.replace(launch.crew, targets=tuple(launch.header.targets))
    with open_crew(crew, source or find_source(launch), evaluator, logs) as cluster:
        announcement.see(cluster.executor.seats(), cluster.dashboard)
        yield cluster, cluster.executor


@contextmanager
def _progress(
    budget: Budget, console: Console | None, known: Sequence[Trial], *, may_train: bool
) -> Iterator[Callable[[Event], None] | None]:
    if console is None:
        yield None
        return
    with SearchProgress(budget, console, known, may_train=may_train) as progress:
        yield progress.show
