"""What early rejection saves, and whether it ever removes a member of the front.

    autoquant search search_spaces/cifar10-resnet20.yaml --trials 100 --results ../published \
        --study early-rejection
    python tests/benchmarks/early_rejection.py ../published early-rejection \
        results/published/measurements

Every trial that the search turned away is evaluated in full, once. Then the front of all
trials is found as if none had been turned away.
"""

import json
import sys
from pathlib import Path

from autoquant.backends.machine import describe_machine, package_versions
from autoquant.build import build_evaluator
from autoquant.core.front import find_front
from autoquant.core.trial import Trial
from autoquant.search.storage import Location, load_record
from autoquant.tasks import load_task

_PACKAGES = ("autoquant", "torch", "brevitas", "onnx", "onnxruntime", "optuna", "numpy")
_BUILD = ("quantize", "export")


def main(results: str, study: str, target: str) -> None:
    record = load_record(Location(Path(results), study))
    trials = record.trials()
    header = record.header
    evaluator = build_evaluator(load_task(header.task, header.task_options), header.seed)
    evaluator.evaluate(trials[0].recipe)  # what is done once belongs to no trial
    full = {
        trial.digest: _complete(trial, evaluator) for trial in trials if trial.state == "rejected"
    }
    front = find_front(trials, header.objectives, header.bounds)
    everything = [full.get(trial.digest, trial) for trial in trials]
    unabridged = find_front(everything, header.objectives, header.bounds)
    rejected = [trial for trial in trials if trial.state == "rejected"]
    spent = sum(_seconds(trial) for trial in trials)
    would = sum(_seconds(trial) for trial in everything)
    document = {
        "study": study,
        "machine": describe_machine(),
        "versions": package_versions(*_PACKAGES),
        "trials": len(trials),
        "rejected": len(rejected),
        "evaluation_seconds": {"with_rejection": spent, "in_full": would},
        "saved_share": 1 - spent / would,
        "saved_share_with_building": 1
        - sum(_seconds(trial, _BUILD) + _seconds(trial) for trial in trials)
        / sum(_seconds(trial, _BUILD) + _seconds(trial) for trial in everything),
        "front": [trial.number for trial in front],
        "front_of_full_evaluations": [trial.number for trial in unabridged],
        "wrongly_rejected": [t.number for t in unabridged if t.digest in full],
        "rejected_trials": [_describe(trial, full[trial.digest]) for trial in rejected],
    }
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "early_rejection.json").write_text(json.dumps(document, indent=1) + "\n")
    shown = {name: value for name, value in document.items() if name != "rejected_trials"}
    print(json.dumps(shown, indent=1))


def _complete(trial: Trial, evaluator) -> Trial:
    measurement, _ = evaluator.evaluate(trial.recipe)
    figures = {**measurement.model_dump(), "evidence": measurement.evidence}
    return Trial(
        **figures, number=trial.number, state="complete", digest=trial.digest, recipe=trial.recipe
    )


def _seconds(trial: Trial, stages=("accuracy", "parity", "latency")) -> float:
    return sum(trial.seconds.get(stage, 0.0) for stage in stages)


def _describe(trial: Trial, full: Trial) -> dict[str, object]:
    return {
        "number": trial.number,
        "reason": trial.partial.reason,
        "samples": trial.partial.samples,
        "accuracy_seen": trial.partial.accuracy,
        "accuracy": full.accuracy,
        "latency_ratio_seen": trial.partial.latency_ratio,
        "latency_ratio": full.latency_ratio,
        "size_bytes": trial.size_bytes,
        "seconds": _seconds(trial),
        "seconds_in_full": _seconds(full),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
