"""The section that says why a model has the bits that it has."""

import streamlit as st
from plot import show_figure
from shared import plain

from autoquant.browse.library import StudyView
from autoquant.browse.reasons import explain_choice
from autoquant.core.trial import Trial
from autoquant.errors import InputError
from autoquant.report.why import (
    LEGEND,
    describe_trust,
    find_step_down,
    summarize_reasons,
    tabulate_options,
    tabulate_reasons,
)
from autoquant.report.why_figure import why_figure


def show_reasons(view: StudyView, trial: Trial) -> None:
    """Layer by layer: what the choice costs and saves, and what another would do."""
    st.subheader(f"Why these bits: trial {trial.number}")
    try:
        found = explain_choice(view, trial.number)
    except InputError as error:
        st.caption(plain(str(error)))
        return
    st.markdown(plain(summarize_reasons(found)))
    if any(map(find_step_down, found.layers)):
        show_figure(why_figure(found), "why")
    st.dataframe(_rows(*tabulate_reasons(found)), hide_index=True, key="reasons")
    columns, rows = tabulate_options(found)
    if rows:
        with st.expander("Options, for the whole network"):
            st.dataframe(_rows(columns, rows), hide_index=True, key="option_reasons")
    st.caption(plain(f"{LEGEND} {describe_trust(found)}"))


def _rows(columns: list[str], rows: list[list[str]]) -> list[dict[str, str]]:
    return [dict(zip(columns, row, strict=True)) for row in rows]
