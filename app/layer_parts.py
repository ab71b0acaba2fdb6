"""Parts of the page Layers: what is chosen, tables and figures as the app shows them, errands."""

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st
from plot import show_figure
from shared import library, plain, setting

from autoquant.browse.errand import follow_errand
from autoquant.browse.layers import layer_arguments
from autoquant.core.distribution import Distributions, LayerDistribution, Symmetry
from autoquant.errors import InputError
from autoquant.report.distribution import (
    INPUT_COLUMNS,
    WEIGHT_COLUMNS,
    describe_values,
    find_symmetries,
    tabulate_inputs,
    tabulate_weights,
)
from autoquant.report.distribution_figure import input_figure, weight_figure
from autoquant.report.range_figure import input_range_figure, weight_grid_figure

_SAID = "layer_errand_said"


def show_layer(found: Distributions) -> None:
    """Weights at the left, what the layer reads at the right."""
    layer, bits, symmetry = choose(found)
    st.caption(plain(describe_values(found, layer)))
    left, right = st.columns(2)
    with left:
        st.subheader("Weights")
        show_figure(weight_figure(layer, bits), "weights")
        show_table(WEIGHT_COLUMNS, tabulate_weights(layer), "weight_rows")
    with right:
        st.subheader("Input")
        if layer.inputs is None or symmetry is None:
            st.info(plain(layer.note or ""), icon=":material/info:")
        else:
            show_figure(input_figure(layer.inputs, symmetry), "inputs")
            show_table(INPUT_COLUMNS, tabulate_inputs(layer.inputs, symmetry), "input_rows")


def show_all(found: Distributions) -> None:
    """What each method clips and how well each grid fits, over the layers."""
    symmetry = choose_kind(found)
    if symmetry is not None:
        show_figure(input_range_figure(found, symmetry), "all_inputs")
    show_figure(weight_grid_figure(found), "all_weights")


def choose(found: Distributions) -> tuple[LayerDistribution, int, Symmetry | None]:
    """The layer, from the address or the list, the width of its weights, the kind of grid.

    The kind is None where no layer takes its input on a grid.
    """
    left, middle, right = st.columns([3, 1, 2])
    layer = found.by_name[_choose_layer(list(found.by_name), left)]
    widths = {str(grid.bits): str(grid.bits) for grid in layer.grids}
    bits = int(choose_one(middle, "Bits of the weights", widths, "bits"))
    return layer, bits, choose_kind(found, right)


def choose_kind(found: Distributions, place=st) -> Symmetry | None:
    """The kind of grid; None where no layer takes its input on one."""
    kinds = {kind: kind for kind in find_symmetries(found)}
    return choose_one(place, "Grids of the inputs", kinds, "kind") if kinds else None


def choose_one(place, label: str, words: Mapping[str, str], key: str, *, bare: bool = False) -> str:
    """One of a few, from the address or by a click, and in the address from then on.

    Args:
        place: where the buttons stand.
        label: of all of them.
        words: what each says; the first is chosen where the address says nothing that is known.
        key: of the widget, and its name in the address.
        bare: whether the label is left to screen readers.
    """
    if st.session_state.get(key) not in words:
        asked = st.query_params.get(key)
        st.session_state[key] = asked if asked in words else next(iter(words))
    chosen = place.segmented_control(
        label, list(words), format_func=words.get, key=key,
        label_visibility="collapsed" if bare else "visible",
    )  # fmt: skip
    st.query_params[key] = chosen or next(iter(words))
    return st.query_params[key]


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
