"""Panels over the layers of a network: lines told apart by colour, dash and symbol alike."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autoquant.report.explore_figure import PALETTE
from autoquant.report.style import lay_out_panels

__all__ = [
    "DASHES",
    "Point",
    "Style",
    "decibel_point",
    "describe_decibels",
    "lay_out_layers",
    "layer_line",
    "layer_panels",
    "styles",
]

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross")
_PANEL_PX, _AROUND_PX = 260, 200
_NO_ERROR_DB = 200.0  # see `core.metric.signal_to_noise_db`

Point = tuple[str, float | None, str]  # layer, place on the axis, value in words
Style = tuple[str, str, str]  # colour, dash, symbol


def styles() -> Iterator[Style]:
    """Without end; none of the first forty-two looks like another."""
    return zip(*(itertools.cycle(kind) for kind in (PALETTE, DASHES, _SYMBOLS)), strict=False)


def describe_decibels(value: float | None) -> str:
    """An SQNR for people; a dash where nothing was compared."""
    if value is None:
        return "-"
    return "no error" if value >= _NO_ERROR_DB else f"{value:.1f} dB"


def decibel_point(layer: str, value: float | None) -> Point:
    """An SQNR on its axis; no error at all would press all others together there."""
    place = None if value is None or value >= _NO_ERROR_DB else value
    return layer, place, describe_decibels(value)


def layer_panels(titles: Sequence[str]) -> go.Figure:
    """Empty panels below each other."""
    return make_subplots(
        rows=len(titles), cols=1, shared_xaxes=True, vertical_spacing=0.09, subplot_titles=titles
    )


def layer_line(points: Sequence[Point], name: str, style: Style, *, is_named: bool) -> Any:
    """One line; of several panels' lines of one name, one stands in the legend.

    Args:
        points: in network order.
        name: in the legend.
        style: of the line.
        is_named: whether it stands there.
    """
    color, dash, symbol = style
    return go.Scatter(
        x=[layer for layer, _, _ in points],
        y=[place for _, place, _ in points],
        text=[words for _, _, words in points],
        mode="lines+markers",
        name=name,
        legendgroup=name,
        showlegend=is_named,
        line={"color": color, "dash": dash, "width": 1.6},
        marker={"symbol": symbol, "size": 8},
        hovertemplate="%{x}: %{text}<extra>" + name + "</extra>",
    )


def lay_out_layers(figure: go.Figure, layers: Sequence[str], title: str, panels: int) -> None:
    """Give panels their title, height and axis of layers.

    Args:
        figure: changed in place.
        layers: in network order; those without a point keep their place.
        title: what the reader is to take away.
        panels: how many there are.
    """
    lay_out_panels(figure, title, _PANEL_PX * panels + _AROUND_PX)
    figure.update_layout(margin={"b": 110})
    figure.update_xaxes(
        type="category", categoryorder="array", categoryarray=list(layers), tickangle=-60,
        tickfont={"size": 11}, range=[-0.5, len(layers) - 0.5],
    )  # fmt: skip
    figure.update_xaxes(title="Layers in network order", row=panels, col=1)
