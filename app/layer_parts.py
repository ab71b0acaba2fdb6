"""Parts of the page Layers: what is chosen, tables and figures as the app shows them, errands."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from shared import library, plain, setting

from autoquant.browse.errand import follow_errand
from autoquant.browse.layers import layer_arguments
from autoquant.core.distribution import Distributions, LayerDistribution, Symmetry
from autoquant.errors import InputError
from autoquant.report.distribution import find_symmetries

_SAID = "layer_errand_said"


def choose(found: Distributions) -> tuple[LayerDistribution, int, Symmetry | None]:
    """The layer, from the address or the list, the width of its weights, the kind of grid.

    The kind is None where no layer takes its input on a grid.
    """
    left, middle, right = st.columns([3, 1, 2])
    layer = found.by_name[_choose_layer(list(found.by_name), left)]
    widths = list(dict.fromkeys(grid.bits for grid in layer.grids))
    bits = middle.segmented_control("Bits of the weights", widths, default=widths[0], key="bits")
    kinds = find_symmetries(found)
    kind = None
    if kinds:
        kind = right.segmented_control("Grids of the inputs", kinds, default=kinds[0], key="kind")
    return layer, bits or widths[0], kind or next(iter(kinds), None)


def _choose_layer(names: list[str], place) -> str:
    asked = st.query_params.get("layer")
    if asked is not None and asked not in names:
        st.warning(
            f"There is no layer {plain(asked[:80])} in this model: choose one below.",
            icon=":material/search_off:",
        )
    if st.session_state.get("layer") not in names:
        st.session_state.layer = asked if asked in names else names[0]
    name = place.selectbox("Layer, in network order", names, key="layer")
    st.query_params["layer"] = name
    return name


def show_figure(figure: go.Figure, key: str) -> None:
    """In the app's own colours: a page has a heading, a report's figure its title."""
    figure.update_layout(title=None, template=None, font=None)
    st.plotly_chart(figure, key=key, config={"displaylogo": False})


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]], key: str) -> None:
    """Cells as they are."""
    table = pd.DataFrame(rows, columns=list(columns))
    st.dataframe(table, hide_index=True, key=key, height="content" if len(rows) < 14 else 460)


def do_errand(
    study: str, kind: str, label: str, trials: Sequence[int] = (), *, refusal: str | None = None
) -> None:
    """A button that has something found out, in a process of its own, and what came of it.

    Args:
        study: its name.
        kind: of the errand.
        label: of the button.
        trials: numbers, for the errand `noise`.
        refusal: why it cannot be asked for now; None if it can.
    """
    said = st.session_state.pop(f"{_SAID}_{kind}", None)
    for text in said or ():
        st.warning(plain(text), icon=":material/warning:")
    if not st.button(label, key=f"do_{kind}", disabled=refusal is not None, help=refusal):
        return
    arguments = layer_arguments(library().location(study), setting().tasks_from, trials)
    with st.status(label, expanded=True) as status:
        try:
            found = follow_errand(kind, arguments, lambda text: status.update(label=plain(text)))
        except InputError as error:
            status.update(label=f"That failed: {plain(str(error))}", state="error")
            return
    st.session_state[f"{_SAID}_{kind}"] = found or ()
    st.rerun()
