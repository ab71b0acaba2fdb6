"""What a new search begins with, and how it is run: all of the form that is no search space."""

from dataclasses import dataclass

import streamlit as st
from crew_form import ask_crew
from draft_form import begin_anew
from shared import library, plain, setting

from autoquant.browse.crew_draft import CrewDraft
from autoquant.browse.draft import DRAFT_BYTES, known_layers, read_draft, starting_points
from autoquant.browse.errand import follow_errand
from autoquant.browse.library import StudyView
from autoquant.config import SpaceConfig
from autoquant.errors import InputError
from autoquant.search.sampler import SAMPLERS
from autoquant.search.storage import Location


@dataclass(frozen=True)
class Run:
    """How a search is run.

    Attributes:
        options: of the command, workers left out.
        crew: its workers.
        in_database: its record goes there, and not into a journal.
    """

    options: list[str]
    crew: CrewDraft
    in_database: bool

    def location(self, name: str) -> Location:
        """Where a study of a name will lie.

        Raises:
            StudyError: a name that could leave the folder.
        """
        shelf = library()
        Location(shelf.results, name)
        return shelf.location(f"{name}@database" if self.in_database else name)


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


@st.cache_data(show_spinner="Loading the model to read its layers", max_entries=16)
def read_layers(task: str, options: dict | None, tasks_from: str | None) -> list[str]:
    """Names of a task's layers, by a process of its own."""
    told = {"task": task, "task_options": options, "tasks_from": tasks_from}
    return follow_errand("layers", told)


def find_layers(config: SpaceConfig, views: list[StudyView], place) -> list[str]:
    """Layers of the task: from its studies, or, when asked for, from the model.

    Args:
        config: names the task.
        views: studies that are known.
        place: where a button may stand that asks for them.
    """
    known = known_layers(config.task, views)
    if known:
        return known
    tasks_from = setting().tasks_from
    if place.button("Show the layers of this task", key="show_layers", icon=":material/layers:"):
        st.session_state.layers_of = config.task
    if st.session_state.get("layers_of") != config.task:
        return []
    try:
        return read_layers(config.task, config.task_options, tasks_from and str(tasks_from))
    except InputError as error:
        st.error(plain(str(error)), icon=":material/error:")
        return []


def ask_run() -> Run:
    """How it is run: options of the command that are none of the space."""
    shelf = library()
    with st.expander("How it is run"):
        a, b, c = st.columns(3)
        sampler = a.selectbox("Sampler", list(SAMPLERS), key="sampler")
        seed = b.number_input("Seed", 0, 2**31 - 1, 0, key="seed")
        threads = c.number_input("Threads of timed runs", 1, 256, 1, key="threads")
        crew = ask_crew(CrewDraft())
        in_database = False
        if shelf.database is not None:
            places = ["a file in the results folder", plain(shelf.database.shown)]
            in_database = st.radio("Its record goes to", places, key="record") == places[1]
    options = ["--sampler", sampler, "--seed", str(int(seed)), "--threads", str(int(threads))]
    return Run(options, crew, in_database)
