"""One step down from a recipe, layer by layer: what it would cost, and what it would save."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autoquant.core.explanation import Explanation, LayerReason, Outcome
from autoquant.report.explore_figure import PALETTE
from autoquant.report.why import find_step_down, half_width

__all__ = ["why_figure"]

_ROW_PX, _FRAME_PX = 21, 110
_GREY = "#7d8b99"
# estimate or measured: told by the symbol, so that no colour is needed
_MARKS = {
    "estimate": ("estimated", "circle-open", PALETTE[0]),
    "complete": ("measured in this study", "diamond", PALETTE[1]),
    "rejected": ("measured in part, rejected", "x-thin", PALETTE[1]),
}
_PANELS = ("One step down would cost, points", "and would save, kB")

Step = tuple[LayerReason, Outcome]


def why_figure(found: Explanation) -> go.Figure:
    """Layers in network order; the next narrower choice of each, with 95 % intervals.

    Layers at their narrowest choice have no step, and say so.

    Args:
        found: why a recipe is as it is.
    """
    names = [layer.layer for layer in found.layers]
    steps = [
        (layer, step)
        for layer in found.layers
        if (step := find_step_down(layer)) is not None and step.drop_change is not None
    ]
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.03, column_widths=[0.62, 0.38]
    )
    for source in _MARKS:
        chosen = [item for item in steps if item[1].source == source]
        if chosen:
            figure.add_trace(_costs(chosen, source), row=1, col=1)
    figure.add_trace(_savings(steps), row=1, col=2)
    known = {layer.layer for layer, _ in steps}
    _name_narrowest(figure, [layer for layer in found.layers if layer.layer not in known])
    figure.add_vline(x=0, line={"color": _GREY, "width": 1, "dash": "dot"}, row=1, col=1)
    _lay_out(figure, names)
    return figure


def _costs(steps: Sequence[Step], source: str) -> go.Scatter:
    label, symbol, color = _MARKS[source]
    return go.Scatter(
        x=[100 * (step.drop_change or 0.0) for _, step in steps],
        y=[layer.layer for layer, _ in steps],
        error_x={"type": "data", "thickness": 1.5, "width": 3, "color": color,
                 "array": [half_width(step) or 0.0 for _, step in steps]},
        mode="markers", name=label,
        marker={"symbol": symbol, "size": 10, "color": color, "line": {"width": 2, "color": color}},
        customdata=[_describe(*item) for item in steps],
        hovertemplate="<b>%{y}</b>, %{customdata}: %{x:+.2f} points<extra></extra>",
    )  # fmt: skip


def _describe(layer: LayerReason, step: Outcome) -> str:
    tried = "" if step.trial is None else f", trial {step.trial}"
    return f"{layer.choice} to {step.choice}{tried}"


def _savings(steps: Sequence[Step]) -> go.Bar:
    saved = [-(step.size_change_bytes or 0) / 1000 for _, step in steps]
    return go.Bar(
        x=saved, y=[layer.layer for layer, _ in steps], orientation="h", showlegend=False,
        marker={"color": _GREY, "opacity": 0.75}, text=[f"{value:.1f}" for value in saved],
        textposition="outside", cliponaxis=False,
        customdata=[_describe(*item) for item in steps],
        hovertemplate="<b>%{y}</b>, %{customdata}: %{x:.2f} kB<extra></extra>",
    )  # fmt: skip


def _name_narrowest(figure: go.Figure, layers: Sequence[LayerReason]) -> None:
    for layer in layers:
        figure.add_annotation(
            x=0, y=layer.layer, xref="x", yref="y", text=f"at {layer.choice}, its narrowest",
            showarrow=False, xanchor="left", xshift=6, font={"size": 11, "color": _GREY},
        )  # fmt: skip


def _lay_out(figure: go.Figure, names: Sequence[str]) -> None:
    quiet: dict[str, Any] = {"zeroline": False, "automargin": True}
    figure.update_xaxes(title=_PANELS[0], row=1, col=1, **quiet)
    figure.update_xaxes(title=_PANELS[1], row=1, col=2, rangemode="tozero", **quiet)
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=list(names), automargin=True,
        range=[len(names) - 0.5, -0.5],
    )  # fmt: skip
    figure.update_layout(
        height=_FRAME_PX + _ROW_PX * len(names), margin={"l": 10, "r": 40, "t": 40, "b": 10},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}, showlegend=True,
        hovermode="closest",
    )  # fmt: skip
