"""What luck does to a front: searches whose drops are measured on few images, judged by the truth.

    python tests/benchmarks/search_luck.py results/published/search-benchmark \
        LANDSCAPE SAMPLERS SEEDS TRIALS NOISE

Each recipe's drop is what the surrogate of a landscape says, which is the truth here, plus a
deviation of its own with the standard deviation NOISE (0.0025: a quarter of a point, as the paired
comparison of a 4-bit ResNet-20 with float on 5,000 images has). Samplers see that alone, the front
is taken from it by point estimates, and its hypervolume from the truth: what somebody gets who
ships these files. *Best choice* is the front that the truth would take from the same trials. Writes
`luck-LANDSCAPE.json` and prints the table.
"""

import json
import sys
from pathlib import Path

import numpy as np
import optuna

from autoquant.core.hypervolume import hypervolume
from autoquant.core.pareto import is_nondominated
from tests.benchmarks.search_benchmark import ALLOWED_DROP, COUNTS, load_landscape, search


def main(folder: str, name: str, samplers: str, seeds: str, trials: str, noise: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    place = Path(folder)
    landscape = load_landscape(name, place)
    landscape.roughness = float(noise)
    runs = json.loads((place / f"runs-{name}.json").read_text())
    known = list({*runs["reference"], *(code for run in runs["runs"] for code in run["codes"])})
    uniform = [landscape.uniform("8"), landscape.uniform("4")]
    corner = np.array([ALLOWED_DROP, 1.0, landscape.measure(uniform[0])[2] * (1 + 1e-9)])

    def close(points: np.ndarray) -> float:
        nothing, everything = (
            volume(tell_truth(landscape, codes), corner) for codes in (uniform, [*uniform, *known])
        )
        return round((volume(points, corner) - nothing) / (everything - nothing), 4)

    found = []
    for sampler in samplers.split(","):
        for seed in range(int(seeds)):
            landscape.seed, landscape.known = seed, {}
            codes, _ = search(landscape, sampler, seed, int(trials))
            steps = []
            for count in (count for count in COUNTS if count <= len(codes)):
                tried = [*uniform, *codes[:count]]
                seen, truth = landscape.measure_all(tried), tell_truth(landscape, tried)
                member = is_nondominated(seen) & (seen[:, 0] < ALLOWED_DROP)
                steps.append({
                    "trials": count,
                    "closed": close(np.vstack([truth[member], truth[:2]])),
                    "best_choice": close(truth),
                    "luck": round(float((truth[member, 0] - seen[member, 0]).mean()), 6),
                })  # fmt: skip
            found.append({"sampler": sampler, "seed": seed, "steps": steps})
            print(sampler, seed, steps[-1], flush=True)
    document = {"landscape": name, "noise": float(noise), "runs": found}
    (place / f"luck-{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    show(found)


def tell_truth(landscape, codes: list[str]) -> np.ndarray:
    """(n, 3) without what each recipe has of its own."""
    return np.column_stack(landscape.model(codes))


def volume(points: np.ndarray, corner: np.ndarray) -> float:
    clipped = np.column_stack([np.maximum(points[:, 0], 0.0), points[:, 1:]])
    return hypervolume(clipped[is_nondominated(clipped)], corner)


def show(runs: list[dict]) -> None:
    print("| sampler | after | closed | best choice | luck (points) |")
    print("|---|---|---|---|---|")
    for sampler in dict.fromkeys(run["sampler"] for run in runs):
        own = [run["steps"] for run in runs if run["sampler"] == sampler]
        for steps in zip(*own, strict=True):
            closed, best, luck = (
                np.array([step[key] for step in steps]) for key in ("closed", "best_choice", "luck")
            )
            low, middle, high = np.percentile(closed, [25, 50, 75])
            print(f"| {sampler} | {steps[0]['trials']} | {middle:.0%} ({low:.0%} to {high:.0%}) "
                  f"| {np.median(best):.0%} | {100 * np.median(luck):.2f} |")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
