"""What leaves the app: commands, recipes and a snippet that runs as it is shown."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoquant.core.trial import Trial

__all__ = ["compare_recipes", "export_command", "inference_snippet", "verify_command"]


def export_command(study: str, number: int, results: Path, file: str) -> str:
    """The command that writes the same file."""
    where = "" if results == Path("results") else f" --results {results}"
    return f"autoquant export {study} --trial {number}{where} -o {file}"


def verify_command(file: str, trial: Trial, checkpoints: Path) -> str:
    """The command that replays its passport."""
    more = f" --checkpoints {checkpoints}" if trial.recipe.is_trained else ""
    return f"autoquant verify {file}{more} --layers"


def inference_snippet(file: str, threads: int) -> str:
    """Python that runs the file on one made-up input, with numpy and ONNX Runtime alone.

    Args:
        file: as it was downloaded.
        threads: as the latency was measured with.
    """
    return f"""\
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
