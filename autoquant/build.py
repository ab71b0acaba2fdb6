"""Composition: the one place where quantizers, exporters, runtimes and tasks meet."""

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_leaves

from autoquant.backends.base import FileBackend
from autoquant.backends.latency import PROTOCOL_VERSION
from autoquant.backends.machine import (
    available_cores,
    available_memory,
    describe_machine,
    package_versions,
)
from autoquant.backends.registry import DEFAULT_BACKEND, load_backend
from autoquant.core.artifact import Artifact, Candidate
from autoquant.core.batching import input_batches
from autoquant.core.dataset import digest_splits
from autoquant.core.fingerprint import Fingerprint
from autoquant.core.layer import Kernels, Layer, LayerNoise
from autoquant.core.recipe import Recipe
from autoquant.core.task import Task
from autoquant.core.training import TrainingWatch
from autoquant.errors import InputError, RecipeError, TaskError, TrialError
from autoquant.evaluate import EvaluationOptions, Evaluator
from autoquant.export.exporter import Exporter, Sample, load_exporter
from autoquant.export.float_graph import export_float
from autoquant.export.formats import format_of
from autoquant.export.passport import seal
from autoquant.fidelity import check_fidelity
from autoquant.layer_noise import measure_noise
from autoquant.quantize.layers import LayerNode, find_layers
from autoquant.quantize.placement import fused_output
from autoquant.quantize.quantizer import QuantizedModel, Quantizer, Train
from autoquant.quantize.sampling import as_tensors, record_values
from autoquant.quantize.trace import trace
from autoquant.quantize.training import Trainer, Training

__all__ = ["TaskBuilder", "build_evaluator"]

_PASSPORT_FORMAT = 1
_BATCH = 64
_COMPARED = 4  # samples on which the float file is compared with the model
_PACKAGES = ("autoquant", "torch", "brevitas", "numpy")


def build_evaluator(
    task: Task,
    seed: int = 0,
    options: EvaluationOptions | None = None,
    backend: str = DEFAULT_BACKEND,
    checkpoints: Path | None = None,
) -> Evaluator:
    """An evaluator of a task on one of the runtimes.

    Args:
        task: what is quantized.
        seed: draws the calibration images.
        options: how files are judged.
        backend: name of the runtime that runs and judges them.
        checkpoints: folder from which training goes on that was killed; None keeps nothing.

    Raises:
        InputError: a backend that is unknown or not installed, or a task without layers.
    """
    options = options or EvaluationOptions()
    runtime = load_backend(backend)
    torch.set_num_threads(available_cores())
    conditions = {
        "backend": backend,
        "threads": options.threads,
        "batch": options.batch,
        "latency_protocol": PROTOCOL_VERSION,
        **({"full_integer": True} if options.full_integer else {}),
    }
    builder = TaskBuilder(task, seed, conditions, runtime.fingerprint(), checkpoints)
    return Evaluator(builder, runtime, task.search, task.report, task.metric, options)


class TaskBuilder:
    """Builds artifacts of one task.

    Args:
        task: what is quantized.
        seed: draws the calibration images.
        conditions: how figures are taken, for the passport.
        fingerprint: of the backend that takes them; this machine's alone if left out.
        checkpoints: folder from which training goes on that was killed; None keeps nothing.
        kernels: what there are integer kernels for; what the backend has if left out.

    Raises:
        TraceError: the model cannot be captured or translated, or is translated wrongly.
        ArtifactError: the runtime cannot load the float model, which everything begins with.
        TrialError: it cannot run it.
        TaskError: nothing in it can be quantized, or its weights or data are not fit for it.
    """

    def __init__(
        self,
        task: Task,
        seed: int = 0,
        conditions: Mapping[str, Any] | None = None,
        fingerprint: Mapping[str, Any] | None = None,
        checkpoints: Path | None = None,
        kernels: Kernels | None = None,
    ) -> None:
        self.task = task
        self.seed = seed
        self.conditions = dict(conditions or {})
        self.fingerprint = fingerprint or {"machine": describe_machine(), "versions": {}}
        self._data_digests = digest_splits(task)
        self._graph = graph = export_float(trace(task.model, task.example_input))
        found = find_layers(graph.module)
        graph.name_layers({layer.node.name: name for name, layer in found.items()})
        backend = self.conditions.get("backend", DEFAULT_BACKEND)
        self.exporter: Exporter = load_exporter(
            backend,
            graph,
            lambda: _sample(task, graph.module, found),
            full_integer=bool(self.conditions.get("full_integer")),
        )
        self._check_float_file()
        self.quantizer = Quantizer(
            graph.module,
            task.calibration,
            seed,
            kernels or self.backend.kernels,
            self.exporter.obstacles,
        )
        self._own_files: dict[str, bytes] = {}
        self._trainer = Trainer(task, seed, checkpoints, find_memory=available_memory)
        if not self.layers:
            raise TaskError(
                f"task '{task.name}': the model has no layer that can be quantized (a "
                "convolution, or a linear layer over two dimensions, that runs once)"
            )

    def _check_float_file(self) -> None:
        data = self.task.calibration
        indices = range(0, len(data), math.ceil(len(data) / _COMPARED))
        (batch,) = input_batches(data, indices, _COMPARED, torch.stack)
        file = Artifact(self.exporter.float_file, {}, {})
        check_fidelity(self.task.model, file, self.backend, batch)

    @property
    def layers(self) -> list[Layer]:
        """The quantizable layers, in network order."""
        return self.quantizer.layers

    @property
    def operators(self) -> list[Layer]:
        """Everything that multiplies and accumulates, or looks up."""
        return self.quantizer.operators

    @property
    def float_onnx(self) -> Artifact:
        """The float model as ONNX Runtime runs it."""
        return Artifact(bytes(self._graph.model.SerializeToString(deterministic=True)), {}, {})

    def build(self, recipe: Recipe, watch: TrainingWatch | None = None) -> Candidate:
        """The file of a recipe; see `core.artifact.Builder`."""
        training = self._begin_training(recipe, watch)
        start = time.perf_counter()
        quantized = self._quantize(recipe, None if training is None else training.fit)
        middle = time.perf_counter()
        artifact = self._write(recipe, quantized)
        seconds = {"quantize": middle - start, "export": time.perf_counter() - middle}
        if training is not None:
            seconds["quantize"] -= training.seconds_here
            seconds["train"] = training.seconds
        predict = None if quantized is None else _as_arrays(quantized)
        curve = None if training is None else training.curve
        return Candidate(artifact, predict, seconds, curve)

    def restore(self, recipe: Recipe) -> Candidate:
        """As `build`, but nothing is trained: an earlier run's end comes from its checkpoint.

        Raises:
            CheckpointError: the folder of checkpoints holds no end of this recipe's training, or
                it is damaged.
        """
        quantized = self.restore_model(recipe)
        predict = None if quantized is None else _as_arrays(quantized)
        return Candidate(self._write(recipe, quantized), predict)

    def restore_model(self, recipe: Recipe) -> QuantizedModel | None:
        """The quantized model that `restore` writes a file of; None if Brevitas makes none."""
        training = self._begin_training(recipe, None)
        return self._quantize(recipe, None if training is None else training.restore)

    def _write(self, recipe: Recipe, quantized: QuantizedModel | None) -> Artifact:
        content = self._export(recipe, quantized)
        kind = format_of(content)
        ends = kind.read_io(content)
        if self.conditions.get("full_integer") and recipe.method != "fp32" and not ends:
            raise RecipeError(
                f"recipe '{recipe.method}' makes a file with inputs and outputs in float: leave "
                "out --full-integer, or take a recipe that quantizes every layer"
            )
        passport = self._passport(recipe, kind.digest(content)) | ends
        precisions = kind.read_precisions(content)
        return Artifact(kind.write_passport(content, passport), precisions, passport)

    def _begin_training(self, recipe: Recipe, watch: TrainingWatch | None) -> Training | None:
        if not recipe.is_trained:
            return None
        return self._trainer.begin(recipe, self.quantizer.module, watch or TrainingWatch())

    def seal(
        self,
        artifact: Artifact,
        measurement: Mapping[str, Any],
        fingerprint: Fingerprint | None = None,
    ) -> Artifact:
        """Write figures into the passport; see `export.passport.seal`."""
        return seal(artifact, measurement, fingerprint or {})

    def measure_noise(self, artifact: Artifact, inputs: Any) -> list[LayerNoise]:
        """Quantization noise of every layer: the file against the float model.

        Args:
            artifact: a file of this task, of any recipe without equalization, which rescales
                what is compared.
            inputs: one batch.
        """
        reference = self.build(Recipe(method="fp32")).artifact
        on_grid = format_of(artifact.content).values_on_grid(artifact.content)
        values = self.quantizer.output_values(on_grid)
        names = [layer.name for layer in self.layers]
        return measure_noise(reference, artifact, names, values, self.backend, inputs)

    @property
    def backend(self) -> FileBackend:
        """Runs the files."""
        return load_backend(self.conditions.get("backend", DEFAULT_BACKEND))

    def _quantize(self, recipe: Recipe, train: Train | None) -> QuantizedModel | None:
        if not recipe.is_quantized:
            return None
        try:
            return self.quantizer.quantize(recipe, train)
        except (InputError, TrialError):
            raise
        except (RuntimeError, ValueError, IndexError) as error:  # Brevitas and torch
            first = (str(error).splitlines() or [""])[0]
            raise TrialError(f"quantization failed: {type(error).__name__}: {first}") from error

    def _export(self, recipe: Recipe, quantized: QuantizedModel | None) -> bytes:
        if recipe.method == "fp32":
            return self.exporter.float_file
        if quantized is not None:
            return self.exporter.write(quantized.encodings)
        if recipe.method not in self._own_files:
            images = self.quantizer.calibration_images()
            batches = input_batches(self.task.calibration, images, _BATCH, torch.stack)
            self._own_files[recipe.method] = self.exporter.quantize_itself(recipe.method, batches)
        return self._own_files[recipe.method]

    def _passport(self, recipe: Recipe, digest: str) -> dict[str, Any]:
        return {
            "format": _PASSPORT_FORMAT,
            "task": self.task.name,
            **({"task_options": dict(self.task.options)} if self.task.options else {}),
            "recipe": recipe.to_dict(),
            "digest": recipe.digest,
            "graph_sha256": digest,
            **self.provenance(recipe),
            **self._tools,
        }

    def provenance(self, recipe: Recipe) -> dict[str, Any]:
        """What a recipe's file is made of, as its passport has it: weights, data, seed, ..."""
        data, conditions = self._data_digests, self.conditions
        if recipe.is_trained:
            data = {**data, "train": self._trainer.data_digest}
            conditions = {**conditions, "augment": self.task.augment_name}
        return {
            "seed": self.seed,
            "weights_sha256": self._weights_digest,
            "data_sha256": data,
            "conditions": conditions,
        }

    @cached_property
    def _weights_digest(self) -> str:
        return _state_digest(self.task.model)

    @cached_property
    def _tools(self) -> dict[str, Any]:
        return {
            "versions": {
                **package_versions(*_PACKAGES, *self.exporter.packages),
                **self.fingerprint["versions"],
            },
            "machine": self.fingerprint["machine"],
        }


def _sample(task: Task, module: GraphModule, found: Mapping[str, LayerNode]) -> Sample:
    """A calibration sample and another one through the float graph, and its layers' weights.

    The other one is as noisy as can be: two images may have more in common.
    """
    layers = {name: layer for name, layer in found.items() if layer.layer.is_quantizable}
    parameters = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }

    def read(node: Node) -> Any:
        return parameters[str(node.target)].detach().numpy()

    places = [node.name for node in module.graph.nodes if node.op == "placeholder"]
    first, last = (
        given if isinstance(given, Mapping) else {places[0]: given}
        for given in input_batches(task.calibration, [0, len(task.calibration) - 1], 1, torch.stack)
    )
    inputs = {place: first[place] for place in places}
    noise = {place: _as_noise(last[place], seed) for seed, place in enumerate(places)}
    return Sample(
        {name: value.numpy() for name, value in inputs.items()},
        _record_floats(module, inputs),
        {name: value.numpy() for name, value in noise.items()},
        _record_floats(module, noise),
        {name: read(layer.weight) for name, layer in layers.items()},
        frozenset(name for name, layer in layers.items() if not layer.multiplies),
        {
            name: read(layer.bias)
            for name, layer in layers.items()
            if layer.bias is not None and str(layer.bias.target) in parameters
        },
        {name: layer.source.name for name, layer in layers.items()},
        {name: layer.node.name for name, layer in layers.items()},
        {name: fused_output(layer.node).name for name, layer in layers.items()},
        _name_results(module),
    )


def _as_noise(value: torch.Tensor, seed: int) -> torch.Tensor:
    """Normal draws in place of floats; the indices of rows stay."""
    if not value.is_floating_point():
        return value
    return torch.randn(value.shape, generator=torch.Generator().manual_seed(seed))


def _record_floats(module: GraphModule, inputs: Mapping[str, torch.Tensor]) -> Any:
    names = {
        node.name: node.name
        for node in module.graph.nodes
        if node.op in ("placeholder", "call_function")
        and isinstance(node.meta.get("val"), torch.Tensor)
    }
    values = record_values(module, names, inputs)
    return {name: value.numpy() for name, value in values.items() if value.dtype == torch.float32}


def _name_results(module: GraphModule) -> dict[str, str]:
    """Values that a graph answers with, in order; one that it gives twice has two names."""
    found: dict[str, str] = {}
    for node in tree_leaves(module.graph.output_node().args):
        if isinstance(node, Node):
            again = sum(value == node.name for value in found.values())
            found[f"{node.name}_alias_{again}" if again else node.name] = node.name
    return found


def _as_arrays(quantized: QuantizedModel) -> Any:
    """The quantized model as a function of arrays."""

    def predict(batches: Sequence[Any]) -> npt.NDArray[np.float32]:
        return quantized.predict([as_tensors(batch) for batch in batches]).numpy()

    return predict


def _state_digest(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
