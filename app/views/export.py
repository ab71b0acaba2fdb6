"""The chosen model: its passport, a verification, its file, and how to run it."""

import json

import streamlit as st
from shared import choose_view, library, pick_trials, plain, setting

from autoquant.browse.errand import follow_errand
from autoquant.browse.handout import export_command, inference_snippet, verify_command
from autoquant.browse.kept import (
    VERIFY_STAGES,
    describe_checks,
    export_arguments,
    find_file,
    read_passport_of,
    verify_arguments,
)
from autoquant.core.trial import Trial
from autoquant.errors import AutoquantError, InputError

view = choose_view()
study, location = view.snapshot.name, library().location(view.snapshot.name)


def show_file(trial: Trial) -> None:
    """Download, or why there is nothing to download yet."""
    path = find_file(location, trial)
    file = f"{study}-{trial.number}.onnx"
    if path is None:
        st.info("The search kept no file of this trial: it can be built from its recipe.")
        if st.button("Build the file", key="build", icon=":material/build:"):
            build(trial)
    else:
        with st.container(horizontal=True):
            st.download_button(
                f"Download {file}", path.read_bytes(), file, "application/octet-stream",
                key="download", icon=":material/download:", type="primary", on_click="ignore",
            )  # fmt: skip
            st.download_button(
                "Recipe (JSON)", json.dumps(trial.recipe.to_dict(), indent=2),
                f"{study}-{trial.number}.json", "application/json", key="recipe",
                icon=":material/data_object:", on_click="ignore",
            )  # fmt: skip
    st.subheader("The same on the command line")
    command = export_command(study, trial.number, location.results, file)
    st.code(
        f"{command}\n{verify_command(file, trial, location.checkpoints)}",
        language="bash",
        wrap_lines=True,
    )
    st.subheader("Run it")
    st.code(
        inference_snippet(file, view.snapshot.header.threads), language="python", wrap_lines=True
    )


def build(trial: Trial) -> None:
    """Rebuild a file that was not kept."""
    with st.status("Building the file", expanded=True) as status:
        try:
            arguments = export_arguments(location, trial, setting().tasks_from)
            follow_errand("export", arguments, lambda text: status.update(label=text))
        except InputError as error:
            status.update(label=f"It cannot be built: {plain(str(error))}", state="error")
            return
    st.rerun()


def show_verification(trial: Trial) -> None:
    """Replay the passport on this machine, and say what does not hold."""
    path = find_file(location, trial)
    if st.button("Verify on this machine", key="verify", icon=":material/verified:",
                 disabled=path is None):  # fmt: skip
        st.session_state.verified = verify(trial, str(path))
    done = st.session_state.get("verified")
    if done and done["digest"] == trial.digest:
        if "problem" in done:
            st.error(plain(done["problem"]), icon=":material/error:")
            return
        if done["ok"]:
            st.success("The file holds what its passport says.", icon=":material/verified:")
        else:
            st.error("The file does not hold what its passport says.", icon=":material/error:")
        st.dataframe(
            describe_checks(done["checks"]), hide_index=True, key="checks", height="content"
        )


def verify(trial: Trial, path: str) -> dict:
    """The errand, with a bar that follows it."""
    bar = st.progress(0.0, "starting")

    def follow(text: str) -> None:
        stage = VERIFY_STAGES.index(text) + 1 if text in VERIFY_STAGES else None
        bar.progress(0.5 if stage is None else stage / (len(VERIFY_STAGES) + 1), text)

    arguments = verify_arguments(location, trial, path, setting().tasks_from)
    try:
        return {"digest": trial.digest, **follow_errand("verify", arguments, follow)}
    except InputError as error:
        return {"digest": trial.digest, "problem": str(error)}
    finally:
        bar.empty()


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
trials = pick_trials(view, "Model", 1)
if not trials:
    st.info("No trial is complete: there is nothing to export yet.")
    st.stop()
chosen = trials[0]
figures = st.columns(4)
figures[0].metric("Accuracy", f"{chosen.accuracy:.2%}", help="search split")
figures[1].metric("Drop", f"{100 * (chosen.accuracy_drop or 0):+.2f} points")
figures[2].metric(
    "Latency", "-" if chosen.latency_ratio is None else f"{chosen.latency_ratio:.3f} x float"
)
figures[3].metric("Size", f"{(chosen.size_bytes or 0) / 1e6:.3f} MB")
left, right = st.columns([3, 2])
with left:
    show_file(chosen)
with right:
    st.subheader("Proof")
    show_verification(chosen)
    st.subheader("Passport")
    show_passport(chosen)
