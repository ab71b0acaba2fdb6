"""What training regains at four bits, over seeds, as JSON.

    AUTOQUANT_DATA=... python tests/benchmarks/training.py cifar10-resnet20 FOLDER [EPOCHS] [SEEDS]

Every layer has 4-bit weights. The drop of the exported file is measured on both halves of the
test set; a seed that is in the file already is not trained again.
"""

import json
import sys
import time
from pathlib import Path

from autoquant.backends.machine import available_cores, describe_machine, package_versions
from autoquant.build import build_evaluator
from autoquant.core.recipe import PtqOptions, QatOptions, Recipe
from autoquant.core.training import TrainingProgress, TrainingWatch
from autoquant.evaluate import EvaluationOptions
from autoquant.tasks import load_task

_PACKAGES = ("autoquant", "torch", "brevitas", "onnx", "onnxruntime", "numpy")


class _Told(TrainingWatch):
    def on_epoch(self, progress: TrainingProgress, predict: object) -> None:
        print(progress.describe(), file=sys.stderr, flush=True)

    def on_note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def measure(task: str, seed: int, epochs: int) -> dict[str, object]:
    """Figures of one run, calibration included."""
    evaluator = build_evaluator(load_task(task), seed, EvaluationOptions(latency=None))
    names = [layer.name for layer in evaluator.layers]
    options = PtqOptions(mode="qat", qat=QatOptions(epochs=epochs))
    start = time.perf_counter()
    measurement, artifact = evaluator.evaluate(Recipe.uniform(names, 4, options), watch=_Told())
    seconds = time.perf_counter() - start
    report = evaluator.report(artifact)
    assert report is not None
    assert measurement.accuracy_drop is not None
    assert measurement.parity is not None
    assert measurement.training is not None
    return {
        "seed": seed,
        "epochs": epochs,
        "cores": available_cores(),
        "search_drop": measurement.accuracy_drop,
        "report_drop": report.report_accuracy_drop,
        "mean_drop": (measurement.accuracy_drop + report.report_accuracy_drop) / 2,
        "parity": measurement.parity.model_dump(),
        "training": measurement.training.model_dump(exclude={"points"}),
        "seconds": measurement.seconds,
        "total_s": seconds,
        "size_bytes": measurement.size_bytes,
        "sha256": artifact.sha256,
    }


def main(task: str, target: str, epochs: str = "8", seeds: str = "3") -> None:
    """Train from seeds 0 to `seeds` and write `training-TASK.json`."""
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"training-{task}.json"
    known = json.loads(path.read_text())["runs"] if path.is_file() else []
    done = {(run["seed"], run["epochs"]) for run in known}
    for seed in range(int(seeds)):
        if (seed, int(epochs)) not in done:
            known.append(measure(task, seed, int(epochs)))
            print(known[-1], file=sys.stderr, flush=True)
        document = {
            "task": task,
            "machine": describe_machine(),
            "versions": package_versions(*_PACKAGES),
            "runs": known,
        }
        path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
