"""Real networks on several workers: how much faster two are, where trials run, what travels.

`python -m tests.benchmarks.cluster_work speedup|cluster|traffic` each writes a JSON file to
results/published/scaling/. The tasks need AUTOQUANT_DATA.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ray import cloudpickle
from rich.console import Console

from autoquant.agreement import build_header, load_evaluator
from autoquant.backends.machine import describe_machine, grant_cores
from autoquant.build import build_evaluator
from autoquant.cluster import Crew, open_crew
from autoquant.cluster.source import TaskSource
from autoquant.config import find_space, load_space
from autoquant.core.recipe import Recipe
from autoquant.core.trial import Trial
from autoquant.launch import Launch, find_source, run_launch
from autoquant.search.executor import Job
from autoquant.search.storage import Location
from autoquant.tasks import load_task
from tests.benchmarks.scaling import save

STORE = 200 * 2**20
_PREPARING_S, _JUDGING_S = 90.0, 20.0


def begin(space: str, folder: Path, trials: int, crew: Crew, **changes: Any) -> Launch:
    config = load_space(find_space(space)).model_copy(update=changes)
    header = build_header(
        config, sampler="random", seed=0, threads=1, batch=1, trials=trials, timeout=None
    )
    return Launch(Location(folder, "work"), header, crew=crew, reject_early=False)


def search(launch: Launch, *, is_timed: bool = True) -> tuple[list[Trial], dict[str, Any]]:
    """A search from beginning to end: its trials, and when they ended.

    Args:
        launch: what to run.
        is_timed: files are timed, which one does after the other whatever the workers.
    """
    task, source = load_task(launch.header.task), find_source(launch)
    evaluator = load_evaluator(launch.header, task, launch.location)
    if not is_timed:
        evaluator.options = dataclasses.replace(evaluator.options, latency=None)
        source = dataclasses.replace(source, options=evaluator.options)
    start = time.time()
    record = run_launch(launch, evaluator, Console(stderr=True), print, source)
    whole_s = time.time() - start
    ended = sorted(
        frozen.datetime_complete.timestamp()
        for frozen in record.study.get_trials(deepcopy=False)
        if frozen.datetime_complete is not None
    )
    # the first trials wait for what a task needs once; none of these counts
    skipped = len(ended) // 4
    pace = (len(ended) - 1 - skipped) / (ended[-1] - ended[skipped])
    return record.trials(), {
        "workers": launch.crew.workers if launch.crew else 0,
        "trials": len(ended),
        "trials_per_minute": round(60 * pace, 2),
        "seconds_from_first_to_last_trial": round(ended[-1] - ended[0], 1),
        "whole_search_s": round(whole_s, 1),
        "longest_gap_s": round(max(b - a for a, b in pairwise(ended)), 1),
    }


def measure_speedup(trials: int) -> None:
    """One worker of one thread and two, without and with timing."""
    rows: list[dict[str, Any]] = []
    found: dict[int, dict[str, Trial]] = {}
    for objectives in (["accuracy", "size"], ["accuracy", "latency", "size"]):
        for workers in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                crew = Crew(workers, None, cpus=1)
                told = {"objectives": objectives}
                launch = begin("cifar10-resnet20", Path(folder), trials, crew, **told)
                done, row = search(launch, is_timed="latency" in objectives)
            found[workers] = {trial.digest: trial for trial in done}
            rows.append({**row, "objectives": ",".join(objectives), "load": os.getloadavg()[0]})
            print(rows[-1], flush=True)
    told = {"machine": describe_machine(), "two_processes_over_one": measure_ceiling()}
    save("speedup", [told, *rows, compare(found[1], found[2])])


def measure_ceiling() -> float:
    """What two processes that share nothing get done beside each other, over one alone."""
    found = []
    for count in (1, 2):
        with ProcessPoolExecutor(count, get_context("spawn")) as pool:
            begin_at = time.time() + _PREPARING_S
            waiting = [pool.submit(judge_batches, begin_at) for _ in range(count)]
            found.append(sum(item.result() for item in waiting))
    return round(found[1] / found[0], 3)


def judge_batches(begin_at: float) -> int:
    """Batches of images that the quantized ResNet-20 judges on one thread, from a moment on."""
    grant_cores(1)
    evaluator = build_evaluator(load_task("cifar10-resnet20"))
    names = [layer.name for layer in evaluator.layers]
    artifact = evaluator.builder.build(Recipe.uniform(names, 8)).artifact
    session, batches = evaluator.backend.load(artifact, 1), evaluator.search.batches
    assert time.time() < begin_at, "it took too long to prepare"
    time.sleep(begin_at - time.time())
    done, end = 0, begin_at + _JUDGING_S
    while time.time() < end:
        session.predict(batches[done % len(batches)])
        done += 1
    return done


def compare(one: dict[str, Trial], two: dict[str, Trial]) -> dict[str, Any]:
    """Whether ratios of the same recipes agree within their intervals."""
    common = [
        (one[digest], two[digest])
        for digest in one.keys() & two.keys()
        if one[digest].latency_ratio_ci and two[digest].latency_ratio_ci
    ]
    agree = [a for a, b in common if overlap(a.latency_ratio_ci, b.latency_ratio_ci)]
    ratios = sorted(b.latency_ratio / a.latency_ratio for a, b in common)
    same = [a.accuracy == b.accuracy for a, b in common]
    return {
        "recipes_in_both": len(common),
        "intervals_overlap": len(agree),
        "same_accuracy": sum(same),
        "median_ratio_two_over_one": round(ratios[len(ratios) // 2], 4) if ratios else None,
    }


def overlap(one: Sequence[float], two: Sequence[float]) -> bool:
    return max(one[0], two[0]) <= min(one[1], two[1])


@contextmanager
def three_nodes() -> Iterator[Any]:
    """A head without processors, a node that builds, a node that times."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - as Ray spells it
    head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=2, object_store_memory=STORE, node_name="builder")
    probe = {"latency_probe": 1}
    cluster.add_node(num_cpus=1, object_store_memory=STORE, node_name="edge", resources=probe)
    try:
        yield cluster
    finally:
        cluster.shutdown()


def measure_cluster(trials: int) -> None:
    """ResNet-8 on three nodes of which one is a probe."""
    with three_nodes() as cluster, tempfile.TemporaryDirectory() as folder:
        crew = Crew(2, cluster.address)
        done, row = search(begin("cifar10-resnet8", Path(folder), trials, crew))
    built = Counter(str(trial.node).partition(":")[0] for trial in done)
    timed = Counter(str(trial.probe).partition(":")[0] for trial in done if trial.probe)
    states = Counter(trial.state for trial in done)
    document = {**row, "built_on": built, "timed_on": timed, "states": states}
    print(document)
    save("cluster", [{"machine": describe_machine(), "load": os.getloadavg()[0]}, document])


def measure_traffic() -> None:
    """What one trial of EfficientNet-Lite0 sends and brings back, in bytes, pickled as by Ray."""
    name = "imagenet-sample-efficientnet-lite0"
    with tempfile.TemporaryDirectory() as folder:
        launch = begin(name, Path(folder), 4, Crew(1), objectives=["accuracy", "size"])
        task = load_task(name)
        evaluator = load_evaluator(launch.header, task, launch.location)
        source: TaskSource = find_source(launch)
        names = [layer.name for layer in evaluator.layers]
        job = Job(1, Recipe.uniform(names, 4))
        with open_crew(Crew(1), source, evaluator) as cluster:
            outcome = cluster.executor.evaluate(job)
    assert outcome.artifact is not None
    samples = sum(len(split) for split in (task.calibration, task.search))
    row = {
        "task": name,
        "source_bytes": len(cloudpickle.dumps(source)),
        "job_bytes": len(cloudpickle.dumps(job)),
        "outcome_bytes": len(cloudpickle.dumps(outcome)),
        "artifact_bytes": outcome.artifact.size_bytes,
        "data_set_bytes": samples * task.example_input.nbytes,
    }
    print(row)
    save("traffic", [row])


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["speedup", "cluster", "traffic"])
    parser.add_argument("--trials", type=int, default=24)
    told = parser.parse_args(arguments)
    match told.what:
        case "speedup":
            measure_speedup(told.trials)
        case "cluster":
            measure_cluster(told.trials)
        case "traffic":
            measure_traffic()


if __name__ == "__main__":
    main(sys.argv[1:])
