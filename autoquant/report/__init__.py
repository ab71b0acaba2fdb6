"""Figures, rows and words for people: pure functions of trials."""

from autoquant.report.pareto import pareto_figure
from autoquant.report.row import (
    COLUMNS,
    describe_ratios,
    describe_recipe,
    flatten_trials,
    tabulate_layers,
    tabulate_trials,
    trial_row,
)
from autoquant.report.words import (
    describe_drift,
    describe_first_target,
    describe_recommendation,
    describe_report_gap,
    describe_saturation,
    describe_shares,
    describe_trade,
    find_first_disagreement,
)

__all__ = [
    "COLUMNS",
    "describe_drift",
    "describe_first_target",
    "describe_ratios",
    "describe_recipe",
    "describe_recommendation",
    "describe_report_gap",
    "describe_saturation",
    "describe_shares",
    "describe_trade",
    "find_first_disagreement",
    "flatten_trials",
    "pareto_figure",
    "tabulate_layers",
    "tabulate_trials",
    "trial_row",
]
