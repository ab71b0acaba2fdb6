"""Figures: accuracy against calibration images, and against minutes of training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autoquant.core.rehearsal import REHEARSED_SAMPLES
from autoquant.core.trial import Trial
from autoquant.report.grid import LossPoint, is_main
from autoquant.report.style import ACCENT, BASELINE, INK, lay_out_panels
from autoquant.report.training_curve import first_accuracy, trace_curve

__all__ = ["calibration_figure", "training_figure"]

# the last moves a curve sideways, so that intervals at one number of images stand side by side
_MARKS = {
    "nearest": ("triangle-up", "dot", INK, 0.95),
    "bias-corrected": ("circle", "solid", ACCENT, 1.0),
    "learned": ("diamond", "dash", BASELINE, 1.05),
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
    lay_out_panels(figure, title, 560)
    counts = sorted({point.calibration_images for point in chosen})
    figure.update_xaxes(
        title="Calibration images", type="log", tickvals=counts,
        ticktext=[f"{count:,}" for count in counts], zeroline=False,
    )  # fmt: skip
    figure.update_yaxes(zeroline=True, zerolinecolor=INK, zerolinewidth=1)
    figure.update_yaxes(title="Points below float, search split", row=1, col=1)
    return figure


def _calibration_line(line: Sequence[LossPoint], method: str, *, is_named: bool) -> Any:
    symbol, dash, color, shift = _MARKS[method]
    drops = [(point.trial.accuracy_drop or 0.0) * 100 for point in line]
    ends = [_interval(point) for point in line]
    return go.Scatter(
        x=[point.calibration_images * shift for point in line],
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
        text=[f"{point.calibration_images:,} images" for point in line],
        hovertemplate="%{text}: %{y:.2f} points<extra>" + method + "</extra>",
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
    figure = _panels(widths, is_stacked=True)
    named: set[str] = set()
    for place, bits in enumerate(widths, start=1):
        own = [point for point in trained if point.cell.weight_bits == bits]
        for point in own:
            is_named = point.cell.granularity not in named
            named.add(point.cell.granularity)
            figure.add_trace(_training_line(point, is_named=is_named), row=place, col=1)
        levels = _find_levels(points, own, reference)
        _draw_levels(figure, place, levels, [y for p in own for _, y in trace_curve(p.trial)])
    lay_out_panels(figure, title, 190 + 330 * max(1, len(widths)), right=250)
    figure.update_xaxes(title="Minutes of training", rangemode="tozero", zeroline=False)
    label = f"Accuracy (%) on the first<br>{REHEARSED_SAMPLES} search images, a proxy"
    figure.update_yaxes(zeroline=False, title=label)
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
) -> dict[float, list[str]]:
    """What finished files reach on the first images: names by percent, the highest first."""
    kinds = {(point.cell.weight_bits, point.cell.granularity) for point in trained}
    levels: dict[float, dict[str, list[str]]] = {}
    files = [] if reference is None else [("float", "", reference)]
    files += [
        (point.cell.method, point.cell.granularity.replace("_", " "), point.trial)
        for point in points
        if (point.cell.weight_bits, point.cell.granularity) in kinds
        and is_main(point)
        and point.is_complete
        and point.cell.training is None
    ]
    for method, granularity, trial in files:
        level = first_accuracy(trial)
        if level is not None:
            levels.setdefault(level, {}).setdefault(method, []).append(granularity)
    return {
        level: [_name_level(*item, len(kinds)) for item in levels[level].items()]
        for level in sorted(levels, reverse=True)
    }


def _name_level(method: str, granularities: Sequence[str], of: int) -> str:
    """The granularity is told where only one of several reaches this level."""
    is_told = len(granularities) < of and granularities[0]
    return f"{method} ({granularities[0]})" if is_told else method


def _draw_levels(
    figure: go.Figure, place: int, levels: Mapping[float, Sequence[str]], curve: Sequence[float]
) -> None:
    """Horizontal lines with their names at the right end, moved apart where they would overlap."""
    height = max(max(curve) - min(curve), 1.0)
    near = {y: names for y, names in levels.items() if y >= min(curve) - _FAR * height}
    low, top = min([*curve, *near]), max([*curve, *near])
    line_height = (top - low or 1.0) * 0.065
    position = math.inf
    for y, names in near.items():
        figure.add_hline(
            y=y, line={"color": "#6b7280", "width": 1, "dash": "dot"}, row=place, col=1,
        )  # fmt: skip
        position = min(y, position)
        figure.add_annotation(
            x=1.0, xref="x domain", y=position, text=f"{y:.1f} " + "<br>".join(names),
            showarrow=False, xanchor="left", xshift=4, yanchor="top", yshift=9, align="left",
            font={"size": 12}, row=place, col=1,
        )  # fmt: skip
        position -= line_height * len(names)
    far = [f"{', '.join(names)} {y:.1f}" for y, names in levels.items() if y not in near]
    if far:
        figure.add_annotation(
            x=0.5, xref="x domain", y=0.0, yref="y domain", text=f"far below: {'; '.join(far)}",
            showarrow=False, yanchor="bottom", font={"size": 12}, row=place, col=1,
            bgcolor="rgba(255,255,255,0.9)",
        )  # fmt: skip


def _panels(widths: Sequence[int], *, is_stacked: bool = False) -> go.Figure:
    count = max(1, len(widths))
    return make_subplots(
        rows=count if is_stacked else 1, cols=1 if is_stacked else count,
        horizontal_spacing=0.09, vertical_spacing=0.2,
        subplot_titles=[f"{bits}-bit weights" for bits in widths],
    )  # fmt: skip
