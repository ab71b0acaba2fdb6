"""A new search: a form that knows the schema of search spaces."""

import streamlit as st
from draft_form import ask_draft, ask_layers
from shared import attempt, library, plain, setting
from start_form import ask_run, begin, find_layers

from autoquant.browse.draft import match_patterns, to_yaml
from autoquant.browse.estimate import describe_budget
from autoquant.browse.process import start_search
from autoquant.config import SpaceConfig
from autoquant.errors import AutoquantError, InputError

st.title("New search")
views = [card.view for card in library().cards() if card.view is not None]
space = begin(views)
study = st.text_input("Name of the study", space.task, max_chars=64, key="name")
st.subheader("Layers")
rows = ask_layers(space)
matched = st.container()
st.subheader("Task, objectives and budget")
draft = ask_draft(space, rows)
run = ask_run()


def check() -> SpaceConfig:
    """The space as it stands, with what it decides on; says what is wrong and stops."""
    try:
        run.crew.check()
        config = draft.to_config()
        layers = find_layers(config, views, matched)
        if layers:
            matches = match_patterns(config.layers, layers)
            table = [
                {"pattern": p, "layers": len(m), "which": ", ".join(m)} for p, m in matches.items()
            ]
            matched.dataframe(table, hide_index=True, key="matches", height="content")
        takes = describe_budget(config, views, layers, run.crew.at_once)
        st.info(plain(takes), icon=":material/calculate:")
    except AutoquantError as error:
        st.error(plain(str(error)), icon=":material/error:")
        st.stop()
    return config


config = check()
with st.expander("As a file"):
    st.code(to_yaml(config), language="yaml")
if st.button("Start the search", key="launch", type="primary", icon=":material/play_arrow:"):
    try:
        place = run.location(study.strip())
    except InputError as error:
        st.error(plain(str(error)), icon=":material/error:")
        st.stop()
    if attempt(start_search, place, to_yaml(config), run.options, setting().tasks_from, run.crew):
        st.session_state.last_study = library().key_of(place)
        st.session_state.pop("study", None)
        st.switch_page("views/live.py")
