"""PTQ or QAT: what quantization loses by width, granularity and method, and what that cost."""

import pandas as pd
import streamlit as st
from plot import show_figure
from shared import choose_view, library, plain

from autoquant.browse.handout import report_command
from autoquant.report.document import StudyReport
from autoquant.report.grid import LOSS_COLUMNS, tabulate_losses

WORDS = {
    "losses": "Drop of every cell",
    "calibration": "Calibration images",
    "training": "Minutes of training",
}


def show(rate: float | None) -> str:
    """A rate for people; a dash for none."""
    return "-" if rate is None else f"{rate:.4f}"


view = choose_view()
snapshot = view.snapshot
header = snapshot.header
command = report_command(library().location(view.key))
report = StudyReport(
    snapshot.name, header.task, header.objectives, header.bounds, snapshot.trials,
    view.front.members, left_out="the report on the command line reads them off the files",
)  # fmt: skip

st.title("PTQ and QAT")
if not any(point.is_complete for point in report.points):
    st.info(
        "No trial of this study belongs to the grid of the analysis (every layer at one width). "
        "Measure the grid:"
    )
    st.code(command, language="bash")
    st.stop()

for paragraph in report.advice:
    st.markdown(plain(paragraph))
figures = report.figures()
shown = [name for name in WORDS if name in figures]
for tab, name in zip(st.tabs([WORDS[name] for name in shown], key="figures"), shown, strict=True):
    with tab:
        show_figure(figures[name], name)

st.subheader("Cells")
rows = tabulate_losses(report.rows)
st.dataframe(
    pd.DataFrame(rows, columns=LOSS_COLUMNS),
    hide_index=True,
    key="cells",
    height="content",
    column_config={"size": {"width": 95}},
)
missing = sum(row.trial is None for row in report.rows)
if missing:
    st.caption(f"{missing} cells are not measured. This measures them, as trials of the study:")
    st.code(command, language="bash")
st.subheader("What each mode bought")
st.dataframe(
    [
        {"mode": item.mode, "trials": item.trials, "minutes": round(item.seconds / 60, 2),
         "hypervolume gained": round(item.gained, 4),
         "gained per minute": show(item.gained_per_minute)}
        for item in report.yields
    ],
    hide_index=True, key="yields",
)  # fmt: skip
