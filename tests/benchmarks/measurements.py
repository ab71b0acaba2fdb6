"""Do the intervals of the latency protocol hold? Four questions, asked of a real machine.

    AUTOQUANT_DATA=... python tests/benchmarks/measurements.py results/published/measurements
    python tests/benchmarks/measurements.py --figure results/published/measurements

A/A: ResNet-20 W8A8 against a copy of itself that differs in one byte of metadata, 30 times.
Load: the same file against float, in turns of three on the idle machine and three with a
process that computes without pause on the core that is not timed.
Known answer: two loops that wait for known times with 10 % of noise, 100 times.
Repeat: the same recipe and seed, built and measured by two evaluators, eight times.

Run it on a machine that does nothing else. The figure needs the extra `figures`; with
`--figure` it is drawn anew from the stored numbers and nothing is measured.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autoquant.backends.latency import (
    CANDIDATE_INSTANCES,
    REFERENCE_INSTANCES,
    Comparison,
    Instance,
    LatencyProtocol,
    compare,
)
from autoquant.backends.machine import describe_machine, package_versions
from autoquant.backends.onnxruntime import open_session
from autoquant.backends.quiet import QuietPlace
from autoquant.bench import _PROTOCOL
from autoquant.build import build_evaluator
from autoquant.core.noise import ratios_agree
from autoquant.core.recipe import Recipe
from autoquant.tasks import load_task

_PACKAGES = ("autoquant", "torch", "brevitas", "onnx", "onnxruntime", "numpy")
_AA, _LOAD_TURNS, _KNOWN, _REPEATS = 30, 6, 100, 8
_BUSY = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: sum(range(1000))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--figure", action="store_true", help="only draw the stored numbers")
    options = parser.parse_args()
    stored = options.folder / "measurements.json"
    if not options.figure:
        options.folder.mkdir(parents=True, exist_ok=True)
        stored.write_text(json.dumps(measure(), indent=1) + "\n")
    document = json.loads(stored.read_text())
    for name in ("aa", "load", "known_answer", "repeat"):
        shown = {k: v for k, v in document[name].items() if not isinstance(v, list)}
        print(name, json.dumps(shown, indent=1), flush=True)
    path = options.folder / "measurements.png"
    _figure(document).write_image(path, width=1100, height=560, scale=2)


def measure() -> dict[str, object]:
    evaluator = build_evaluator(load_task("cifar10-resnet20"))
    recipe = Recipe.uniform([layer.name for layer in evaluator.layers], 8)
    quantized = evaluator.builder.build(recipe).artifact.content
    reference = evaluator.builder.build(Recipe(method="fp32")).artifact.content
    inputs = evaluator._timed_inputs
    return {
        "machine": describe_machine(),
        "versions": package_versions(*_PACKAGES),
        "aa": aa(quantized, inputs),
        "load": load(quantized, reference, inputs),
        "known_answer": known_answer(),
        "repeat": repeat(recipe),
    }


def aa(content: bytes, inputs: np.ndarray) -> dict[str, object]:
    copy = onnx.load_from_string(content)
    copy.metadata_props.add(key="copy", value="1")
    other = copy.SerializeToString()
    assert other != content
    results = [_versus(content, other, inputs) for _ in range(_AA)]
    widths = [result.ratio_ci[1] - result.ratio_ci[0] for result in results]
    return {
        "covered": sum(low <= 1 <= high for low, high in (r.ratio_ci for r in results)),
        "of": _AA,
        "median_width": float(np.median(widths)),
        "intervals": [(r.ratio, *r.ratio_ci) for r in results],
    }


def load(content: bytes, reference: bytes, inputs: np.ndarray) -> dict[str, object]:
    cores = sorted(os.sched_getaffinity(0))
    idle, busy = [], []
    for turn in range(_LOAD_TURNS):
        process = None
        if turn % 2:
            process = subprocess.Popen([sys.executable, "-c", _BUSY, str(cores[0])])
            time.sleep(1)
        (busy if turn % 2 else idle).append(_versus(content, reference, inputs))
        if process is not None:
            process.kill()
            process.wait()
    ratio = [float(np.median([r.ratio for r in results])) for results in (idle, busy)]
    return {
        "idle_ratio": ratio[0],
        "busy_ratio": ratio[1],
        "ratio_moves_by": ratio[1] / ratio[0] - 1,
        "idle_ms": float(np.median([r.latency_ms for r in idle])),
        "busy_ms": float(np.median([r.latency_ms for r in busy])),
        "intervals": [
            (r.ratio, *r.ratio_ci) for pair in zip(idle, busy, strict=True) for r in pair
        ],
    }


def known_answer() -> dict[str, object]:
    """Loops of 0.2 and 0.4 ms: the ratio of the medians is one half."""
    protocol = LatencyProtocol(warmup_s=0.02, block_s=0.002, slice_s=0.03, max_s=0.4)
    results = [
        compare([_wait(2e-4, 2 * seed)], [_wait(4e-4, 2 * seed + 1)], protocol)
        for seed in range(_KNOWN)
    ]
    return {
        "covered": sum(low <= 0.5 <= high for low, high in (r.ratio_ci for r in results)),
        "of": _KNOWN,
        "median_width": float(np.median([np.ptp(r.ratio_ci) / r.ratio for r in results])),
    }


def _wait(seconds: float, seed: int):
    generator = np.random.default_rng(seed)

    def run() -> float:
        start = time.perf_counter()
        end = start + seconds * generator.lognormal(0.0, 0.1)
        while time.perf_counter() < end:
            pass
        return time.perf_counter() - start

    return run


def repeat(recipe: Recipe) -> dict[str, object]:
    """Two evaluators, made one after the other as two processes would make them."""
    evaluators = [build_evaluator(load_task("cifar10-resnet20"), seed=0) for _ in range(2)]
    pairs = [[item.evaluate(recipe) for item in evaluators] for _ in range(_REPEATS)]
    graphs = {item[1].passport["graph_sha256"] for pair in pairs for item in pair}
    accuracies = {item[0].accuracy for pair in pairs for item in pair}
    ratios = [[item[0] for item in pair] for pair in pairs]
    inside = [
        one.latency_ratio_ci[0] <= other.latency_ratio <= one.latency_ratio_ci[1]
        and other.latency_ratio_ci[0] <= one.latency_ratio <= other.latency_ratio_ci[1]
        for one, other in ratios
    ]
    agree = [
        ratios_agree(
            one.latency_ratio, one.latency_ratio_ci, other.latency_ratio, other.latency_ratio_ci
        )
        for one, other in ratios
    ]
    logs = np.log([[one.latency_ratio, other.latency_ratio] for one, other in ratios])
    return {
        "digests": len(graphs),
        "accuracies": len(accuracies),
        "ratios_inside_each_others_interval": sum(inside),
        "pairs_that_agree": sum(agree),
        "of": _REPEATS,
        "sd_of_all_log_ratios": float(logs.std(ddof=1)),
        "ratios": [[m.latency_ratio for m in pair] for pair in ratios],
    }


def _versus(content: bytes, other: bytes, inputs: np.ndarray) -> Comparison:
    with QuietPlace().turn():
        models = [
            Instance.several(partial(open_session, item, 1), inputs, len(item), count)
            for item, count in ((content, CANDIDATE_INSTANCES), (other, REFERENCE_INSTANCES))
        ]
        return compare(*models, _PROTOCOL)


def _figure(document: dict[str, dict]) -> go.Figure:
    found = document["aa"]
    titles = (
        f"A file against its copy: {found['covered']} of {found['of']} intervals cover 1",
        f"Against float: a busy core moves the ratio by {document['load']['ratio_moves_by']:+.1%}",
    )
    figure = make_subplots(cols=2, subplot_titles=titles, horizontal_spacing=0.12)
    figure.add_trace(_intervals(found["intervals"], "#0b6bcb"), row=1, col=1)
    intervals = document["load"]["intervals"]
    for name, part, color in (
        ("idle", intervals[::2], "#0b6bcb"),
        ("busy", intervals[1::2], "#b4540a"),
    ):
        trace = _intervals(part, color, start=1 if name == "idle" else 5)
        figure.add_trace(trace.update(name=name, showlegend=True), row=1, col=2)
    figure.add_vline(x=1.0, line_color="#1b1f24", line_width=1, row=1, col=1)
    figure.update_layout(
        template="plotly_white", legend={"orientation": "h", "x": 0.6, "y": -0.12},
        font={"family": "DejaVu Sans, Arial, sans-serif", "size": 14},
        margin={"l": 60, "r": 30, "t": 70, "b": 80},
    )  # fmt: skip
    figure.update_xaxes(title="ratio of latencies, 95 % interval")
    figure.update_yaxes(title="measurement", row=1, col=1)
    figure.update_yaxes(showticklabels=False, showgrid=False, row=1, col=2)
    return figure


def _intervals(values: list[tuple[float, float, float]], color: str, start: int = 1) -> go.Scatter:
    middle, low, high = (np.array(column) for column in zip(*values, strict=True))
    return go.Scatter(
        x=middle, y=np.arange(start, start + len(values)), mode="markers", showlegend=False,
        marker={"color": color, "size": 7},
        error_x={"array": high - middle, "arrayminus": middle - low, "color": color},
    )  # fmt: skip


if __name__ == "__main__":
    main()
