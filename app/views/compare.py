"""Two to four models side by side."""

import streamlit as st
from plot import show_figure
from reasons import show_reasons
from shared import choose_view, library, pick_trials, plain, setting

from autoquant.browse.errand import follow_errand
from autoquant.browse.handout import compare_figures, compare_layers, compare_recipes
from autoquant.browse.kept import find_file, verify_arguments
from autoquant.core.trial import Trial
from autoquant.errors import InputError
from autoquant.report.strip_figure import strip_figure


@st.cache_data(show_spinner=False, max_entries=32)
def read_proof(study: str, digest: str, path: str, changed: int) -> list[dict]:
    """What became of each layer of a file on this machine; asked for once until it changes."""
    trial = next(t for t in library().view(study).snapshot.trials if t.digest == digest)
    arguments = verify_arguments(library().location(study), trial, path, setting().tasks_from)
    return follow_errand("verify", arguments)["layers"]


def show_layers(study: str, trials: list[Trial]) -> None:
    """Kernels, times and SQNR by layer, of models whose files are at hand."""
    location = library().location(study)
    files = {trial.number: find_file(location, trial) for trial in trials}
    missing = [str(number) for number, path in files.items() if path is None]
    if missing:
        st.caption(
            f"No file is kept of trial {', '.join(missing)}: build it on the page Export first."
        )
    kept = [trial for trial in trials if files[trial.number] is not None]
    is_asked = st.button("Measure layers on this machine", key="measure", disabled=not kept)
    asked = (study, *(trial.number for trial in kept))
    if is_asked:
        st.session_state.proven = asked
    if st.session_state.get("proven") != asked or not kept:
        return
    proofs = {}
    with st.spinner("Running each file and comparing it with its model, layer by layer"):
        for trial in kept:
            try:
                path = files[trial.number]
                changed = path.stat().st_mtime_ns if path.exists() else 0
                proofs[trial.number] = read_proof(study, trial.digest, str(path), changed)
            except InputError as error:
                st.warning(plain(f"trial {trial.number}: {error}"), icon=":material/warning:")
    if proofs:
        st.dataframe(compare_layers(proofs), hide_index=True, key="layers", height="content")


view = choose_view()
name = view.key
st.title("Compare")
trials = pick_trials(view, "Models, up to four", 4)
if not trials:
    st.info("Choose two to four models above, or click them on the page Front.")
    st.stop()

st.subheader("Figures")
st.dataframe(compare_figures(trials), hide_index=True, key="figures", height="content")
st.caption("± is half of the 95 % interval; differences inside it are none.")

st.subheader("Bits by layer")
show_figure(strip_figure(trials), "strip")

st.subheader("What differs in the recipes")
if differences := compare_recipes(trials):
    st.dataframe(differences, hide_index=True, key="differences", height="content")
else:
    st.caption("Nothing but the widths of the layers." if len(trials) > 1 else "One model alone.")

show_reasons(view, trials[0])

st.subheader("Layers on the runtime")
show_layers(name, trials)
