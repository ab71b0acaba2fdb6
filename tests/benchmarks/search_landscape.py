"""Evaluates recipes of a space for real: the table behind the search benchmark.

    AUTOQUANT_DATA=../shared/data python tests/benchmarks/search_landscape.py TASK TABLE.jsonl 280

Works for as many seconds as it is told, and goes on where it was: first every layer alone at each
of its choices, then random mixtures, then rounds of fifty recipes that a surrogate, fitted to
everything before, predicts on the front. What it had predicted is kept beside what was measured,
so that its error near the front is known and not only that of a fit.

Accuracy is that of the exported file on ONNX Runtime, on the whole search split. Nothing is timed
here, and the file is not compared with the Brevitas model.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from autoquant.backends.machine import describe_machine, package_versions
from autoquant.build import build_evaluator
from autoquant.config import find_space, load_space
from autoquant.core.proof import is_of_layer
from autoquant.core.recipe import Percentile, PtqOptions, Recipe
from autoquant.core.space import SearchSpace
from autoquant.evaluate import EvaluationOptions
from autoquant.search.sampler import build_sampler
from autoquant.tasks import load_task
from tests.benchmarks.landscape import (
    Landscape,
    Surrogate,
    find_promising,
    read_table,
    to_code,
    to_parameters,
)

RANDOM, ROUND, SUBSET = 200, 50, 1000


def main(task: str, table: str, seconds: str) -> None:
    evaluator, space = load(task)
    print(collect(evaluator, space, Path(table), float(seconds)), "rows")


def load(task: str):
    torch.set_num_threads(1)  # the runs have to share their cores with others
    evaluator = build_evaluator(load_task(task), options=EvaluationOptions(latency=None))
    torch.set_num_threads(1)
    return evaluator, landscape_space(task, [layer.name for layer in evaluator.layers])


def collect(evaluator, space: SearchSpace, path: Path, seconds: float) -> int:
    end = time.monotonic() + seconds
    generator = np.random.default_rng()
    while time.monotonic() < end:
        rows = read_table(path) if path.exists() else []
        for parameters, origin, predicted in plan(space, rows, generator):
            row = evaluate(evaluator, space, parameters)
            row |= {"origin": origin} | ({} if predicted is None else {"predicted": predicted})
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            if time.monotonic() > end:
                break
    return len(read_table(path))


def landscape_space(task: str, layers: list[str]) -> SearchSpace:
    """The shipped space of a task with 7-bit weights at 8 bits: see the README beside the table."""
    space = load_space(find_space(task)).to_space(layers, is_exact=True)
    return SearchSpace(space.layers, {**space.options, "reduce_range": (True,)})


def plan(space: SearchSpace, rows: list[dict], generator: np.random.Generator):
    """What to evaluate next: parameters, why, and the drop that is expected."""
    known = {row["code"] for row in rows}
    singles = [item for item in plan_singles(space) if to_code(space, item) not in known]
    if singles:
        return [(item, "single", None) for item in singles]
    if sum(row["origin"] == "random" for row in rows) < RANDOM:
        drawer = build_sampler("random", space, frozenset, int(generator.integers(2**31)))
        return [(draw_mixture(space, drawer, generator), "random", None) for _ in range(20)]
    surrogate = Surrogate(space, rows)
    origin = f"round {len({row['origin'] for row in rows}) - 1}"
    found = find_promising(space, rows, surrogate, ROUND, generator)
    return [(item, origin, predicted) for item, predicted in found]


def plan_singles(space: SearchSpace) -> list[dict[str, str]]:
    """Every layer at 8 bits, at 4, and each alone at each other choice; every option alone."""
    start, fours = (
        to_parameters(space, Landscape.uniform_of(space, choice)) for choice in ("8", "4")
    )
    found = [start, fours]
    for name, choices in space.parameters.items():
        found += [{**start, name: choice} for choice in choices if choice != start[name]]
    options = [name for name in start if not space.is_layer(name)]
    found += [{**fours, n: c} for n in options for c in space.parameters[n] if c != start[n]]
    return found


def draw_mixture(space, drawer, generator) -> dict[str, str]:
    options = {
        name: str(generator.choice(choices))
        for name, choices in space.parameters.items()
        if not space.is_layer(name)
    }
    return {**options, **drawer._draw_mixture()}


def evaluate(evaluator, space: SearchSpace, parameters: dict[str, str]) -> dict:
    start = time.perf_counter()
    artifact = evaluator.builder.build(space.decode(parameters)).artifact
    session = evaluator.backend.load(artifact, 1)
    outputs = evaluator.predict(session, evaluator.search.batches)
    reference, targets = evaluator.float_outputs, evaluator.search.targets
    hits, float_hits = outputs.argmax(1) == targets, reference.argmax(1) == targets
    return {
        "code": to_code(space, parameters),
        "drop": round(float(float_hits.mean() - hits.mean()), 6),
        "size": artifact.size_bytes,
        "subset_drop": round(float(float_hits[:SUBSET].mean() - hits[:SUBSET].mean()), 6),
        "subset_kl": float(f"{divergence(reference[:SUBSET], outputs[:SUBSET]):.4g}"),
        "seconds": round(time.perf_counter() - start, 2),
    }


def divergence(reference: np.ndarray, outputs: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of the class probabilities from the float model's."""
    ours, theirs = log_softmax(outputs.astype(float)), log_softmax(reference.astype(float))
    return float((np.exp(theirs) * (theirs - ours)).sum(1).mean())


def log_softmax(values: np.ndarray) -> np.ndarray:
    shifted = values - values.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def publish(task: str, table: str, folder: str, search: str | None = None) -> None:
    """Write the table that the benchmark reads: rows, layers, what float layers cost in time.

    A search's `trials.json` adds its complete trials, and the latencies that were measured.
    """
    evaluator, space = load(task)
    rows, latency = read_table(Path(table)), profile(evaluator)
    if search is not None:
        trials = read_search(space, Path(search))
        rows += [{**row, "origin": "search"} for row in trials]
        latency = fit_latency(space, trials, latency)
    document = {
        "task": task,
        "machine": describe_machine(),
        "versions": package_versions("autoquant", "torch", "brevitas", "onnxruntime", "numpy"),
        "space": {"layers": space.layers, "options": dump_options(space)},
        "layers": [dataclasses.asdict(layer) for layer in evaluator.layers],
        "latency": latency,
        "rows": rows,
    }
    target = Path(folder) / f"landscape-{task.rpartition('-')[2]}.json"
    target.write_text(json.dumps(document) + "\n")


def read_search(space: SearchSpace, path: Path) -> list[dict]:
    """Complete trials of the same space with all 8 bits in use."""
    options = {name: values for name, values in space.options.items() if name != "reduce_range"}
    full, rows = SearchSpace(space.layers, options), []
    for trial in json.loads(path.read_text())["trials"]:
        recipe = Recipe.model_validate(trial["recipe"])
        if trial["state"] == "complete" and recipe.is_quantized:
            rows.append({
                "code": to_code(space, full.encode(recipe)),
                "drop": round(trial["accuracy_drop"], 6),
                "size": trial["size_bytes"],
                "ratio": round(trial["latency_ratio"], 4),
            })  # fmt: skip
    return rows


def fit_latency(space: SearchSpace, trials: list[dict], profiled: dict) -> dict:
    """What the profiler says of single layers, stretched to the ratios that were timed."""
    adds = np.array(list(profiled["float_adds"].values()))
    exact = np.array([[digit == "2" for digit in t["code"][: len(adds)]] for t in trials])
    ratios = np.array([trial["ratio"] for trial in trials])
    eight = float(np.median(ratios[~exact.any(1)]))
    expected = exact @ adds
    stretch = float(expected @ (ratios - eight) / (expected @ expected))
    errors = eight + stretch * expected - ratios
    return {
        "eight": round(eight, 4),
        "float_adds": {n: round(stretch * a, 5) for n, a in profiled["float_adds"].items()},
        "profiled": profiled,
        "rmse": round(float(np.sqrt(np.mean(errors**2))), 4),
    }


def dump_options(space: SearchSpace) -> dict:
    return {
        name: [v.model_dump() if isinstance(v, Percentile) else v for v in values]
        for name, values in space.options.items()
    }


def profile(evaluator) -> dict:
    """Ratio of 8 bits everywhere, and what each layer adds in float: medians of five profiles."""
    names = [layer.name for layer in evaluator.layers]
    eight = Recipe.uniform(names, 8, PtqOptions(reduce_range=True))
    files = [evaluator.builder.build(recipe).artifact for recipe in (Recipe(method="fp32"), eight)]
    times = []
    for _ in range(5):
        found = []
        for file in files:
            nodes = evaluator.backend.profile_nodes(file, 1, 1)
            # a float node has the name of what was fused into it, so the order has to tell
            products = [node.ms for node in nodes if is_of_layer(node.kernel)]
            own = dict(zip(names, products, strict=True))
            found.append((sum(node.ms for node in nodes), own))
        (total, floats), (fast, integers) = found
        times.append([fast / total, *((floats[n] - integers[n]) / total for n in names)])
    ratio, *added = np.median(times, axis=0)
    return {
        "eight": round(float(ratio), 4),
        "float_adds": {n: round(max(0.0, float(a)), 5) for n, a in zip(names, added, strict=True)},
    }


if __name__ == "__main__":
    (publish if sys.argv[1] == "publish" else main)(*sys.argv[1 + (sys.argv[1] == "publish") :])
