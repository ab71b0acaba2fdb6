"""Layer by layer: is what a file computes what the quantized model computes?"""

from typing import Any

from autoquant.build import TaskBuilder
from autoquant.core.artifact import Artifact
from autoquant.core.metric import signal_to_noise_db
from autoquant.core.recipe import Recipe
from autoquant.export.formats import format_of
from autoquant.layer_noise import read_values
from autoquant.quantize.sampling import as_tensors

__all__ = ["compare_layers"]


def compare_layers(
    artifact: Artifact, recipe: Recipe, builder: TaskBuilder, inputs: Any
) -> dict[str, float]:
    """SQNR of every layer's output, in decibels: the file against the quantized model.

    Of a model with several outputs, each of those too, as `output NAME`.

    Args:
        artifact: the recipe's file.
        recipe: made by Brevitas quantizers; of others nothing can be compared.
        builder: of the recipe's task; its backend runs the file.
        inputs: one batch.

    Raises:
        CheckpointError: see `TaskBuilder.restore`.
    """
    quantized = builder.restore_model(recipe)
    if quantized is None:
        return {}
    values = builder.quantizer.output_values(quantized.encodings.activations)
    outputs = format_of(artifact.content).outputs(artifact.content)
    if len(outputs) > 1:
        values |= {f"output {name}": name for name in outputs}
    promised = quantized.trace(as_tensors(inputs), set(values.values()))
    found = read_values(artifact.content, list(promised), builder.backend, inputs)
    return {
        layer: round(signal_to_noise_db(promised[value].numpy(), found[value]), 2)
        for layer, value in values.items()
        if value in found and value in promised
    }
