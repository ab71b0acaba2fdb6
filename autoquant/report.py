"""Figures and rows for people: pure functions of trials."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from autoquant.core.recipe import Recipe, method_label
from autoquant.core.trial import Objective, Trial

__all__ = ["COLUMNS", "describe_recipe", "describe_trade", "pareto_figure", "trial_row"]

COLUMNS = ("#", "recipe", "accuracy", "drop", "report", "latency", "x float", "size", "integer")

_INK, _FAINT, _ACCENT, _BASELINE = "#1b1f24", "#a9b1ba", "#0b6bcb", "#b4540a"
_LABELS = {
    "accuracy": "Top-1 accuracy on the search split (%)",
    "latency": "Latency, as a multiple of float (lower is faster)",
    "size": "File size (MB)",
}


def describe_recipe(recipe: Recipe, name: str | None = None) -> str:
    """A recipe in a few words: `w4 x13, w8 x6, float x1; percentile:99.9`."""
    if recipe.options is None or name is not None:
        return name or recipe.method
    counts = Counter(recipe.layers.values())
    widths = [f"w{bits} x{counts[bits]}" for bits in (8, 4) if counts[bits]]
    if counts[None]:
        widths.append(f"float x{counts[None]}")
    return f"{', '.join(widths)}; {method_label(recipe.options.calibration)}"


def trial_row(trial: Trial) -> list[str]:
    """One line of a table; see `COLUMNS`. A dash is what was not measured."""
    marks = "*" if trial.knee else ""
    return [
        f"{trial.number}{marks}",
        describe_recipe(trial.recipe, trial.name),
        _percent(trial.accuracy),
        _points(trial.accuracy_drop),
        _percent(trial.report_accuracy),
        "-" if trial.latency_ms is None else f"{trial.latency_ms:.3g} ms",
        _ratio(trial),
        "-" if trial.size_bytes is None else _megabytes(trial.size_bytes),
        "-" if trial.integer_coverage is None else f"{trial.integer_coverage:.0%}",
    ]


def describe_trade(trial: Trial, reference: Trial) -> str:
    """What a model costs and buys against float, in one sentence."""
    assert trial.accuracy_drop is not None
    assert trial.size_bytes is not None
    assert reference.size_bytes is not None
    points = trial.accuracy_drop * 100
    if abs(points) < 0.005:
        change = "As accurate as float"
    else:
        change = f"{abs(points):.2f} points {'below' if points > 0 else 'above'} float"
    parts = [change]
    if trial.latency_ratio:
        faster = 1 / trial.latency_ratio
        slower = trial.latency_ratio
        parts.append(f"{faster:.2g}x faster" if faster >= 1 else f"{slower:.2g}x slower")
    parts.append(f"{trial.size_bytes / reference.size_bytes:.0%} of the size")
    return ", ".join(parts)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value * 100 + 0.0:+.2f}"


def _ratio(trial: Trial) -> str:
    if trial.latency_ratio is None:
        return "-"
    if trial.latency_ratio_ci is None:
        return f"{trial.latency_ratio:.3f}"
    low, high = trial.latency_ratio_ci
    half = (high - low) / 2
    return f"{trial.latency_ratio:.3f} ±{half:.3f}"


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.3f} MB"


def pareto_figure(
    trials: Sequence[Trial],
    front: Sequence[Trial],
    x: Objective = "size",
    y: Objective = "accuracy",
    title: str = "",
) -> go.Figure:
    """Every complete trial, the front joined, the baselines named.

    Args:
        trials: what was evaluated.
        front: the members to join, in any order.
        x: objective on the horizontal axis.
        y: objective on the vertical axis.
        title: what the reader is to take away.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    members = sorted(front, key=lambda trial: _value(trial, x))
    plain = [trial for trial in complete if trial.name is None]
    baselines = [trial for trial in complete if trial.name is not None]
    figure = go.Figure()
    figure.add_trace(_points_of(plain, x, y, "trial", _FAINT, 7, "circle"))
    figure.add_trace(_points_of(members, x, y, "on the front", _ACCENT, 10, "circle-open", 2.5))
    figure.add_trace(_points_of(baselines, x, y, "baseline", _BASELINE, 10, "diamond"))
    for trial in baselines:
        figure.add_annotation(
            x=_value(trial, x), y=_value(trial, y), text=trial.name, showarrow=False,
            xshift=8, yshift=12, font={"size": 13, "color": _BASELINE},
        )  # fmt: skip
    figure.update_layout(
        title={"text": title, "x": 0.02, "font": {"size": 18}},
        template="plotly_white",
        font={"family": "DejaVu Sans, Arial, sans-serif", "size": 14, "color": _INK},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        margin={"l": 80, "r": 40, "t": 110, "b": 70},
    )
    figure.update_xaxes(title=_LABELS[x], rangemode="tozero", zeroline=False)
    figure.update_yaxes(title=_LABELS[y], zeroline=False)
    return figure


def _value(trial: Trial, objective: Objective) -> float:
    """An objective in the unit of its axis."""
    match objective:
        case "accuracy":
            return (trial.accuracy or 0.0) * 100
        case "latency":
            return trial.latency_ratio or 0.0
        case "size":
            return (trial.size_bytes or 0) / 1e6


def _points_of(
    trials: Sequence[Trial],
    x: Objective,
    y: Objective,
    name: str,
    color: str,
    size: int,
    symbol: str,
    width: float = 0.0,
) -> Any:
    return go.Scatter(
        x=[_value(trial, x) for trial in trials],
        y=[_value(trial, y) for trial in trials],
        mode="markers",
        name=name,
        text=[f"trial {trial.number}: {describe_recipe(trial.recipe)}" for trial in trials],
        hovertemplate="%{text}<br>%{y:.2f}, %{x:.3f}<extra></extra>",
        marker={
            "color": color, "size": size, "symbol": symbol,
            "line": {"width": width, "color": color},
        },
    )  # fmt: skip
