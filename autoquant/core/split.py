"""`Split`: a data set as stacked batches, read once."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from autoquant.core.batching import batches
from autoquant.core.task import Dataset

__all__ = ["Split"]

_BATCH_VALUES = 2**22  # input values a batch: 16 MB of float32
_MAX_BATCH = 125
_FIRST_CHUNK = 250


class Split:
    """A data set as stacked batches, read once."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        first, _ = dataset[0]
        values = first.values() if isinstance(first, dict) else [first]
        per_sample = max(1, sum(int(np.prod(np.shape(value))) for value in values))
        self.batch_size = max(1, min(_MAX_BATCH, _BATCH_VALUES // per_sample))

    def __len__(self) -> int:
        return len(self.dataset)

    @cached_property
    def batches(self) -> list[Any]:
        """Stacked inputs, arrays or named arrays."""
        return [inputs for inputs, _ in self._pairs]

    @cached_property
    def targets(self) -> npt.NDArray[Any]:
        """(n, ...) targets."""
        return np.array([np.asarray(target) for _, targets in self._pairs for target in targets])

    def chunks(self) -> Iterator[list[Any]]:
        """All batches, in chunks that double: a bad model shows on the first."""
        start, count = 0, max(1, _FIRST_CHUNK // self.batch_size)
        while start < len(self.batches):
            yield self.batches[start : start + count]
            start, count = start + count, start + count

    def first_inputs(self, count: int) -> Any:
        """One batch of the first samples, again from the start if there are fewer."""
        chosen = [index % len(self) for index in range(count)]
        inputs, _ = next(batches(self.dataset, chosen, count, _stack))
        return inputs

    @cached_property
    def _pairs(self) -> list[tuple[Any, list[Any]]]:
        every = range(len(self.dataset))
        return list(batches(self.dataset, every, self.batch_size, _stack))


def _stack(values: Any) -> npt.NDArray[Any]:
    return np.stack([np.asarray(value) for value in values])
