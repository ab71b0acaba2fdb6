"""Quantization noise e = x - Q(x), layer by layer: what a file makes of weights and outputs.

Read off two files of one network, the float one and the quantized one: what is compared is what
would ship. The noise of an output holds that of all layers before it.
"""

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx

from autoquant.backends.base import FileBackend
from autoquant.core.artifact import Artifact
from autoquant.core.layer import LayerNoise
from autoquant.core.metric import signal_to_noise_db
from autoquant.export.expose import expose_values
from autoquant.export.passport import load_model
from autoquant.export.readback import read_weights

__all__ = ["find_values_on_grid", "measure_noise", "read_values"]

Values = dict[str, npt.NDArray[Any]]


def measure_noise(
    reference: Artifact,
    artifact: Artifact,
    layers: Sequence[str],
    values: Mapping[str, str],
    backend: FileBackend,
    inputs: Any,
) -> list[LayerNoise]:
    """SQNR of the weights and of the output of every layer.

    Args:
        reference: the float model's file.
        artifact: the quantized one.
        layers: names, in network order.
        values: by layer, the value that it computes.
        backend: runs both.
        inputs: one batch.
    """
    models = load_model(reference.content), load_model(artifact.content)
    wanted, found = (read_weights(model) for model in models)
    promised, made = (read_values(model, values.values(), backend, inputs) for model in models)
    return [
        LayerNoise(
            layer,
            _compare(wanted, found, layer),
            _compare(promised, made, values.get(layer, "")),
        )
        for layer in layers
    ]


def read_values(model: onnx.ModelProto, values: Any, backend: FileBackend, inputs: Any) -> Values:
    """What a file computes for one batch, by value; those that it does not have are left out.

    Args:
        model: its outputs are added to, in place.
        values: names of values of the float graph.
        backend: runs it.
        inputs: one batch.
    """
    names = expose_values(model, list(values))
    outputs = backend.load(Artifact(model.SerializeToString(), {}, {}), 1).run_all(inputs)
    return {value: outputs[name] for value, name in names.items()}


def find_values_on_grid(artifact: Artifact) -> Container[str]:
    """Values of the float graph that lie on a grid in a file."""
    nodes = load_model(artifact.content).graph.node
    return {node.output[0].removesuffix("_q") for node in nodes if node.op_type == "QuantizeLinear"}


def _compare(wanted: Values, found: Values, name: str) -> float | None:
    if name not in wanted or name not in found or wanted[name].shape != found[name].shape:
        return None
    return round(signal_to_noise_db(wanted[name], found[name]), 2)
