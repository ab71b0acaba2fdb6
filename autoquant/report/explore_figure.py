"""The figure to choose from: every trial of one or several studies, to be clicked and boxed.

Colours hold on light and on dark ground; what a colour says, a symbol or a name says too.
"""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go

if TYPE_CHECKING:  # `import autoquant.report` loads no pandas
    import pandas as pd

__all__ = ["AXES", "PALETTE", "Axis", "ColorBy", "axis_title", "explore_figure"]

Axis = Literal["accuracy", "drop", "report", "latency", "latency_ms", "size"]
ColorBy = Literal["mode", "calibration", "study", "runtime"]

AXES: dict[Axis, str] = {
    "accuracy": "Accuracy (%)",
    "drop": "Drop against float (points)",
    "report": "Report accuracy (%)",
    "latency": "Latency (x float)",
    "latency_ms": "Latency (ms)",
    "size": "File size (MB)",
}
# Mid tones after Okabe and Ito 2008: told apart on white and on black, and by most eyes.
PALETTE = ("#2f8fdd", "#e0762f", "#21a17a", "#b86bd2", "#c29a12", "#d9577b", "#7d8b99")
_SYMBOLS = {"ptq": "circle", "qat": "triangle-up"}
_BASELINE, _CHOSEN = "#7d8b99", "#e02f6b"
_FAINT, _SMALL, _LARGE = 0.28, 6, 12
_FEWEST = 8  # points, below which nothing is far from most
_ROOM, _FAR = 0.12, 3.0  # of the span; beyond three rooms a point is far
_SPREAD = (5.0, 18.0)  # of markers whose size says something, pixels
_CUSTOM = ["study", "number", "recipe", "mode"]


def explore_figure(
    table: "pd.DataFrame",
    x: Axis = "latency",
    y: Axis = "accuracy",
    *,
    size_by: Axis | None = None,
    color_by: ColorBy = "mode",
    selected: Sequence[tuple[str, int]] = (),
    picked: Sequence[tuple[str, int]] = (),
    unfiltered: "pd.DataFrame | None" = None,
    reference: str = "float",
) -> go.Figure:
    """Trials as points; members of the front large, with intervals; baselines by name.

    The `customdata` of a dominated trial is its number, since numbers alone travel as bytes and
    a browser waits for thousands of points; where several studies lie over each other, and of
    all other points, it begins with (study, number).

    Args:
        table: rows of `build_table`, of one study or several.
        x: horizontal axis.
        y: vertical axis.
        size_by: what the area of the points says; None, or nothing that was measured, says none.
        color_by: what their colour says.
        selected: (study, number) of trials to ring.
        picked: likewise, of trials that stand out, as if they had just been boxed.
        reference: what latencies are ratios to.
        unfiltered: rows that the axes are made for, where `table` is a part of them; axes that
            follow a filter would end what a reader has zoomed into.
    """
    shown = table[table[x].notna() & table[y].notna()]
    ground = table if unfiltered is None else unfiltered
    ground = ground[ground[x].notna() & ground[y].notna()]
    sizes = _scale(shown, size_by)
    colors = dict(zip(dict.fromkeys(table[color_by]), itertools.cycle(PALETTE), strict=False))
    is_one = table["study"].nunique() <= 1
    figure = go.Figure()
    for (group, mode), rows in shown[~shown["is_front"]].groupby([color_by, "mode"], sort=False):
        trace = _dominated(rows, x, y, str(mode), colors[group], sizes, is_one=is_one)
        figure.add_trace(trace.update(uid=f"dominated {group} {mode}"))
        _mark(figure, rows, picked)
    for (group, mode), rows in shown[shown["is_front"]].groupby([color_by, "mode"], sort=False):
        name = _name(str(group), str(mode), color_by)
        trace = _members(rows, x, y, str(mode), colors[group], sizes, name)
        figure.add_trace(trace.update(uid=name))
        _mark(figure, rows, picked)
    _name_baselines(figure, shown[shown["is_baseline"]], x, y)
    _ring(figure, shown, x, y, selected)
    _lay_out(figure, ground, x, y)
    figure.update_xaxes(title=axis_title(x, reference))
    figure.update_yaxes(title=axis_title(y, reference))
    return figure


def axis_title(axis: Axis, reference: str = "float") -> str:
    """What an axis shows, latencies as ratios to a reference."""
    return AXES[axis].replace("x float", f"x {reference}")


def _lay_out(figure: go.Figure, ground: "pd.DataFrame", x: Axis, y: Axis) -> None:
    """Axes for the rows of `ground`, legend, and what stays while rows come and go."""
    figure.update_xaxes(zeroline=False, automargin=True, range=_span(ground, x))
    figure.update_yaxes(zeroline=False, automargin=True, range=_span(ground, y))
    figure.update_layout(
        height=520,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "title": {"text": ""}},
        hovermode="closest",
        # what was zoomed into, and hidden in the legend, stays while filters move
        uirevision=" ".join([x, y, *sorted(ground["study"].unique())]),
    )


def _span(table: "pd.DataFrame", axis: Axis) -> list[float] | None:
    """Ends of an axis on which a few far baselines do not press all others together.

    None where nothing is far; what lies beyond is reached by zooming out (a double click).
    """
    values = table[axis]
    if len(values) < _FEWEST:
        return None
    usual = values[~table["is_baseline"] | table["is_front"]]
    if not len(usual):
        return None
    low, high = usual.quantile(0.02), usual.quantile(0.98)
    front = table.loc[table["is_front"], axis]
    if len(front):
        low, high = min(low, front.min()), max(high, front.max())
    room = _ROOM * ((high - low) or abs(high) or 1.0)
    if values.max() <= high + _FAR * room and values.min() >= low - _FAR * room:
        return None
    return [float(low - room), float(high + room)]


def _name(group: str, mode: str, color_by: ColorBy) -> str:
    return f"front, {mode}" if color_by == "mode" else f"front, {group}, {mode}"


def _scale(table: "pd.DataFrame", size_by: Axis | None) -> Any:
    """Marker sizes by row, pixels; None where they say nothing."""
    if size_by is None or not len(table) or table[size_by].isna().all():
        return None
    values = table[size_by]
    low, high = values.min(), values.quantile(0.98)
    share = ((values - low) / ((high - low) or 1.0)).clip(0, 1).fillna(0)
    return _SPREAD[0] + (_SPREAD[1] - _SPREAD[0]) * share**0.5


def _dominated(
    rows: "pd.DataFrame", x: Axis, y: Axis, mode: str, color: str, sizes: Any, *, is_one: bool
) -> go.Scattergl:
    return go.Scattergl(
        x=rows[x].to_numpy(),
        y=rows[y].to_numpy(),
        mode="markers",
        name="dominated",
        showlegend=False,
        **_identify(rows, is_one=is_one),
        marker={
            "symbol": _SYMBOLS[mode], "color": color, "opacity": _FAINT,
            "size": _SMALL if sizes is None else sizes[rows.index].to_numpy(),
        },
        selected={"marker": {"opacity": 0.9}},
        unselected={"marker": {"opacity": _FAINT}},
    )  # fmt: skip


def _identify(rows: "pd.DataFrame", *, is_one: bool) -> dict[str, Any]:
    """Which trials points are, and what is said of one that is pointed at."""
    figures = "<br>%{x:.4g}, %{y:.4g}<extra></extra>"
    if is_one:
        return {
            "customdata": rows["number"].to_numpy(),
            "hovertemplate": "trial %{customdata}" + figures,
        }
    return {
        "customdata": rows[["study", "number"]].to_numpy(),
        "hovertemplate": "%{customdata[0]}, trial %{customdata[1]}" + figures,
    }


def _mark(figure: go.Figure, rows: "pd.DataFrame", picked: Sequence[tuple[str, int]]) -> None:
    """Let picked trials stand out in the trace that was added last; all others stand back."""
    if picked:
        figure.data[-1].selectedpoints = np.flatnonzero(_is_among(rows, picked)).tolist()


def _is_among(rows: "pd.DataFrame", trials: Sequence[tuple[str, int]]) -> np.ndarray:
    wanted = set(trials)
    keys = zip(rows["study"], rows["number"], strict=True)
    return np.array([key in wanted for key in keys], dtype=bool)


def _members(
    rows: "pd.DataFrame", x: Axis, y: Axis, mode: str, color: str, sizes: Any, name: str
) -> go.Scatter:
    return go.Scatter(
        x=rows[x].to_numpy(),
        y=rows[y].to_numpy(),
        mode="markers",
        name=name,
        customdata=rows[_CUSTOM].to_numpy(),
        hovertemplate="<b>%{customdata[0]}, trial %{customdata[1]}</b><br>%{customdata[2]}<br>"
        "%{x:.4g}, %{y:.4g}<extra>on the front</extra>",
        marker={
            "symbol": _SYMBOLS[mode], "color": color,
            "size": _LARGE if sizes is None else sizes[rows.index].to_numpy() + 4,
            "line": {"width": 1.5, "color": "rgba(127,127,127,0.9)"},
        },
        error_x=_bars(rows, x),
        error_y=_bars(rows, y),
        unselected={"marker": {"opacity": 0.75}},
    )  # fmt: skip


def _bars(rows: "pd.DataFrame", axis: Axis) -> dict[str, Any]:
    """95 % intervals; none where an axis has none."""
    style = {"thickness": 1, "width": 3, "color": "rgba(127,127,127,0.4)"}
    if axis == "drop":
        return {"array": rows["drop_half"].to_numpy(), **style}
    if axis not in ("accuracy", "latency"):
        return {"visible": False}
    above = (rows[f"{axis}_high"] - rows[axis]).to_numpy()
    below = (rows[axis] - rows[f"{axis}_low"]).to_numpy()
    return {"array": above, "arrayminus": below, "symmetric": False, **style}


def _name_baselines(figure: go.Figure, rows: "pd.DataFrame", x: Axis, y: Axis) -> None:
    figure.add_trace(
        go.Scatter(
            x=rows[x].to_numpy(), y=rows[y].to_numpy(), mode="markers", name="baseline",
            customdata=rows[_CUSTOM].to_numpy(),
            hovertemplate="<b>%{customdata[2]}</b>, trial %{customdata[1]}<br>%{x:.4g}, %{y:.4g}"
            "<extra>baseline</extra>",
            marker={"symbol": "diamond-open", "size": 13, "color": _BASELINE,
                    "line": {"width": 2}},
            unselected={"marker": {"opacity": 1.0}},
        )
    )  # fmt: skip
    one_study = rows["study"].nunique() <= 1
    for rank, (_, row) in enumerate(rows.sort_values([y, x], ascending=[False, True]).iterrows()):
        name = row["name"] if one_study else f"{row['name']} ({row['study']})"
        is_right = row[x] > rows[x].median()
        figure.add_annotation(
            x=row[x], y=row[y], text=name, showarrow=True, arrowhead=0, arrowwidth=1,
            arrowcolor=_BASELINE, ax=-48 if is_right else 48, ay=-26 + 17 * (rank % 4),
            standoff=8, font={"size": 12, "color": _BASELINE},
        )  # fmt: skip


def _ring(
    figure: go.Figure,
    rows: "pd.DataFrame",
    x: Axis,
    y: Axis,
    selected: Sequence[tuple[str, int]],
) -> None:
    if not selected:
        return
    chosen = rows[_is_among(rows, selected)]
    figure.add_trace(
        go.Scatter(
            x=chosen[x].to_numpy(), y=chosen[y].to_numpy(), mode="markers", name="chosen",
            hoverinfo="skip",
            marker={"symbol": "circle-open", "size": 22, "color": _CHOSEN, "line": {"width": 2.5}},
            unselected={"marker": {"opacity": 1.0}},
        )
    )  # fmt: skip
