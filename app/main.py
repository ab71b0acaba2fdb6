"""The app: a router. `autoquant app` runs it."""

from pathlib import Path

import streamlit as st
from plot import prepare_figures

# the icon is a file, since the browser would fetch one of Streamlit's from another server
ICON = Path(__file__).with_name("icon.svg")
st.set_page_config(page_title="autoquant", page_icon=str(ICON), layout="wide")
# less margin: a plot and a table want the room; what is there to load Plotly takes none
st.html(
    "<style>"
    ".stMainBlockContainer {padding: 3rem 2.5rem 2rem} .st-key-prepare {display: none}"
    "</style>"
)
prepare_figures()
st.navigation(
    {
        "Search": [
            st.Page("views/studies.py", title="Studies", icon=":material/list:", default=True),
            st.Page("views/new.py", title="New search", icon=":material/add:"),
            st.Page("views/live.py", title="Live", icon=":material/monitoring:"),
        ],
        "Decide": [
            st.Page("views/front.py", title="Front", icon=":material/scatter_plot:"),
            st.Page("views/compare.py", title="Compare", icon=":material/compare_arrows:"),
            st.Page("views/layers.py", title="Layers", icon=":material/layers:"),
            st.Page("views/qat.py", title="PTQ and QAT", icon=":material/school:"),
            st.Page("views/export.py", title="Export", icon=":material/download:"),
        ],
    }
).run()
