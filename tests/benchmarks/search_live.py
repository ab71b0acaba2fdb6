"""Searches against the clock, judged on images that chose nothing.

    AUTOQUANT_DATA=../shared/data python tests/benchmarks/search_live.py run FOLDER \
        cifar10-resnet20 auto,tpe,nsga2 3 10m
    python tests/benchmarks/search_live.py judge FOLDER results/published/search-benchmark

`run` searches a shipped space for a while with each sampler and seed, seeds outside, so that what
the machine does otherwise falls on all samplers; each time with an empty cache, so that `auto`
pays for its sensitivities. What is there already stays. `judge` takes the front of each study as
the command showed it, with its accuracy on the report split, times the files of all fronts once
more in turns with each other (what was timed an hour apart does not compare), and takes the
hypervolume that each dominates together with the uniform files of 8 and 4 bits, and the share of
the gap that it closes between those two alone and everything that was found; beside it, by the
search split and each study's own clock, the hypervolume after so many trials. It writes
`live.json` and prints the table. The machine has to be quiet throughout.
"""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Self

import numpy as np

from autoquant.backends.machine import (
    describe_machine,
    has_integer_dot_product,
    package_versions,
)
from autoquant.build import build_evaluator
from autoquant.core.artifact import Artifact
from autoquant.core.front import find_front
from autoquant.core.hypervolume import hypervolume
from autoquant.core.pareto import is_nondominated
from autoquant.core.space import baselines
from autoquant.core.trial import Trial
from autoquant.evaluate import Evaluator
from autoquant.export.formats import read_artifact
from autoquant.search.storage import Location, load_record
from autoquant.tasks import load_task

ALLOWED_DROP = 0.02
_PACKAGES = ("autoquant", "torch", "brevitas", "onnx", "onnxruntime", "optuna", "numpy")
_COUNTS = (10, 20, 40, 60)
_ENOUGH = "100000"  # trials: time is what ends these searches


def run(folder: str, space: str, samplers: str, seeds: str, timeout: str) -> None:
    place = Path(folder).resolve()
    place.mkdir(parents=True, exist_ok=True)
    for seed in range(int(seeds)):
        for sampler in samplers.split(","):
            name = f"{sampler}-{seed}"
            done = place / f"{name}.json"
            if done.exists():
                continue
            begin = time.monotonic()
            command = [
                sys.executable, "-m", "autoquant", "search", space, "--study", name,
                "--sampler", sampler, "--seed", str(seed), "--timeout", timeout,
                "--trials", _ENOUGH, "--results", str(place),
            ]  # fmt: skip
            environment = {**os.environ, "AUTOQUANT_CACHE": str(place / f"cache-{name}")}
            with (place / f"{name}.log").open("w") as log:
                subprocess.run(command, check=True, env=environment, stdout=log, stderr=log)
            seconds = round(time.monotonic() - begin, 1)
            facts = {"sampler": sampler, "seed": seed, "timeout": timeout, "seconds": seconds}
            facts |= {"machine": describe_machine(), "versions": package_versions(*_PACKAGES)}
            done.write_text(json.dumps(facts) + "\n")
            print(name, seconds, "s", flush=True)


def judge(folder: str, target: str, task: str = "cifar10-resnet20") -> None:
    runs = [read(Path(folder), path) for path in sorted(Path(folder).glob("*-[0-9].json"))]
    evaluator = build_evaluator(load_task(task))
    uniform = Uniform.of(evaluator)
    time_fronts(Path(folder), runs, uniform, evaluator)
    corner = np.array([ALLOWED_DROP, 1.0, uniform.points["w8a8"][2] * (1 + 1e-9)])
    known = [*uniform.points.values()]
    base = volume(known, corner)
    everything = volume([*known, *(point for run in runs for point in run["front"])], corner)
    for found in runs:
        found["hypervolume"] = volume([*known, *found["front"]], corner)
        found["closed"] = round((found["hypervolume"] - base) / (everything - base), 4)
        found["on_search"] = {
            count: volume(found["seen"][:count], corner) for count in (*_COUNTS, len(found["seen"]))
        }
        del found["seen"]
    document = {"corner": corner.tolist(), "uniform": uniform.points, "of_uniform": base,
                "of_all": everything, "runs": runs}  # fmt: skip
    (Path(target) / "live.json").write_text(json.dumps(document, indent=1) + "\n")
    show(runs)


def read(folder: Path, path: Path) -> dict:
    """One study: what it took, how many trials it finished, its front as (drop, ratio, size)."""
    facts = json.loads(path.read_text())
    record = load_record(Location(folder, path.stem))
    trials = record.trials()
    front = find_front(trials, record.header.objectives)
    return {
        **facts,
        "trials": sum(trial.state != "running" for trial in trials),
        "complete": sum(trial.state == "complete" for trial in trials),
        "digests": [trial.digest for trial in front if trial.report_accuracy_drop is not None],
        "front": [to_point(trial) for trial in front if trial.report_accuracy_drop is not None],
        "seen": [to_search_point(trial) for trial in trials],
    }


@dataclass
class Uniform:
    """The uniform files of 8 and 4 bits, which every sampler begins with.

    Attributes:
        files: by name.
        points: (drop on the report split, latency ratio, size) by name.
    """

    files: dict[str, Artifact]
    points: dict[str, list[float]]

    @classmethod
    def of(cls, evaluator: Evaluator) -> Self:
        """Built and reported here; the ratio is still to come."""
        layers = [layer.name for layer in evaluator.layers]
        named = baselines(layers, is_exact=has_integer_dot_product())
        files = {name: evaluator.rebuild(named[name]) for name in ("w8a8", "w4a8")}
        points = {}
        for name, file in files.items():
            figures = evaluator.report(file)
            assert figures is not None
            points[name] = [figures.report_accuracy_drop, 0.0, float(file.size_bytes)]
        return cls(files, points)


def time_fronts(folder: Path, runs: list[dict], uniform: Uniform, evaluator: Evaluator) -> None:
    """Put the latency ratios of one session in place of those of each study's own."""
    files = dict(uniform.files)
    for run_ in runs:
        place = Location(folder, f"{run_['sampler']}-{run_['seed']}").artifacts
        for digest in run_["digests"]:
            files[digest] = read_artifact((place / f"{digest}.onnx").read_bytes())
    figures = evaluator.time_together(files, "live")
    for name, point in uniform.points.items():
        point[1] = round(figures[name].latency_ratio, 4)
    for run_ in runs:
        for point, digest in zip(run_["front"], run_.pop("digests"), strict=True):
            point[1] = round(figures[digest].latency_ratio, 4)


def to_point(trial: Trial) -> list[float]:
    assert trial.report_accuracy_drop is not None
    assert trial.latency_ratio is not None
    assert trial.size_bytes is not None
    return [trial.report_accuracy_drop, trial.latency_ratio, float(trial.size_bytes)]


def to_search_point(trial: Trial) -> list[float]:
    """By the search split and its study's own clock; one that is no candidate adds nothing."""
    if trial.state != "complete" or trial.left_front is not None or trial.latency_ratio is None:
        return [math.inf] * 3
    assert trial.accuracy_drop is not None
    assert trial.size_bytes is not None
    return [trial.accuracy_drop, trial.latency_ratio, float(trial.size_bytes)]


def volume(points: list[list[float]], corner: np.ndarray) -> float:
    """Hypervolume in units of the corner's box, drops clipped at 0."""
    if not points:
        return 0.0
    found = np.array(points)
    found = found[np.isfinite(found).all(axis=1)]
    found[:, 0] = np.maximum(found[:, 0], 0.0)
    kept = found[is_nondominated(found)]
    return round(float(hypervolume(kept, corner) / corner.prod()), 5)


def show(runs: list[dict]) -> None:
    print("| sampler | seconds | trials | hypervolume, each seed | of the gap, each | median "
          "| on the search split after 10, 20, 40, 60 trials and all, mean |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for sampler in dict.fromkeys(run["sampler"] for run in runs):
        own = [run for run in runs if run["sampler"] == sampler]
        trials = ", ".join(str(run["trials"]) for run in own)
        seconds = ", ".join(f"{run['seconds']:.0f}" for run in own)
        volumes = ", ".join(f"{run['hypervolume']:.4f}" for run in own)
        closed = ", ".join(f"{run['closed']:.0%}" for run in own)
        middle = median(run["closed"] for run in own)
        means = np.mean([[*run["on_search"].values()] for run in own], axis=0)
        seen = ", ".join(f"{value:.3f}" for value in means)
        print(
            f"| {sampler} | {seconds} | {trials} | {volumes} | {closed} | {middle:.0%} | {seen} |"
        )


if __name__ == "__main__":
    {"run": run, "judge": judge}[sys.argv[1]](*sys.argv[2:])
