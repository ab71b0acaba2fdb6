"""Data sets, read once: every sample checked, the whole summed up in a digest."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from autoquant.core.task import Dataset, Task
from autoquant.errors import TaskError

__all__ = ["digest_dataset", "digest_splits"]


def digest_splits(task: Task) -> dict[str, str]:
    """Digests of the data that every file of a task depends on, by split; see `digest_dataset`.

    Training data are not among them: only trained files depend on those.
    """
    splits = {"calibration": task.calibration, "search": task.search, "report": task.report}
    return {
        name: digest_dataset(split, name, task.example_input)
        for name, split in splits.items()
        if split is not None and not (name == "report" and len(split) == 0)
    }


def digest_dataset(dataset: Dataset, split: str, example_input: Any) -> str:
    """SHA-256 over every input and target of a split, in order, hexadecimal.

    Args:
        dataset: of `(x, y)`.
        split: what to call it.
        example_input: what x is like, with a batch dimension of 1.

    Raises:
        TaskError: no samples, or one that the model cannot take or that is not finite; names it.
    """
    if not len(dataset):
        raise TaskError(f"the {split} data is empty")
    expected = {name: np.asarray(value)[0] for name, value in _named(example_input).items()}
    digest = hashlib.sha256()
    for index in range(len(dataset)):
        inputs, target = dataset[index]
        values = {name: np.asarray(value) for name, value in _named(inputs).items()}
        fault = _find_fault(values, expected)
        if fault is not None:
            raise TaskError(f"sample {index} of the {split} data {fault}")
        for value in (*values.values(), np.asarray(target)):
            digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _named(inputs: Any) -> Mapping[str, Any]:
    return inputs if isinstance(inputs, Mapping) else {"x": inputs}


def _find_fault(
    values: Mapping[str, npt.NDArray[Any]], expected: Mapping[str, npt.NDArray[Any]]
) -> str | None:
    if set(values) != set(expected):
        return f"has inputs {', '.join(values)}; the example input has {', '.join(expected)}"
    for name, value in values.items():
        if value.shape != expected[name].shape:
            return (
                f"has shape {value.shape}, the example input {expected[name].shape} (without its "
                "batch dimension); all must be alike: resize, pad or reshape what differs"
            )
        if not np.isfinite(value).all():
            return "holds NaN or infinity; repair it or leave it out"
    return None
