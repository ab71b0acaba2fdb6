"""The home of a study: every trial, the front, what is recommended, and the choice."""

import pandas as pd
import streamlit as st
from choice_form import choose_axes, choose_filter, picked_points, remember_points
from plot import show_figure
from shared import choose_trials, choose_view, chosen_trials, library, plain

from autoquant.browse.library import StudyView
from autoquant.browse.overlay import Overlay, overlay_studies
from autoquant.browse.table import FORMATS, shape_rows
from autoquant.report import describe_report_gap
from autoquant.report.explore_figure import explore_figure

NUMBERS = {name: st.column_config.NumberColumn(format=form) for name, form in FORMATS.items()}
view = choose_view()
name = view.key


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


@st.fragment
def show_choice(overlay: Overlay) -> None:
    """The plot and the table that follows it; a slider redraws nothing else."""
    table, reference = overlay.table, overlay.reference
    x, y, size_by, color_by = choose_axes(reference)
    rows = table[choose_filter(table, name, reference).mask(table)]
    ringed = [(name, number) for number in chosen_trials()]
    picked = picked_points(name)
    figure = explore_figure(
        rows, x, y, size_by=size_by, color_by=color_by, selected=ringed, picked=picked,
        unfiltered=table, reference=reference,
    )  # fmt: skip
    show_figure(figure, "plot", on_select=lambda: remember_points(name))
    show_table(rows, picked, reference)


def show_table(rows: pd.DataFrame, picked: list[tuple[str, int]], reference: str) -> None:
    """What was clicked or boxed; the front where nothing was."""
    shown, title = shape_rows(rows, picked, reference)
    st.caption(title)
    st.dataframe(
        shown, hide_index=True, key="rows", height="content" if len(shown) < 9 else 320,
        column_config=NUMBERS,
    )  # fmt: skip
    with st.container(horizontal=True):
        st.caption(f"Chosen: {', '.join(map(str, chosen_trials())) or 'nothing yet'}")
        st.page_link("views/compare.py", label="Compare", icon=":material/compare_arrows:")
        st.page_link("views/export.py", label="Export", icon=":material/download:")


@st.fragment(run_every=4)
def follow() -> None:
    """Draw everything anew when a trial has ended; what is picked and filtered stays."""
    card = library().card(name)
    if card.view is None or not card.view.shows(view) or card.state != "running":
        st.rerun()


st.title(plain(name))
header = view.snapshot.header
same = [key for key in library().keys_of(header.task) if key != name]
over = st.multiselect(
    "Lay over it", same, key="over", placeholder="other studies of this task",
) if same else []  # fmt: skip
others = [card.view for card in map(library().card, over) if card.view is not None]
plot, side = st.columns([4, 1])
overlay = overlay_studies([view, *others])
with plot:
    for note in overlay.notes:
        st.warning(plain(note))
    show_choice(overlay)
with side:
    show_recommendations(view)
    gap = describe_report_gap(view.front.members)
    for note in [*([] if gap is None else [gap]), *view.snapshot.notes.values()]:
        st.caption(f":material/info: {plain(note)}")
if library().card(name).state == "running":
    follow()
