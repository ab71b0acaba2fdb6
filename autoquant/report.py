"""Figures and rows for people: pure functions of trials."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from autoquant.core.metric import drop_interval
from autoquant.core.parity import MIN_SQNR_DB
from autoquant.core.recipe import Recipe, method_label
from autoquant.core.recommend import Recommendation
from autoquant.core.space import REDUCED
from autoquant.core.trial import Objective, Trial

__all__ = [
    "COLUMNS",
    "describe_drift",
    "describe_recipe",
    "describe_recommendation",
    "describe_saturation",
    "describe_shares",
    "describe_trade",
    "find_first_disagreement",
    "pareto_figure",
    "tabulate_layers",
    "trial_row",
]

COLUMNS = (
    "#", "recipe", "accuracy", "drop", "report", "latency", "x float", "size", "integer", "on front"
)  # fmt: skip

_INK, _ACCENT, _BASELINE = "#1b1f24", "#0b6bcb", "#b4540a"
_AS_FACTOR = 1.1  # below, a factor of two digits would read as 1
_SHORT: dict[Objective, str] = {"accuracy": "top-1 %", "latency": "x float", "size": "MB"}
_LABELS: dict[Objective, str] = {
    "accuracy": "Top-1 accuracy on the search split (%)",
    "latency": "Latency, as a multiple of float (lower is faster)",
    "size": "File size (MB)",
}


def describe_recipe(recipe: Recipe, name: str | None = None) -> str:
    """A recipe in a few words: `w4 x13, w8 x6, float x1; percentile:99.9; qat`."""
    if recipe.options is None or name is not None:
        return name or recipe.method
    counts = Counter(recipe.layers.values())
    widths = [f"w{bits} x{counts[bits]}" for bits in (8, 4) if counts[bits]]
    if counts[None]:
        widths.append(f"float x{counts[None]}")
    mode = "; qat" if recipe.is_trained else ""
    return f"{', '.join(widths)}; {method_label(recipe.options.calibration)}{mode}"


def trial_row(trial: Trial) -> list[str]:
    """One line of a table; see `COLUMNS`. A dash is what was not measured."""
    marks = "*" if trial.knee else ""
    return [
        f"{trial.number}{marks}",
        describe_recipe(trial.recipe, trial.name),
        _percent(trial.accuracy),
        _drop(trial),
        _percent(trial.report_accuracy),
        "-" if trial.latency_ms is None else f"{trial.latency_ms:.3g} ms",
        _ratio(trial),
        "-" if trial.size_bytes is None else _megabytes(trial.size_bytes),
        "-" if trial.integer_coverage is None else f"{trial.integer_coverage:.0%}",
        "-" if trial.front_probability is None else f"{trial.front_probability:.0%}",
    ]


def tabulate_layers(layers: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of what became of each layer on the runtime.

    Args:
        layers: as `LayerProof.to_dict` gives them, with `sqnr_db` where outputs were compared.
    """
    columns = ["layer", "stored", "kernel", "integer", "of time", "of MACs", "why float"]
    total = sum(layer["macs"] for layer in layers) or 1
    rows = [
        [
            layer["name"],
            layer["stored_as"] or "",
            layer["kernel"],
            *_executed(layer, total),
            layer["reason"] or "",
        ]
        for layer in layers
    ]
    if any("sqnr_db" in layer for layer in layers):
        columns.insert(-1, "SQNR")
        for layer, row in zip(layers, rows, strict=True):
            value = layer.get("sqnr_db")
            row.insert(-1, "" if value is None else f"{value:.1f} dB")
    return columns, rows


def _executed(layer: Mapping[str, Any], total_macs: int) -> list[str]:
    if layer["kind"] == "output":
        return ["", "", ""]
    share, macs = f"{layer['time_share']:.1%}", f"{layer['macs'] / total_macs:.1%}"
    return ["yes" if layer["integer_kernel"] else "no", share, macs]


def find_first_disagreement(layers: Sequence[Mapping[str, Any]]) -> str | None:
    """The first layer whose output rounding does not explain; None if no layer is known to be."""
    for layer in layers:
        value = layer.get("sqnr_db")
        if value is not None and value < MIN_SQNR_DB:
            return (
                f"the file parts from the Brevitas model at layer '{layer['name']}': "
                f"SQNR {value:.1f} dB"
            )
    return None


def describe_shares(shares: Sequence[tuple[str, float]], keep: int = 4) -> str:
    """Where the rest of the time goes: `31% of the time (Softmax 12%, Add 8%, ...)`."""
    total = sum(share for _, share in shares)
    named = [f"{kernel} {share:.0%}" for kernel, share in shares[:keep]]
    more = ["..."] if len(shares) > keep else []
    return f"{total:.0%} of the time ({', '.join([*named, *more])})"


def describe_trade(trial: Trial, reference: Trial) -> str:
    """What a model costs and buys against float, in one sentence."""
    assert trial.accuracy_drop is not None
    assert trial.size_bytes is not None
    assert reference.size_bytes is not None
    points = trial.accuracy_drop * 100
    if abs(points) < 0.005:
        change = "as accurate as float"
    else:
        change = f"{abs(points):.2f} points {'below' if points > 0 else 'above'} float"
    parts = [change + ("" if _is_significant(trial) else " (within chance)")]
    if trial.latency_ratio:
        parts.append(_describe_speed(trial))
    parts.append(_describe_share(trial.size_bytes / reference.size_bytes))
    return ", ".join(parts)


def describe_recommendation(choices: Sequence[Recommendation], reference: Trial) -> str:
    """What one trial is recommended for, and the reason, in one sentence."""
    choice = choices[0]
    kinds = "; ".join(f"{item.kind} {item.condition}".strip() for item in choices)
    sentence = f"{kinds}: trial {choice.trial.number}, {describe_trade(choice.trial, reference)}"
    following = choice.next_faster
    if following is None or following.accuracy_drop is None or choice.trial.accuracy_drop is None:
        return f"{sentence}; nothing on the front is faster."
    loss = (following.accuracy_drop - choice.trial.accuracy_drop) * 100
    change = f"loses {loss:.2f} points" if loss >= 0 else f"gains {-loss:.2f} points"
    return f"{sentence}; next faster {change} (trial {following.number})."


def describe_drift(trials: Sequence[Trial]) -> str | None:
    """How much the float model's own time changed over a study; None if it was not timed."""
    seen = [trial.timing or trial.partial for trial in trials]
    times = [item.reference_ms for item in seen if item is not None and item.reference_ms]
    if not times:
        return None
    middle = sorted(times)[len(times) // 2]
    low, high = min(times) / middle - 1, max(times) / middle - 1
    return f"float reference {middle:.3g} ms, {low:+.1%} to {high:+.1%} over the study"


def describe_saturation(trials: Sequence[Trial]) -> str | None:
    """Whether 8-bit accuracy suffers from a missing instruction; None where nothing tells."""
    named = {trial.name: trial for trial in trials if trial.state == "complete"}
    full, reduced = named.get("w8a8"), named.get(REDUCED)
    if full is None or reduced is None or not (full.evidence and reduced.evidence):
        return None
    assert full.accuracy is not None
    assert reduced.accuracy is not None
    gain = reduced.accuracy - full.accuracy
    low, _ = drop_interval(reduced.evidence, full.evidence, gain)
    if low <= 0:
        return None
    return (
        "this model's 8-bit accuracy depends on an instruction that this processor lacks (sums "
        f"of products saturate): w8a8 {full.accuracy:.2%}, with 7-bit weights "
        f"{reduced.accuracy:.2%} (reduce_range: true)"
    )


def _is_significant(trial: Trial) -> bool:
    if trial.accuracy_drop_ci is None:
        return True
    low, high = trial.accuracy_drop_ci
    return low > 0 or high < 0


def _describe_speed(trial: Trial) -> str:
    assert trial.latency_ratio is not None
    low, high = trial.latency_ratio_ci or (trial.latency_ratio, trial.latency_ratio)
    if low <= 1 <= high:
        return "as fast as float"
    is_faster = trial.latency_ratio < 1
    factor = 1 / trial.latency_ratio if is_faster else trial.latency_ratio
    amount = f"{factor - 1:.0%}" if factor < _AS_FACTOR else f"{factor:.2g}x"
    return f"{amount} {'faster' if is_faster else 'slower'}"


def _describe_share(share: float) -> str:
    words = {1: "the same size", 0.5: "half the size", 0.25: "one quarter of the size"}
    return next(
        (text for value, text in words.items() if abs(share / value - 1) < 0.02),
        f"{share:.0%} of the size",
    )


def _drop(trial: Trial) -> str:
    if trial.accuracy_drop is None or trial.accuracy_drop_ci is None:
        return _points(trial.accuracy_drop)
    low, high = trial.accuracy_drop_ci
    return f"{_points(trial.accuracy_drop)} ±{(high - low) * 50:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value * 100 + 0.0:+.2f}"


def _ratio(trial: Trial) -> str:
    if trial.latency_ratio is None:
        return "-"
    if trial.latency_ratio_ci is None:
        return f"{trial.latency_ratio:.3f}"
    low, high = trial.latency_ratio_ci
    half = (high - low) / 2
    return f"{trial.latency_ratio:.3f} ±{half:.3f}"


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.3f} MB"


def pareto_figure(
    trials: Sequence[Trial],
    front: Sequence[Trial],
    x: Objective = "size",
    y: Objective = "accuracy",
    title: str = "",
    color: Objective | None = None,
) -> go.Figure:
    """Every complete trial, the front joined, the baselines named.

    Args:
        trials: what was evaluated.
        front: the members to join, in any order.
        x: objective on the horizontal axis.
        y: objective on the vertical axis.
        title: what the reader is to take away.
        color: objective that colours the points; the one that is left, if none is named.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    baselines = [trial for trial in complete if trial.name is not None]
    left: Objective = next(name for name in _LABELS if name not in (x, y))
    figure = go.Figure()
    figure.add_trace(_all_points(complete, x, y, color or left))
    figure.add_trace(_ring(front, x, y, "on the front", "circle-open", _ACCENT))
    figure.add_trace(_ring(baselines, x, y, "baseline", "diamond-open", _BASELINE))
    for trial, shift in zip(baselines, _label_shifts(baselines, complete, x, y), strict=True):
        figure.add_annotation(
            x=_value(trial, x), y=_value(trial, y), text=trial.name, ax=shift[0], ay=shift[1],
            arrowwidth=1, arrowcolor=_BASELINE, arrowhead=0, standoff=7,
            font={"size": 13, "color": _BASELINE}, bgcolor="rgba(255,255,255,0.8)",
        )  # fmt: skip
    figure.update_layout(
        title={"text": title, "x": 0.02, "font": {"size": 18}},
        template="plotly_white",
        font={"family": "DejaVu Sans, Arial, sans-serif", "size": 14, "color": _INK},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        margin={"l": 80, "r": 40, "t": 110, "b": 70},
    )
    figure.update_xaxes(title=_LABELS[x], rangemode="tozero", zeroline=False)
    figure.update_yaxes(title=_LABELS[y], zeroline=False)
    return figure


def _label_shifts(
    named: Sequence[Trial], everything: Sequence[Trial], x: Objective, y: Objective
) -> list[tuple[int, int]]:
    """Where the names of the baselines stand beside their points, in pixels, without overlap."""
    widest = max((_value(trial, x) for trial in everything), default=1.0) or 1.0
    order = sorted(named, key=lambda trial: -_value(trial, y))
    shifts = {}
    for rank, trial in enumerate(order):
        is_right = _value(trial, x) > 0.7 * widest
        shifts[trial.digest] = (-50 if is_right else 75, 26 * rank - 13 * (len(order) - 1))
    return [shifts[trial.digest] for trial in named]


def _value(trial: Trial, objective: Objective) -> float:
    """An objective in the unit of its axis."""
    match objective:
        case "accuracy":
            return (trial.accuracy or 0.0) * 100
        case "latency":
            return trial.latency_ratio or 0.0
        case "size":
            return (trial.size_bytes or 0) / 1e6


def _all_points(trials: Sequence[Trial], x: Objective, y: Objective, color: Objective) -> Any:
    values = [_value(trial, color) for trial in trials]
    # one very slow baseline must not take the whole scale
    top = sorted(values)[int(0.9 * (len(values) - 1))] if values else 1.0
    return go.Scatter(
        x=[_value(trial, x) for trial in trials],
        y=[_value(trial, y) for trial in trials],
        mode="markers",
        name="trial",
        text=[f"trial {trial.number}: {describe_recipe(trial.recipe)}" for trial in trials],
        hovertemplate="%{text}<br>%{y:.2f}, %{x:.3f}<extra></extra>",
        marker={
            "color": values, "size": 8, "colorscale": "Cividis",
            "cmin": min(values, default=0), "cmax": top,
            "colorbar": {"title": {"text": f"{_SHORT[color]}<br>(cut)"}, "thickness": 14},
        },
    )  # fmt: skip


def _ring(
    trials: Sequence[Trial], x: Objective, y: Objective, name: str, symbol: str, color: str
) -> Any:
    return go.Scatter(
        x=[_value(trial, x) for trial in trials],
        y=[_value(trial, y) for trial in trials],
        mode="markers",
        name=name,
        hoverinfo="skip",
        marker={"color": color, "size": 14, "symbol": symbol, "line": {"width": 2}},
    )
