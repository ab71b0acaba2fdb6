"""How the weights and inputs of layers are distributed, and what each method makes of them."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from autoquant.core.layer import LayerKind
from autoquant.core.recipe import CalibrationMethod

__all__ = [
    "DistributionPlan",
    "Distributions",
    "Granularity",
    "Histogram",
    "InputRange",
    "InputValues",
    "LayerDistribution",
    "Symmetry",
    "WeightGrid",
    "WeightScale",
    "count_values",
    "find_clipped",
]

Numbers = float | npt.NDArray[Any]
Symmetry = Literal["asymmetric", "symmetric"]
Granularity = Literal["per_channel", "per_tensor"]
WeightScale = Literal["max", "mse"]

_BINS = 128
# Half a step beyond the end of a grid is what rounding does anywhere; a little more, since the
# ends of a range are themselves rounded to 32-bit floats.
_REACH = 0.501


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DistributionPlan(_Record):
    """What to look at.

    Attributes:
        methods: of calibration.
        symmetries: of activation grids.
        weight_bits: widths of weight grids; 7 is an 8-bit weight with a reduced range.
        images: that calibrate; fewer if the task has fewer.
    """

    methods: tuple[CalibrationMethod, ...]
    symmetries: tuple[Symmetry, ...] = ("asymmetric",)
    weight_bits: tuple[int, ...] = (8, 4)
    images: int = 512


class Histogram(_Record):
    """Values counted in bins of equal width.

    Attributes:
        low: left end of the first bin.
        high: right end of the last one.
        counts: of each bin.
    """

    low: float
    high: float
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """How many values there are."""
        return sum(self.counts)

    @property
    def centers(self) -> list[float]:
        """Of the bins."""
        edges = np.linspace(self.low, self.high, len(self.counts) + 1)
        return [float(value) for value in (edges[:-1] + edges[1:]) / 2]


class InputRange(_Record):
    """What one method makes of an input.

    Attributes:
        method: of calibration, by its label.
        symmetry: of the grid.
        low: its lowest point.
        high: its highest.
        step: between two points.
        clipped: share of the values that lie more than half a step outside, 0..1.
        sqnr_db: power of the values over that of their error on the grid, decibels.
    """

    method: str
    symmetry: Symmetry
    low: float
    high: float
    step: float
    clipped: float
    sqnr_db: float


class InputValues(_Record):
    """The input of a layer, over the calibration images.

    Attributes:
        value: the graph's name of what is calibrated; layers that read the same share it.
        histogram: of the sample that calibrates.
        of_values: how many there are, of which the histogram holds all or a sample.
        extremes: values of the sample that were not drawn but are the smallest or largest of a
            batch; 0 where all values are there.
        ranges: by method and symmetry.
    """

    value: str
    histogram: Histogram
    of_values: int
    extremes: int
    ranges: tuple[InputRange, ...]

    @property
    def is_sampled(self) -> bool:
        """Whether the histogram holds a part of the values."""
        return self.extremes > 0

    @property
    def finest_share(self) -> float:
        """Shares below this say only that they are above zero."""
        return self.extremes / max(1, self.histogram.total)


class WeightGrid(_Record):
    """What one grid makes of a layer's weights, each rounded to the nearest point.

    Attributes:
        bits: that the grid uses.
        granularity: one scale a layer, or one an output channel.
        scale: how it is found.
        narrowest: end of the grid of the channel with the smallest one; it begins at its minus.
        widest: the same of the channel with the largest.
        clipped: share of the weights that lie more than half a step outside, 0..1.
        sqnr_db: power of the weights over that of their error, decibels.
    """

    bits: int
    granularity: Granularity
    scale: WeightScale
    narrowest: float
    widest: float
    clipped: float
    sqnr_db: float

    @property
    def steps(self) -> tuple[float, float]:
        """Smallest and largest distance between two points."""
        points = 2 ** (self.bits - 1) - 1
        return self.narrowest / points, self.widest / points


class LayerDistribution(_Record):
    """One layer.

    Attributes:
        layer: its name.
        kind: what it computes.
        weights: of the float model, batch norms folded.
        grids: what each grid makes of them.
        inputs: what it reads; None if that is on no calibrated grid.
        note: why `inputs` is None, in words; None if there are any.
    """

    layer: str
    kind: LayerKind
    weights: Histogram
    grids: tuple[WeightGrid, ...]
    inputs: InputValues | None = None
    note: str | None = None


class Distributions(_Record):
    """All quantizable layers of one network, in its order.

    Attributes:
        task: its name.
        key: what the figures depend on: digests of weights and data, versions, the plan.
        images: that calibrated.
        layers: one or more.
        seconds: that it took.
    """

    version: Literal[1] = 1
    task: str
    key: dict[str, Any]
    images: int
    layers: tuple[LayerDistribution, ...] = Field(min_length=1)
    seconds: float = 0.0

    @cached_property
    def by_name(self) -> Mapping[str, LayerDistribution]:
        """Layers by their names."""
        return {layer.layer: layer for layer in self.layers}


def count_values(values: npt.NDArray[Any]) -> Histogram:
    """The histogram of some finite values.

    Args:
        values: any shape, not empty.
    """
    counts, edges = np.histogram(values, bins=_BINS)
    return Histogram(low=float(edges[0]), high=float(edges[-1]), counts=tuple(counts.tolist()))


def find_clipped(values: npt.NDArray[Any], low: Numbers, high: Numbers, step: Numbers) -> float:
    """Share of values whose error on a grid is more than that of rounding.

    Args:
        values: any shape.
        low: first point of the grid; a number, or an array that fits `values`.
        high: last point.
        step: distance of two points.
    """
    reach = np.asarray(step, dtype=np.float64) * _REACH
    outside = (values < low - reach) | (values > high + reach)
    return float(outside.mean())
