"""Layers: what their values look like, what each method clips, what their widths cost."""

import streamlit as st
from layer_parts import choose_one, do_errand, show_all, show_layer, show_table
from plot import show_figure
from shared import choose_view, library, pick_trials, plain

from autoquant.browse.layers import (
    KeptLayers,
    describe_files,
    explain_no_noise,
    find_layer_names,
    read_layers,
    read_noises,
)
from autoquant.report.sensitivity import (
    SENSITIVITY_COLUMNS,
    describe_base,
    sensitivity_figure,
    tabulate_sensitivity,
)
from autoquant.report.trial_noise import tabulate_trial_noise, trial_noise_figure

PARTS = {
    "layer": "One layer", "all": "All layers", "sensitivity": "Sensitivity",
    "error": "Quantization error",
}  # fmt: skip
BUSY = "A search is running, which times files: measure when it is done."


def show_sensitivity(kept: KeptLayers, names: list[str]) -> None:
    """What 8 and 4 bits cost each layer; measured only when asked for."""
    found = kept.sensitivity
    if found is not None:
        show_figure(sensitivity_figure(found), "sensitivity")
        show_table(SENSITIVITY_COLUMNS, tabulate_sensitivity(found), "sensitivity_rows")
        st.caption(plain(describe_base(found)) + " What float wins back is what 8 bits cost.")
    elif names:
        st.caption("Each layer alone at 4 bits and in float, all others at 8, run as files.")
    if words := describe_files(found, names):
        refusal = BUSY if library().card(name).state in ("running", "starting") else None
        do_errand(name, "sensitivity", f"Measure ({words})", refusal=refusal)


def show_errors() -> None:
    """Quantization errors of some trials' files, layer by layer."""
    trials = pick_trials(view, "Models, up to four", 4)
    reasons = {trial.number: explain_no_noise(location, trial) for trial in trials}
    for reason in filter(None, reasons.values()):
        st.caption(f"{plain(reason)}.")
    able = [trial for trial in trials if reasons[trial.number] is None]
    noises = read_noises(location, able)
    missing = [trial.number for trial in able if trial.number not in noises]
    if missing:
        which = f"trial{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
        do_errand(name, "noise", f"Compare the layers of {which} with the float model's", missing)
    if noises:
        show_figure(trial_noise_figure(noises), "noise")
        show_table(*tabulate_trial_noise(noises), "noise_rows")


view = choose_view()
name = view.key
location = library().location(name)
kept = read_layers(location)
st.title("Layers")
for problem in kept.problems:
    st.warning(f"{plain(problem)}: have it made again.", icon=":material/broken_image:")
part = choose_one(st, "What to show", PARTS, "show", bare=True)
if part == "sensitivity":
    show_sensitivity(kept, find_layer_names(kept, view.snapshot.trials))
elif part == "error":
    show_errors()
elif kept.distributions is None:
    st.info("Nobody has looked at the layers of this study yet: that loads its task.")
    do_errand(name, "look", "Look at the layers")
else:
    (show_layer if part == "layer" else show_all)(kept.distributions)
    do_errand(name, "look", "Look again, if the task has changed")
