"""Figure and rows: quantization noise of every layer."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autoquant.core.analysis import Cell, Granularity
from autoquant.core.layer import LayerNoise
from autoquant.report.grid import describe_cell
from autoquant.report.style import ACCENT, BASELINE, INK, lay_out_panels

__all__ = ["Noises", "noise_figure", "tabulate_noise"]

# of a cell, by layer in network order
Noises = Mapping[Cell, Sequence[LayerNoise]]

_MARKS = {
    "nearest": ("triangle-up", "dot", INK),
    "bias-corrected": ("circle", "solid", ACCENT),
    "learned": ("diamond", "dash", BASELINE),
    "qat": ("x", "dashdot", "#1a7f37"),
}
_KINDS = ("weight_db", "output_db")
_TITLES = {"weight_db": "Weights: SQNR (dB)", "output_db": "Outputs: SQNR (dB)"}


def noise_figure(noises: Noises, granularity: Granularity, title: str = "") -> go.Figure:
    """SQNR of weights (above) and outputs (below) by layer, a column a width.

    Args:
        noises: by cell.
        granularity: of the cells to show.
        title: what the reader is to take away.
    """
    shown = {cell: noise for cell, noise in noises.items() if cell.granularity == granularity}
    widths = sorted({cell.weight_bits for cell in shown}, reverse=True)
    figure = make_subplots(
        rows=2, cols=max(1, len(widths)), shared_xaxes=True, shared_yaxes="rows",
        horizontal_spacing=0.04, vertical_spacing=0.07,
        subplot_titles=[f"{bits}-bit weights" for bits in widths],
    )  # fmt: skip
    named: set[str] = set()
    for cell, noise in shown.items():
        for row, kind in enumerate(_KINDS, start=1):
            symbol, dash, color = _MARKS[cell.method]
            line = go.Scatter(
                x=[item.layer for item in noise],
                y=[getattr(item, kind) for item in noise],
                mode="lines+markers",
                name=cell.method,
                legendgroup=cell.method,
                showlegend=cell.method not in named,
                line={"color": color, "dash": dash, "width": 1.8},
                marker={"symbol": symbol, "size": 8},
                hovertemplate="%{x}: %{y:.1f} dB<extra>" + cell.method + "</extra>",
            )
            named.add(cell.method)
            figure.add_trace(line, row=row, col=widths.index(cell.weight_bits) + 1)
    lay_out_panels(figure, title, 720)
    figure.update_layout(margin={"b": 110})
    figure.update_xaxes(tickangle=-60, tickfont={"size": 11})
    for row, kind in enumerate(_KINDS, start=1):
        figure.update_yaxes(title=_TITLES[kind], row=row, col=1)
    return figure


def tabulate_noise(noises: Noises) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: a layer a row, weights and outputs of every cell, in decibels."""
    cells = list(noises)
    columns = ["layer"]
    for cell in cells:
        name = describe_cell(cell)
        columns += [f"{name}: weights", f"{name}: outputs"]
    layers = [item.layer for item in noises[cells[0]]] if cells else []
    rows = [
        [layer, *(_decibels(noises[cell][index], kind) for cell in cells for kind in _KINDS)]
        for index, layer in enumerate(layers)
    ]
    return columns, rows


def _decibels(noise: LayerNoise, kind: str) -> str:
    value = getattr(noise, kind)
    return "-" if value is None else f"{value:.1f}"
