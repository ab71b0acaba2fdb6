"""All studies: what they do, and what they found."""

import streamlit as st
from crew_form import ask_crew
from shared import attempt, badge, explain_nothing, library, plain, setting, warn_of_database

from autoquant.browse.library import StudyCard
from autoquant.browse.process import known_crew, resume_search, stop_search

WIDTHS = (3, 2, 3, 2, 2, 2, 3)


def show_list() -> None:
    """One row a study."""
    shelf = library()
    cards = shelf.cards()
    if not cards:
        explain_nothing(shelf)
    warn_of_database(shelf)
    for column, title in zip(
        st.columns(WIDTHS),
        ("Study", "State", "Trials", "Front", "Best drop", "Changed", ""),
        strict=True,
    ):
        column.caption(title)
    for card in cards:
        with st.container(border=True):
            show_card(card)


def show_card(card: StudyCard) -> None:
    """A study in a row; below it what is wrong with it."""
    name, state, trials, front, best, age, actions = st.columns(WIDTHS, vertical_alignment="center")
    name.markdown(f"**{plain(card.name)}**")
    state.markdown(badge(card.state))
    if card.view is not None:
        snapshot = card.view.snapshot
        name.caption(plain(snapshot.header.task))
        done, target = len(snapshot.trials), snapshot.header.trials
        trials.progress(min(1.0, done / max(1, target)), f"{done} of {target}")
        front.markdown(f"{len(card.view.front.members)} models")
        drop = card.best_drop
        best.markdown("-" if drop is None else f"{drop:+.2f} points")
    age.markdown(card.age)
    show_actions(card, actions)
    if card.problem:
        st.caption(f":orange[:material/warning: {plain(card.problem)}]")


def show_actions(card: StudyCard, place) -> None:
    """What can be done with a study."""
    location = library().location(card.name)
    with place.container(horizontal=True, horizontal_alignment="right"):
        is_open = st.button("Open", key=f"open_{card.name}", disabled=card.view is None)
        if card.is_ours and st.button("Stop", key=f"stop_{card.name}"):
            if attempt(stop_search, location):
                st.toast(f"{plain(card.name)} stops; everything finished is kept.")
        elif card.state in ("stopped", "done") and not (card.view and card.view.snapshot.is_newer):
            resume(card, location)
    if is_open:
        st.session_state.last_study = card.name
        st.session_state.pop("study", None)
        st.session_state.pop("trials", None)
        st.switch_page("views/front.py")


def resume(card: StudyCard, location) -> None:
    """Go on with a study, as far as it was to go or further."""
    target = card.view.snapshot.header.trials if card.view else 1
    with st.popover("Go on", key=f"more_{card.name}"):
        known = max(target, len(card.view.snapshot.trials) + 1 if card.view else 1)
        trials = st.number_input("Trials in all", 1, 100_000, known, key=f"trials_{card.name}")
        crew = ask_crew(known_crew(location), f"_{card.name}")
        if st.button("Go on", key=f"resume_{card.name}", type="primary") and attempt(
            resume_search, location, int(trials), setting().tasks_from, crew
        ):
            st.rerun()


st.title("Studies")
is_busy = any(card.state in ("running", "starting", "reading") for card in library().cards())
st.fragment(show_list, run_every=3 if is_busy else None)()
