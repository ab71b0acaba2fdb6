"""Publish a finished study: its record, its figure, its machine.

Run after a search, from the repository's root:

    autoquant search search_spaces/cifar10-resnet20.yaml --results ../published
    python tests/benchmarks/publish_search.py ../published cifar10-resnet20 \
        results/published/resnet20-search

The figure needs the extra `figures` and a Chromium or Chrome (BROWSER_PATH names it).
"""

import json
import shutil
import sys
from pathlib import Path

from autoquant.backends.machine import describe_machine, package_versions
from autoquant.core.front import find_front
from autoquant.core.pareto import find_knee
from autoquant.core.trial import Trial
from autoquant.report import pareto_figure
from autoquant.search.storage import Location, load_record

_PACKAGES = ("autoquant", "torch", "brevitas", "onnx", "onnxruntime", "optuna", "numpy")


def main(results: str, study: str, target: str) -> None:
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    location = Location(Path(results), study)
    record = load_record(location)
    trials = record.trials()
    front = find_front(trials, record.header.objectives)
    knee = find_knee(front, record.header.objectives)
    shutil.copyfile(location.journal, folder / "journal.log")
    document = {
        "study": study,
        "task": record.header.task,
        "objectives": record.header.objectives,
        "seed": record.header.seed,
        "sampler": record.header.sampler,
        "seconds": _seconds(record),
        "versions": package_versions(*_PACKAGES),
        "machine": describe_machine(),
        "knee": None if knee is None else knee.number,
        "front": [trial.number for trial in front],
        "trials": [trial.to_dict() for trial in trials],
    }
    (folder / "trials.json").write_text(json.dumps(document, indent=1) + "\n")
    figure = pareto_figure(_shown(trials), front, title=_title(trials, front))
    figure.write_image(folder / "front.png", width=1000, height=620, scale=2)
    _print(trials, front, document["seconds"])


def _seconds(record) -> float:
    """From the first trial's beginning to the last one's end."""
    frozen = record.study.get_trials(deepcopy=False)
    begins = [trial.datetime_start for trial in frozen if trial.datetime_start]
    ends = [trial.datetime_complete for trial in frozen if trial.datetime_complete]
    return round((max(ends) - min(begins)).total_seconds(), 1)


def _shown(trials: list[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.state == "complete"]


def _title(trials: list[Trial], front: list[Trial]) -> str:
    reference = next(trial for trial in trials if trial.name == "fp32")
    small = [trial for trial in front if trial.accuracy_drop <= 0.005]
    best = min(small, key=lambda trial: trial.size_bytes)
    share = best.size_bytes / reference.size_bytes
    return (
        f"{trials[0].recipe and 'ResNet-20 on CIFAR-10'}: {share:.0%} of the float file, "
        f"{best.accuracy_drop * 100:.2f} points below float"
    )


def _print(trials: list[Trial], front: list[Trial], seconds: float) -> None:
    reference = next(trial for trial in trials if trial.name == "fp32")
    quarter = [
        trial
        for trial in front
        if trial.accuracy_drop <= 0.005 and trial.size_bytes <= reference.size_bytes / 4
    ]
    print(f"{len(trials)} trials in {seconds} s, {len(front)} on the front")
    for trial in quarter:
        print(
            f"trial {trial.number}: {trial.size_bytes / reference.size_bytes:.3f} of the size, "
            f"drop {trial.accuracy_drop:.4f} (search), {trial.report_accuracy_drop:.4f} (report), "
            f"{trial.latency_ratio:.3f} x float"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
