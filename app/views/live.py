"""A search as it runs: progress, what is under way, what failed, how the machine did."""

import streamlit as st
from plot import show_figure
from shared import attempt, badge, choose_card, library, plain

from autoquant.browse.library import StudyCard
from autoquant.browse.pace import find_failures, find_growth, find_left, find_pace, seconds_since
from autoquant.browse.process import read_log, stop_search
from autoquant.report import describe_drift, describe_recipe
from autoquant.report.progress_figure import drift_figure, growth_figure, loss_curves_figure

name = choose_card().name


def show_study() -> None:
    """Everything, again and again while it runs."""
    card = library().card(name)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(badge(card.state))
        if card.is_ours and st.button("Stop", key="stop", icon=":material/stop:"):
            attempt(stop_search, library().location(name))
    if card.problem:
        st.warning(plain(card.problem), icon=":material/warning:")
    if card.state == "reading":
        return
    if card.view is None:
        st.caption("The search has no trial yet; what it said so far stands below.")
    else:
        show_numbers(card)
        show_underway(card)
        show_figures(card)
        show_failures(card)
    if log := read_log(library().location(name), 12):
        with st.expander("Log", expanded=card.view is None):
            st.code("\n".join(log), language=None, wrap_lines=True)


def show_numbers(card: StudyCard) -> None:
    """How far it is."""
    snapshot, pace = card.view.snapshot, find_pace(card.view.snapshot)
    done, target = len(snapshot.trials), snapshot.header.trials
    st.progress(min(1.0, done / max(1, target)), f"{done} of {target} trials")
    columns = st.columns(5)
    columns[0].metric("On the front", len(card.view.front.members))
    columns[1].metric("Rejected early", card.view.count("rejected"))
    columns[2].metric("Failed", card.view.count("failed"))
    columns[3].metric("Trials a minute", "-" if not pace.per_minute else f"{pace.per_minute:.1f}")
    left = find_left(snapshot, pace) if card.state == "running" else None
    columns[4].metric("Time left", "-" if left is None else left.describe())


def show_underway(card: StudyCard) -> None:
    """Trials that have begun, with what the search said last of them."""
    if card.state != "running":
        return
    log = read_log(library().location(name), 1)
    for item in card.view.snapshot.underway:
        age = seconds_since(item.began)
        since = "" if age is None else f", for {age:.0f} s"
        st.markdown(f"**Trial {item.number}**: {plain(describe_recipe(item.recipe))}{since}")
    if log:
        st.caption(plain(log[-1]))


def show_figures(card: StudyCard) -> None:
    """What the front gained; trainings; the machine."""
    snapshot = card.view.snapshot
    left, right = st.columns(2)
    left.subheader("What the front gained")
    with left:
        show_figure(growth_figure(find_growth(snapshot)), "growth")
    right.subheader("Drift of the machine")
    with right:
        show_figure(drift_figure(snapshot.trials), "drift")
    right.caption(plain(describe_drift(snapshot.trials) or "nothing was timed yet"))
    if any(trial.training for trial in snapshot.trials):
        left.subheader("Latest trainings")
        with left:
            show_figure(loss_curves_figure(snapshot.trials), "losses")


def show_failures(card: StudyCard) -> None:
    """Why trials ended early, by reason."""
    found = find_failures(card.view.snapshot)
    if not found:
        return
    st.subheader("Ended early")
    rows = [
        {"state": state, "trials": len(numbers), "reason": reason,
         "which": ", ".join(map(str, numbers[:12]))}
        for state, reason, numbers in found
    ]  # fmt: skip
    st.dataframe(rows, hide_index=True, key="failures")


st.title(plain(name))
is_busy = library().card(name).state in ("running", "starting", "reading")
st.fragment(show_study, run_every=2 if is_busy else None)()
