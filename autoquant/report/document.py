"""The report of a study as one document: what it holds, its figures, its words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import plotly.graph_objects as go

from autoquant.core.analysis import Cell, Granularity
from autoquant.core.distribution import Distributions
from autoquant.core.hypervolume import ModeYield, find_mode_yields
from autoquant.core.objective import Objective
from autoquant.core.pareto import Bounds
from autoquant.core.sensitivity import Sensitivity
from autoquant.core.trial import Trial
from autoquant.report.advice import advise_on_training
from autoquant.report.curve_figure import calibration_figure, training_figure
from autoquant.report.distribution import find_symmetries
from autoquant.report.distribution_figure import browser_figure
from autoquant.report.grid import LossPoint, LossRow, find_points, find_rows, is_main
from autoquant.report.loss_figure import loss_figure
from autoquant.report.noise_figure import Noises, noise_figure
from autoquant.report.pareto import pareto_figure
from autoquant.report.range_figure import input_range_figure, weight_grid_figure
from autoquant.report.sensitivity import sensitivity_figure
from autoquant.report.training_curve import trace_curve

__all__ = ["StudyReport"]


@dataclass(frozen=True)
class StudyReport:
    """Everything that a report says, derived from the trials of one study.

    Attributes:
        study: name of the study.
        task: name of its task.
        objectives: what its front is by.
        bounds: its constraints.
        trials: all of them.
        front: members as they are shown.
        noises: of the cells that were looked at, by layer.
        left_out: why layers are missing, in words; None if none is.
        available: calibration images of the task; None if nobody knows.
        distributions: of weights and inputs, by layer; None if nobody looked.
        unseen: why there are none, in words; None if there are.
        sensitivity: of single layers; None if it was not measured.
    """

    study: str
    task: str
    objectives: Sequence[Objective]
    bounds: Bounds
    trials: Sequence[Trial]
    front: Sequence[Trial]
    noises: Noises = field(default_factory=dict)
    left_out: str | None = None
    available: int | None = None
    distributions: Distributions | None = None
    unseen: str | None = None
    sensitivity: Sensitivity | None = None

    @cached_property
    def reference(self) -> Trial | None:
        """The float model."""
        return next((t for t in self.trials if t.name == "fp32" and t.state == "complete"), None)

    @cached_property
    def points(self) -> list[LossPoint]:
        """The cells of the grid."""
        return find_points(self.trials, self.available)

    @cached_property
    def rows(self) -> list[LossRow]:
        """The table of the grid."""
        return find_rows(self.trials, self.available)

    @cached_property
    def advice(self) -> list[str]:
        """PTQ or QAT, in words."""
        return advise_on_training(self.points)

    @cached_property
    def yields(self) -> list[ModeYield]:
        """What each mode cost and bought."""
        return find_mode_yields(self.trials, self.objectives, self.bounds)

    @property
    def has_calibration_curve(self) -> bool:
        """Whether some cell was calibrated with other numbers of images."""
        return any(not is_main(point) and point.is_complete for point in self.points)

    @property
    def has_training_curve(self) -> bool:
        """Whether accuracy was looked at between epochs."""
        return any(is_main(point) and trace_curve(point.trial) for point in self.points)

    def figures(self) -> dict[str, go.Figure]:
        """By name, in the order of the document; those without anything to show are left out."""
        found = {"losses": loss_figure(self.rows, "What quantization loses")}
        if self.has_calibration_curve:
            found["calibration"] = calibration_figure(
                self.points, "More calibration images, per-channel weights"
            )
        if self.has_training_curve:
            found["training"] = training_figure(
                self.points, self.reference, "Minutes of training against PTQ"
            )
        for granularity in self._noisy_granularities():
            words = granularity.replace("_", "-")
            title = f"Quantization noise by layer, {words} weights"
            found[f"noise_{granularity}"] = noise_figure(self.noises, granularity, title)
        found |= self._layer_figures()
        if self.front:
            found["front"] = pareto_figure(
                self.trials, self.front, title="Every complete trial of the study"
            )
        return found

    def _layer_figures(self) -> dict[str, go.Figure]:
        found = {}
        if self.distributions is not None:
            title = "Weights and inputs with the ends of their grids"
            found["distributions"] = browser_figure(self.distributions, title)
            found["weight_grids"] = weight_grid_figure(
                self.distributions, "How well each grid fits the weights"
            )
            for symmetry in find_symmetries(self.distributions):
                found[f"ranges_{symmetry}"] = input_range_figure(
                    self.distributions, symmetry, f"What each method clips, {symmetry} grids"
                )
        if self.sensitivity is not None:
            title = "What each layer alone costs and buys"
            found["sensitivity"] = sensitivity_figure(self.sensitivity, title)
        return found

    def _noisy_granularities(self) -> list[Granularity]:
        return list(dict.fromkeys(cell.granularity for cell in self.noises))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "study": self.study,
            "task": self.task,
            "advice": self.advice,
            "cells": [row.to_dict() for row in self.rows],
            "calibration": [_to_record(point) for point in self.points if not is_main(point)],
            "training": [
                {"trial": point.trial.number, "minutes": minutes, "accuracy": percent / 100}
                for point in self.points
                for minutes, percent in trace_curve(point.trial)
            ],
            "noise": [
                {**_name_cell(cell), "layers": [vars(layer) for layer in layers]}
                for cell, layers in self.noises.items()
            ],
            "noise_left_out": self.left_out,
            "modes": [
                {**vars(item), "gained_per_minute": item.gained_per_minute} for item in self.yields
            ],
        }


def _to_record(point: LossPoint) -> dict[str, Any]:
    trial = point.trial
    return {
        **_name_cell(point.cell),
        "calibration_images": point.calibration_images,
        "trial": trial.number,
        "state": trial.state,
        "accuracy": trial.accuracy,
        "accuracy_drop": trial.accuracy_drop,
        "accuracy_drop_ci": trial.accuracy_drop_ci,
        "seconds": dict(trial.seconds),
    }


def _name_cell(cell: Cell) -> Mapping[str, Any]:
    return {
        "weight_bits": cell.weight_bits,
        "granularity": cell.granularity,
        "method": cell.method,
    }
