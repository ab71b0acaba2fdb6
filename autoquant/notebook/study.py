"""`NotebookStudy`: a study as tables, figures and sentences."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from rich.console import Console

from autoquant.agreement import check_same_model, extend_header, load_evaluator, options_of
from autoquant.cluster.source import WholeSource
from autoquant.cluster.worker import Source
from autoquant.core.front import find_front
from autoquant.core.objective import Kind
from autoquant.core.pareto import Bounds
from autoquant.core.task import Task
from autoquant.core.trial import Trial
from autoquant.deliver import check_output, check_suffix, read_kept, rebuild_trial, seal_for_target
from autoquant.errors import InputError
from autoquant.evaluate import Evaluator
from autoquant.launch import Launch, run_launch
from autoquant.notebook.advice import Recommendations
from autoquant.notebook.check import (
    check_choices,
    check_counts,
    find_crew,
    find_task,
    name_task,
    speaking_python,
    warn,
    warn_of_backend,
)
from autoquant.notebook.table import frame_trials
from autoquant.report import pareto_figure
from autoquant.search.choice import (
    FrontView,
    advise,
    choose_trial,
    find_reference,
    parse_objectives,
    view_front,
)
from autoquant.search.header import StudyHeader
from autoquant.search.record import Record
from autoquant.search.storage import Location, load_record
from autoquant.search.study import Keep
from autoquant.tasks import is_installed

__all__ = ["NotebookStudy", "open_console"]


class NotebookStudy:
    """A study: what it found, and how to go on.

    It reads its record anew whenever it is asked, so it also follows a search that another
    process runs.

    Args:
        location: where the study lies.
        task: the task, if no name leads to it.
        target: of the study, as which it is seen; None sees all of it.
    """

    def __init__(
        self, location: Location, task: Task | None = None, target: str | None = None
    ) -> None:
        self.location = location
        self.target = target
        self._own_task = task
        self._evaluator: Evaluator | None = None

    @property
    def name(self) -> str:
        """The study's name."""
        return self.location.name

    def seen_from(self, target: str) -> "NotebookStudy":
        """The same study as one of its targets sees it: its latency, its front, its files.

        Raises:
            StudyError: the study has no such target; lists those that it has.
        """
        view = NotebookStudy(self.location, self._own_task, target)
        view._record()
        return view

    @property
    def trials(self) -> pd.DataFrame:
        """Every finished trial, one a row; columns are those of `autoquant trials` in JSON."""
        return frame_trials(self._record().trials())

    @property
    def reference(self) -> Trial | None:
        """The float model's record; None if it is not measured yet."""
        return find_reference(self._record().trials())

    def front(
        self,
        objectives: str | Sequence[str] | None = None,
        *,
        max_drop: float | None = None,
        max_latency_ms: float | None = None,
        max_size_mb: float | None = None,
    ) -> pd.DataFrame:
        """The trials that no other trial beats, within bounds; empty if there is none.

        Args:
            objectives: by which; those of the study if left out.
            max_drop: largest accuracy drop against float, 0.01 is one point.
            max_latency_ms: longest median latency.
            max_size_mb: largest file, in 10**6 bytes.
        """
        bounds = Bounds(max_drop, max_latency_ms, max_size_mb)
        return frame_trials(self._view(objectives, bounds).members, is_front=True)

    def recommend(
        self,
        *,
        max_drop: float | None = None,
        max_latency_ms: float | None = None,
        max_size_mb: float | None = None,
    ) -> Recommendations:
        """The knee, the fastest, the smallest and the most accurate, each with its reason."""
        view = self._view(None, Bounds(max_drop, max_latency_ms, max_size_mb))
        return Recommendations(advise(view.choices, view.reference))

    def plot(self, x: Kind = "size", y: Kind = "accuracy", color: Kind = "latency") -> go.Figure:
        """Every complete trial and the front, as a Plotly figure."""
        parse_objectives([x, y, color])
        trials = self._record().trials()
        members = self._view(None, Bounds()).members
        title = f"{self.name}: {len(members)} of {len(trials)} trials on the front"
        return pareto_figure(trials, members, x, y, title, color)

    def export(
        self,
        path: str | Path,
        trial: int | None = None,
        *,
        knee: bool = False,
        fastest: bool = False,
        smallest: bool = False,
        max_drop: float | None = None,
    ) -> Path:
        """Write the file of a trial, its passport inside; returns where it lies.

        It is an ONNX file, or of a study on LiteRT a .tflite file.

        Args:
            path: file to write.
            trial: number of the trial.
            knee: the recommended one.
            fastest: least latency ratio.
            smallest: smallest file.
            max_drop: largest accuracy drop against float, 0.01 is one point.

        Raises:
            InputError: not exactly one trial is named, or the file cannot be written.
            NegativeAnswer: no member of the front is within the drop.
        """
        if sum([trial is not None, knee, fastest, smallest]) != 1:
            raise InputError("name one of trial=N, knee=True, fastest=True, smallest=True")
        target = check_output(Path(path))
        record = self._record()
        check_suffix(target, record.header.backend, self.name)
        chosen = choose_trial(record, trial, knee=knee, fastest=fastest, bounds=Bounds(max_drop))
        kept = read_kept(self.location, chosen)
        if kept is None:
            evaluator = self.evaluator(record.header)
            content = rebuild_trial(evaluator, chosen, record.fingerprint_of(chosen))
        else:
            content = seal_for_target(kept, chosen, record)
        target.write_bytes(content)
        return target

    def resume(
        self,
        trials: int | None = None,
        timeout: str | float | None = None,
        *,
        task: Task | None = None,
        keep: Keep = "front",
        full: bool = False,
        workers: int | None = None,
        ray: str | None = None,
        gpus_per_qat_trial: float = 0.0,
        trial_timeout: str | float | None = None,
        join: bool = False,
        progress: bool = True,
    ) -> "NotebookStudy":
        """Go on with a study that was stopped or is to grow; returns it.

        Args:
            trials: finished trials to reach, baselines included.
            timeout: be done by then, front and all: seconds, or text such as `30m`.
            task: the task, if no name leads to it.
            keep: which files stay on disk; all others are rebuilt on demand.
            full: stop no trial early.
            workers: trials that are built and judged at the same time; see `search`.
            ray: head of a Ray cluster to search on.
            gpus_per_qat_trial: GPUs, or a share of one, for a trial that trains.
            trial_timeout: stop a trial that takes longer: seconds, or text such as `10m`.
            join: take part in it if another process runs it.
            progress: show it.
        """
        known = load_record(self.location, warn=warn).header
        check_counts(known.threads, trials=trials)
        check_choices(keep)
        header = extend_header(known, trials, timeout)
        if task is not None:
            self._own_task, self._evaluator = task, None
        crew = find_crew(workers, ray, gpus_per_qat_trial, trial_timeout)
        launch = Launch(self.location, header, keep, not full, crew, joins=join)
        return self.run(launch, open_console(progress=progress))

    def run(self, launch: Launch, console: Console | None) -> "NotebookStudy":
        """Search until the budget is spent, or until an interrupt; returns this study."""
        evaluator, source = self.evaluator(launch.header, console), self._find_source(launch)
        try:
            with speaking_python():
                run_launch(launch, evaluator, console, warn, source)
        except KeyboardInterrupt:
            if not self.location.exists():
                raise
            warn("interrupted; everything finished so far is kept, resume() goes on")
        return self

    def evaluator(self, header: StudyHeader, console: Console | None = None) -> Evaluator:
        """What measures this study's recipes; made once.

        Raises:
            TaskError: no name leads to the task.
            StudyError: the task is another than the one that the study was made with.
        """
        if self._evaluator is None:
            if console is not None:
                console.print(f"loading task {header.task}", markup=False)
            evaluator = load_evaluator(header, self._find_task(header), self.location)
            check_same_model(self.location, evaluator)
            warn_of_backend(evaluator)
            self._evaluator = evaluator
        return self._evaluator

    def _find_source(self, launch: Launch) -> Source | None:
        """What workers make their evaluators of; None where the task's name is enough for that."""
        header = launch.header
        if launch.crew is None or (self._own_task is None and is_installed(header.task)):
            return None
        return WholeSource(
            self._find_task(header),
            header.seed,
            options_of(header),
            header.backend,
            self.location.checkpoints.resolve(),
        )

    def _find_task(self, header: StudyHeader) -> Task:
        if self._own_task is None:
            return find_task(header.task, header.task_options)
        return name_task(self._own_task, header.task)

    def _record(self) -> Record:
        return load_record(self.location, warn=warn).seen_from(self.target)

    def _view(self, objectives: str | Sequence[str] | None, bounds: Bounds) -> FrontView:
        record = self._record()
        names = objectives.split(",") if isinstance(objectives, str) else objectives or []
        given = [name.strip() for name in names]
        wanted = parse_objectives(given, record.header.targets) or record.header.objectives
        return view_front(record.trials(), wanted, record.header.bounds.overlaid(bounds))

    def __repr__(self) -> str:
        record = self._record()
        found = record.trials()
        members = find_front(found, record.header.objectives, record.header.bounds)
        return (
            f"<study '{self.name}' of task {record.header.task}: {len(found)} trials, "
            f"{len(members)} on the front>"
        )


def open_console(*, progress: bool) -> Console | None:
    """Where progress is shown: standard error, or a notebook's cell; None for nowhere."""
    return Console(stderr=True, highlight=False, soft_wrap=True) if progress else None
