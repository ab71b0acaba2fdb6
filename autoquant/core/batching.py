"""Batches of a data set, as arrays or tensors of whoever asks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from autoquant.core.task import Dataset

__all__ = ["batches", "input_batches", "split_inputs"]

Stack = Callable[[list[Any]], Any]


def batches(
    dataset: Dataset, indices: Sequence[int], batch_size: int, stack: Stack
) -> Iterator[tuple[Any, list[Any]]]:
    """Stacked inputs and the list of their targets, in order.

    Args:
        dataset: of `(x, y)`; x an array-like or a mapping of such.
        indices: which samples.
        batch_size: samples a batch, at least 1.
        stack: joins a sequence of x along a new first dimension, `torch.stack` for one.
    """
    for start in range(0, len(indices), batch_size):
        pairs = [dataset[index] for index in indices[start : start + batch_size]]
        yield _stack_inputs([x for x, _ in pairs], stack), [y for _, y in pairs]


def input_batches(
    dataset: Dataset, indices: Sequence[int], batch_size: int, stack: Stack
) -> Iterator[Any]:
    """As `batches`, inputs alone."""
    for inputs, _ in batches(dataset, indices, batch_size, stack):
        yield inputs


def split_inputs(inputs: Any, size: int | None) -> Iterator[Any]:
    """One batch in parts of at most `size` samples.

    Args:
        inputs: an array or tensor, or a mapping of such, samples along the first dimension.
        size: samples a part; None for the whole.
    """
    first = next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs
    size = size or len(first)
    for start in range(0, len(first), size):
        if isinstance(inputs, Mapping):
            yield {name: value[start : start + size] for name, value in inputs.items()}
        else:
            yield inputs[start : start + size]


def _stack_inputs(inputs: list[Any], stack: Stack) -> Any:
    if isinstance(inputs[0], Mapping):
        return {name: stack([x[name] for x in inputs]) for name in inputs[0]}
    return stack(inputs)
