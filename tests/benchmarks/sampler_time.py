"""What a proposal takes, on a space of 60 layers, early and late in a study.

    python tests/benchmarks/sampler_time.py results/published/search-benchmark

A made-up network of 60 layers with three choices each and additive losses, so that nothing but
the sampler takes time. A study of so many finished trials is filled at once; the first proposal,
which reads them all as after a resume, stands apart from the 20 that follow, each told what came
of it. Seconds on the wall, of asking and telling together. Writes `sampler-time.json` and prints
the table.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, create_trial

from autoquant.backends.machine import describe_machine, package_versions
from autoquant.core.layer import Layer
from autoquant.core.pareto import Bounds
from autoquant.core.space import SearchSpace
from autoquant.search.prior import LAYER_PREFIX, Knowledge
from autoquant.search.sampler import build_sampler

LAYERS, COUNTS, REPEATS = 60, (20, 100, 500, 5000), 20
LIMITS_MS = {100: 100, 5000: 1000}
SAMPLERS = ("auto", "tpe", "nsga2", "random", "greedy")
DROP = 0.02


class Network:
    """Made up: layers of 1,000 to 20,000 weights whose losses at 4 bits add up."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        names = [f"layer{index}" for index in range(LAYERS)]
        self.space = SearchSpace(
            dict.fromkeys(names, ("8", "4", "float")), {"calibration": ("minmax", "mse", "entropy")}
        )
        self.weights = generator.integers(1000, 20_000, LAYERS)
        losses = np.exp(generator.normal(0, 1.2, LAYERS))
        self.losses = 0.05 * losses / losses.sum()
        self.layers = [
            Layer(name, "conv", int(count), 1000, order)
            for order, (name, count) in enumerate(zip(names, self.weights, strict=True))
        ]
        self.names = [LAYER_PREFIX + name for name in names]

    def measure(self, chosen: dict[str, str]) -> dict[str, object]:
        bits = np.array([chosen[name] for name in self.names])
        size = self.weights @ np.select([bits == "4", bits == "float"], [0.5, 4.0], 1.0)
        return {
            "state": "complete", "name": None, "size_bytes": int(size),
            "accuracy_drop": float(self.losses @ (bits == "4")),
            "latency_ratio": 0.5 + 0.5 * float((bits == "float").mean()),
        }  # fmt: skip

    def draw(self, count: int) -> Iterator[FrozenTrial]:
        generator = np.random.default_rng(1)
        kinds = {name: CategoricalDistribution(c) for name, c in self.space.parameters.items()}
        for _ in range(count):
            chosen = {name: str(generator.choice(kind.choices)) for name, kind in kinds.items()}
            record = self.measure(chosen)
            yield create_trial(
                values=values_of(record), params=chosen, distributions=kinds,
                user_attrs={"record": record},
            )  # fmt: skip


def values_of(record: dict) -> list[float]:
    return [-record["accuracy_drop"], record["latency_ratio"], record["size_bytes"]]


def time_proposals(network: Network, sampler: str, trials: list[FrozenTrial]) -> list[float]:
    """Seconds of each, the first included."""
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    study.add_trials(trials)
    seen = {network.space.decode(dict(trial.params)).digest for trial in trials}
    known = Knowledge(network.layers, bounds=Bounds(DROP))
    study.sampler = build_sampler(sampler, network.space, lambda: frozenset(seen), 0, known)
    seconds = []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        trial = study.ask()
        chosen = {
            name: trial.suggest_categorical(name, choices)
            for name, choices in network.space.parameters.items()
        }
        asked = time.perf_counter()
        record = network.measure(chosen)
        trial.set_user_attr("record", record)
        digest = network.space.decode(chosen).digest
        told = time.perf_counter()
        study.tell(trial, values_of(record))
        seconds.append(asked - start + time.perf_counter() - told)
        assert digest not in seen, "a recipe was proposed twice"
        seen.add(digest)
    return seconds


def main(target: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    network = Network()
    every = list(network.draw(max(COUNTS)))
    rows = []
    for sampler in SAMPLERS:
        for count in COUNTS:
            first, *others = time_proposals(network, sampler, every[:count])
            milliseconds = sorted(1000 * value for value in others)
            rows.append({
                "sampler": sampler, "trials": count, "first_ms": round(1000 * first, 1),
                "median_ms": round(float(np.median(milliseconds)), 1),
                "mean_ms": round(float(np.mean(milliseconds)), 1),
                "longest_ms": round(milliseconds[-1], 1),
            })  # fmt: skip
            print(rows[-1], flush=True)
    machine, versions = describe_machine(), package_versions("autoquant", "optuna", "numpy")
    document = {"layers": LAYERS, "machine": machine, "versions": versions, "rows": rows}
    (Path(target) / "sampler-time.json").write_text(json.dumps(document, indent=1) + "\n")
    show(rows)


def show(rows: list[dict]) -> None:
    print("| sampler | " + " | ".join(f"{count} trials" for count in COUNTS) + " |")
    print("|---" * (1 + len(COUNTS)) + "|")
    for sampler in SAMPLERS:
        own = [row for row in rows if row["sampler"] == sampler]
        cells = [f"{row['mean_ms']:.0f} ms (first {row['first_ms']:.0f})" for row in own]
        print(f"| {sampler} | {' | '.join(cells)} |")
    for count, limit in LIMITS_MS.items():
        found = next(r for r in rows if (r["sampler"], r["trials"]) == ("auto", count))["mean_ms"]
        print(f"auto at {count} trials: {found:.0f} ms of {limit} allowed")


if __name__ == "__main__":
    main(*sys.argv[1:])
