"""The widgets of a search space; what they mean is `autoquant.browse.draft`."""

from collections.abc import Sequence
from typing import Any, get_args

import streamlit as st

from autoquant.browse.draft import Draft, layer_rows, quantizer_choices
from autoquant.config import SpaceConfig
from autoquant.core.recipe import Activation
from autoquant.tasks import task_names

OBJECTIVES = ["accuracy", "latency", "size"]
_PREFIX = "draft_"
_ABOVE = "as above"


def begin_anew() -> None:
    """Forget what was filled in: the form begins from another space."""
    for key in [key for key in st.session_state if str(key).startswith(_PREFIX)]:
        del st.session_state[key]


def ask_draft(config: SpaceConfig, layers: Sequence[dict[str, Any]]) -> Draft:
    """Everything but the layers.

    Args:
        config: what the form begins with.
        layers: rows as `ask_layers` returns them.
    """
    names = sorted({*task_names(), config.task})
    first, second = st.columns(2)
    task = first.selectbox("Task", names, names.index(config.task), key=f"{_PREFIX}task")
    objectives = second.multiselect(
        "Objectives", OBJECTIVES, list(config.objectives), key=f"{_PREFIX}objectives"
    )
    bounds = ask_constraints(config)
    a, b = st.columns(2)
    trials = a.number_input(
        "Trials", 1, 100_000, config.budget.trials, key=f"{_PREFIX}trials",
        help="Finished trials, baselines included.",
    )  # fmt: skip
    seconds = config.budget.timeout
    timeout = b.text_input(
        "Time limit", "" if seconds is None else f"{seconds / 60:g}m", max_chars=12,
        key=f"{_PREFIX}timeout", placeholder="30m, 2h; empty for none",
    )  # fmt: skip
    own = task == config.task
    qat = config.quantizer.qat
    return Draft(
        task, config.task_options if own else None, objectives, layers, ask_quantizer(config),
        *bounds, int(trials), timeout, qat.model_dump(exclude_none=True) if qat else None,
    )  # fmt: skip


def ask_constraints(config: SpaceConfig) -> tuple[float | None, float | None, float | None]:
    """Largest drop, latency and size; what is empty is no constraint."""
    known = config.constraints
    drop = known.max_accuracy_drop
    a, b, c = st.columns(3)
    return (
        a.number_input("Largest drop (points)", value=None if drop is None else drop * 100,
                       step=0.1, key=f"{_PREFIX}drop", placeholder="none"),
        b.number_input("Longest latency (ms)", min_value=0.0, value=known.max_latency_ms,
                       key=f"{_PREFIX}latency", placeholder="none"),
        c.number_input("Largest file (MB)", min_value=0.0, value=known.max_size_mb,
                       key=f"{_PREFIX}size", placeholder="none"),
    )  # fmt: skip


def ask_layers(config: SpaceConfig) -> list[dict[str, Any]]:
    """Rows of patterns; of those that match a layer, the last that says something decides."""
    rows_key = f"{_PREFIX}rows"
    known = layer_rows(config)
    count = st.session_state.setdefault(rows_key, len(known))
    rows = []
    for index in range(count):
        row = known[index] if index < len(known) else {}
        rows.append(ask_layer(index, row))
    with st.container(horizontal=True):
        if st.button("Add a pattern", key=f"{_PREFIX}add", icon=":material/add:"):
            st.session_state[rows_key] = min(count + 1, 40)
            st.rerun()
        if count > 1 and st.button("Remove the last", key=f"{_PREFIX}remove"):
            st.session_state[rows_key] = count - 1
            st.rerun()
    return rows


def ask_layer(index: int, row: dict[str, Any]) -> dict[str, Any]:
    """One pattern with what its layers may be."""
    a, b, c, d = st.columns([3, 2, 2, 3])
    hidden = "visible" if index == 0 else "collapsed"
    pattern = a.text_input(
        "Layers (pattern)", row.get("pattern", ""), max_chars=200, label_visibility=hidden,
        key=f"{_PREFIX}pattern_{index}", placeholder="layer1.*",
    )  # fmt: skip
    bits = b.pills(
        "Weight bits", [8, 4], selection_mode="multi", label_visibility=hidden,
        default=row.get("bits") if row else [8], key=f"{_PREFIX}bits_{index}",
        help=f"None chosen: {_ABOVE}, or 8 bits where none says so.",
    )  # fmt: skip
    choices = [_ABOVE, "never", "may", "always"]
    kind = c.selectbox(
        "Stay float", choices, choices.index(row.get("float") or _ABOVE),
        label_visibility=hidden, key=f"{_PREFIX}float_{index}",
        help=f"{_ABOVE.capitalize()}, or never where none says so.",
    )  # fmt: skip
    kinds = d.pills(
        "Input", get_args(Activation), selection_mode="multi", label_visibility=hidden,
        default=row.get("activation"), key=f"{_PREFIX}activation_{index}",
        help="On a calibrated grid, on one found anew for every sample, or in float, where the "
        f"runtime can. None chosen: {_ABOVE}, or static where none says so.",
    )  # fmt: skip
    return {
        "pattern": pattern,
        "bits": bits,
        "float": None if kind == _ABOVE else kind,
        "activation": kinds,
    }


def ask_quantizer(config: SpaceConfig) -> dict[str, list[str]]:
    """Allowed values of every option; one that is left empty keeps its default."""
    chosen: dict[str, list[str]] = {}
    written = config.quantizer.model_dump()
    with st.expander("Quantizer: what the search may vary"):
        columns = st.columns(3)
        for index, choice in enumerate(quantizer_choices()):
            begin = [choice.show(value) for value in written[choice.name] or ()]
            chosen[choice.name] = columns[index % 3].multiselect(
                choice.name.replace("_", " "), list(dict.fromkeys([*choice.values, *begin])), begin,
                key=f"{_PREFIX}quantizer_{choice.name}", placeholder=choice.default,
                accept_new_options=not choice.values,
            )  # fmt: skip
    return chosen
