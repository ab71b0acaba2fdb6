"""Plotly figures that are changed in place, where Streamlit would build them anew."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plotly
import streamlit as st
from streamlit.components.v1 import declare_component
from streamlit.components.v2 import component

from autoquant.report.style import take_title_off

if TYPE_CHECKING:
    import plotly.graph_objects as go

_HERE = Path(__file__).parent
_LIBRARY = Path(plotly.__file__).parent / "package_data"  # plotly.min.js, served to the browser
# canvases of twice the resolution are four times the work where no graphics card draws them
_CONFIG = {
    "displaylogo": False,
    "showSendToCloud": False,  # nothing leaves this machine
    "plotGlPixelRatio": 1,
}


@st.cache_resource
def _renderer() -> Callable[..., Any]:
    served = declare_component("plotly", path=str(_LIBRARY)).name
    # with its version, so that what a browser has kept of another one is not taken for it
    address = f"component/{served}/plotly.min.js?{plotly.__version__}"
    source = (_HERE / "plot.js").read_text("utf-8")
    source = source.replace("PLOTLY_ADDRESS", address)
    return component("figure", js=source, isolate_styles=False)


def prepare_figures() -> None:
    """Have the browser load Plotly while this process reads what is to be drawn."""
    _renderer()(key="prepare", height=1)


def show_figure(figure: "go.Figure", key: str, on_select: Callable[[], None] | None = None) -> None:
    """Draw a figure, or change the one that is there, in the colours of the page.

    Args:
        figure: what to draw; a page has a heading, so its title is taken off.
        key: of the place.
        on_select: called when something was clicked or boxed; `st.session_state[key].selected`
            is then the list of the `customdata` of these points. Left out, nothing can be.
    """
    take_title_off(figure)
    data = {"figure": figure.to_json(), "config": _CONFIG, "selects": on_select is not None}
    told = {} if on_select is None else {"on_selected_change": on_select}
    _renderer()(key=key, data=data, **told)
