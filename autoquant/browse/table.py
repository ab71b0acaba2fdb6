"""The trials of studies as a frame to filter and to draw."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from autoquant.core.recipe import Recipe, method_label
from autoquant.core.trial import Trial
from autoquant.report import describe_recipe

__all__ = [
    "FORMATS",
    "Filter",
    "build_table",
    "find_ranges",
    "read_points",
    "shape_rows",
]

# a column and the end of its slider
_BOUNDS = {"drop": "max_drop", "latency": "max_latency", "size": "max_size"}


@dataclass(frozen=True)
class Filter:
    """What is shown; None is no bound.

    Attributes:
        max_drop: largest accuracy drop, points.
        max_latency: largest latency as a multiple of float.
        max_size: largest file, megabytes.
        modes: `ptq`, `qat`.
        calibrations: methods by their labels.
    """

    max_drop: float | None = None
    max_latency: float | None = None
    max_size: float | None = None
    modes: tuple[str, ...] | None = None
    calibrations: tuple[str, ...] | None = None

    def mask(self, table: pd.DataFrame) -> "pd.Series[bool]":
        """Rows that stay; baselines always do, since everything is held against them."""
        keep = pd.Series(True, index=table.index)
        for column, bound in _BOUNDS.items():
            limit = getattr(self, bound)
            if limit is not None:
                keep &= table[column] <= limit
        if self.modes is not None:
            keep &= table["mode"].isin(self.modes)
        if self.calibrations is not None:
            keep &= table["calibration"].isin(self.calibrations)
        return keep | table["is_baseline"]


def build_table(
    study: str,
    trials: Iterable[Trial],
    members: Sequence[Trial],
    runtime: str = "onnxruntime",
) -> pd.DataFrame:
    """One row a complete trial, figures in the units of the axes.

    Args:
        study: its name, since several may be laid over each other.
        trials: all of the study.
        members: of its front, as they are shown.
        runtime: that they were judged on.
    """
    front = {trial.digest: trial for trial in members}
    rows = [
        {"study": study, "runtime": runtime, **_row(trial, front.get(trial.digest))}
        for trial in trials
        if trial.state == "complete"
    ]
    table = pd.DataFrame(rows, columns=list(_EMPTY))
    return table.astype({name: kind for name, kind in _EMPTY.items() if kind != "object"})


_EMPTY = {
    "study": "object", "runtime": "object", "number": "int64", "recipe": "object", "name": "object",
    "mode": "object", "calibration": "object", "is_front": "bool", "is_baseline": "bool",
    "knee": "bool", "accuracy": "float64", "accuracy_low": "float64", "accuracy_high": "float64",
    "drop": "float64", "drop_half": "float64", "report": "float64",
    "latency": "float64", "latency_low": "float64", "latency_high": "float64",
    "latency_ms": "float64", "size": "float64", "integer": "float64", "on_front": "float64",
}  # fmt: skip


def _row(trial: Trial, member: Trial | None) -> dict[str, Any]:
    accuracy_low, accuracy_high = trial.accuracy_ci or (None, None)
    latency_low, latency_high = trial.latency_ratio_ci or (None, None)
    drop = trial.accuracy_drop_ci
    return {
        "number": trial.number,
        "recipe": describe_recipe(trial.recipe, trial.name),
        "name": trial.name,
        "mode": trial.mode,
        "calibration": _calibration(trial.recipe),
        "is_front": member is not None,
        "is_baseline": trial.name is not None,
        "knee": member is not None and member.knee,
        "accuracy": _times(trial.accuracy, 100),
        "accuracy_low": _times(accuracy_low, 100),
        "accuracy_high": _times(accuracy_high, 100),
        "drop": _times(trial.accuracy_drop, 100),
        "drop_half": None if drop is None else (drop[1] - drop[0]) * 50,
        "report": _times(trial.report_accuracy, 100),
        "latency": _times(trial.latency_ratio),
        "latency_low": _times(latency_low),
        "latency_high": _times(latency_high),
        "latency_ms": _times(trial.latency_ms),
        "size": _times(trial.size_bytes, 1e-6),
        "integer": _times(trial.integer_coverage, 100),
        "on_front": None if member is None else _times(member.front_probability, 100),
    }


def _calibration(recipe: Recipe) -> str:
    return recipe.method if recipe.options is None else method_label(recipe.options.calibration)


def _times(value: float | None, factor: float = 1.0) -> float:
    return np.nan if value is None else value * factor


def find_ranges(table: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Ends of the sliders, rounded outward; a column without figures has none."""
    found = {}
    for column in _BOUNDS:
        values = table[column].dropna()
        if len(values) and values.max() > values.min():
            found[column] = (_floor(values.min()), -_floor(-values.max()))
    return found


def _floor(value: float) -> float:
    """To three digits behind the comma, downward."""
    return float(np.floor(value * 1000) / 1000)


_SHOWN = {
    "study": "study", "runtime": "runtime", "number": "#", "recipe": "recipe",
    "accuracy": "accuracy (%)",
    "drop_words": "drop (points)", "report": "report (%)", "latency_words": "x float",
    "latency_ms": "ms", "size": "MB", "integer": "integer (%)", "on_front": "on front (%)",
}  # fmt: skip
# how a browser is to print them
FORMATS = {
    "accuracy (%)": "%.2f", "report (%)": "%.2f", "ms": "%.4f", "MB": "%.3f",
    "integer (%)": "%.0f", "on front (%)": "%.0f",
}  # fmt: skip
_MOST_ROWS = 500  # nobody reads more, and a browser wants none


def read_points(points: Iterable[Any], study: str) -> list[tuple[str, int]]:
    """(study, number) of what a browser says was selected; see `explore_figure`.

    Args:
        points: of the selection, the `customdata` of each.
        study: that a number alone belongs to.
    """
    found: list[tuple[str, int]] = []
    for point in points:
        match point:
            case [str(name), int(number), *_]:
                found.append((name, number))
            case int(number) | float(number):
                found.append((study, int(number)))
    return list(dict.fromkeys(found))


def shape_rows(
    table: pd.DataFrame, points: Sequence[tuple[str, int]], reference: str = "float"
) -> tuple[pd.DataFrame, str]:
    """Rows for people, and what they are.

    Args:
        table: what is shown in the plot.
        points: (study, number) that were selected; none for the front.
        reference: what latencies are ratios to.
    """
    wanted = set(points)
    if wanted:
        keys = zip(table["study"], table["number"], strict=True)
        rows = table[np.array([key in wanted for key in keys], dtype=bool)]
        title = f"{len(rows)} selected"
    else:
        rows = table[table["is_front"]]
        title = f"The front: {len(rows)} models. Click a point, or draw a box, to see others."
    more = f"; the first {_MOST_ROWS} are listed" if len(rows) > _MOST_ROWS else ""
    dressed = _dress(rows.sort_values("accuracy", ascending=False).head(_MOST_ROWS))
    return dressed.rename(columns={"x float": f"x {reference}"}), title + more


def _dress(rows: pd.DataFrame) -> pd.DataFrame:
    """Figures rounded to what their intervals support, drops and ratios with half of them."""
    dressed = rows.assign(
        drop_words=[_with_half(d, h, "+.2f") for d, h in _pairs(rows, "drop", "drop_half")],
        latency_words=[
            _with_half(ratio, (high - low) / 2, ".3f")
            for ratio, low, high in _pairs(rows, "latency", "latency_low", "latency_high")
        ],
    )
    alike = [name for name in ("study", "runtime") if rows[name].nunique() <= 1]
    dressed = dressed.drop(columns=alike)
    return dressed[[name for name in _SHOWN if name in dressed]].rename(columns=_SHOWN)


def _pairs(rows: pd.DataFrame, *names: str) -> Iterable[tuple[float, ...]]:
    return zip(*(rows[name] for name in names), strict=True)


def _with_half(value: float, half: float, form: str) -> str:
    if np.isnan(value):
        return "-"
    if np.isnan(half):
        return f"{value:{form}}"
    return f"{value:{form}} ±{half:{form.lstrip('+')}}"
