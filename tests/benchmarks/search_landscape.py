"""Evaluates recipes of a space for real: the table behind the search benchmark.

    AUTOQUANT_DATA=../shared/data python tests/benchmarks/search_landscape.py TASK TABLE.jsonl 280

Works for as many seconds as it is told, and goes on where it was: first every layer alone at each
of its choices, then random mixtures, then rounds of fifty recipes that a surrogate, fitted to
everything before, predicts on the front. What it had predicted is kept beside what was measured,
so that its error near the front is known and not only that of a fit.

Accuracy is that of the exported file on ONNX Runtime, on the whole search split. Nothing is timed
here, and the file is not compared with the Brevitas model.

    python tests/benchmarks/search_landscape.py publish TASK TABLE.jsonl FOLDER [trials.json]

Writes the table that the benchmark reads: `publish` says more.
"""

import dataclasses
import json
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from autoquant.backends.machine import describe_machine, package_versions
from autoquant.build import build_evaluator
from autoquant.config import find_space, load_space
from autoquant.core.proof import match_layers
from autoquant.core.recipe import Percentile, Recipe
from autoquant.core.space import FLOAT, SearchSpace
from autoquant.evaluate import EvaluationOptions
from autoquant.search.prior import LAYER_PREFIX
from autoquant.search.sampler import build_sampler
from autoquant.tasks import load_task
from tests.benchmarks.landscape import (
    TASKS,
    Landscape,
    Surrogate,
    find_exact,
    find_promising,
    find_table,
    read_table,
    to_code,
    to_parameters,
)

RANDOM, ROUND, SUBSET = 200, 50, 1000
PROFILES, MIXTURES = 7, 100


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
    rows = read_table(Path(table))
    latency = profile(evaluator, space, rows)
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
    name = next(name for name, known in TASKS.items() if known == task)
    find_table(Path(folder), name).write_text(json.dumps(document) + "\n")


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
    exact = find_exact(space, [trial["code"] for trial in trials])
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


def profile(evaluator, space: SearchSpace, rows: list[dict]) -> dict:
    """Ratio of 8 bits everywhere, and what each layer alone in float adds, by the profiler.

    As `autoquant sensitivity` takes it: the change of the layer's own time and of that of nodes
    that are no layer's, in the file in which this layer alone is float. So it holds whatever the
    runtime calls the nodes of the float model, in whatever order, and the conversions beside it.
    Two float layers one after the other share conversions: mixtures of the table tell how much.
    """
    eight = to_parameters(space, Landscape.uniform_of(space, "8"))
    probe = Probe(evaluator, space.decode(eight))
    latency = {"float_adds": dict.fromkeys(space.layers, 0.0)}
    for key, choices in space.parameters.items():
        if space.is_layer(key) and FLOAT in choices:
            layer = key.removeprefix(LAYER_PREFIX)
            change = probe.measure(space.decode({**eight, key: FLOAT}))
            latency["float_adds"][layer] = round(change[layer] + change[""], 5)
    latency |= fit_shared(probe, space, latency, rows)
    return {"eight": round(probe.find_eight(), 4), **latency}


class Probe:
    """Profiles of files, each beside the float model and 8 bits everywhere at the same moment.

    The machine runs faster and slower from minute to minute.
    """

    def __init__(self, evaluator, eight: Recipe) -> None:
        self.evaluator = evaluator
        self.names = [layer.name for layer in evaluator.layers]
        self.files = [self._build(recipe) for recipe in (Recipe(method="fp32"), eight)]
        self.eights: list[float] = []

    def measure(self, recipe: Recipe) -> Counter:
        """Time by layer, that of no layer under "", more than with 8 bits; medians of PROFILES.

        In shares of the float model's whole time.
        """
        file, changes = self._build(recipe), []
        for _ in range(PROFILES):
            whole, base, own = (self._profile(item) for item in (*self.files, file))
            scale = sum(whole.values())
            self.eights.append(sum(base.values()) / scale)
            changes.append({key: (own[key] - base[key]) / scale for key in {*own, *base}})
        return Counter({key: float(np.median([c[key] for c in changes])) for key in changes[0]})

    def find_eight(self) -> float:
        """Ratio of 8 bits everywhere, of all profiles so far."""
        if not self.eights:
            for _ in range(5 * PROFILES):
                whole, base = map(self._profile, self.files)
                self.eights.append(sum(base.values()) / sum(whole.values()))
        return float(np.median(self.eights))

    def _build(self, recipe: Recipe):
        return self.evaluator.builder.build(recipe).artifact

    def _profile(self, file) -> Counter:
        nodes = self.evaluator.backend.profile_nodes(file, 1, 1)
        owners = match_layers([node.name for node in nodes], self.names)
        own = Counter()
        for node in nodes:
            own[owners.get(node.name, "")] += node.ms
        return own


def fit_shared(probe: Probe, space: SearchSpace, latency: dict, rows: list[dict]) -> dict:
    """What neighbours save that are float both, and the error of it all on mixtures left out.

    Nothing where no layer may be float. Least squares with a little ridge.
    """
    adds = np.array([latency["float_adds"][name] for name in space.layers])
    if not adds.any():
        return {}
    codes = [row["code"] for row in rows if row["origin"] != "single"]
    patterns = dict(zip(map(tuple, find_exact(space, codes).tolist()), codes, strict=True))
    drawn = np.random.default_rng(0).permutation(list(patterns.values()))[:MIXTURES]
    changes = [probe.measure(space.decode(to_parameters(space, code))) for code in drawn]
    added = np.array([sum(change.values()) for change in changes])
    exact = find_exact(space, drawn).astype(float)
    rest = added - exact @ adds
    both = exact[:, 1:] * exact[:, :-1]
    solve = np.linalg.solve(both.T @ both + 0.01 * np.eye(both.shape[1]), both.T)
    errors = (rest - both @ solve @ rest) / (1 - np.diag(both @ solve))
    return {
        "shared": [round(float(saved), 5) for saved in solve @ rest],
        "mixtures": len(rest),
        "added": [round(float(added.min()), 4), round(float(added.max()), 4)],
        "rmse": round(float(np.sqrt(np.mean(errors**2))), 4),
    }


if __name__ == "__main__":
    (publish if sys.argv[1] == "publish" else main)(*sys.argv[1 + (sys.argv[1] == "publish") :])
