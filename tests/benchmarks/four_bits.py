"""What each way of rounding loses at four bits, and what it costs, as JSON.

    AUTOQUANT_DATA=... python tests/benchmarks/four_bits.py cifar10-resnet20 results/published/...

Accuracy is that of the exported file over all images that judge; seconds are those of a recipe
that is quantized first of all, calibration included.
"""

import json
import sys
import time
from pathlib import Path

from autoquant.backends.machine import describe_machine, package_versions
from autoquant.build import build_evaluator
from autoquant.core.activity import listening
from autoquant.core.recipe import PtqOptions, Recipe
from autoquant.evaluate import EvaluationOptions
from autoquant.tasks import load_task
from tests.judge import exact_options

_PACKAGES = ("autoquant", "torch", "brevitas", "onnx", "onnxruntime", "numpy")
_METHODS = {
    "nearest": PtqOptions(),
    "nearest, equalized": PtqOptions(equalization=True),
    "gptq": PtqOptions(rounding="gptq"),
    "learned, layer": PtqOptions(rounding="learned"),
    "learned, block": PtqOptions(rounding="learned", rounding_scope="block"),
}


def measure(task: str, options: PtqOptions, *, keep_ends: bool) -> dict[str, object]:
    """Figures of one method; `keep_ends` leaves the first and the last layer at 8 bits."""
    evaluator = build_evaluator(load_task(task), options=EvaluationOptions(latency=None))
    names = [layer.name for layer in evaluator.layers]
    layers = dict.fromkeys(names, 4)
    if keep_ends:
        layers |= {names[0]: 8, names[-1]: 8}
        # 8-bit weights of the full range saturate on other processors
        reduced = exact_options().reduce_range
        options = options.model_copy(update={"reduce_range": reduced})
    start = time.perf_counter()
    measurement, artifact = evaluator.evaluate(Recipe.quantized(layers, options))
    seconds = time.perf_counter() - start
    report = evaluator.report(artifact)
    return {
        "search_drop": measurement.accuracy_drop,
        "report_drop": None if report is None else report.report_accuracy_drop,
        "quantize_s": measurement.seconds["quantize"],
        "evaluate_s": seconds,
        "size_bytes": measurement.size_bytes,
    }


def main(task: str, folder: Path) -> None:
    """Measure every method and write `four-bits-TASK.json`."""
    rows = {}
    for name, options in _METHODS.items():
        for keep_ends in (False, True):
            label = f"{name}, ends at 8 bits" if keep_ends else name
            with listening(lambda text: print(text, file=sys.stderr)):
                rows[label] = measure(task, options, keep_ends=keep_ends)
            print(label, rows[label], file=sys.stderr)
    document = {
        "task": task,
        "machine": describe_machine(),
        "versions": package_versions(*_PACKAGES),
        "methods": rows,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"four-bits-{task}.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
