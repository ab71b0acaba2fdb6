"""The figure of a search: every trial, the front, the baselines."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from autoquant.core.objective import Kind
from autoquant.core.trial import Trial
from autoquant.report.row import describe_recipe
from autoquant.report.style import ACCENT, BASELINE, lay_out

__all__ = ["pareto_figure"]

_SHORT: dict[Kind, str] = {"accuracy": "top-1 %", "latency": "x float", "size": "MB"}
_LABELS: dict[Kind, str] = {
    "accuracy": "Top-1 accuracy on the search split (%)",
    "latency": "Latency, as a multiple of float (lower is faster)",
    "size": "File size (MB)",
}


def pareto_figure(
    trials: Sequence[Trial],
    front: Sequence[Trial],
    x: Kind = "size",
    y: Kind = "accuracy",
    title: str = "",
    color: Kind | None = None,
) -> go.Figure:
    """Every complete trial, the front joined, the baselines named.

    Args:
        trials: what was evaluated.
        front: the members to join, in any order.
        x: objective on the horizontal axis.
        y: objective on the vertical axis.
        title: what the reader is to take away.
        color: objective that colours the points; the one that is left, if none is named.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    baselines = [trial for trial in complete if trial.name is not None]
    left: Kind = next(name for name in _LABELS if name not in (x, y))
    figure = go.Figure()
    figure.add_trace(_all_points(complete, x, y, color or left))
    figure.add_trace(_ring(front, x, y, "on the front", "circle-open", ACCENT))
    figure.add_trace(_ring(baselines, x, y, "baseline", "diamond-open", BASELINE))
    for trial, shift in zip(baselines, _label_shifts(baselines, complete, x, y), strict=True):
        figure.add_annotation(
            x=_value(trial, x), y=_value(trial, y), text=trial.name, ax=shift[0], ay=shift[1],
            arrowwidth=1, arrowcolor=BASELINE, arrowhead=0, standoff=7,
            font={"size": 13, "color": BASELINE}, bgcolor="rgba(255,255,255,0.8)",
        )  # fmt: skip
    lay_out(figure, title)
    figure.update_xaxes(title=_LABELS[x], rangemode="tozero", zeroline=False)
    figure.update_yaxes(title=_LABELS[y], zeroline=False)
    return figure


def _label_shifts(
    named: Sequence[Trial], everything: Sequence[Trial], x: Kind, y: Kind
) -> list[tuple[int, int]]:
    """Where the names of the baselines stand beside their points, in pixels, without overlap."""
    widest = max((_value(trial, x) for trial in everything), default=1.0) or 1.0
    order = sorted(named, key=lambda trial: -_value(trial, y))
    shifts = {}
    for rank, trial in enumerate(order):
        is_right = _value(trial, x) > 0.7 * widest
        shifts[trial.digest] = (-50 if is_right else 75, 26 * rank - 13 * (len(order) - 1))
    return [shifts[trial.digest] for trial in named]


def _value(trial: Trial, objective: Kind) -> float:
    """An objective in the unit of its axis."""
    match objective:
        case "accuracy":
            return (trial.accuracy or 0.0) * 100
        case "latency":
            return trial.latency_ratio or 0.0
        case "size":
            return (trial.size_bytes or 0) / 1e6


def _all_points(trials: Sequence[Trial], x: Kind, y: Kind, color: Kind) -> Any:
    values = [_value(trial, color) for trial in trials]
    # one very slow baseline must not take the whole scale
    top = sorted(values)[int(0.9 * (len(values) - 1))] if values else 1.0
    return go.Scatter(
        x=[_value(trial, x) for trial in trials],
        y=[_value(trial, y) for trial in trials],
        mode="markers",
        name="trial",
        text=[f"trial {trial.number}: {describe_recipe(trial.recipe)}" for trial in trials],
        hovertemplate="%{text}<br>%{y:.2f}, %{x:.3f}<extra></extra>",
        marker={
            "color": values, "size": 8, "colorscale": "Cividis",
            "cmin": min(values, default=0), "cmax": top,
            "colorbar": {"title": {"text": f"{_SHORT[color]}<br>(cut)"}, "thickness": 14},
        },
    )  # fmt: skip


def _ring(trials: Sequence[Trial], x: Kind, y: Kind, name: str, symbol: str, color: str) -> Any:
    return go.Scatter(
        x=[_value(trial, x) for trial in trials],
        y=[_value(trial, y) for trial in trials],
        mode="markers",
        name=name,
        hoverinfo="skip",
        marker={"color": color, "size": 14, "symbol": symbol, "line": {"width": 2}},
    )
