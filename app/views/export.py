"""The chosen model: its passport, a verification, its file, and how to run it."""

import json

import streamlit as st
from export_steps import build_file, show_verification
from shared import choose_view, library, pick_trials, plain

from autoquant.browse.handout import export_command, headline, inference_snippet, verify_command
from autoquant.browse.kept import find_file, read_passport_of
from autoquant.core.artifact import suffix_of
from autoquant.core.trial import Trial
from autoquant.errors import AutoquantError

view = choose_view(is_of_one_target=False)
location = library().location(view.key)


def show_file(trial: Trial) -> None:
    """Download, or why there is nothing to download yet; commands that do the same."""
    path = find_file(location, trial)
    file = f"{location.name}-{trial.number}{suffix_of(view.snapshot.header.backend)}"
    if path is None:
        st.info("The search kept no file of this trial: it can be built from its recipe.")
        if st.button("Build the file", key="build", icon=":material/build:"):
            build_file(location, trial)
    else:
        with st.container(horizontal=True):
            st.download_button(
                f"Download {file}", path.read_bytes(), file, "application/octet-stream",
                key="download", icon=":material/download:", type="primary", on_click="ignore",
            )  # fmt: skip
            st.download_button(
                "Recipe (JSON)", json.dumps(trial.recipe.to_dict(), indent=2),
                f"{location.name}-{trial.number}.json", "application/json", key="recipe",
                icon=":material/data_object:", on_click="ignore",
            )  # fmt: skip
    st.subheader("The same on the command line")
    commands = [
        export_command(location, trial.number, file),
        verify_command(file, trial, location.checkpoints),
    ]
    st.code("\n".join(commands), language="bash", wrap_lines=True)
    st.subheader("Run it")
    snippet = inference_snippet(file, view.snapshot.header.threads)
    st.code(snippet, language="python", wrap_lines=True)


def show_passport(trial: Trial) -> None:
    """What the file says of itself."""
    path = find_file(location, trial)
    if path is None:
        st.caption("The passport is inside the file; build it first.")
        return
    try:
        st.json(read_passport_of(path), expanded=1)
    except (AutoquantError, OSError) as error:
        st.error(plain(f"{path.name}: {error}"), icon=":material/error:")


st.title("Export")
if view.by_target:
    first, *others = map(plain, view.by_target)
    st.caption(
        f"Figures and passport are those of target {first}; `autoquant export --target` writes a "
        f"file for {' or '.join(others) or first}."
    )
trials = pick_trials(view, "Model", 1)
if not trials:
    st.info("No trial is complete: there is nothing to export yet.")
    st.stop()
chosen = trials[0]
for column, (label, value) in zip(st.columns(4), headline(chosen), strict=True):
    column.metric(label, value, help="search split" if label == "Accuracy" else None)
left, right = st.columns([3, 2])
with left:
    show_file(chosen)
with right:
    st.subheader("Proof")
    show_verification(location, chosen)
    st.subheader("Passport")
    show_passport(chosen)
