"""Quantization noise e = x - Q(x), layer by layer: what a file makes of weights and outputs.

Read off two files of one network, the float one and the quantized one: what is compared is what
would ship. The noise of an output holds that of all layers before it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from autoquant.backends.base import FileBackend
from autoquant.core.artifact import Artifact
from autoquant.core.layer import LayerNoise
from autoquant.core.metric import signal_to_noise_db
from autoquant.export.formats import format_of

__all__ = ["measure_noise", "read_values"]

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
    files = reference.content, artifact.content
    wanted, found = (format_of(file).read_weights(file) for file in files)
    promised, made = (read_values(file, values.values(), backend, inputs) for file in files)
    return [
        LayerNoise(
            layer,
            _compare(wanted, found, layer),
            _compare(promised, made, values.get(layer, "")),
        )
        for layer in layers
    ]


def read_values(content: bytes, values: Any, backend: FileBackend, inputs: Any) -> Values:
    """What a file computes for one batch, by value; those that it does not have are left out.

    Args:
        content: the file.
        values: names of values of the float graph.
        backend: runs it.
        inputs: one batch.
    """
    kind = format_of(content)
    exposed, names = kind.expose(content, list(values))
    outputs = backend.load(Artifact(exposed, {}, {}), 1).run_all(inputs)
    return {value: kind.restore(name, outputs[name]) for value, name in names.items()}


def _compare(wanted: Values, found: Values, name: str) -> float | None:
    if name not in wanted or name not in found or wanted[name].shape != found[name].shape:
        return None
    return round(signal_to_noise_db(wanted[name], found[name]), 2)
