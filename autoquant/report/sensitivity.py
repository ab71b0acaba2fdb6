"""Table and figure of sensitivities: what each choice of each layer costs and buys."""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autoquant.core.sensitivity import ChoiceCost, Sensitivity
from autoquant.report.style import ACCENT, BASELINE, INK, lay_out_panels

__all__ = ["SENSITIVITY_COLUMNS", "describe_base", "sensitivity_figure", "tabulate_sensitivity"]

SENSITIVITY_COLUMNS = (
    "layer", "choice", "costs, points", "proxy", "expected, points", "saves, bytes",
    "latency, x float", "note",
)  # fmt: skip
_PANELS = ("accuracy lost, points", "proxy", "bytes saved", "latency change, x float")
_MARKS = {"4": ("circle", ACCENT), "float": ("triangle-up", BASELINE)}
_PROXIES = {
    "kl": "KL divergence of the class probabilities from the float model's",
    "noise": "power of the outputs' error over that of the outputs",
}


def tabulate_sensitivity(found: Sensitivity) -> list[list[str]]:
    """A row a layer and choice, in network order."""
    return [_row(found, cost) for cost in found.costs]


def _row(found: Sensitivity, cost: ChoiceCost) -> list[str]:
    if cost.error is not None:
        return [cost.layer, cost.choice, *["-"] * 5, cost.error]
    low, high = cost.extra_drop_ci or (0.0, 0.0)
    expected = found.expected_drop(cost.layer, cost.choice) or 0.0
    latency = "-" if cost.latency_change is None else f"{cost.latency_change:+.3f}"
    return [
        cost.layer,
        cost.choice,
        f"{100 * (cost.extra_drop or 0.0):+.2f} ±{50 * (high - low):.2f}",
        f"{cost.proxy or 0.0:.2e}",
        f"{100 * expected:+.3f}",
        f"{cost.bytes_saved:,}",
        latency,
        "",
    ]


def describe_base(found: Sensitivity) -> str:
    """What the figures are against, and what the proxy is, in one sentence each."""
    base = found.base
    latency = "" if base.latency_ratio is None else f", {base.latency_ratio:.3f} x float"
    return (
        f"Against every layer at 8 bits{' (7 used)' if found.reduce_range else ''}: "
        f"{100 * base.accuracy:.2f}% of the first {found.samples:,} search samples, "
        f"{100 * base.accuracy_drop:+.2f} points below float, {base.size_bytes:,} bytes{latency} "
        f"by the profiler. The proxy is the {_PROXIES[found.proxy]}; what a choice is expected to "
        "cost is the proxy in points, since single drops are as wide as their intervals. "
        f"Measured in {found.seconds:.0f} s."
    )


def sensitivity_figure(found: Sensitivity, title: str = "") -> go.Figure:
    """Four panels by layer: accuracy lost, the proxy, bytes saved, change of latency.

    Args:
        found: the measurement.
        title: what the reader is to take away.
    """
    figure = make_subplots(
        rows=4, cols=1, shared_xaxes=True, vertical_spacing=0.05, subplot_titles=_PANELS
    )
    for choice in dict.fromkeys(cost.choice for cost in found.costs):
        costs = [c for c in found.costs if c.choice == choice and c.error is None]
        symbol, color = _MARKS.get(choice, ("diamond", INK))
        for row, values in enumerate(_values(costs), start=1):
            points = go.Scatter(
                x=[cost.layer for cost in costs],
                y=values,
                mode="markers",
                name=choice if choice == "float" else f"{choice} bits",
                legendgroup=choice,
                showlegend=row == 1,
                marker={"symbol": symbol, "color": color, "size": 9},
                error_y=_whiskers(costs) if row == 1 else None,
            )
            figure.add_trace(points, row=row, col=1)
    lay_out_panels(figure, title, 960)
    figure.update_layout(margin={"b": 110})
    figure.update_xaxes(tickangle=-60, tickfont={"size": 11})
    figure.update_yaxes(type="log", row=2, col=1)
    return figure


def _values(costs: Sequence[ChoiceCost]) -> list[list[float | None]]:
    """By panel; what is not above zero has no place on the proxy's logarithmic axis."""
    return [
        [100 * (cost.extra_drop or 0.0) for cost in costs],
        [cost.proxy if (cost.proxy or 0.0) > 0 else None for cost in costs],
        [cost.bytes_saved for cost in costs],
        [cost.latency_change for cost in costs],
    ]


def _whiskers(costs: Sequence[ChoiceCost]) -> dict[str, object]:
    halves = [
        0.0 if cost.extra_drop_ci is None else 50 * (cost.extra_drop_ci[1] - cost.extra_drop_ci[0])
        for cost in costs
    ]
    return {"type": "data", "array": halves, "thickness": 1}
