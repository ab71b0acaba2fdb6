"""The widgets of a search's workers; what they mean is `autoquant.browse.crew_draft`."""

import streamlit as st
from shared import plain, setting

from autoquant.browse.crew_draft import MOST_GPUS, MOST_WORKERS, CrewDraft, explain_no_ray


def ask_crew(begin: CrewDraft, suffix: str = "") -> CrewDraft:
    """Workers, Ray address, GPUs and time limit of a trial.

    Args:
        begin: what the widgets begin with.
        suffix: of their keys.
    """
    missing = explain_no_ray()
    is_open = setting().is_open
    off = missing is not None
    a, b, c, d = st.columns(4)
    workers = a.number_input(
        "Workers", 1, MOST_WORKERS, begin.workers, key=f"workers{suffix}", disabled=off,
        placeholder="all of a cluster",
        help="Trials that are built and judged at the same time; empty for as many as a cluster "
        "has processors.",
    )  # fmt: skip
    address = b.text_input(
        "Ray address", begin.address, max_chars=300, key=f"ray{suffix}", disabled=off or is_open,
        placeholder="this machine", help="Head of a Ray cluster, HOST:PORT, or auto.",
    )  # fmt: skip
    gpus = c.number_input(
        "GPUs per training", 0.0, float(MOST_GPUS), begin.gpus_per_qat_trial, 0.25,
        key=f"gpus{suffix}", disabled=off, help="Or a share of one, for a trial that trains.",
    )  # fmt: skip
    limit = d.text_input(
        "Time limit of a trial", begin.trial_timeout, max_chars=12, key=f"trial_timeout{suffix}",
        disabled=off, placeholder="none", help="90s, 10m; a trial that takes longer fails.",
    )  # fmt: skip
    if missing is not None:
        st.caption(f":material/info: {plain(missing)}")
        return CrewDraft()
    if is_open:
        st.caption(
            ":material/info: A cluster runs code here, and others reach this app: begin a search "
            "on a cluster by the command line."
        )
        address = ""  # whatever a browser may have sent
    whole = None if workers is None else int(workers)
    return CrewDraft(whole, address.strip(), float(gpus), limit.strip())
