"""Figure: what each width, granularity and method loses."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autoquant.report.grid import LossRow
from autoquant.report.style import ACCENT, BASELINE, INK, lay_out_panels

__all__ = ["loss_figure"]

Interval = tuple[float, float]

# A cell that lost far more than most would press all others against the axis.
_COLLAPSED = 8.0  # points; nothing below is called a collapse
_TIMES = 4.0  # of the median cell of its width
_ROW_PX = 34
_SPLITS = (
    ("search", "circle", ACCENT, -0.14),
    ("report", "square-open", BASELINE, 0.14),
)


def loss_figure(rows: Sequence[LossRow], title: str = "") -> go.Figure:
    """Drop of every measured cell on both splits, a panel a width, each on its own scale.

    Args:
        rows: of the table; those without figures are left out.
        title: what the reader is to take away.
    """
    measured = [row for row in rows if row.accuracy_drop is not None]
    widths = list(dict.fromkeys(row.weight_bits for row in measured))
    panels = {bits: [row for row in measured if row.weight_bits == bits] for bits in widths}
    figure = make_subplots(
        rows=max(1, len(widths)), cols=1, vertical_spacing=0.16,
        row_heights=[len(panels[bits]) + 0.5 for bits in widths] or None,
        subplot_titles=[f"{bits}-bit weights" for bits in widths],
    )  # fmt: skip
    for place, bits in enumerate(widths, start=1):
        _draw_panel(figure, panels[bits], place)
    # said once: the other panels' titles would stand where names of panels do
    figure.update_xaxes(
        title="Points below float (95 % interval, same images)", row=max(1, len(widths)), col=1
    )
    height = 190 + _ROW_PX * len(measured) + 80 * len(widths)
    lay_out_panels(figure, title, height)
    figure.update_layout(margin={"l": 200})
    figure.update_annotations(selector={"yanchor": "bottom"}, font={"size": 15})
    return figure


def _draw_panel(figure: go.Figure, rows: Sequence[LossRow], place: int) -> None:
    limit = _find_limit(rows)
    for split, symbol, color, shift in _SPLITS:
        shown = [(index, row) for index, row in enumerate(rows) if _drop(row, split) is not None]
        inside = [pair for pair in shown if limit is None or (_drop(pair[1], split) or 0) <= limit]
        figure.add_trace(
            _points(inside, split, symbol, color, shift, is_named=place == 1), row=place, col=1
        )
        for index, row in shown:
            if (index, row) not in inside:
                _mark_beyond(
                    figure, place, index + shift, limit or 0, _drop(row, split) or 0, color
                )
    labels = [f"{row.granularity.replace('_', ' ')}, {row.method}" for row in rows]
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=labels, range=[len(rows) - 0.4, -0.6],
        zeroline=False, row=place, col=1,
    )  # fmt: skip
    span = None if limit is None else [_lowest(rows), limit * 1.12]
    figure.update_xaxes(
        range=span,
        zeroline=True, zerolinecolor=INK, zerolinewidth=1,
        row=place, col=1,
    )  # fmt: skip


def _points(
    shown: Sequence[tuple[int, LossRow]],
    split: str,
    symbol: str,
    color: str,
    shift: float,
    *,
    is_named: bool,
) -> Any:
    drops = [(_drop(row, split) or 0.0) for _, row in shown]
    ends = [_interval(row, split) for _, row in shown]
    return go.Scatter(
        x=drops,
        y=[index + shift for index, _ in shown],
        mode="markers",
        name=f"{split} split",
        legendgroup=split,
        showlegend=is_named,
        marker={"symbol": symbol, "size": 11, "color": color, "line": {"width": 2, "color": color}},
        error_x={
            "array": [high - drop for drop, (_, high) in zip(drops, ends, strict=True)],
            "arrayminus": [drop - low for drop, (low, _) in zip(drops, ends, strict=True)],
            "color": color, "thickness": 1.5, "width": 4,
        },
        text=[f"trial {row.trial}" for _, row in shown],
        hovertemplate="%{text}: %{x:.2f} points<extra></extra>",
    )  # fmt: skip


def _mark_beyond(
    figure: go.Figure, place: int, y: float, limit: float, drop: float, color: str
) -> None:
    """A cell beyond the end of the axis: an arrow with its figure."""
    figure.add_annotation(
        x=limit * 1.1, y=y, text=f"{drop:.1f}", ax=-46, ay=0, arrowhead=2, arrowwidth=1.5,
        arrowcolor=color, font={"size": 12, "color": color}, row=place, col=1,
    )  # fmt: skip


def _find_limit(rows: Sequence[LossRow]) -> float | None:
    """Where the axis ends, in points; None if no cell lost far more than most."""
    drops = sorted((row.accuracy_drop or 0.0) * 100 for row in rows)
    middle = drops[(len(drops) - 1) // 2]
    bound = max(_COLLAPSED, _TIMES * middle)
    kept = [value for value in drops if value <= bound]
    if not kept or len(kept) == len(drops):
        return None
    return max(1.0, *(_interval(row, split)[1] for row in rows for split, *_ in _SPLITS
                      if (_drop(row, split) or 0.0) <= bound))  # fmt: skip


def _lowest(rows: Sequence[LossRow]) -> float:
    ends = [_interval(row, split)[0] for row in rows for split, *_ in _SPLITS]
    return min(0.0, *ends) * 1.1 - 0.2


def _drop(row: LossRow, split: str) -> float | None:
    """In points."""
    drop = row.accuracy_drop if split == "search" else row.report_accuracy_drop
    return None if drop is None else drop * 100


def _interval(row: LossRow, split: str) -> Interval:
    """In points; the point itself where there is none."""
    found = row.accuracy_drop_ci if split == "search" else row.report_accuracy_drop_ci
    if found is None:
        drop = _drop(row, split) or 0.0
        return drop, drop
    return found[0] * 100, found[1] * 100
