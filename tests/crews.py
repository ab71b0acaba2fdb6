"""Searches on Ray without a network: fake evaluators that travel to workers."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from autoquant.backends.fake import FakeBackend, FakeBuilder, FakeData
from autoquant.core.artifact import Candidate
from autoquant.core.recipe import Recipe
from autoquant.core.training import TrainingWatch
from autoquant.evaluate import EvaluationOptions, Evaluator
from tests.fakes import QUICK


class SlowBuilder(FakeBuilder):
    """Takes its time, and notes in a folder which recipe was begun by which process."""

    def __init__(self, count: int, seconds: float, notes: Path | None, chatter: str = "") -> None:
        super().__init__(count)
        self.seconds = seconds
        self.notes = notes
        self.chatter = chatter.encode()

    def build(self, recipe: Recipe, watch: TrainingWatch | None = None) -> Candidate:
        os.write(1, self.chatter)  # as a native library does
        if recipe.method != "fp32":
            time.sleep(self.seconds)
        if self.notes is not None:
            with (self.notes / "built").open("a") as file:
                file.write(f"{recipe.digest} {os.getpid()} {time.time()}\n")
        return super().build(recipe, watch)


@dataclass(frozen=True)
class FakeSource:
    """Makes a fake evaluator in a worker."""

    layers: int = 8
    seconds: float = 0.0
    notes: Path | None = None
    samples: int = 1000
    chatter: str = ""

    def __call__(self) -> Evaluator:
        return Evaluator(
            SlowBuilder(self.layers, self.seconds, self.notes, self.chatter),
            FakeBackend(),
            FakeData(self.samples),
            FakeData(500),
            options=EvaluationOptions(latency=QUICK, front_latency=QUICK),
        )
