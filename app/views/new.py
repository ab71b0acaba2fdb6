"""A new search: a form that knows the schema of search spaces."""

import streamlit as st
from draft_form import ask_draft, ask_layers, begin_anew
from shared import attempt, library, plain, setting

from autoquant.browse.draft import (
    DRAFT_BYTES,
    describe_budget,
    known_layers,
    match_patterns,
    read_draft,
    starting_points,
    to_yaml,
)
from autoquant.browse.errand import follow_errand
from autoquant.browse.library import StudyView
from autoquant.browse.process import start_search
from autoquant.config import SpaceConfig
from autoquant.errors import AutoquantError, InputError
from autoquant.search.sampler import SAMPLERS


@st.cache_data(show_spinner="Loading the model to read its layers", max_entries=16)
def read_layers(task: str, options: dict | None, tasks_from: str | None) -> list[str]:
    """Names of a task's layers, by a process of its own."""
    told = {"task": task, "task_options": options, "tasks_from": tasks_from}
    return follow_errand("layers", told)


def begin(views: list[StudyView]) -> SpaceConfig:
    """What the form begins with: a shipped space, that of a study, or a file."""
    offered = starting_points(views)
    a, b = st.columns(2)
    first = next((i for i, found in enumerate(offered) if found.startswith("digits")), 0)
    name = a.selectbox("Begin with", list(offered), first, key="start", on_change=begin_anew)
    file = b.file_uploader(
        f"or with a file of yours (YAML, at most {DRAFT_BYTES // 1024} kB)", ["yaml", "yml"],
        key="upload", on_change=begin_anew,
    )  # fmt: skip
    if file is None:
        return offered[name]
    try:
        return read_draft(file.getvalue())
    except InputError as error:
        st.error(plain(f"{file.name[:80]}: {error}"), icon=":material/error:")
        st.stop()


def find_layers(config: SpaceConfig, views: list[StudyView]) -> list[str]:
    """Layers of the task: from its studies, or, when asked for, from the model."""
    known = known_layers(config.task, views)
    if known:
        return known
    options = config.task_options
    tasks_from = setting().tasks_from
    if matched.button("Show the layers of this task", key="show_layers", icon=":material/layers:"):
        st.session_state.layers_of = config.task
    if st.session_state.get("layers_of") != config.task:
        return []
    try:
        return read_layers(config.task, options, tasks_from and str(tasks_from))
    except InputError as error:
        st.error(plain(str(error)), icon=":material/error:")
        return []


def ask_options() -> list[str]:
    """Options of the command that are none of the space."""
    with st.expander("How it is run"):
        a, b, c = st.columns(3)
        sampler = a.selectbox("Sampler", list(SAMPLERS), key="sampler")
        seed = b.number_input("Seed", 0, 2**31 - 1, 0, key="seed")
        threads = c.number_input("Threads of timed runs", 1, 256, 1, key="threads")
    return ["--sampler", sampler, "--seed", str(seed), "--threads", str(threads)]


st.title("New search")
views = [card.view for card in library().cards() if card.view is not None]
space = begin(views)
study = st.text_input("Name of the study", space.task, max_chars=64, key="name")
st.subheader("Layers")
rows = ask_layers(space)
matched = st.container()
st.subheader("Task, objectives and budget")
draft = ask_draft(space, rows)
options = ask_options()
try:
    config = draft.to_config()
    layers = find_layers(config, views)
    if layers:
        matches = match_patterns(list(config.layers), layers)
        table = [
            {"pattern": p, "layers": len(m), "which": ", ".join(m)} for p, m in matches.items()
        ]
        matched.dataframe(table, hide_index=True, key="matches", height="content")
    st.info(plain(describe_budget(config, views, layers)), icon=":material/calculate:")
except AutoquantError as error:
    st.error(plain(str(error)), icon=":material/error:")
    st.stop()
with st.expander("As a file"):
    st.code(to_yaml(config), language="yaml")
if st.button("Start the search", key="launch", type="primary", icon=":material/play_arrow:"):
    try:
        place = library().location(study.strip())
    except InputError as error:
        st.error(plain(str(error)), icon=":material/error:")
        st.stop()
    if attempt(start_search, place, to_yaml(config), options, setting().tasks_from):
        st.session_state.last_study = place.name
        st.session_state.pop("study", None)
        st.switch_page("views/live.py")
