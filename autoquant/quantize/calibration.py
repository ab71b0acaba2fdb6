"""What the calibration images say: batches of them, and activation quantizers set on them."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from brevitas.nn import QuantIdentity
from torch.fx import GraphModule

from autoquant.core.batching import input_batches
from autoquant.core.recipe import PtqOptions
from autoquant.core.task import Dataset
from autoquant.errors import NumericError
from autoquant.quantize.activations import calibrate
from autoquant.quantize.sampling import sample_activations

__all__ = ["ActivationGrids", "CalibrationData"]


class CalibrationData:
    """The images that calibrate.

    Args:
        dataset: they are drawn from it.
        seed: draws them.
        batch_size: how many at a time.
    """

    def __init__(self, dataset: Dataset, seed: int, batch_size: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.batch_size = batch_size

    def count(self, options: PtqOptions) -> int:
        """How many there are; fewer than asked for if the data set has fewer."""
        return min(options.calibration_images, len(self.dataset))

    def indices(self, options: PtqOptions) -> list[int]:
        """Which they are; the same for the same seed and number."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(len(self.dataset), generator=generator)[
            : self.count(options)
        ].tolist()

    def batches(self, options: PtqOptions, size: int | None = None) -> Iterator[Any]:
        """All of them, `size` at a time."""
        indices = self.indices(options)
        return input_batches(self.dataset, indices, size or self.batch_size, torch.stack)


class ActivationGrids:
    """Calibrated quantizers, each made once for a tensor, a method and a symmetry.

    Args:
        module: the float graph.
        names: of its layers, by node.
        data: what runs through it.
    """

    def __init__(
        self, module: GraphModule, names: Mapping[str, str], data: CalibrationData
    ) -> None:
        self.module = module
        self.names = names
        self.data = data
        self._samples: dict[int, dict[str, torch.Tensor]] = {}
        self._quantizers: dict[tuple[Any, ...], QuantIdentity] = {}

    def get(self, sites: tuple[str, ...], options: PtqOptions) -> dict[str, QuantIdentity]:
        """Quantizers of some values, by name.

        Raises:
            NumericError: a value that is not finite; names the layer that reads it.
        """
        samples = self.sample(sites, options)
        return {name: self._calibrate(name, samples[name], options) for name in sites}

    def sample(self, sites: tuple[str, ...], options: PtqOptions) -> Mapping[str, torch.Tensor]:
        """What the calibration images make of some values, and of others asked for before.

        Raises:
            NumericError: a value that is not finite; names the layer that reads it.
        """
        images = self.data.count(options)
        kept = self._samples.setdefault(images, {})
        new = [name for name in sites if name not in kept]
        if new:
            share, batches = min(1.0, self.data.batch_size / images), self.data.batches(options)
            kept.update(sample_activations(self.module, new, batches, share, self.data.seed))
        odd = next((name for name in new if not torch.isfinite(kept[name]).all()), None)
        if odd is not None:
            raise NumericError(
                f"{self._describe(odd)} is not finite on the calibration data: look for a "
                "division by zero or an overflow before it, or repair the checkpoint"
            )
        return kept

    def _describe(self, value: str) -> str:
        """A value of the graph in the user's words."""
        waiting = [node for node in self.module.graph.nodes if node.name == value]
        for node in waiting:
            if node.name in self.names:
                return f"the input of layer '{self.names[node.name]}'"
            waiting += [user for user in node.users if user not in waiting]
        return f"the value '{value}'"

    def _calibrate(self, name: str, sample: torch.Tensor, options: PtqOptions) -> QuantIdentity:
        how = options.calibration, options.activation_symmetry
        key = (name, self.data.count(options), *how)
        if key not in self._quantizers:
            self._quantizers[key] = calibrate(sample, *how)
        return self._quantizers[key]
