"""Rows and words: ranges of weights and inputs, and what each method clips."""

from collections.abc import Sequence

from autoquant.core.distribution import (
    Distributions,
    InputRange,
    InputValues,
    LayerDistribution,
    Symmetry,
    WeightGrid,
)
from autoquant.report.layer_panels import describe_decibels

__all__ = [
    "INPUT_COLUMNS",
    "RANGE_COLUMNS",
    "WEIGHT_COLUMNS",
    "describe_share",
    "describe_values",
    "find_methods",
    "find_symmetries",
    "flatten_distributions",
    "name_grid",
    "ranges_of",
    "tabulate_clipping",
    "tabulate_inputs",
    "tabulate_weights",
]

INPUT_COLUMNS = ("method", "low", "high", "step", "clipped", "SQNR")
WEIGHT_COLUMNS = ("bits", "grid", "ends at ±", "step", "clipped", "SQNR")
RANGE_COLUMNS = (
    "layer", "tensor", "bits", "method", "grid", "low", "high", "step", "clipped", "sqnr_db",
    "values", "of_values",
)  # fmt: skip
_FIRM = 100.0  # times the finest share: from there on two digits hold


def name_grid(grid: WeightGrid) -> str:
    """`mse, per channel`."""
    return f"{grid.scale}, {grid.granularity.replace('_', ' ')}"


def find_methods(found: Distributions) -> list[str]:
    """Labels of the calibration methods, in their order."""
    every = (r.method for item in found.layers if item.inputs for r in item.inputs.ranges)
    return list(dict.fromkeys(every))


def find_symmetries(found: Distributions) -> list[Symmetry]:
    """Of the activation grids that were looked at, in their order."""
    every = (r.symmetry for item in found.layers if item.inputs for r in item.inputs.ranges)
    return list(dict.fromkeys(every))


def ranges_of(inputs: InputValues, symmetry: Symmetry) -> list[InputRange]:
    """Of one kind of grid, a method each."""
    return [found for found in inputs.ranges if found.symmetry == symmetry]


def describe_share(share: float, finest: float = 0.0) -> str:
    """A clipped share for people, in percent, with the digits that hold.

    Args:
        share: 0..1; none is none, since the extremes are always among what was looked at.
        finest: what a sample can tell from nothing; 0 where every value was looked at.
    """
    if not share:
        return "none"
    if share <= finest:
        return f"< {_percent(finest, 1)}"
    return _percent(share, 2 if share > _FIRM * finest else 1)


def _percent(share: float, digits: int) -> str:
    return f"{float(f'{100 * share:.{digits}g}'):.6g} %"


def tabulate_inputs(inputs: InputValues, symmetry: Symmetry) -> list[list[str]]:
    """Cells of a table; see `INPUT_COLUMNS`."""
    finest = inputs.finest_share
    return [
        [found.method, f"{found.low:.3g}", f"{found.high:.3g}", f"{found.step:.3g}",
         describe_share(found.clipped, finest), describe_decibels(found.sqnr_db)]
        for found in ranges_of(inputs, symmetry)
    ]  # fmt: skip


def tabulate_weights(layer: LayerDistribution) -> list[list[str]]:
    """Cells of a table; see `WEIGHT_COLUMNS`. Two ends are those of the channels' grids."""
    return [
        [str(grid.bits), name_grid(grid), _span(grid.narrowest, grid.widest), _span(*grid.steps),
         describe_share(grid.clipped), describe_decibels(grid.sqnr_db)]
        for grid in layer.grids
    ]  # fmt: skip


def _span(low: float, high: float) -> str:
    ends = dict.fromkeys((f"{low:.3g}", f"{high:.3g}"))
    return " to ".join(ends)


def describe_values(found: Distributions, layer: LayerDistribution) -> str:
    """What was counted, in one or two sentences."""
    weights = f"{layer.weights.total:,} weights, batch norms folded in"
    if layer.inputs is None:
        return f"{weights}. No histogram of its input: {layer.note}."
    total, every = layer.inputs.histogram.total, layer.inputs.of_values
    images = f"{found.images:,} calibration image{'s' if found.images > 1 else ''}"
    if layer.inputs.is_sampled:
        return (
            f"{weights}; {total:,} of the {every:,} input values of {images}, the extremes of "
            "every batch among them: the sample that calibrates."
        )
    return f"{weights}; all {every:,} input values of {images}."


def tabulate_clipping(
    found: Distributions, symmetry: Symmetry
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: a layer a row, the clipped share of its input by each method."""
    methods = find_methods(found)
    rows = []
    for item in found.layers:
        ranges = {} if item.inputs is None else {
            one.method: describe_share(one.clipped, item.inputs.finest_share)
            for one in ranges_of(item.inputs, symmetry)
        }  # fmt: skip
        rows.append([item.layer, *(ranges.get(method, "-") for method in methods)])
    return ["layer", *methods], rows


def flatten_distributions(found: Distributions | None) -> tuple[Sequence[str], list[list[str]]]:
    """Headings and rows for programs: a tensor and a grid a row; see `RANGE_COLUMNS`."""
    rows = []
    for item in () if found is None else found.layers:
        total = str(item.weights.total)
        for grid in item.grids:
            ends = [_pair(-grid.widest, -grid.narrowest), _pair(grid.narrowest, grid.widest)]
            rows.append(
                [item.layer, "weight", str(grid.bits), grid.scale, grid.granularity, *ends,
                 _pair(*grid.steps), repr(grid.clipped), str(grid.sqnr_db), total, total]
            )  # fmt: skip
        if item.inputs is not None:
            rows += _flatten_inputs(item.layer, item.inputs)
    return RANGE_COLUMNS, rows


def _flatten_inputs(layer: str, inputs: InputValues) -> list[list[str]]:
    counts = [str(inputs.histogram.total), str(inputs.of_values)]
    return [
        [layer, "input", "8", one.method, one.symmetry, repr(one.low), repr(one.high),
         repr(one.step), repr(one.clipped), str(one.sqnr_db), *counts]
        for one in inputs.ranges
    ]  # fmt: skip


def _pair(low: float, high: float) -> str:
    """One number, or two where the channels of a layer differ."""
    return repr(low) if low == high else f"{low!r} {high!r}"
