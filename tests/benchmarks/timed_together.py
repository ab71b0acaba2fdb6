"""Does a file have the same latency ratio beside many others as alone?

    AUTOQUANT_DATA=... python tests/benchmarks/timed_together.py RESULTS STUDY,STUDY \
        results/published/measurements [TURNS]

Times some files of each study's front alone beside the float model, and all of them in turns, as
the end of a search does; with the runs that come before each block without counting, and without
them. Everything takes turns, TURNS times. Writes `together.json` and prints the table. The studies
are on ResNet-20 here; run it on a machine that does nothing else.
"""

import json
import math
import sys
from pathlib import Path
from unittest import mock

import numpy as np

from autoquant.agreement import load_evaluator
from autoquant.backends import latency
from autoquant.backends.machine import describe_machine, package_versions
from autoquant.core.artifact import Artifact, find_kept
from autoquant.evaluate import Evaluator
from autoquant.export.formats import read_artifact
from autoquant.search.storage import Location, load_record
from autoquant.tasks import load_task

_ALONE = 4  # files of each front, spread over it
_PACKAGES = ("autoquant", "torch", "onnx", "onnxruntime", "openvino", "ai-edge-litert", "numpy")
_warm_up = latency._warm_up


def main(results: str, studies: str, target: str, turns: str = "3") -> None:
    found = [measure(Location(Path(results), name), int(turns)) for name in studies.split(",")]
    document = {
        "machine": describe_machine(), "versions": package_versions(*_PACKAGES), "studies": found
    }  # fmt: skip
    (Path(target) / "together.json").write_text(json.dumps(document, indent=1) + "\n")
    show(found)


def measure(location: Location, turns: int) -> dict:
    header = load_record(location).header
    task = load_task(header.task, header.task_options)
    evaluator = load_evaluator(header, task, location)
    files = read_front(location)
    names = [*files]
    chosen = [names[i] for i in np.linspace(0, len(names) - 1, _ALONE).round().astype(int)]
    rows = []
    for _ in range(turns):
        for warm in (True, False):
            with mock.patch.object(latency, "_warm_up", _warm_up if warm else warm_up_alone):
                alone = {name: time(evaluator, {name: files[name]})[name] for name in chosen}
                rows.append({"warm": warm, "alone": alone, "together": time(evaluator, files)})
                print(location.name, warm, {n: (alone[n], rows[-1]["together"][n]) for n in chosen})
    return {"study": location.name, "backend": header.backend, "files": len(files), "rows": rows}


def read_front(location: Location) -> dict[str, Artifact]:
    kept = sorted(path.stem for path in location.artifacts.iterdir())
    paths = {digest: find_kept(location.artifacts, digest) for digest in kept}
    return {digest: read_artifact(path.read_bytes()) for digest, path in paths.items() if path}


def time(evaluator: Evaluator, files: dict[str, Artifact]) -> dict[str, float]:
    """Ratio to float by file."""
    figures = evaluator.time_together(files, "benchmark")
    return {name: figures[name].latency_ratio for name in files}


def warm_up_alone(run, protocol) -> tuple[int, int]:
    """As it was until protocol 3: every run of a block counts."""
    return 0, _warm_up(run, protocol)[1]


def show(studies: list[dict]) -> None:
    print("| runtime | files in turns | runs before a block | ratio in turns against alone, mean "
          "| each turn |")  # fmt: skip
    print("|---|---|---|---|---|")
    for study in studies:
        for warm in (False, True):
            rows = [row for row in study["rows"] if row["warm"] is warm]
            changes = [
                np.mean([math.log(row["together"][n] / row["alone"][n]) for n in row["alone"]])
                for row in rows
            ]
            each = ", ".join(f"{math.expm1(change):+.1%}" for change in changes)
            mean = math.expm1(np.mean(changes))
            word = "not counted" if warm else "none"
            print(f"| {study['backend']} | {study['files']} | {word} | {mean:+.1%} | {each} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
