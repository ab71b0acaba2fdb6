"""Does packing 4-bit weights change one bit of any output?

    AUTOQUANT_DATA=... python tests/benchmarks/packing.py results/published/packing

Fifty seeded random recipes each of ResNet-20 and EfficientNet-Lite0, drawn from all widths,
granularities, symmetries, scales and calibrations: the file with 4-bit weights two to a byte
against the file with the same weights as 8-bit integers, outputs compared bit by bit.
"""

import json
import random
import sys
from pathlib import Path

import numpy as np

from autoquant.backends.machine import describe_machine, package_versions
from autoquant.build import build_evaluator
from autoquant.core.artifact import Artifact
from autoquant.core.recipe import Percentile, PtqOptions, Recipe
from autoquant.evaluate import EvaluationOptions, Evaluator
from autoquant.export.qdq import write_qdq
from autoquant.tasks import load_task

_RECIPES = 50
_SAMPLES = {"cifar10-resnet20": 1000, "imagenet-sample-efficientnet-lite0": 100}
_PACKAGES = ("autoquant", "torch", "brevitas", "onnx", "onnxruntime")


def main(target: str) -> None:
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    document = {"machine": describe_machine(), "versions": package_versions(*_PACKAGES)}
    for name, samples in _SAMPLES.items():
        document[name] = {"samples": samples, "recipes": _compare(name, samples)}
        rows = document[name]["recipes"]
        same = sum(row["bit_identical"] for row in rows)
        print(f"{name}: {same} of {len(rows)} bit-identical on {samples} images", flush=True)
    (folder / "packing.json").write_text(json.dumps(document, indent=1) + "\n")


def _compare(name: str, samples: int) -> list[dict[str, object]]:
    evaluator = build_evaluator(load_task(name), options=EvaluationOptions(latency=None))
    generator = random.Random(0)
    return [_row(evaluator, _draw(evaluator, generator), samples) for _ in range(_RECIPES)]


def _draw(evaluator: Evaluator, generator: random.Random) -> Recipe:
    widths = {layer.name: generator.choice((8, 4, 4, None)) for layer in evaluator.layers}
    widths[generator.choice(list(widths))] = 4
    return Recipe.quantized(
        widths,
        PtqOptions(
            weight_granularity=generator.choice(("per_channel", "per_tensor")),
            weight_scale=generator.choice(("max", "mse")),
            activation_symmetry=generator.choice(("asymmetric", "symmetric")),
            calibration=generator.choice(("minmax", "mse", "entropy", Percentile(percentile=99.9))),
            bias_correction=generator.choice((True, False)),
        ),
    )


def _row(evaluator: Evaluator, recipe: Recipe, samples: int) -> dict[str, object]:
    encodings = evaluator.builder.quantizer.quantize(recipe).encodings
    batches = evaluator.search.batches[: -(-samples // evaluator.search.batch_size)]
    outputs, sizes = [], []
    for pack in (True, False):
        model = write_qdq(evaluator.builder.exporter.graph, encodings, pack=pack)
        content = model.SerializeToString()
        session = evaluator.backend.load(Artifact(content, {}, {}), 2)
        outputs.append(evaluator.predict(session, batches))
        sizes.append(len(content))
    return {
        "digest": recipe.digest,
        "bit_identical": outputs[0].tobytes() == outputs[1].tobytes(),
        "packed_bytes": sizes[0],
        "unpacked_bytes": sizes[1],
        "distinct_outputs": int(np.unique(outputs[0]).size),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
