"""`FakeBackend`: a deterministic cost model, for rehearsing searches without a network.

A fake network has layers whose sensitivity falls with depth. Accuracy, latency and size follow
from the stored precisions alone, so a search over it takes milliseconds and its true front can
be enumerated. Nothing here is a claim on any real model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoquant.core.artifact import Artifact, Candidate
from autoquant.core.layer import Kernels, Layer
from autoquant.core.proof import NodeTime
from autoquant.core.recipe import Recipe
from autoquant.core.training import TrainingWatch

__all__ = ["FakeBackend", "FakeBuilder", "FakeData", "FakeSession", "fake_artifact", "fake_layers"]

_CLASSES = 10
_BITS = {"int4": 4, "int8": 8, "float32": 32}
_TRAINING_S = 5.0  # as it is booked; nothing runs
_UNREGAINED = 0.2  # of the loss, after training
_LATENCY = {"int4": 0.5, "int8": 0.5, "float32": 1.0}


def fake_layers(count: int = 8) -> list[Layer]:
    """A chain of convolutions of growing size."""
    return [
        Layer(f"conv{index}", "conv", parameters=1000 * (index + 1), macs=100_000, order=index)
        for index in range(count)
    ]


def fake_artifact(precisions: Mapping[str, str], *, is_trained: bool = False) -> Artifact:
    """A file of the size that these precisions would have; it holds no model."""
    bits = sum(
        layer.parameters * _BITS[precisions[layer.name]] for layer in fake_layers(len(precisions))
    )
    return Artifact(b"\0" * (bits // 8), precisions, {"trained": True} if is_trained else {})


@dataclass(frozen=True)
class FakeSession:
    """A fake loaded model: it misjudges a share of the inputs that its precisions explain."""

    error_share: float
    seconds: float

    def predict(self, inputs: Any) -> npt.NDArray[np.float32]:
        """One-hot rows: sample i has class i modulo ten, unless it is among the misjudged."""
        index = np.asarray(inputs, dtype=np.int64).reshape(-1)
        is_wrong = (index * 7919 % 1000) < self.error_share * 1000
        chosen = (index + is_wrong) % _CLASSES
        return np.eye(_CLASSES, dtype=np.float32)[chosen]

    def time_once(self, inputs: Any) -> float:
        """Seconds by the cost model; nothing runs."""
        return self.seconds


class FakeBackend:
    """Judges artifacts by their precisions alone."""

    name = "fake"
    kernels = Kernels()
    caveat: str | None = None

    def load(self, artifact: Artifact, threads: int) -> FakeSession:
        """A session whose accuracy and latency follow from the precisions."""
        depth = range(len(artifact.precisions))
        kinds = list(artifact.precisions.values())
        losses = [
            {"int4": 0.02, "int8": 0.001, "float32": 0.0}[kind] / (1 + order)
            for kind, order in zip(kinds, depth, strict=True)
        ]
        cost = sum(_LATENCY[kind] for kind in kinds)
        loss = sum(losses) * (_UNREGAINED if artifact.passport.get("trained") else 1.0)
        return FakeSession(error_share=0.05 + loss, seconds=1e-4 * cost / threads)

    def find_integer_layers(self, artifact: Artifact, layers: Sequence[str]) -> frozenset[str]:
        """Every layer that is not stored as float."""
        return frozenset(name for name in layers if artifact.precisions[name] != "float32")

    def profile_nodes(
        self,
        artifact: Artifact,
        threads: int = 1,
        batch: int = 1,
        runs: int = 30,
        inputs: Any = None,
    ) -> list[NodeTime]:
        """The cost model, layer by layer."""
        return [
            NodeTime(name, "Conv" if kind == "float32" else "QLinearConv", 0.1 * _LATENCY[kind])
            for name, kind in artifact.precisions.items()
        ]

    def measure_memory(self, artifact: Artifact, threads: int, batch: int = 1) -> int | None:
        """Twice the file, and a byte a sample; nothing runs."""
        return 2 * artifact.size_bytes + batch

    def fingerprint(self) -> dict[str, Any]:
        """Says that this is no machine."""
        return {"machine": {"cpu": "fake"}, "versions": {}}


class FakeBuilder:
    """Turns a recipe into precisions; makes no model."""

    def __init__(self, count: int = 8) -> None:
        self.layers = fake_layers(count)
        self.operators = self.layers
        self.float_onnx = None

    def build(self, recipe: Recipe, watch: TrainingWatch | None = None) -> Candidate:
        """A fake file; the runtime's own quantizers count as eight bits everywhere."""
        kinds: dict[int | None, str] = {None: "float32", 4: "int4", 8: "int8"}
        default = None if recipe.method == "fp32" else 8
        chosen = {layer.name: recipe.layers.get(layer.name, default) for layer in self.layers}
        precisions = {name: kinds[bits] for name, bits in chosen.items()}
        artifact = fake_artifact(precisions, is_trained=recipe.is_trained)
        seconds = {"train": _TRAINING_S} if recipe.is_trained else {}
        return Candidate(artifact, seconds=seconds)

    def provenance(self, recipe: Recipe) -> Mapping[str, Any]:
        """Of nothing real."""
        return {}

    def seal(
        self,
        artifact: Artifact,
        measurement: Mapping[str, Any],
        fingerprint: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Nothing to write into."""
        return artifact


class FakeData:
    """Sample i is the number i, of class i modulo ten."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.int64], int]:
        return np.array(index), index % _CLASSES
