"""What is known of a space before its first trial: layers, sensitivities, what is wanted."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from autoquant.core.layer import Layer
from autoquant.core.objective import Kind
from autoquant.core.pareto import Bounds
from autoquant.core.sensitivity import ChoiceCost, Sensitivity
from autoquant.core.space import FLOAT, SearchSpace

__all__ = ["LAYER_PREFIX", "Knowledge", "bits_of"]

LAYER_PREFIX = "layer."
_EVERY: tuple[Kind, ...] = ("accuracy", "latency", "size")
_INTEGER_SHARE = 0.5  # of float's time, until something is measured


@dataclass(frozen=True)
class Knowledge:
    """What a sampler may use beside the trials.

    Attributes:
        layers: parameters and multiply-accumulates of each layer; empty if unknown.
        sensitivity: measured one layer at a time; None if it was not.
        objectives: what the study optimizes.
        bounds: constraints.
    """

    layers: Sequence[Layer] = ()
    sensitivity: Sensitivity | None = None
    objectives: Sequence[Kind] = _EVERY
    bounds: Bounds = field(default_factory=Bounds)

    def expected_drop(self, layer: str, choice: str) -> float | None:
        """Accuracy that a choice of one layer costs; None where nothing was measured."""
        if self.sensitivity is None:
            return None
        return self.sensitivity.expected_drop(layer, choice)

    def expected_bytes(self, layer: str, choice: str) -> float:
        """Bytes that a choice adds to a file of 8-bit layers; by the file where it was measured."""
        cost = self._cost(layer, choice)
        if cost is not None and cost.bytes_saved is not None:
            return -float(cost.bytes_saved)
        parameters = {item.name: item.parameters for item in self.layers}
        return parameters.get(layer, 1) * (bits_of(choice) - 8) / 8

    def expected_latency(self, layer: str, choice: str) -> float:
        """Share of float's latency that a choice adds to 8-bit layers."""
        cost = self._cost(layer, choice)
        if cost is not None and cost.latency_change is not None:
            return cost.latency_change
        if choice != FLOAT:
            return 0.0
        macs = {item.name: item.macs for item in self.layers}
        total = sum(macs.values())
        return (1 - _INTEGER_SHARE) * macs.get(layer, 0) / total if total else 0.0

    def float_bytes(self, space: SearchSpace) -> float:
        """Of the layers' weights, about."""
        parameters = {item.name: item.parameters for item in self.layers}
        return 4.0 * sum(parameters.get(name, 1) for name in space.layers)

    def _cost(self, layer: str, choice: str) -> ChoiceCost | None:
        return None if self.sensitivity is None else self.sensitivity.by_choice.get((layer, choice))


def bits_of(choice: str) -> int:
    """Width of a choice's weights."""
    return 32 if choice == FLOAT else int(choice.partition(":")[0])
