"""Histograms of one layer's weights and input, with what each method takes as its range.

Above, how often values occur; below, on the same axis, a bar for each range, named at its row,
so that no two labels meet and nothing is said by colour alone.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autoquant.core.distribution import (
    Distributions,
    Histogram,
    InputValues,
    LayerDistribution,
    Symmetry,
)
from autoquant.report.distribution import describe_share, find_symmetries, name_grid, ranges_of
from autoquant.report.explore_figure import PALETTE
from autoquant.report.layer_panels import DASHES
from autoquant.report.style import lay_out

__all__ = ["browser_figure", "input_figure", "weight_figure"]

_BARS = "#7d8b99"
_FLOOR = 0.6  # of the axis of counts: a bin with one value is to be seen
_ROW_PX, _ABOVE_PX, _AROUND_PX = 26, 230, 90
_BROWSER_PX = 1180
_FEWEST_ROWS = 5  # so that figures side by side are of one height
_WEIGHT, _INPUT = "Weight", "Input of the layer"
_COUNTS = "Values in a bin"


@dataclass(frozen=True)
class _Span:
    """A range; `narrowest` is what every channel has of it, where they differ."""

    label: str
    low: float
    high: float
    narrowest: float | None = None


def weight_figure(layer: LayerDistribution, bits: int) -> go.Figure:
    """Weights of a layer and the ends of its grids.

    Args:
        layer: to show.
        bits: of the grids to show.
    """
    return _draw(layer.weights, _weight_spans(layer, [bits]), _WEIGHT)


def input_figure(inputs: InputValues, symmetry: Symmetry) -> go.Figure:
    """Input of a layer and the range that each calibration method takes.

    Args:
        inputs: of the layer.
        symmetry: of the grids to show.
    """
    return _draw(inputs.histogram, _input_spans(inputs, symmetry), _INPUT)


def browser_figure(found: Distributions, title: str = "") -> go.Figure:
    """All layers, chosen from a list in the figure: weights above, input below.

    Args:
        found: all layers; inputs on the first kind of grid that was looked at.
        title: what the reader is to take away.
    """
    figure = make_subplots(
        rows=4, cols=1, vertical_spacing=0.05, row_heights=[0.24, 0.3, 0.24, 0.22]
    )
    owners: list[int] = []
    for index, layer in enumerate(found.layers):
        for side, (histogram, spans) in enumerate(_sides(layer, found)):
            for trace, row in _traces(histogram, spans):
                trace.visible = index == 0
                figure.add_trace(trace, row=2 * side + row, col=1)
                owners.append(index)
    lay_out(figure, title)
    figure.update_layout(
        height=_BROWSER_PX, showlegend=False, bargap=0, margin={"t": 120},
        title={"y": 1 - 22 / _BROWSER_PX, "yref": "container", "yanchor": "top"},
        updatemenus=[_menu(found, owners)],
    )  # fmt: skip
    for side, name in enumerate((_WEIGHT, _INPUT)):
        _name_axes(figure, name, 2 * side + 1)
    return figure


def _sides(layer: LayerDistribution, found: Distributions) -> list[tuple[Histogram, list[_Span]]]:
    bits = list(dict.fromkeys(grid.bits for grid in layer.grids))
    sides = [(layer.weights, _weight_spans(layer, bits))]
    if layer.inputs is not None:
        spans = _input_spans(layer.inputs, find_symmetries(found)[0])
        sides.append((layer.inputs.histogram, spans))
    return sides


def _menu(found: Distributions, owners: Sequence[int]) -> dict[str, Any]:
    buttons = [
        {"label": layer.layer, "method": "update",
         "args": [{"visible": [owner == index for owner in owners]}]}
        for index, layer in enumerate(found.layers)
    ]  # fmt: skip
    return {"buttons": buttons, "x": 0.0, "xanchor": "left", "y": 1.015, "yanchor": "bottom"}


def _weight_spans(layer: LayerDistribution, bits: Sequence[int]) -> list[_Span]:
    prefix = len(bits) > 1
    return [
        _Span(
            f"{f'{grid.bits} bits, ' if prefix else ''}{name_grid(grid)}: "
            f"clips {describe_share(grid.clipped)}",
            -grid.widest,
            grid.widest,
            grid.narrowest if grid.granularity == "per_channel" else None,
        )
        for grid in layer.grids
        if grid.bits in bits
    ]


def _input_spans(inputs: InputValues, symmetry: Symmetry) -> list[_Span]:
    finest = inputs.finest_share
    return [
        _Span(f"{one.method}: clips {describe_share(one.clipped, finest)}", one.low, one.high)
        for one in ranges_of(inputs, symmetry)
    ]


def _draw(histogram: Histogram, spans: Sequence[_Span], name: str) -> go.Figure:
    below = _ROW_PX * max(_FEWEST_ROWS, len(spans))
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.03, row_heights=[_ABOVE_PX, below]
    )
    for trace, row in _traces(histogram, spans):
        figure.add_trace(trace, row=row, col=1)
    _name_axes(figure, name, 1)
    figure.update_layout(
        height=_ABOVE_PX + below + _AROUND_PX, showlegend=False, bargap=0,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
    )  # fmt: skip
    return figure


def _name_axes(figure: go.Figure, name: str, row: int) -> None:
    """Of a histogram and the ranges below it: weights and activations have no unit.

    Args:
        figure: changed in place.
        name: what is counted.
        row: of the histogram.
    """
    shared = figure.get_subplot(row + 1, 1).xaxis.plotly_name.replace("axis", "")
    figure.update_xaxes(matches=shared, showticklabels=False, zeroline=False, row=row, col=1)
    figure.update_xaxes(
        title=f"{name} (value)", zeroline=False, automargin=True, row=row + 1, col=1
    )
    figure.update_yaxes(
        title=_COUNTS, type="log", dtick=1, exponentformat="power", zeroline=False,
        automargin=True, row=row, col=1,
    )  # fmt: skip
    figure.update_yaxes(
        type="category", autorange="reversed", showgrid=False, automargin=True, dtick=1,
        tickfont={"size": 12}, ticklabelstandoff=4, row=row + 1, col=1,
    )  # fmt: skip


def _traces(histogram: Histogram, spans: Sequence[_Span]) -> list[tuple[Any, int]]:
    """Traces with the rows that they stand in."""
    found: list[tuple[Any, int]] = [(_bars(histogram), 1)]
    top = 2.0 * max(histogram.counts)
    for span, color, dash in zip(spans, itertools.cycle(PALETTE), itertools.cycle(DASHES)):
        line = {"color": color, "dash": dash, "width": 1.6}
        ends = go.Scatter(
            x=[span.low, span.low, None, span.high, span.high],
            y=[_FLOOR, top, None, _FLOOR, top],
            mode="lines", line=line, hoverinfo="skip",
        )  # fmt: skip
        found.append((ends, 1))
        found += [(bar, 2) for bar in _row(span, line)]
    return found


def _bars(histogram: Histogram) -> Any:
    width = (histogram.high - histogram.low) / len(histogram.counts)
    return go.Bar(
        x=histogram.centers,
        # nothing has no place on a logarithmic axis
        y=[count or None for count in histogram.counts],
        width=width,
        marker={"color": _BARS, "opacity": 0.6, "line": {"width": 0}},
        hovertemplate="%{x:.3g}: %{y:,}<extra></extra>",
    )


def _row(span: _Span, line: dict[str, Any]) -> list[Any]:
    """A bar from end to end; the part that every channel has is thicker."""
    tick = {"symbol": "line-ns", "size": 13, "line": {"width": 2.5, "color": line["color"]}}
    extent = f"{_number(span.low)} to {_number(span.high)}"
    bars = [
        go.Scatter(
            x=[span.low, span.high], y=[span.label] * 2, mode="lines+markers", line=line,
            marker=tick, hovertemplate=f"{extent}<extra>{span.label}</extra>",
        )
    ]  # fmt: skip
    if span.narrowest is not None:
        bars.append(
            go.Scatter(
                x=[-span.narrowest, span.narrowest], y=[span.label] * 2, mode="lines",
                line={"color": line["color"], "width": 6},
                hovertemplate=f"every channel: ±{_number(span.narrowest)}<extra></extra>",
            )
        )  # fmt: skip
    return bars


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "-"
