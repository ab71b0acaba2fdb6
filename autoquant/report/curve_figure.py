"""Figures: accuracy against calibration images, and against minutes of training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autoquant.core.rehearsal import REHEARSED_SAMPLES
from autoquant.core.trial import Trial
from autoquant.report.grid import LossPoint, is_main
from autoquant.report.style import ACCENT, BASELINE, INK, lay_out
from autoquant.report.training_curve import first_accuracy, trace_curve

__all__ = ["calibration_figure", "training_figure"]

_TICKS = [10, 32, 100, 320, 1000, 3200, 10000]
_MARKS = {
    "nearest": ("triangle-up", "dot", INK),
    "bias-corrected": ("circle", "solid", ACCENT),
    "learned": ("diamond", "dash", BASELINE),
}
_TRAINED = {"per_channel": ("circle", "solid", ACCENT), "per_tensor": ("square", "dash", BASELINE)}
_FAR = 2.0  # times the height of the curves: a level so far away is told, not drawn


def calibration_figure(points: Sequence[LossPoint], title: str = "") -> go.Figure:
    """Drop against the number of calibration images, per channel, a panel a width.

    Args:
        points: of the grid; those with other images than the table's make the curve.
        title: what the reader is to take away.
    """
    chosen = [
        point
        for point in points
        if point.cell.granularity == "per_channel"
        and point.cell.method in _MARKS
        and point.trial.accuracy_drop is not None
    ]
    widths = list(dict.fromkeys(point.cell.weight_bits for point in chosen))
    figure = _panels(widths)
    named: set[str] = set()
    for place, bits in enumerate(widths, start=1):
        for method in _MARKS:
            line = [p for p in chosen if (p.cell.weight_bits, p.cell.method) == (bits, method)]
            if len(line) > 1:
                figure.add_trace(
                    _calibration_line(line, method, is_named=method not in named), row=1, col=place
                )
                named.add(method)
        figure.add_hline(y=0, line={"color": INK, "width": 1.5}, row=1, col=place)
    lay_out(figure, title)
    figure.update_xaxes(
        title="Calibration images", type="log", tickvals=_TICKS,
        ticktext=[f"{count:,}" for count in _TICKS], zeroline=False,
    )  # fmt: skip
    figure.update_yaxes(zeroline=False)
    figure.update_yaxes(title="Points below float, search split", row=1, col=1)
    return figure


def _calibration_line(line: Sequence[LossPoint], method: str, *, is_named: bool) -> Any:
    symbol, dash, color = _MARKS[method]
    drops = [(point.trial.accuracy_drop or 0.0) * 100 for point in line]
    ends = [_interval(point) for point in line]
    return go.Scatter(
        x=[point.calibration_images for point in line],
        y=drops,
        mode="lines+markers",
        name=method,
        legendgroup=method,
        showlegend=is_named,
        line={"color": color, "dash": dash, "width": 2},
        marker={"symbol": symbol, "size": 10},
        error_y={
            "array": [high - drop for drop, (_, high) in zip(drops, ends, strict=True)],
            "arrayminus": [drop - low for drop, (low, _) in zip(drops, ends, strict=True)],
            "thickness": 1.2, "width": 4,
        },
        hovertemplate="%{x} images: %{y:.2f} points<extra>" + method + "</extra>",
    )  # fmt: skip


def _interval(point: LossPoint) -> tuple[float, float]:
    """Of the drop, in points; the point itself where there is none."""
    drop = point.trial.accuracy_drop or 0.0
    low, high = point.trial.accuracy_drop_ci or (drop, drop)
    return low * 100, high * 100


def training_figure(
    points: Sequence[LossPoint], reference: Trial | None, title: str = ""
) -> go.Figure:
    """Accuracy against minutes of training, with what training starts from as levels.

    Everything is on the same first images of the search split: a proxy, since no file is
    written between epochs.

    Args:
        points: of the grid.
        reference: the float model.
        title: what the reader is to take away.
    """
    trained = [point for point in points if is_main(point) and trace_curve(point.trial)]
    widths = list(dict.fromkeys(point.cell.weight_bits for point in trained))
    figure = _panels(widths, spacing=0.2)
    named: set[str] = set()
    for place, bits in enumerate(widths, start=1):
        own = [point for point in trained if point.cell.weight_bits == bits]
        for point in own:
            is_named = point.cell.granularity not in named
            named.add(point.cell.granularity)
            figure.add_trace(_training_line(point, is_named=is_named), row=1, col=place)
        levels = _find_levels(points, own, reference)
        _draw_levels(figure, place, levels, [y for p in own for _, y in trace_curve(p.trial)])
    lay_out(figure, title)
    figure.update_layout(margin={"r": 150})
    figure.update_xaxes(title="Minutes of training", rangemode="tozero", zeroline=False)
    label = f"Accuracy on the first {REHEARSED_SAMPLES} search images<br>(%; in training, a proxy)"
    figure.update_yaxes(zeroline=False)
    figure.update_yaxes(title=label, row=1, col=1)
    return figure


def _training_line(point: LossPoint, *, is_named: bool) -> Any:
    symbol, dash, color = _TRAINED[point.cell.granularity]
    curve = trace_curve(point.trial)
    name = f"in training, {point.cell.granularity.replace('_', ' ')}"
    return go.Scatter(
        x=[minutes for minutes, _ in curve],
        y=[accuracy for _, accuracy in curve],
        mode="lines+markers",
        name=name,
        legendgroup=name,
        showlegend=is_named,
        line={"color": color, "dash": dash, "width": 2},
        marker={"symbol": symbol, "size": 9},
        hovertemplate="%{x:.1f} min: %{y:.2f}%<extra>" + name + "</extra>",
    )


def _find_levels(
    points: Sequence[LossPoint], trained: Sequence[LossPoint], reference: Trial | None
) -> dict[str, float]:
    """Accuracy of finished files on the first images, percent, by what they are."""
    kinds = {(point.cell.weight_bits, point.cell.granularity) for point in trained}
    granularities = {granularity for _, granularity in kinds}
    levels: dict[str, float | None] = {}
    if reference is not None:
        levels["float"] = first_accuracy(reference)
    for point in points:
        cell = point.cell
        if (cell.weight_bits, cell.granularity) not in kinds or not is_main(point):
            continue
        if point.is_complete and cell.training is None:
            where = "" if len(granularities) == 1 else f", {cell.granularity.replace('_', ' ')}"
            levels[cell.method + where] = first_accuracy(point.trial)
    return {name: value for name, value in levels.items() if value is not None}


def _draw_levels(
    figure: go.Figure, place: int, levels: Mapping[str, float], curve: Sequence[float]
) -> None:
    """Horizontal lines with their names at the right end, moved apart where they would overlap."""
    top = max([*curve, levels.get("float", -math.inf)])
    height = max(top - min(curve), 1.0)
    near = {name: y for name, y in levels.items() if y >= min(curve) - _FAR * height}
    low = min([*curve, *near.values()])
    gap = (max([top, *near.values()]) - low or 1.0) * 0.055
    position = math.inf
    for name, y in sorted(near.items(), key=lambda item: (-item[1], item[0])):
        position = min(y, position - gap)
        figure.add_hline(
            y=y, line={"color": "#6b7280", "width": 1, "dash": "dot"}, row=1, col=place
        )
        figure.add_annotation(
            x=1.0, xref="x domain", y=position, text=f"{name} {y:.1f}", showarrow=False,
            xanchor="left", xshift=4, font={"size": 12}, row=1, col=place,
        )  # fmt: skip
    far = [f"{name} {y:.1f}" for name, y in levels.items() if name not in near]
    if far:
        figure.add_annotation(
            x=0.5, xref="x domain", y=0.0, yref="y domain", text=f"far below: {', '.join(far)}",
            showarrow=False, yanchor="bottom", font={"size": 12}, row=1, col=place,
        )  # fmt: skip


def _panels(widths: Sequence[int], spacing: float = 0.09) -> go.Figure:
    return make_subplots(
        rows=1, cols=max(1, len(widths)), horizontal_spacing=spacing,
        subplot_titles=[f"{bits}-bit weights" for bits in widths],
    )  # fmt: skip
