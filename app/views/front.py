"""The home of a study: every trial, the front, what is recommended, and the choice."""

import pandas as pd
import streamlit as st
from shared import choose_trials, choose_view, chosen_trials, library, plain

from autoquant.browse.library import StudyView
from autoquant.browse.table import FORMATS, Filter, find_ranges, lay_over, shape_rows
from autoquant.report.explore_figure import AXES, explore_figure

NUMBERS = {name: st.column_config.NumberColumn(format=form) for name, form in FORMATS.items()}
view = choose_view()
name = view.snapshot.name


def show_recommendations(view: StudyView) -> None:
    """What to take, and why."""
    st.subheader("Recommended")
    if not view.advice:
        st.caption(
            "Nothing yet: no trial is within the constraints, or the float model is not measured."
        )
    for advice in view.advice:
        with st.container(border=True):
            st.markdown(f"**{' · '.join(advice.kinds)}**: trial {advice.trial.number}")
            st.caption(plain(advice.reason.partition(f"trial {advice.trial.number}, ")[2]))
            if st.button("Choose", key=f"take_{advice.trial.number}", icon=":material/check:"):
                choose_trials([advice.trial.number])
                st.rerun()


def choose_filter(table: pd.DataFrame) -> Filter:
    """Sliders over what there is."""
    columns = st.columns(5)
    ends = find_ranges(table)
    words = {"drop": "Largest drop (points)", "latency": "Latency (x float)", "size": "Size (MB)"}
    limits: dict[str, float | None] = {}
    for column, (key, (low, high)) in zip(columns, ends.items(), strict=False):
        limit = column.slider(words[key], low, high, high, key=f"max_{key}_{name}")
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


@st.fragment
def show_choice(table: pd.DataFrame) -> None:
    """The plot and the table that follows it; a slider redraws nothing else."""
    axes = st.columns(4)
    label = AXES.get
    x = axes[0].selectbox("Across", list(AXES), 3, label, key="x")
    y = axes[1].selectbox("Up", list(AXES), 0, label, key="y")
    size_by = axes[2].selectbox(
        "Size of points", [None, *AXES], 0, lambda a: "all the same" if a is None else AXES[a],
        key="size_by",
    )  # fmt: skip
    color_by = axes[3].selectbox("Colour", ["mode", "calibration", "study"], key="color_by")
    rows = table[choose_filter(table).mask(table)]
    ringed = [(name, number) for number in chosen_trials()]
    figure = explore_figure(rows, x, y, size_by=size_by, color_by=color_by, selected=ringed)
    event = st.plotly_chart(
        figure, key="plot", on_select="rerun", selection_mode=("points", "box", "lasso"),
        config={"displaylogo": False},
    )  # fmt: skip
    points = [tuple(point["customdata"][:2]) for point in event.selection.points
              if point.get("customdata")]  # fmt: skip
    show_table(rows, points)


def show_table(rows: pd.DataFrame, points: list[tuple[str, int]]) -> None:
    """What was clicked or boxed; the front where nothing was."""
    shown, title = shape_rows(rows, points)
    st.caption(title)
    st.dataframe(
        shown, hide_index=True, key="rows", height="content" if len(shown) < 9 else 320,
        column_config=NUMBERS,
    )  # fmt: skip
    own = [number for study, number in dict.fromkeys(points) if study == name][:4]
    with st.container(horizontal=True):
        if own and own != chosen_trials():
            choose_trials(own)
            st.rerun(scope="fragment")
        st.caption(f"Chosen: {', '.join(map(str, chosen_trials())) or 'nothing yet'}")
        st.page_link("views/compare.py", label="Compare", icon=":material/compare_arrows:")
        st.page_link("views/export.py", label="Export", icon=":material/download:")


st.title(plain(name))
header = view.snapshot.header
same = [other for other in library().studies_of(header.task) if other.snapshot.name != name]
over = st.multiselect(
    "Lay over it", [other.snapshot.name for other in same], key="over",
    placeholder="other studies of this task",
) if same else []  # fmt: skip
plot, side = st.columns([4, 1])
with plot:
    show_choice(lay_over([view, *(other for other in same if other.snapshot.name in over)]))
with side:
    show_recommendations(view)
    for note in view.snapshot.notes.values():
        st.caption(f":material/info: {plain(note)}")
