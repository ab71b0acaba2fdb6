"""What a file can be held to: how close rounding lets it come, how much could run in integers."""

import copy
from typing import Any

import numpy as np
import torch

from autoquant.backends.machine import has_integer_dot_product
from autoquant.core.artifact import Artifact
from autoquant.core.metric import signal_to_noise_db
from autoquant.core.recipe import PtqOptions, Recipe
from autoquant.evaluate import Evaluator
from autoquant.quantize.sampling import call


def exact_options() -> PtqOptions:
    """The defaults, with 7-bit weights where sums of 8-bit products would saturate."""
    return PtqOptions(reduce_range=not has_integer_dot_product())


def rounding_limit_db(evaluator: Evaluator, recipe: Recipe) -> float:
    """The Brevitas model against itself in double precision, decibels.

    Two ways of adding the same products differ in the last bits; where a value lies between
    two steps of a grid that decides which one it takes, and layers that follow may amplify it.
    No file can be expected to come closer to the model than the model does to itself.

    Raises:
        RuntimeError: the graph makes single-precision constants, as a recurrent layer does.
    """
    quantized = evaluator.builder.quantizer.quantize(recipe)
    double = copy.deepcopy(quantized.module).double()
    batch = evaluator.search.batches[0]
    with torch.no_grad():
        exact, usual = (
            _first(call(module, _tensors(batch, kind)))
            for module, kind in ((double, torch.float64), (quantized.module, torch.float32))
        )
    return signal_to_noise_db(exact, usual)


def coverage(evaluator: Evaluator, artifact: Artifact) -> float:
    """Share of all multiply-accumulates that the runtime executes in integers."""
    layers = evaluator.operators
    integer = evaluator.backend.find_integer_layers(artifact, [layer.name for layer in layers])
    covered = sum(layer.macs for layer in layers if layer.name in integer)
    return covered / sum(layer.macs for layer in layers)


def _first(outputs: Any) -> np.ndarray:
    return (outputs[0] if isinstance(outputs, (tuple, list)) else outputs).numpy()


def _tensors(batch: Any, kind: torch.dtype) -> Any:
    if isinstance(batch, dict):
        return {name: _cast(torch.from_numpy(value), kind) for name, value in batch.items()}
    return _cast(torch.from_numpy(batch), kind)


def _cast(value: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    return value.to(kind) if value.is_floating_point() else value
