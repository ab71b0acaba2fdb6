"""`LiteRtFormat`: passport, stored precisions and inner values of .tflite files."""

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from autoquant.export.passport import KEY, from_text, to_text
from autoquant.tflite import (
    CHANNELS_LAST,
    FLOAT,
    INT4,
    INT8,
    layer_of,
    name_of,
    parse,
    read_array,
    read_metadata,
    serialize,
    text_of,
    weight_index,
)

__all__ = ["LiteRtFormat"]

_NAMES = {FLOAT: "float32", INT8: "int8", INT4: "int4"}


class LiteRtFormat:
    """See `ModelFormat`."""

    suffix = ".tflite"

    def digest(self, content: bytes) -> str:
        """SHA-256 of the file without its passport."""
        model = parse(content)
        _drop_passport(model)
        return hashlib.sha256(serialize(model)).hexdigest()

    def read_passport(self, content: bytes) -> dict[str, Any]:
        """The passport in the file's metadata, empty if it carries none."""
        text = read_metadata(content).get(KEY)
        return {} if text is None else from_text(text)

    def write_passport(self, content: bytes, passport: Mapping[str, Any]) -> bytes:
        """The file with this passport in its metadata, in place of any other."""
        model = parse(content)
        _drop_passport(model)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(to_text(passport).encode(), dtype=np.uint8)
        model.buffers.append(buffer)
        entry = schema.MetadataT()
        entry.name, entry.buffer = KEY.encode(), len(model.buffers) - 1
        model.metadata = [*(model.metadata or ()), entry]
        return serialize(model)

    def read_precisions(self, content: bytes) -> dict[str, str]:
        """Type of every layer's weight tensor, by layer name."""
        model = parse(content)
        return {
            layer: _NAMES.get(model.subgraphs[0].tensors[index].type, "other")
            for layer, index in _weights(model).items()
        }

    def read_weights(self, content: bytes) -> dict[str, npt.NDArray[np.float32]]:
        """Real weights in the layout of the file, channels last."""
        model = parse(content)
        found = {}
        for layer, index in _weights(model).items():
            tensor = model.subgraphs[0].tensors[index]
            values = read_array(model, tensor)
            if values is not None:
                found[layer] = _dequantize(values, tensor)
        return found

    def expose(self, content: bytes, values: Collection[str]) -> tuple[bytes, dict[str, str]]:
        """The file with inner tensors as outputs."""
        model = parse(content)
        graph = model.subgraphs[0]
        signature = (model.signatureDefs or [None])[0]
        wanted, known = set(values), {int(index) for index in graph.outputs}
        found = {}
        for index, tensor in enumerate(graph.tensors):
            name = name_of(tensor)
            value = name.removesuffix(CHANNELS_LAST)
            if value not in wanted or value in found:
                continue
            found[value] = name
            if index not in known:
                graph.outputs = [*map(int, graph.outputs), index]
                if signature is not None:
                    entry = schema.TensorMapT()
                    entry.name, entry.tensorIndex = name.encode(), index
                    signature.outputs = [*signature.outputs, entry]
        return serialize(model), found

    def read_io(self, content: bytes) -> dict[str, Any]:
        """`io`: type, scale and zero point of every int8 input and output, by name."""
        model = parse(content)
        signature = (model.signatureDefs or [None])[0]
        if signature is None:
            return {}
        sides = {"inputs": signature.inputs, "outputs": signature.outputs}
        found = {side: _grids(model, entries) for side, entries in sides.items()}
        return {"io": found} if any(found.values()) else {}

    def values_on_grid(self, content: bytes) -> frozenset[str]:
        """Names of the tensors of 8 bits."""
        tensors = parse(content).subgraphs[0].tensors
        return frozenset(
            name_of(tensor).removesuffix(CHANNELS_LAST) for tensor in tensors if tensor.type == INT8
        )

    def restore(self, name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Channels behind the batch again, where the tensor's name says that they are last."""
        return np.moveaxis(values, -1, 1) if name.endswith(CHANNELS_LAST) else values

    def outputs(self, content: bytes) -> list[str]:
        """Names of the outputs, as the signature has them."""
        model = parse(content)
        graph = model.subgraphs[0]
        signature = (model.signatureDefs or [None])[0]
        names = {} if signature is None else {i.tensorIndex: i.name for i in signature.outputs}
        return [
            text_of(names[index]) if index in names else name_of(graph.tensors[index])
            for index in graph.outputs
        ]


def _grids(model: Any, entries: Any) -> dict[str, dict[str, Any]]:
    tensors = model.subgraphs[0].tensors
    return {
        text_of(entry.name): {
            "dtype": "int8",
            "scale": float(tensor.quantization.scale[0]),
            "zero_point": int(tensor.quantization.zeroPoint[0]),
        }
        for entry in entries
        if (tensor := tensors[entry.tensorIndex]).type == INT8
    }


def _weights(model: Any) -> dict[str, int]:
    """Index of the weight tensor by layer."""
    found = {}
    for operator in model.subgraphs[0].operators:
        layer, index = layer_of(model, operator), weight_index(model, operator)
        if layer is not None and index is not None:
            found[layer] = index
    return found


def _dequantize(values: npt.NDArray[Any], tensor: Any) -> npt.NDArray[np.float32]:
    quantization = tensor.quantization
    scale = None if quantization is None else quantization.scale
    if tensor.type == FLOAT or scale is None or len(scale) == 0:
        return values.astype(np.float32)
    shape = [1] * values.ndim
    if len(scale) > 1:
        shape[quantization.quantizedDimension] = -1
    return np.asarray(values * np.asarray(scale, dtype=np.float32).reshape(shape), np.float32)


def _drop_passport(model: Any) -> None:
    """Take the passport out; its buffer, written last, goes with it."""
    kept = []
    for entry in model.metadata or ():
        if text_of(entry.name) != KEY:
            kept.append(entry)
        elif entry.buffer == len(model.buffers) - 1:
            model.buffers.pop()
        else:
            model.buffers[entry.buffer].data = None
    model.metadata = kept or None
