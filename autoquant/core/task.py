"""`Task`: a float model, its data and its metric."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

__all__ = ["Augment", "Dataset", "Metric", "MetricName", "Task"]

MetricName = Literal["top1", "top5", "agreement"]
Metric = MetricName | Callable[[npt.NDArray[np.float32], npt.NDArray[Any]], float]
# (a batch of inputs, a torch.Generator) to a batch of the same shape
Augment = Callable[[Any, Any], Any]


class Dataset(Protocol):
    """An indexable of `(x, y)`: x without batch dimension, y an int or a tensor."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, Any]: ...


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be quantized and how it is judged. Knows nothing of quantization.

    Args:
        model: float `torch.nn.Module`; it is copied before anything is changed.
        example_input: one input with a batch dimension of 1: a tensor or named tensors.
        calibration: images that set activation ranges; training images only.
        train: training data, or None (then there is no quantization-aware training).
        search: data on which trials are scored.
        report: data read once, for the front; None if there is none.
        metric: `top1`, `top5`, `agreement` with the float model, or a function of (outputs,
            targets), arrays of the whole split, that returns a float, higher is better.
        augment: changes a training batch at random, the same for the same generator: (batch of
            inputs, torch.Generator) to a batch of the same shape; None leaves images as they are.
        name: set by the registry.
        options: what the task was told, JSON; set by the registry. With the name it is all
            that is needed to build the task again.
    """

    model: "torch.nn.Module"
    example_input: Any
    calibration: Dataset
    search: Dataset
    train: Dataset | None = None
    report: Dataset | None = None
    metric: Metric = "top1"
    augment: Augment | None = None
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def augment_name(self) -> str | None:
        """What `augment` is called where it was defined; None if there is none.

        A proxy: two functions of one name count as the same.
        """
        if self.augment is None:
            return None
        named = self.augment if hasattr(self.augment, "__qualname__") else type(self.augment)
        return str(named.__qualname__)
