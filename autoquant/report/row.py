"""Rows of tables for people: pure functions of trials. A dash is what was not measured."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from autoquant.core.noise import Interval
from autoquant.core.recipe import Recipe, method_label
from autoquant.core.trial import Trial

__all__ = [
    "COLUMNS",
    "describe_ratios",
    "describe_recipe",
    "find_targets",
    "flatten_trials",
    "format_drop",
    "format_megabytes",
    "format_percent",
    "tabulate_layers",
    "tabulate_trials",
    "trial_row",
]

COLUMNS = (
    "#", "recipe", "accuracy", "drop", "report", "latency", "x float", "size", "integer", "on front"
)  # fmt: skip
_RATIO = COLUMNS.index("x float")


def describe_recipe(recipe: Recipe, name: str | None = None) -> str:
    """A recipe in a few words: `w4 x13, w8 x6, float x1; percentile:99.9; qat`."""
    if recipe.options is None or name is not None:
        return name or recipe.method
    bits = list(recipe.layers.values())  # whose `count` is many times quicker than a Counter
    counts = {"w8": bits.count(8), "w4": bits.count(4), "float": bits.count(None)}
    widths = [f"{width} x{count}" for width, count in counts.items() if count]
    mode = "; qat" if recipe.is_trained else ""
    return f"{', '.join(widths)}; {method_label(recipe.options.calibration)}{mode}"


def trial_row(trial: Trial) -> list[str]:
    """One line of a table; see `COLUMNS`. A dash is what was not measured."""
    marks = "*" if trial.knee else ""
    return [
        f"{trial.number}{marks}",
        describe_recipe(trial.recipe, trial.name),
        format_percent(trial.accuracy),
        format_drop(trial.accuracy_drop, trial.accuracy_drop_ci),
        format_percent(trial.report_accuracy),
        "-" if trial.latency_ms is None else f"{trial.latency_ms:.3g} ms",
        _ratio(trial),
        "-" if trial.size_bytes is None else format_megabytes(trial.size_bytes),
        "-" if trial.integer_coverage is None else f"{trial.integer_coverage:.0%}",
        "-" if trial.front_probability is None else f"{trial.front_probability:.0%}",
    ]


def find_targets(trials: Sequence[Trial]) -> list[str]:
    """Targets of the study that trials are of, by name; none where it has none."""
    return next((list(trial.targets) for trial in trials if trial.targets), [])


def tabulate_trials(trials: Sequence[Trial]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of trials; where the study has targets, a ratio for each of them.

    Of trials that are not complete, their state.
    """
    targets = find_targets(trials)
    columns, rows = list(COLUMNS), [trial_row(trial) for trial in trials]
    if targets:
        columns[_RATIO : _RATIO + 1] = [f"x {name}" for name in targets]
        for row, trial in zip(rows, trials, strict=True):
            row[_RATIO : _RATIO + 1] = [_ratio(trial.seen_from(name)) for name in targets]
    for row, trial in zip(rows, trials, strict=True):
        if trial.state != "complete":
            row[2:] = [trial.state, *["-"] * (len(row) - 3)]
    return columns, rows


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


def format_drop(drop: float | None, interval: Interval | None) -> str:
    """An accuracy drop in points, with half the width of its interval: `+0.12 ±0.30`."""
    if drop is None or interval is None:
        return _points(drop)
    low, high = interval
    return f"{_points(drop)} ±{(high - low) * 50:.2f}"


def format_percent(value: float | None) -> str:
    """A share in percent: `91.50%`."""
    return "-" if value is None else f"{value:.2%}"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value * 100 + 0.0:+.2f}"


def describe_ratios(trial: Trial) -> str:
    """Its latency as a multiple of float's, on each target: `0.661 ±0.007 x float on edge`."""
    if not trial.targets:
        return f"{_ratio(trial)} x float"
    seen = {name: _ratio(trial.seen_from(name)) for name in trial.targets}
    return ", ".join(f"{ratio} x float on {name}" for name, ratio in seen.items())


def _ratio(trial: Trial) -> str:
    if trial.latency_ratio is None:
        return "-"
    if trial.latency_ratio_ci is None:
        return f"{trial.latency_ratio:.3f}"
    low, high = trial.latency_ratio_ci
    half = (high - low) / 2
    return f"{trial.latency_ratio:.3f} ±{half:.3f}"


def format_megabytes(size_bytes: int) -> str:
    """A size in 10**6 bytes: `0.201 MB`."""
    return f"{size_bytes / 1e6:.3f} MB"


def flatten_trials(trials: Sequence[Trial]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of every field, for CSV: text as it is, all else as JSON."""
    records = [trial.to_dict() for trial in trials]
    hidden = {"knee", "evidence"} | (set() if any("targets" in r for r in records) else {"targets"})
    columns = [name for name in Trial.model_fields if name not in hidden]
    rows = [
        [value if isinstance(value := record.get(name), str) else json.dumps(value)
         for name in columns]
        for record in records
    ]  # fmt: skip
    return columns, rows
