"""Histograms of weights and inputs, with the grids that the quantizers of recipes set on them.

Nothing here computes a range: grids are read off the very Brevitas quantizers that a recipe with
that method is given, and off layers as they come from stock.
"""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from autoquant.core.activity import announce
from autoquant.core.distribution import (
    DistributionPlan,
    Granularity,
    InputRange,
    InputValues,
    LayerDistribution,
    Symmetry,
    WeightGrid,
    WeightScale,
    count_values,
    find_clipped,
)
from autoquant.core.metric import signal_to_noise_db
from autoquant.core.recipe import CalibrationMethod, PtqOptions, method_label
from autoquant.quantize.activations import encoding_of
from autoquant.quantize.layers import LayerNode
from autoquant.quantize.layers import count_values as values_a_sample
from autoquant.quantize.placement import place
from autoquant.quantize.quantizer import Quantizer
from autoquant.quantize.weights import WeightChoice, encode_weight

__all__ = ["look_at_layers"]

_NO_KERNEL = (
    "the runtime has no integer kernel for this kind of layer: its weights alone are quantized, "
    "its input stays float"
)
_GRIDS = tuple(product(get_args(Granularity), get_args(WeightScale)))


def look_at_layers(quantizer: Quantizer, plan: DistributionPlan) -> Iterator[LayerDistribution]:
    """Every quantizable layer, in network order, where all take their input on a fixed grid.

    Args:
        quantizer: of the network.
        plan: which methods and widths.

    Raises:
        NumericError: a weight or an activation that is not finite.
    """
    inputs = _Inputs(quantizer, plan)
    total = len(quantizer.found)
    for index, (name, found) in enumerate(quantizer.found.items(), start=1):
        announce(f"looking at layer {name}, {index} of {total}")
        weight = quantizer.stock.parameter(found.weight).numpy()
        grids = tuple(
            _find_grid(quantizer, name, weight, bits, granularity, scale)
            for bits, (granularity, scale) in product(plan.weight_bits, _GRIDS)
        )
        values = inputs.find(found)
        yield LayerDistribution(
            layer=name,
            kind=found.layer.kind,
            weights=count_values(weight),
            grids=grids,
            inputs=values,
            note=_NO_KERNEL if values is None else None,
        )


def _find_grid(
    quantizer: Quantizer,
    name: str,
    weight: npt.NDArray[Any],
    bits: int,
    granularity: Granularity,
    scale: WeightScale,
) -> WeightGrid:
    choice = WeightChoice(4 if bits == 4 else 8, granularity, scale, reduce_range=bits == 7)
    encoding = encode_weight(name, quantizer.stock.build(name, choice), choice, None)
    shape = [-1 if axis == encoding.axis else 1 for axis in range(weight.ndim)]
    step = encoding.scale.reshape(shape) if encoding.is_per_channel else encoding.scale[0]
    points = 2 ** (choice.grid_bits - 1) - 1
    end = step * points
    return WeightGrid(
        bits=bits,
        granularity=granularity,
        scale=scale,
        narrowest=float(np.min(end)),
        widest=float(np.max(end)),
        clipped=find_clipped(weight, -end, end, step),
        sqnr_db=_round(signal_to_noise_db(weight, encoding.values * step)),
    )


class _Inputs:
    """Inputs of layers, each value looked at once, however many read it."""

    def __init__(self, quantizer: Quantizer, plan: DistributionPlan) -> None:
        self.quantizer = quantizer
        self.plan = plan
        integer = {
            found.node
            for found in quantizer.found.values()
            if found.layer.kind in quantizer.kernels.kinds
        }
        self.placement = place(quantizer.module.graph, integer, quantizer.kernels.float_results)
        self.nodes = {node.name: node for node in quantizer.module.graph.nodes}
        self._known: dict[str, InputValues] = {}

    def find(self, found: LayerNode) -> InputValues | None:
        """What a layer reads; None if that is on no grid."""
        if found.layer.kind not in self.quantizer.kernels.kinds:
            return None
        source = found.source.name
        origin = self.placement.carriers.get(source, source)
        if origin not in self._known:
            self._known[origin] = self._look_at(origin)
        return self._known[origin]

    def _look_at(self, value: str) -> InputValues:
        options = PtqOptions(calibration_images=self.plan.images)
        grids = self.quantizer.grids
        # one pass of the network shows all of them
        sample = grids.sample(self.placement.sites, options)[value].numpy()
        images, batch = grids.data.count(options), grids.data.batch_size
        every = values_a_sample(self.nodes[value]) * images
        ranges = [
            self._find_range(value, sample, method, symmetry)
            for symmetry, method in product(self.plan.symmetries, self.plan.methods)
        ]
        return InputValues(
            value=value,
            histogram=count_values(sample),
            of_values=every,
            extremes=0 if len(sample) == every else 2 * math.ceil(images / batch),
            ranges=tuple(ranges),
        )

    def _find_range(
        self, value: str, sample: npt.NDArray[Any], method: CalibrationMethod, symmetry: Symmetry
    ) -> InputRange:
        options = PtqOptions(
            calibration=method, activation_symmetry=symmetry, calibration_images=self.plan.images
        )
        encoding = encoding_of(self.quantizer.grids.get((value,), options)[value])
        step, last = encoding.scale, 2**encoding.bits - 1 - encoding.zero_point
        low, high = -encoding.zero_point * step, last * step
        steps = np.clip(np.rint(sample / np.float32(step)), -encoding.zero_point, last)
        return InputRange(
            method=method_label(method),
            symmetry=symmetry,
            low=low,
            high=high,
            step=step,
            clipped=find_clipped(sample, low, high, step),
            sqnr_db=_round(signal_to_noise_db(sample, steps * np.float32(step))),
        )


def _round(decibels: float) -> float:
    return round(decibels, 2)
