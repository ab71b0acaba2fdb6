"""How fast samplers close the gap between the uniform baselines and the best front known.

    python tests/benchmarks/search_benchmark.py results/published/search-benchmark \
        LANDSCAPE SAMPLERS SEEDS TRIALS

Runs what is missing of LANDSCAPE (`additive50`, `interacting`, or one of `landscape.TASKS`) for
every one of SAMPLERS (comma-separated; `auto+s` is told sensitivities, `auto+s/8` has eight
workers) and seed, and adds it to `runs-LANDSCAPE.json` in the folder. `search_summary.py` makes
tables and figures.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import optuna

from autoquant.core.hypervolume import hypervolume
from autoquant.core.layer import Layer
from autoquant.core.pareto import Bounds, is_nondominated
from autoquant.core.space import SearchSpace
from autoquant.search.prior import Knowledge
from autoquant.search.sampler import build_sampler
from tests.benchmarks.landscape import (
    Landscape,
    MadeUpLandscape,
    MeasuredLandscape,
    find_table,
    mutate,
    to_code,
    to_parameters,
)

ALLOWED_DROP = 0.02
WORKERS = 8  # where there are several: how late a result is, is kept for them
COUNTS = (5, 10, 15, 20, 30, 40, 50, 60, 80, 100)


def main(folder: str, name: str, samplers: str, seeds: str, trials: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    place = Path(folder)
    landscape = load_landscape(name, place)
    path = place / f"runs-{name}.json"
    document = json.loads(path.read_text()) if path.exists() else {"runs": []}
    document |= {"landscape": name, "roughness": landscape.roughness}
    document["error"] = getattr(landscape, "error", None)
    for sampler in samplers.split(","):
        for seed in range(int(seeds)):
            if any((r["sampler"], r["seed"]) == (sampler, seed) for r in document["runs"]):
                continue
            codes, clock = search(landscape, sampler, seed, int(trials))
            spent = [round(clock[count - 1], 3) for count in COUNTS if count <= len(clock)]
            run = {"sampler": sampler, "seed": seed, "codes": codes, "sampler_s": spent}
            document["runs"].append(run)
            path.write_text(json.dumps(document) + "\n")
            print(sampler, seed, round(clock[-1] / len(clock), 3), "s a proposal", flush=True)
    document["reference"] = find_reference(landscape, document)
    for late, key in ((0, "closed"), (WORKERS - 1, "closed_before")):
        document[key] = [judge(landscape, document, run, late) for run in document["runs"]]
    path.write_text(json.dumps(document) + "\n")
    show(document)


def load_landscape(name: str, folder: Path) -> Landscape:
    match name:
        case "additive50":
            return MadeUpLandscape(50, 0.0)
        case "interacting":
            return MadeUpLandscape(20, 1.0)
    table = json.loads(find_table(folder, name).read_text())
    space = SearchSpace(
        {key: tuple(value) for key, value in table["space"]["layers"].items()},
        {key: tuple(map(_from_json, value)) for key, value in table["space"]["options"].items()},
    )
    return MeasuredLandscape(space, [Layer(**layer) for layer in table["layers"]], table)


def _from_json(value):
    from autoquant.core.recipe import Percentile

    return Percentile(**value) if isinstance(value, dict) else value


def search(
    landscape: Landscape, sampler: str, seed: int, trials: int
) -> tuple[list[str], list[float]]:
    """Codes in the order in which they finished; processor seconds of proposing until then."""
    name, _, rest = sampler.partition("+")
    workers = int(sampler.partition("/")[2] or 1)
    informed = landscape.sensitivity() if rest or name in ("greedy", "ilp") else None
    knowledge = Knowledge(landscape.layers, informed, bounds=Bounds(ALLOWED_DROP))
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    seen: set[str] = set()
    study.sampler = build_sampler(
        name.partition("/")[0], landscape.space, lambda: frozenset(seen), seed, knowledge
    )
    for code, title in ((landscape.uniform("8"), "w8a8-reduced"), (landscape.uniform("4"), "w4a8")):
        study.enqueue_trial(to_parameters(landscape.space, code))
        finish(landscape, study, *ask(landscape, study), seen, title)
    codes, waiting, clock, spent = [], [], [], 0.0
    for index in range(trials + workers - 1):
        begin = time.process_time()
        if index < trials:
            waiting.append(ask(landscape, study))
        spent += time.process_time() - begin
        if index >= workers - 1:
            landscape.measure(to_code(landscape.space, waiting[0][1]))  # the trial's time
            begin = time.process_time()
            codes.append(finish(landscape, study, *waiting.pop(0), seen))
            spent += time.process_time() - begin
            clock.append(spent)
    return codes, clock


def ask(landscape: Landscape, study: optuna.Study):
    trial = study.ask()
    drawn = {
        name: trial.suggest_categorical(name, choices)
        for name, choices in landscape.space.parameters.items()
    }
    return trial, drawn


def finish(landscape, study, trial, drawn, seen: set[str], name: str | None = None) -> str:
    code = to_code(landscape.space, drawn)
    drop, ratio, size = (float(value) for value in landscape.measure(code))
    record = {
        "state": "complete", "accuracy_drop": drop, "latency_ratio": ratio,
        "size_bytes": int(size), "name": name,
    }  # fmt: skip
    trial.set_user_attr("record", record)
    trial.set_constraint("max_accuracy_drop", drop - ALLOWED_DROP)
    study.tell(trial, [-drop, ratio, size])
    seen.add(landscape.space.decode(drawn).digest)
    return code


def find_reference(landscape: Landscape, document: dict) -> list[str]:
    """Codes of the best front of everything that was ever evaluated, and of a long evolution."""
    generator = np.random.default_rng(0)
    choices = [list(c) for c in landscape.space.parameters.values()]
    codes = {code for run in document["runs"] for code in run["codes"]}
    codes |= {landscape.uniform("8"), landscape.uniform("4"), *document.get("reference", ())}
    population = keep_best(landscape, list(codes))
    for _ in range(60):
        children = [mutate(population, choices, generator) for _ in range(250)]
        population = keep_best(landscape, list({*population, *children}))
    return population


def keep_best(landscape: Landscape, codes: list[str]) -> list[str]:
    points = to_points(landscape, codes)
    inside = points[:, 0] < ALLOWED_DROP
    chosen = [code for code, is_kept in zip(codes, inside, strict=True) if is_kept] or codes
    points = to_points(landscape, chosen)
    return [chosen[index] for index in np.flatnonzero(is_nondominated(points))]


def to_points(landscape: Landscape, codes: list[str]) -> np.ndarray:
    points = landscape.measure_all(codes).copy()
    points[:, 0] = np.maximum(points[:, 0], 0.0)
    return points


def judge(landscape: Landscape, document: dict, run: dict, late: int = 0) -> list[float]:
    """Share of the gap closed after each of COUNTS trials, the last `late` of them not counted."""
    eight, four = landscape.uniform("8"), landscape.uniform("4")
    corner = np.array([ALLOWED_DROP, 1.0, landscape.measure(eight)[2] * (1 + 1e-9)])

    def volume(codes: list[str]) -> float:
        points = to_points(landscape, [eight, four, *codes])
        return hypervolume(points[is_nondominated(points)], corner)

    nothing, everything = volume([]), volume(document["reference"])
    return [
        round((volume(run["codes"][: max(0, count - late)]) - nothing) / (everything - nothing), 4)
        for count in COUNTS
        if count <= len(run["codes"])
    ]


def show(document: dict) -> None:
    print(document["landscape"], document["error"], "roughness", document["roughness"])
    for sampler in dict.fromkeys(run["sampler"] for run in document["runs"]):
        shares = [
            shares
            for run, shares in zip(document["runs"], document["closed"], strict=True)
            if run["sampler"] == sampler
        ]
        width = min(map(len, shares))
        median = np.median([item[:width] for item in shares], axis=0)
        cells = [f"{count}: {value:.2f}" for count, value in zip(COUNTS, median, strict=False)]
        print(f"{sampler:10} {len(shares):2} seeds ", "  ".join(cells))


if __name__ == "__main__":
    main(*sys.argv[1:])
