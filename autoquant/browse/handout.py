"""What leaves the app: commands, recipes and a snippet that runs as it is shown."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoquant.core.trial import Trial
from autoquant.report import COLUMNS, trial_row
from autoquant.report.row import format_drop
from autoquant.search.database import hide_password
from autoquant.search.storage import Location

__all__ = [
    "compare_figures",
    "compare_layers",
    "compare_recipes",
    "export_command",
    "headline",
    "inference_snippet",
    "report_command",
    "verify_command",
]


_LITERT = """\
import numpy as np
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter(model_path="{file}", num_threads={threads})  # as it was timed
interpreter.allocate_tensors()

for item in interpreter.get_input_details():
    data = np.zeros(item["shape"], np.float32)  # your data, prepared as for the float model
    scale, zero_point = item["quantization"]
    if item["dtype"] == np.int8:  # a file that is integer throughout
        data = np.clip(np.round(data / scale) + zero_point, -128, 127)
    interpreter.set_tensor(item["index"], data.astype(item["dtype"]))

interpreter.invoke()
for item in interpreter.get_output_details():
    output = interpreter.get_tensor(item["index"])
    scale, zero_point = item["quantization"]
    if item["dtype"] == np.int8:
        output = (output.astype(np.float32) - zero_point) * scale
    print(output.shape)
"""

_ONNX = """\
import numpy as np
import onnxruntime as ort

options = ort.SessionOptions()
options.intra_op_num_threads = {threads}  # as it was timed
session = ort.InferenceSession("{file}", options, providers=["CPUExecutionProvider"])

inputs = {{}}
for item in session.get_inputs():
    shape = [size if isinstance(size, int) else 1 for size in item.shape]
    kind = {{"tensor(float)": np.float32, "tensor(int64)": np.int64}}[item.type]
    inputs[item.name] = np.zeros(shape, kind)  # your data, prepared as for the float model

outputs = session.run(None, inputs)
print([output.shape for output in outputs])
"""


def export_command(location: Location, number: int, file: str) -> str:
    """The command that writes the same file; a database's password is left to who runs it."""
    return (
        f"autoquant export {location.name} --trial {number}{_where(location)} "
        f"-o {shlex.quote(file)}"
    )


def report_command(location: Location) -> str:
    """The command that measures the grid of the analysis."""
    return f"autoquant report {location.name}{_where(location)} --measure"


def _where(location: Location) -> str:
    is_usual = location.results == Path("results")
    results = "" if is_usual else f" --results {shlex.quote(str(location.results))}"
    if location.url is None:
        return results
    return f"{results} --storage {shlex.quote(hide_password(location.url))}"


def verify_command(file: str, trial: Trial, checkpoints: Path) -> str:
    """The command that replays its passport."""
    more = f" --checkpoints {shlex.quote(str(checkpoints))}" if trial.recipe.is_trained else ""
    return f"autoquant verify {shlex.quote(file)}{more} --layers"


def inference_snippet(file: str, threads: int) -> str:
    """Python that runs the file on one made-up input, with numpy and its runtime alone.

    Args:
        file: as it was downloaded; its suffix tells the runtime.
        threads: as the latency was measured with.
    """
    return (_LITERT if file.endswith(".tflite") else _ONNX).format(file=file, threads=threads)


def compare_recipes(trials: Sequence[Trial]) -> list[dict[str, str]]:
    """What differs between recipes, an option a row, a trial a column; widths are left out."""
    options = [_flatten(trial.recipe.to_dict()) for trial in trials]
    names = list(dict.fromkeys(name for item in options for name in item))
    rows = []
    for name in names:
        values = [item.get(name, "-") for item in options]
        if len(set(values)) > 1:
            columns = {f"trial {t.number}": v for t, v in zip(trials, values, strict=True)}
            rows.append({"what": name, **columns})
    return rows


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        if key in ("layers", "version"):
            continue
        if isinstance(value, Mapping) and value:
            found |= _flatten(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return {name.removeprefix("options."): value for name, value in found.items()}


def headline(trial: Trial) -> list[tuple[str, str]]:
    """The four figures that a model is chosen by, each with its name."""
    ratio = trial.latency_ratio
    return [
        ("Accuracy", f"{trial.accuracy or 0:.2%}"),
        ("Drop", f"{100 * (trial.accuracy_drop or 0):+.2f} points"),
        ("Latency", "-" if ratio is None else f"{ratio:.3f} x float"),
        ("Size", f"{(trial.size_bytes or 0) / 1e6:.3f} MB"),
    ]


_FIGURES = ("recipe", "accuracy", "drop", "report accuracy", "latency", "x float", "size",
            "in integers", "peak memory", "parity", "took")  # fmt: skip


def compare_figures(trials: Sequence[Trial]) -> list[dict[str, str]]:
    """Figures with intervals, a figure a row, a trial a column."""
    columns = {f"trial {trial.number}": _figures(trial) for trial in trials}
    return [
        {"figure": name, **{title: found[name] for title, found in columns.items()}}
        for name in _FIGURES
    ]


def _figures(trial: Trial) -> dict[str, str]:
    row = dict(zip(COLUMNS, trial_row(trial), strict=True))
    interval = trial.accuracy_ci
    ends = "" if interval is None else f" ({interval[0]:.2%} to {interval[1]:.2%})"
    memory, parity = trial.peak_memory_bytes, trial.parity
    report = format_drop(trial.report_accuracy_drop, trial.report_accuracy_drop_ci)
    return {
        "recipe": row["recipe"],
        "accuracy": row["accuracy"] + ends,
        "drop": f"{row['drop']} points",
        "report accuracy": "-" if trial.report_accuracy is None
        else f"{row['report']} (drop {report})",
        "latency": row["latency"],
        "x float": row["x float"],
        "size": row["size"],
        "in integers": row["integer"],
        "peak memory": "-" if memory is None else f"{memory / 1e6:.1f} MB",
        "parity": "-" if parity is None else f"{parity.top1_agreement:.1%} of {parity.samples}",
        "took": f"{sum(trial.seconds.values()):.1f} s",
    }  # fmt: skip


def compare_layers(proofs: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[dict[str, str]]:
    """Layers below each other: kernel, share of the time and SQNR of each trial's file.

    Args:
        proofs: by the trial's number, as `verify` gives them.
    """
    names = list(dict.fromkeys(layer["name"] for layers in proofs.values() for layer in layers))
    by_name = {
        number: {layer["name"]: layer for layer in layers} for number, layers in proofs.items()
    }
    return [
        {"layer": name, **{f"trial {n}": _describe(by_name[n].get(name)) for n in proofs}}
        for name in names
    ]


def _describe(layer: Mapping[str, Any] | None) -> str:
    if layer is None:
        return "-"
    found = layer.get("sqnr_db")
    sqnr = [] if found is None else [f"SQNR {found:.0f} dB"]
    if layer["kind"] == "output":
        return ", ".join(sqnr) or "-"
    kind = "integer" if layer["integer_kernel"] else "float"
    parts = [f"{layer['time_share']:.0%} of the time", f"{layer['kernel']} ({kind})", *sqnr]
    return ", ".join(parts)
