"""Searches on Ray without a network: fake evaluators that travel to workers."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoquant.backends.fake import FakeBackend, FakeBuilder, FakeData, FakeSession
from autoquant.core.artifact import Artifact, Candidate
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


class PlacedBackend(FakeBackend):
    """A machine on which a layer in integers takes another share of float's time."""

    def __init__(self, place: str, cost: float) -> None:
        self.place = place
        self.cost = cost

    def load(self, artifact: Artifact, threads: int) -> FakeSession:
        found = super().load(artifact, threads)
        kinds = artifact.precisions.values()
        units = sum(1.0 if kind == "float32" else self.cost for kind in kinds)
        return FakeSession(found.error_share, 1e-4 * units / threads)

    def fingerprint(self) -> dict[str, Any]:
        return {"machine": {"cpu": self.place}, "versions": {}}


@dataclass(frozen=True)
class PlacedSource:
    """Makes a fake evaluator that is as fast as the node on which it is made.

    Attributes:
        costs: share of float's time that a layer in integers takes, by node.
        place: name of the node; None asks Ray.
    """

    costs: Mapping[str, float]
    place: str | None = None

    def __call__(self) -> Evaluator:
        place = self.place or find_node_name()
        return Evaluator(
            FakeBuilder(8),
            PlacedBackend(place, self.costs.get(place, 0.5)),
            FakeData(1000),
            FakeData(500),
            options=EvaluationOptions(latency=QUICK, front_latency=QUICK),
        )


def find_node_name() -> str:
    """Of the node that this process runs on, as its cluster calls it."""
    import ray

    if not ray.is_initialized():
        return "here"
    own = ray.get_runtime_context().get_node_id()
    return next(node["NodeName"] for node in ray.nodes() if node["NodeID"] == own)
