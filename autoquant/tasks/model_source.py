"""`ModelSource`: a model that somebody brings, and what it says on its own input."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoquant.errors import TaskError

__all__ = ["ModelSource", "count_outputs"]


@dataclass(frozen=True)
class ModelSource:
    """A model before the size of its input is decided.

    Attributes:
        known: what it says on preprocessing: any of the fields of `Preprocessing`.
        build: makes the model, given an example input with a batch dimension of 1.
    """

    known: Mapping[str, Any]
    build: Callable[[Tensor], nn.Module]


def count_outputs(model: nn.Module, example: Tensor, name: str) -> int:
    """Number of classes of a classifier, tried out on an example.

    Args:
        model: in evaluation mode.
        example: (1, channels, height, width).
        name: what to call the model in messages.

    Raises:
        TaskError: it does not take such images, not two at a time, or gives no (n, classes).
    """
    pair = torch.cat([example, torch.ones_like(example)])
    try:
        with torch.no_grad():
            outputs = model(pair)
    except Exception as error:  # whatever the model raises
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise TaskError(
            f"model: '{name}' does not take two images of {tuple(example.shape[1:])} "
            f"(channels, height, width) at a time: {first[:200]}; check image_size, and export "
            "a file with a dynamic batch dimension"
        ) from error
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != 2:
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise TaskError(f"model: '{name}' gives {shape} for two images instead of (2, classes)")
    return outputs.shape[1]
