"""The widgets that choose what the plot of a study shows, and what was picked in it."""

import pandas as pd
import streamlit as st
from shared import choose_trials

from autoquant.browse.table import Filter, find_ranges, read_points
from autoquant.report.explore_figure import AXES, Axis, ColorBy, axis_title

_LIMITS = {"drop": "Largest drop (points)", "latency": "Latency (x {})", "size": "Size (MB)"}


def choose_axes(reference: str) -> tuple[Axis, Axis, Axis | None, ColorBy]:
    """Across, up, size and colour; latencies are ratios to the reference."""

    def title(axis: Axis | None) -> str:
        return "all the same" if axis is None else axis_title(axis, reference)

    a, b, c, d = st.columns(4)
    x = a.selectbox("Across", list(AXES), 3, title, key="x")
    y = b.selectbox("Up", list(AXES), 0, title, key="y")
    size_by = c.selectbox("Size of points", [None, *AXES], 0, title, key="size_by")
    colors: list[ColorBy] = ["mode", "calibration", "study", "runtime"]
    is_mixed = reference != "float"  # then what differs first is the runtime
    color_by = d.selectbox(
        "Colour", colors, 3 if is_mixed else 0, key=f"color_by{'_mixed' * is_mixed}"
    )
    return x, y, size_by, color_by


def choose_filter(table: pd.DataFrame, study: str, reference: str) -> Filter:
    """Sliders over what there is."""
    columns = st.columns(5)
    limits: dict[str, float | None] = {}
    for column, (key, (low, high)) in zip(columns, find_ranges(table).items(), strict=False):
        label = _LIMITS[key].format(reference)
        limit = column.slider(label, low, high, high, key=f"max_{key}_{study}")
        limits[key] = None if limit == high else limit
    modes = columns[3].pills(
        "Mode", ["ptq", "qat"], selection_mode="multi", default=["ptq", "qat"], key="modes"
    )
    methods = columns[4].multiselect(
        "Calibration", sorted(table["calibration"].unique()), placeholder="all", key="methods"
    )
    return Filter(
        limits.get("drop"), limits.get("latency"), limits.get("size"),
        tuple(modes or ()), tuple(methods) or None,
    )  # fmt: skip


def picked_points(study: str) -> list[tuple[str, int]]:
    """What was last clicked or boxed in the plot of a study."""
    return list(st.session_state.get(f"picked_{study}", ()))


def remember_points(study: str) -> None:
    """Take over what was just selected: a plot that is drawn anew has no selection of its own."""
    points = read_points(st.session_state.plot.selected or (), study)
    st.session_state[f"picked_{study}"] = points
    own = [number for name, number in points if name == study][:4]
    if own:
        choose_trials(own)
