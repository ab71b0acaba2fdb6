"""What a trial costs beside judging it, and beside the plain path with Brevitas.

    AUTOQUANT_DATA=... python tests/benchmarks/trial_cost.py results/published/trial-cost

For ResNet-20 and EfficientNet-Lite0: seeded random recipes of the shipped search space, each
evaluated in full. After the first, the mean trial is set against what judging alone takes:
accuracy on the runtime and the timing. The plain path, measured in the same run: Brevitas'
`MergeBatchNorm`, `layerwise_quantize`, calibration, bias correction, export as QCDQ,
accuracy of the fake-quantized model on the same images.

Needs the package `onnxoptimizer` beside the extra `dev`, and a machine that does nothing else.
"""

import copy
import io
import json
import random
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from autoquant.agreement import PARITY_MACS
from autoquant.backends.machine import (
    available_cores,
    describe_machine,
    has_integer_dot_product,
    package_versions,
)
from autoquant.build import build_evaluator
from autoquant.config import find_space, load_space
from autoquant.core.batching import input_batches
from autoquant.core.recipe import Recipe
from autoquant.core.task import Task
from autoquant.evaluate import EvaluationOptions, Evaluator
from autoquant.tasks import load_task

_RECIPES = 50  # as many as a search tries; a dozen says little of what happens to one in twenty
_PACKAGES = ("autoquant", "torch", "brevitas", "onnx", "onnxruntime")
_TASKS = ("cifar10-resnet20", "imagenet-sample-efficientnet-lite0")
_BATCH = 32


def main(target: str) -> None:
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    document = {"machine": describe_machine(), "versions": package_versions(*_PACKAGES)}
    document |= {name: _measure(name) for name in _TASKS}
    (folder / "trial-cost.json").write_text(json.dumps(document, indent=1) + "\n")
    text = _table({name: document[name] for name in _TASKS})
    (folder / "table.md").write_text(text)
    print(text)


def _measure(name: str) -> dict[str, object]:
    evaluator = build_evaluator(load_task(name), options=EvaluationOptions(parity_macs=PARITY_MACS))
    plain = _plain_path(load_task(name))
    print(name, "plain path", plain, flush=True)
    trials = []
    for recipe in _draw(evaluator, name):
        start = time.perf_counter()
        measurement, _ = evaluator.evaluate(recipe)
        total = time.perf_counter() - start
        trials.append({"total": round(total, 3), **measurement.seconds})
        print(name, trials[-1], flush=True)
    later = trials[1:]
    judging = float(np.mean([item["accuracy"] + item["latency"] for item in later]))
    trial = float(np.mean([item["total"] for item in later]))
    stages = {
        stage: round(float(np.mean([item.get(stage, 0.0) for item in later])), 3)
        for stage in ("quantize", "export", "parity", "accuracy", "latency", "waiting")
    }
    return {
        "first_trial_s": trials[0]["total"],
        "mean_trial_s": trial,
        "mean_judging_s": judging,
        "trial_over_judging": trial / judging,
        "mean_stages_s": stages,
        "plain_path_s": plain,
        "trials": trials,
    }


def _draw(evaluator: Evaluator, name: str) -> list[Recipe]:
    layers = evaluator.layers
    space = load_space(find_space(name)).to_space(
        [layer.name for layer in layers],
        able={layer.name: layer.choices for layer in layers},
    )
    if not has_integer_dot_product():  # files of the full range may fail, and cost less
        space = replace(space, options={**space.options, "reduce_range": (True,)})
    generator = random.Random(0)
    return [
        space.decode({key: generator.choice(values) for key, values in space.parameters.items()})
        for _ in range(_RECIPES)
    ]


def _plain_path(task: Task) -> dict[str, float]:
    """Seconds of each stage, W8A8 by Brevitas alone."""
    from brevitas.export import export_onnx_qcdq
    from brevitas.fx import symbolic_trace
    from brevitas.graph.calibrate import bias_correction_mode, calibration_mode
    from brevitas.graph.fixed_point import MergeBatchNorm
    from brevitas.graph.quantize import layerwise_quantize

    torch.set_num_threads(available_cores())
    images = _inputs(task.calibration, min(512, len(task.calibration)))
    seconds: dict[str, float] = {}

    def lap(stage: str) -> None:
        now = time.perf_counter()
        seconds[stage] = round(now - lap.start, 3)  # type: ignore[attr-defined]
        lap.start = now  # type: ignore[attr-defined]

    lap.start = time.perf_counter()  # type: ignore[attr-defined]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _with_plain_convolutions(copy.deepcopy(task.model)).eval()
        model = layerwise_quantize(MergeBatchNorm().apply(symbolic_trace(model)))
        lap("quantize")
        with calibration_mode(model):
            _run(model, images)
        lap("calibrate")
        with bias_correction_mode(model):
            _run(model, images)
        lap("bias correction")
        export_onnx_qcdq(model, args=task.example_input, export_path=io.BytesIO(), dynamo=False)
        lap("export")
        _run(model.eval(), _inputs(task.search, len(task.search)))
        lap("evaluate")
    seconds["total"] = round(sum(seconds.values()), 3)
    return seconds


def _inputs(dataset: object, count: int) -> list[torch.Tensor]:
    return list(input_batches(dataset, range(count), _BATCH, torch.stack))  # type: ignore[arg-type]


def _run(model: nn.Module, batches: list[torch.Tensor]) -> None:
    for batch in batches:
        model(batch)


def _with_plain_convolutions(model: nn.Module) -> nn.Module:
    """Brevitas leaves subclasses of a convolution alone: put its padding in front of it."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Conv2d) and type(layer) is not nn.Conv2d:
            padding = layer.static_padding
            layer.__class__ = nn.Conv2d
            del layer.static_padding
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, nn.Sequential(padding, layer))
    return model


def _table(rows: dict[str, dict]) -> str:
    lines = [
        "| network | mean trial, s | judging alone, s | ratio | first trial, s | plain path, s |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        plain = row["plain_path_s"]["total"]
        lines.append(
            f"| {name} | {row['mean_trial_s']:.2f} | {row['mean_judging_s']:.2f} "
            f"| {row['trial_over_judging']:.2f} | {row['first_trial_s']:.1f} | {plain:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
