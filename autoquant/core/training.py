"""Quantization-aware training as others see it: its curve, and who watches it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

__all__ = ["TrainingCurve", "TrainingProgress", "TrainingStep", "TrainingWatch"]

Predict = Callable[[Sequence[Any]], npt.NDArray[np.float32]]


class TrainingStep(BaseModel):
    """One point of a training curve.

    Attributes:
        step: optimizer steps done.
        epoch: passes over the training data begun, from 1.
        loss: mean since the point before.
        learning_rate: of the last step.
        accuracy: of the model in training on the first images of the search split, at the
            end of some epochs; a proxy, since no file is written for it.
        held_out_loss: at the end of an epoch, on training images that it does not learn from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    step: int
    epoch: int
    loss: float
    learning_rate: float
    accuracy: float | None = None
    held_out_loss: float | None = None


class TrainingCurve(BaseModel):
    """How a model was trained.

    Attributes:
        steps: optimizer steps of the whole run.
        batch_size: images a step; half of what the recipe says where memory was short.
        device: what it was trained on.
        points: at most about two hundred, evenly spaced, and one at the end of each epoch.
        images: that it learned from.
        held_out: training images that it did not learn from, to judge epochs by.
        start_loss: on them, before the first step.
        kept_step: whose values the model has: the last one, the end of an earlier epoch, or 0
            where training made it worse.

    The last four are missing of what was trained by earlier versions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: int
    batch_size: int
    device: str
    points: tuple[TrainingStep, ...]
    images: int | None = None
    held_out: int = 0
    start_loss: float | None = None
    kept_step: int | None = None

    def describe_kept(self, epochs: int) -> str:
        """What it ended with, where that is not the end of the last of so many epochs."""
        if self.kept_step is None or self.kept_step == self.steps:
            return ""
        epoch = self.kept_step * epochs // self.steps
        if epoch == 0:
            return "made worse by training: kept as it was before"
        return f"best after epoch {epoch} of {epochs}, which is kept"


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training run is.

    Attributes:
        step: optimizer steps done, of `steps`.
        epoch: the pass over the data that runs, from 1, of `epochs`.
        loss: of the last step.
        seconds_left: at the pace so far; None before there is one.
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    seconds_left: float | None = None

    def describe(self) -> str:
        """One line for people."""
        text = f"epoch {self.epoch} of {self.epochs}, loss {self.loss:.3g}"
        if self.seconds_left is None:
            return text
        return f"{text}, about {self.seconds_left // 60:.0f}:{self.seconds_left % 60:02.0f} left"


class TrainingWatch:
    """Told what a training run does; this one does nothing.

    Whatever a method raises ends the training: a `Rejection` says that it is hopeless.
    """

    def on_step(self, progress: TrainingProgress) -> None:
        """After an optimizer step."""

    def on_epoch(self, progress: TrainingProgress, predict: Predict) -> float | None:
        """After an epoch, before the last one is done.

        Args:
            progress: how far it is.
            predict: the model as it is now: batches in, outputs of all of them out.

        Returns:
            Its accuracy, where that was measured.
        """

    def on_note(self, text: str) -> None:
        """Something is not as usual, in words."""
