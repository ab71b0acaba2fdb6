"""What takes a while on the page Export: a file that is built, a passport that is replayed."""

from pathlib import Path

import streamlit as st
from shared import plain, setting

from autoquant.browse.errand import follow_errand
from autoquant.browse.kept import (
    describe_checks,
    export_arguments,
    find_file,
    verify_arguments,
    verify_share,
)
from autoquant.core.trial import Trial
from autoquant.errors import InputError
from autoquant.search.storage import Location


def build_file(location: Location, trial: Trial) -> None:
    """Rebuild a file that was not kept."""
    with st.status("Building the file", expanded=True) as status:
        try:
            arguments = export_arguments(location, trial, setting().tasks_from)
            follow_errand("export", arguments, lambda text: status.update(label=text))
        except InputError as error:
            status.update(label=f"It cannot be built: {plain(str(error))}", state="error")
            return
    st.rerun()


def show_verification(location: Location, trial: Trial) -> None:
    """Replay the passport on this machine, and say what does not hold."""
    path = find_file(location, trial)
    if st.button("Verify on this machine", key="verify", icon=":material/verified:",
                 disabled=path is None) and path is not None:  # fmt: skip
        st.session_state.verified = verify_file(location, trial, path)
    done = st.session_state.get("verified")
    if not done or done["of"] != identify_file(path):
        return
    if "problem" in done:
        st.error(plain(done["problem"]), icon=":material/error:")
        return
    if done["ok"]:
        st.success("The file holds what its passport says.", icon=":material/verified:")
    else:
        st.error("The file does not hold what its passport says.", icon=":material/error:")
    st.dataframe(describe_checks(done["checks"]), hide_index=True, key="checks", height="content")


def identify_file(path: Path | None) -> tuple[str, int]:
    """What is verified: other studies may have another file of the same recipe."""
    try:
        return str(path), 0 if path is None else path.stat().st_mtime_ns
    except FileNotFoundError:  # a search that runs has swept it away
        return str(path), 0


def verify_file(location: Location, trial: Trial, path: Path) -> dict:
    """The errand, with a bar that follows it."""
    bar = st.progress(0.0, "starting")
    arguments = verify_arguments(location, trial, path, setting().tasks_from)
    of = identify_file(path)
    try:
        found = follow_errand(
            "verify", arguments, lambda text: bar.progress(verify_share(text), text)
        )
        return {"of": of, **found}
    except InputError as error:
        return {"of": of, "problem": str(error)}
    finally:
        bar.empty()
