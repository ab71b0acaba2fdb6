"""Bit widths over the layers of a network, models below each other."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from autoquant.core.trial import Trial

__all__ = ["strip_figure"]

_ROW_PX = 46
# dark is few bits; the number stands in the cell, so that colour alone says nothing
_SCALE = ((0.0, "#0b4f8a"), (0.5, "#4aa3e0"), (1.0, "#b9c4cf"))
_LEVELS = {4: 0.0, 8: 0.5, None: 1.0}
_LONG = 48  # layers beyond which the numbers do not fit into the cells


def strip_figure(trials: Sequence[Trial]) -> go.Figure:
    """One row a model, one column a layer in network order: 4, 8, or float (f).

    Args:
        trials: models of one network; those that decide nothing about layers show what they do.
    """
    layers = list(dict.fromkeys(name for trial in trials for name in trial.recipe.layers))
    rows = [_widths(trial, layers) for trial in trials]
    texts = [["f" if bits is None else str(bits) for bits in row] for row in rows]
    names = [f"trial {trial.number}" for trial in trials]
    figure = go.Figure(
        go.Heatmap(
            z=[[_LEVELS[bits] for bits in row] for row in rows],
            x=layers,
            y=names,
            text=texts,
            texttemplate="%{text}" if len(layers) <= _LONG else None,
            colorscale=[list(pair) for pair in _SCALE],
            zmin=0, zmax=1, showscale=False, xgap=2, ygap=4,
            hovertemplate="%{y}, %{x}: %{text}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(
        title="Layers in network order", tickangle=-60, automargin=True,
        showgrid=False, type="category", nticks=min(len(layers), _LONG) or 1,
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False, type="category")
    figure.update_layout(
        height=190 + _ROW_PX * len(trials), margin={"l": 10, "r": 10, "t": 10, "b": 10}
    )
    return figure


def _widths(trial: Trial, layers: Sequence[str]) -> list[int | None]:
    """Of every layer; ONNX Runtime's own quantizers take 8 bits everywhere."""
    known: Mapping[str, int | None] = trial.recipe.layers
    default = None if trial.recipe.method in ("fp32", "brevitas") else 8
    return [known.get(name, default) for name in layers]
