"""The figures that the project stands on, measured in one run and written as JSON.

    AUTOQUANT_DATA=... python tests/benchmarks/spine_bars.py results/published/resnet20-bars

ResNet-20: accuracy over all 10,000 test images, and latency against ONNX Runtime's own
quantizer, the two files timed alternately (five rounds, every one reported).
EfficientNet-Lite0: file sizes, and packed against unpacked outputs.
"""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np

from autoquant.backends.latency import (
    CANDIDATE_INSTANCES,
    REFERENCE_INSTANCES,
    Instance,
    LatencyProtocol,
    compare,
)
from autoquant.backends.machine import describe_machine, package_versions
from autoquant.build import build_evaluator
from autoquant.core.artifact import Artifact
from autoquant.core.recipe import Recipe
from autoquant.core.space import baselines
from autoquant.evaluate import EvaluationOptions, Evaluator
from autoquant.export.qdq import write_qdq
from autoquant.tasks import load_task

_ROUNDS = 5
_PACKAGES = ("autoquant", "torch", "brevitas", "onnx", "onnxruntime", "numpy")


def resnet20() -> dict[str, object]:
    evaluator = _evaluator("cifar10-resnet20")
    recipes = baselines([layer.name for layer in evaluator.layers])
    rows, files = {}, {}
    for name, recipe in recipes.items():
        measurement, artifact = evaluator.evaluate(recipe)
        report = evaluator.report(artifact)
        files[name] = artifact
        rows[name] = {
            "search_accuracy": measurement.accuracy,
            "report_accuracy": report.report_accuracy,
            "accuracy_10k": (measurement.accuracy + report.report_accuracy) / 2,
            "drop_10k": (measurement.accuracy_drop + report.report_accuracy_drop) / 2,
            "integer_coverage": measurement.integer_coverage,
            "size_bytes": measurement.size_bytes,
            "parity": None if measurement.parity is None else measurement.parity.model_dump(),
        }
    versus = [_versus(evaluator, files["w8a8"], files["ort-static"]) for _ in range(_ROUNDS)]
    packing = [_is_bit_identical(evaluator, recipes["w4a8"])]
    return {"recipes": rows, "w8a8_over_ort_static": versus, "w4a8_bit_identical": packing}


def efficientnet() -> dict[str, object]:
    evaluator = _evaluator("imagenet-sample-efficientnet-lite0")
    recipes = baselines([layer.name for layer in evaluator.layers])
    sizes = {
        name: evaluator.builder.build(recipes[name]).artifact.size_bytes
        for name in ("fp32", "w8a8", "w4a8", "ort-static")
    }
    return {
        "size_bytes": sizes,
        "w4a8_over_w8a8": sizes["w4a8"] / sizes["w8a8"],
        "w4a8_bit_identical": _is_bit_identical(evaluator, recipes["w4a8"]),
    }


def _evaluator(name: str) -> Evaluator:
    return build_evaluator(load_task(name), options=EvaluationOptions(latency=None))


def _versus(evaluator: Evaluator, ours: Artifact, theirs: Artifact) -> dict[str, object]:
    inputs = evaluator._timed_inputs
    models = [
        Instance.several(partial(evaluator.backend.load, item, 1), inputs, item.size_bytes, count)
        for item, count in ((ours, CANDIDATE_INSTANCES), (theirs, REFERENCE_INSTANCES))
    ]
    result = compare(*models, LatencyProtocol(warmup_s=0.3, max_s=10.0))
    return {"ratio": result.ratio, "ratio_ci": result.ratio_ci, "stable": result.stable}


def _is_bit_identical(evaluator: Evaluator, recipe: Recipe) -> bool:
    encodings = evaluator.builder.quantizer.quantize(recipe).encodings
    outputs = []
    for pack in (True, False):
        model = write_qdq(evaluator.builder.exporter.graph, encodings, pack=pack)
        session = evaluator.backend.load(Artifact(model.SerializeToString(), {}, {}), 2)
        outputs.append(np.concatenate([session.predict(b) for b in evaluator.search.batches]))
    return bool((outputs[0] == outputs[1]).all())


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": describe_machine(),
        "versions": package_versions(*_PACKAGES),
        "resnet20": resnet20(),
        "efficientnet_lite0": efficientnet(),
    }
    text = json.dumps(document, indent=1)
    (folder / "bars.json").write_text(text + "\n")
    print(text)
