"""Figures over all layers: what each calibration method clips, how well each grid fits."""

import math
from collections.abc import Iterator

import plotly.graph_objects as go

from autoquant.core.distribution import Distributions, InputRange, Symmetry
from autoquant.report.distribution import describe_share, find_methods, name_grid, ranges_of
from autoquant.report.layer_panels import (
    Point,
    decibel_point,
    lay_out_layers,
    layer_line,
    layer_panels,
    styles,
)

__all__ = ["input_range_figure", "weight_grid_figure"]

_NONE = -7.0  # place of "none" on the axis of shares: below one value in ten million
_SHARES = {_NONE: "none", -6: "0.0001", -4: "0.01", -2: "1", 0: "100"}


def input_range_figure(found: Distributions, symmetry: Symmetry, title: str = "") -> go.Figure:
    """Clipped share and SQNR of every layer's input, a line a calibration method.

    Args:
        found: all layers.
        symmetry: of the grids to show.
        title: what the reader is to take away.
    """
    figure = layer_panels(["Values of the input that are clipped", "Input on its 8-bit grid"])
    for method, style in zip(find_methods(found), styles(), strict=False):
        ranges = list(_pick_inputs(found, symmetry, method))
        shares: list[Point] = [(name, _place(one.clipped), words) for name, one, words in ranges]
        figure.add_trace(layer_line(shares, method, style, is_named=True), row=1, col=1)
        decibels = [decibel_point(name, one.sqnr_db) for name, one, _ in ranges]
        figure.add_trace(layer_line(decibels, method, style, is_named=False), row=2, col=1)
    lay_out_layers(figure, list(found.by_name), title, 2)
    figure.update_yaxes(
        title="Clipped (%)", tickvals=list(_SHARES), ticktext=list(_SHARES.values()),
        range=[_NONE - 0.4, 0.2], row=1, col=1,
    )  # fmt: skip
    figure.update_yaxes(title="SQNR (dB)", row=2, col=1)
    return figure


def weight_grid_figure(found: Distributions, title: str = "") -> go.Figure:
    """SQNR of every layer's weights, a panel a width, a line a grid.

    Args:
        found: all layers.
        title: what the reader is to take away.
    """
    grids = [grid for layer in found.layers for grid in layer.grids]
    widths = list(dict.fromkeys(grid.bits for grid in grids))
    names = list(dict.fromkeys(map(name_grid, grids)))
    figure = layer_panels([f"Weights at {bits} bits" for bits in widths])
    for row, bits in enumerate(widths, start=1):
        for name, style in zip(names, styles(), strict=False):
            points = _pick_weights(found, bits, name)
            figure.add_trace(layer_line(points, name, style, is_named=row == 1), row=row, col=1)
    lay_out_layers(figure, list(found.by_name), title, len(widths))
    figure.update_yaxes(title="SQNR (dB)")
    return figure


def _pick_inputs(
    found: Distributions, symmetry: Symmetry, method: str
) -> Iterator[tuple[str, InputRange, str]]:
    """Layers with what a method makes of their inputs, and its clipped share in words."""
    for layer in found.layers:
        for one in () if layer.inputs is None else ranges_of(layer.inputs, symmetry):
            if one.method == method and layer.inputs is not None:
                yield layer.layer, one, describe_share(one.clipped, layer.inputs.finest_share)


def _pick_weights(found: Distributions, bits: int, name: str) -> list[Point]:
    return [
        decibel_point(layer.layer, grid.sqnr_db)
        for layer in found.layers
        for grid in layer.grids
        if grid.bits == bits and name_grid(grid) == name
    ]


def _place(share: float) -> float:
    """Logarithm of a share; none has a place of its own below."""
    return max(_NONE + 0.5, math.log10(share)) if share else _NONE
