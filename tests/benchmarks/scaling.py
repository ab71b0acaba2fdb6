"""How many workers one driver feeds: rate by workers, and what each trial costs the driver.

`python -m tests.benchmarks.scaling rate` needs Ray; `cost` and `samplers` need nothing. Each
writes a JSON file to results/published/scaling/, and `plot` draws them.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from autoquant.backends.fake import fake_artifact
from autoquant.cluster import Crew, open_crew
from autoquant.core.evidence import Evidence
from autoquant.core.trial import Measurement
from autoquant.search.event import Event
from autoquant.search.executor import Job, Outcome
from autoquant.search.sampler import SamplerName
from autoquant.search.storage import Location
from autoquant.search.study import Budget, Study
from tests.crews import FakeSource
from tests.fakes import fake_evaluator, fake_record, fake_space

OUT = Path(__file__).resolve().parents[2] / "results" / "published" / "scaling"
LAYERS = 50
SLEEP_S = 0.5
OBJECTIVES = ["accuracy", "size"]


@dataclasses.dataclass(frozen=True)
class SleepingSource(FakeSource):
    """Trials that sleep; nothing is timed, since timings take turns whatever the workers."""

    def __call__(self) -> Any:
        evaluator = super().__call__()
        evaluator.options = dataclasses.replace(evaluator.options, latency=None)
        return evaluator


class InstantExecutor:
    """Every job is finished at once, by arithmetic, so that only the driver's own work counts."""

    is_remote = False

    def __init__(self) -> None:
        self.waiting: list[Job] = []

    @property
    def has_room(self) -> bool:
        return not self.waiting

    def submit(self, job: Job) -> None:
        self.waiting.append(job)

    def take(self, timeout_s: float | None = None) -> tuple[Job, Outcome] | None:
        job = self.waiting.pop()
        return job, imagine(job)

    def listen(self, on_note: Callable[[str], None]) -> None:
        pass

    def seats(self) -> list[Any]:
        return []


def fake_hits(error: float) -> Any:
    import numpy as np

    return (np.arange(1000) * 7919 % 1000) >= error * 1000


def imagine(job: Job) -> Outcome:
    """Figures of the cost model of `FakeBackend`, without the fake network's predictions."""
    recipe = job.recipe
    names = [f"conv{index}" for index in range(LAYERS)]
    default = None if recipe.method == "fp32" else 8
    kinds = {None: "float32", 4: "int4", 8: "int8"}
    precisions = {name: kinds[recipe.layers.get(name, default)] for name in names}
    loss = sum(
        {"int4": 0.02, "int8": 0.001, "float32": 0.0}[kind] / (1 + order)
        for order, kind in enumerate(precisions.values())
    )
    hits = fake_hits(0.05 + loss)
    artifact = fake_artifact(precisions)
    measurement = Measurement(
        accuracy=float(hits.mean()),
        accuracy_drop=0.95 - float(hits.mean()),
        size_bytes=artifact.size_bytes,
        evidence=Evidence.from_hits(hits),
    )
    return Outcome("complete", measurement, artifact)


def measure_rate(workers: int, trials: int) -> dict[str, Any]:
    """Trials a second, from the moment when every worker is ready.

    The float model, whose building does not sleep, is not counted: to one worker with twenty
    trials it would be a gift of five percent.
    """
    source = SleepingSource(layers=8, seconds=SLEEP_S, samples=100)
    with tempfile.TemporaryDirectory() as folder, open_crew(Crew(workers), source, source()) as ev:
        executor = ev.executor
        while len(executor.pool.idle("worker")) < workers:
            executor._tick(0.2)
        location = Location(Path(folder), "fake")
        record = fake_record(location, objectives=OBJECTIVES, trials=trials)
        study = Study(
            record, fake_space(8), ev, location.artifacts, reject_early=False, executor=executor
        )
        study.close = list  # what follows the last trial is not the workers' work
        start, cpu = time.perf_counter(), time.process_time()
        study.run(Budget(trials), "random")
        seconds = time.perf_counter() - start
        return {
            "workers": workers,
            "trials": trials,
            "seconds": round(seconds, 2),
            "trials_per_s": round((trials - 1) / seconds, 3),
            "driver_cpu_ms_per_trial": round((time.process_time() - cpu) / trials * 1e3, 2),
        }


def measure_cost(
    trials: int, sampler: SamplerName, url: str | None = None, every: int | None = None
) -> list[dict[str, Any]]:
    """What the driver spends on trials, the sampler apart, in windows of `every` trials."""
    every = every or max(1, trials // 10)
    with tempfile.TemporaryDirectory() as folder:
        location = Location(Path(folder), f"cost-{time.time_ns():x}", url)
        location.create_folder()
        record = fake_record(location, sampler=sampler, trials=trials, objectives=OBJECTIVES)
        executor = InstantExecutor()
        study = Study(
            record, fake_space(LAYERS), fake_evaluator(LAYERS), location.artifacts,
            reject_early=False, executor=executor,
        )  # fmt: skip
        study.close = list
        return run_windows(study, executor, trials, sampler, every)


def run_windows(
    study: Study, executor: InstantExecutor, trials: int, sampler: SamplerName, every: int
) -> list[dict[str, Any]]:
    watch = Stopwatch()
    use_sampler = study._use_sampler

    def use(name: SamplerName) -> None:
        use_sampler(name)
        chosen = study.record.study.sampler
        for method in ("sample_relative", "after_trial", "before_trial"):
            setattr(chosen, method, watch.timed(getattr(chosen, method)))

    study._use_sampler = use
    executor.take = (taking := Stopwatch()).timed(executor.take)
    rows: list[dict[str, Any]] = []
    laps = Stopwatch()
    laps.lap()

    def note(event: Event) -> None:
        if event.kind != "end" or event.done % every:
            return
        wall, cpu = laps.lap()
        rows.append(
            {
                "trials": event.done,
                "sampler": sampler,
                "driver_ms": round((wall - watch.wall - taking.wall) / every * 1e3, 2),
                "driver_cpu_ms": round((cpu - watch.cpu - taking.cpu) / every * 1e3, 2),
                "sampler_cpu_ms": round(watch.cpu / every * 1e3, 2),
            }
        )
        watch.wall = watch.cpu = taking.wall = taking.cpu = 0.0
        print(rows[-1], flush=True)

    study.on_event = note
    study.run(Budget(trials), sampler)
    return rows


class Stopwatch:
    """Counts seconds within a function, by the clock and of this process."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def lap(self) -> tuple[float, float]:
        """Seconds since the lap before."""
        before = self.wall, self.cpu
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        return self.wall - before[0], self.cpu - before[1]

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                self.wall += time.perf_counter() - wall
                self.cpu += time.process_time() - cpu

        return call


def save(name: str, rows: Sequence[dict[str, Any]]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps(list(rows), indent=1) + "\n")


def plot() -> None:
    """What was measured so far, as a picture."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(
        1, 2, subplot_titles=["trials a second, by workers", "CPU of the driver a trial, ms"]
    )
    rates = load("rate")
    workers = [row["workers"] for row in rates]
    measured = [row["trials_per_s"] for row in rates]
    ideal = [count / SLEEP_S for count in workers]
    figure.add_trace(go.Scatter(x=workers, y=measured, name="measured"), 1, 1)
    figure.add_trace(go.Scatter(x=workers, y=ideal, name="sleep alone", line_dash="dot"), 1, 1)
    for path in sorted(OUT.glob("cost-*.json")):
        rows = json.loads(path.read_text())
        counts, costs = zip(*[(row["trials"], row["driver_cpu_ms"]) for row in rows], strict=True)
        name = f"driver, {path.stem.removeprefix('cost-')}"
        figure.add_trace(go.Scatter(x=counts, y=costs, name=name), 1, 2)
    samplers = load("samplers")
    for name in dict.fromkeys(row["sampler"] for row in samplers):
        rows = [row for row in samplers if row["sampler"] == name]
        counts = [row["trials"] for row in rows]
        costs = [row["sampler_cpu_ms"] for row in rows]
        figure.add_trace(go.Scatter(x=counts, y=costs, name=f"sampler {name}"), 1, 2)
    figure.update_xaxes(title_text="workers", row=1, col=1)
    figure.update_xaxes(title_text="finished trials", type="log", dtick=1, row=1, col=2)
    figure.update_yaxes(type="log", dtick=1, row=1, col=2)
    figure.update_layout(template="plotly_white", margin={"t": 50, "b": 60})
    figure.write_image(OUT / "scaling.png", width=1100, height=460, scale=2)


def load(name: str) -> list[dict[str, Any]]:
    path = OUT / f"{name}.json"
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    return found


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["rate", "cost", "samplers", "postgres", "plot"])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--url")
    told = parser.parse_args(arguments)
    match told.what:
        case "rate":
            known = {row["workers"]: row for row in load("rate")}
            for workers in told.workers:
                known[workers] = measure_rate(workers, 20 * workers)
                print(known[workers], flush=True)
            save("rate", [known[workers] for workers in sorted(known)])
        case "cost":
            save(f"cost-{told.trials}", measure_cost(told.trials, "random"))
        case "postgres":
            save("cost-postgres", measure_cost(told.trials, "random", told.url))
        case "plot":
            plot()
        case "samplers":
            names: list[SamplerName] = ["random", "tpe", "nsga2"]
            save("samplers", [row for n in names for row in measure_cost(told.trials, n)])


if __name__ == "__main__":
    main(sys.argv[1:])
