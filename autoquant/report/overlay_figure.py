"""Fronts of several runtimes in one figure."""

from collections.abc import Sequence

import plotly.graph_objects as go

from autoquant.core.overlay import OverlayMember
from autoquant.report.row import describe_recipe, format_megabytes
from autoquant.report.style import INK, lay_out

__all__ = ["overlay_figure"]

# Told apart without red and green, and by their symbols in print.
_LOOKS = (
    ("#0b6bcb", "circle"), ("#b4540a", "diamond"), ("#1a7f37", "square"),
    ("#7a4bb5", "triangle-up"), ("#00838f", "x"), ("#8a6d00", "star"),
)  # fmt: skip

_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


def overlay_figure(members: Sequence[OverlayMember], title: str) -> go.Figure:
    """Accuracy over latency to one reference; what no other runtime's files beat is filled.

    Args:
        members: of all fronts; those without a latency are left out.
        title: what the reader is to take away.
    """
    figure = go.Figure()
    shown = [member for member in members if member.ratio is not None]
    largest = max((member.trial.size_bytes or 0 for member in shown), default=0) or 1
    studies = list(dict.fromkeys((member.study, member.backend) for member in shown))
    for (study, backend), (color, symbol) in zip(studies, _cycle(len(studies)), strict=True):
        own = [member for member in shown if member.study == study]
        figure.add_trace(
            go.Scatter(
                x=[member.ratio for member in own],
                y=[100 * (member.trial.accuracy or 0.0) for member in own],
                mode="markers",
                name=f"{backend} ({study})",
                text=[_describe(member) for member in own],
                hovertemplate="%{text}<extra></extra>",
                marker={
                    "color": [color if member.is_on_front else "white" for member in own],
                    "symbol": symbol,
                    "opacity": 1.0,
                    "size": [_diameter(member, largest) for member in own],
                    "line": {"color": color, "width": 2},
                },
            )
        )
    lay_out(figure, title)
    figure.add_vline(x=1.0, line={"color": INK, "dash": "dot", "width": 1})
    figure.update_xaxes(
        title="latency, x float on ONNX Runtime (marks grow with the file)",
        type="log",
        tickvals=_TICKS,
        ticktext=[f"{tick:g}" for tick in _TICKS],
    )
    figure.update_yaxes(title="accuracy, %", zeroline=False)
    return figure


def _diameter(member: OverlayMember, largest: int) -> float:
    return 7 + 11 * (member.trial.size_bytes or 0) / largest


def _cycle(count: int) -> list[tuple[str, str]]:
    return [_LOOKS[index % len(_LOOKS)] for index in range(count)]


def _describe(member: OverlayMember) -> str:
    trial = member.trial
    size = "" if trial.size_bytes is None else f", {format_megabytes(trial.size_bytes)}"
    place = "on the common front" if member.is_on_front else "beaten by another"
    return (
        f"{member.backend}, trial {trial.number}: {describe_recipe(trial.recipe, trial.name)}<br>"
        f"{trial.accuracy or 0:.2%}, {member.ratio:.3f} x float on ONNX Runtime{size}<br>{place}"
    )
