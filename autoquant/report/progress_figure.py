"""Figures of a search that runs: what its front gained, how its trainings go, the reference."""

from collections.abc import Sequence

import plotly.graph_objects as go

from autoquant.core.trial import Trial
from autoquant.report.explore_figure import PALETTE

__all__ = ["drift_figure", "growth_figure", "loss_curves_figure"]

_HEIGHT_PX = 300
_KEPT = 6  # trainings, the latest; more lines tell nobody anything


def growth_figure(growth: Sequence[tuple[float, float]]) -> go.Figure:
    """Hypervolume over minutes of search.

    Args:
        growth: (minutes, hypervolume) after each trial.
    """
    figure = go.Figure(
        go.Scatter(
            x=[minutes for minutes, _ in growth], y=[volume for _, volume in growth],
            mode="lines", line={"shape": "hv", "width": 2.5, "color": PALETTE[0]},
            hovertemplate="%{x:.1f} min: %{y:.4f}<extra></extra>",
        )
    )  # fmt: skip
    return _lay_out(figure, "Time in trials (min)", "Hypervolume (share of the box)")


def loss_curves_figure(trials: Sequence[Trial]) -> go.Figure:
    """Loss of the latest trainings over their epochs; dotted, that on the images held out.

    Args:
        trials: those with a training curve are drawn.
    """
    trained = [trial for trial in trials if trial.training is not None][-_KEPT:]
    figure = go.Figure()
    for index, trial in enumerate(trained):
        assert trial.training is not None
        epochs = trial.recipe.options.qat.epochs if trial.recipe.is_trained else 1  # type: ignore[union-attr]
        scale = epochs / max(trial.training.steps, 1)
        color, name = PALETTE[index % len(PALETTE)], f"trial {trial.number}"
        points = trial.training.points
        figure.add_trace(
            go.Scatter(
                x=[point.step * scale for point in points], y=[point.loss for point in points],
                mode="lines+markers", name=name, legendgroup=name,
                line={"color": color, "width": 2}, marker={"symbol": index, "size": 7},
                hovertemplate="epoch %{x:.1f}: %{y:.4g}<extra>" + f"{name}</extra>",
            )
        )  # fmt: skip
        held_out = [(0, trial.training.start_loss)]
        held_out += [(point.step, point.held_out_loss) for point in points]
        known = [(step * scale, loss) for step, loss in held_out if loss is not None]
        figure.add_trace(
            go.Scatter(
                x=[epoch for epoch, _ in known], y=[loss for _, loss in known],
                mode="lines", name=f"{name}, held out", legendgroup=name, showlegend=False,
                line={"color": color, "width": 2, "dash": "dot"},
                hovertemplate="epoch %{x:.1f}: %{y:.4g}<extra>" + f"{name}, held out</extra>",
            )
        )  # fmt: skip
    return _lay_out(figure, "Epoch", "Loss (dotted: images held out)")


def drift_figure(trials: Sequence[Trial]) -> go.Figure:
    """The float model's own time beside each trial: the machine's state over the study."""
    timed = [
        (trial.number, found.reference_ms)
        for trial in trials
        if (found := trial.timing or trial.partial) is not None and found.reference_ms
    ]
    figure = go.Figure(
        go.Scattergl(
            x=[number for number, _ in timed], y=[ms for _, ms in timed],
            mode="markers", marker={"size": 6, "color": PALETTE[2]},
            hovertemplate="trial %{x}: %{y:.4g} ms<extra></extra>",
        )
    )  # fmt: skip
    figure = _lay_out(figure, "Trial", "Float model (ms)")
    return figure.update_yaxes(rangemode="tozero")


def _lay_out(figure: go.Figure, x: str, y: str) -> go.Figure:
    figure.update_xaxes(title=x, zeroline=False, automargin=True, rangemode="tozero")
    figure.update_yaxes(title=y, zeroline=False, automargin=True)
    figure.update_layout(
        height=_HEIGHT_PX, margin={"l": 10, "r": 10, "t": 10, "b": 10},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )  # fmt: skip
    return figure
