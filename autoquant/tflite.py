"""A .tflite file as objects: its operators, tensors and constants."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools.flatbuffer_utils import (
    convert_object_to_bytearray,
    read_model_from_bytearray,
)

from autoquant.core.artifact import is_tflite
from autoquant.errors import ArtifactError

__all__ = [
    "BIASES",
    "CHANNELS_LAST",
    "FLOAT",
    "INT4",
    "INT8",
    "LAYERS",
    "MOVERS",
    "TABLES",
    "WEIGHT_SUFFIX",
    "activation_inputs",
    "add_tensor",
    "drop_unread",
    "is_constant",
    "layer_of",
    "name_of",
    "operator_of",
    "parse",
    "read_array",
    "read_metadata",
    "serialize",
    "silenced",
    "text_of",
    "type_of",
    "weight_index",
]

FLOAT: int = schema.TensorType.FLOAT32
INT8: int = schema.TensorType.INT8
INT4: int = schema.TensorType.INT4
INT32: int = schema.TensorType.INT32
_KINDS = {FLOAT: np.float32, INT8: np.int8, INT32: np.int32, schema.TensorType.INT64: np.int64}
_OPERATORS = {
    value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)
}
_TYPES = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
CHANNELS_LAST = "/nhwc"  # behind a value's name: how its tensor is laid out
WEIGHT_SUFFIX = ".weight"  # behind a layer's name: what its weights are called
# Operators with weights: which input they are.
LAYERS = {
    "CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "EMBEDDING_LOOKUP": 1, "FULLY_CONNECTED": 1,
    "TRANSPOSE_CONV": 1,
}  # fmt: skip
# Which input their bias is; a table has none.
BIASES = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}
TABLES = LAYERS.keys() - BIASES.keys()
# Operators that only move or select values: their output lies on their input's grid.
MOVERS = frozenset(
    {
        "EXPAND_DIMS", "MAX_POOL_2D", "PAD", "RESHAPE", "SLICE", "SPLIT", "SPLIT_V", "SQUEEZE",
        "STRIDED_SLICE", "TRANSPOSE",
    }
)  # fmt: skip


def type_of(tensor: Any) -> str:
    """A tensor's element type, `int8`."""
    return str(_TYPES.get(tensor.type, "?")).lower()


def parse(content: bytes) -> Any:
    """A file as `ModelT`.

    Raises:
        ArtifactError: truncated, or not a .tflite file at all.
    """
    try:
        model = read_model_from_bytearray(bytearray(content)) if is_tflite(content) else None
    except Exception as error:  # struct, Index- and ValueError of the generated reader
        raise ArtifactError("not a whole .tflite file (truncated or damaged)") from error
    if model is None or not model.subgraphs:
        raise ArtifactError("not a .tflite file")
    for operator in (item for graph in model.subgraphs for item in graph.operators or ()):
        # some that keep a state have neither, and the reader says None
        operator.inputs = [] if operator.inputs is None else operator.inputs
        operator.outputs = [] if operator.outputs is None else operator.outputs
    return model


def serialize(model: Any) -> bytes:
    """The bytes of a model; the same for the same objects."""
    return bytes(convert_object_to_bytearray(model))


def operator_of(model: Any, operator: Any) -> str:
    """What an operator is, in the schema's words: `CONV_2D`."""
    code = model.operatorCodes[operator.opcodeIndex]
    # files from before 2020 keep the code in a byte of its own
    number = max(code.builtinCode, getattr(code, "deprecatedBuiltinCode", 0) or 0)
    return str(_OPERATORS.get(number, f"operator {number}"))


def text_of(name: Any) -> str:
    """A name as the generated reader gives it: bytes, or a string that was written here."""
    return name if isinstance(name, str) else bytes(name or b"").decode(errors="replace")


def name_of(tensor: Any) -> str:
    """A tensor's name."""
    return text_of(tensor.name)


def read_array(model: Any, tensor: Any) -> npt.NDArray[Any] | None:
    """A constant's values, 4-bit ones as int8; None of a tensor that is computed."""
    if not is_constant(model, tensor):
        return None
    data = model.buffers[tensor.buffer].data
    shape = [int(size) for size in tensor.shape] if tensor.shape is not None else []
    raw = np.frombuffer(bytes(bytearray(data)), dtype=np.uint8)
    if tensor.type == INT4:
        return _unpack(raw, int(np.prod(shape))).reshape(shape)
    kind = _KINDS.get(tensor.type)
    return None if kind is None else raw.view(kind).reshape(shape)


def _unpack(raw: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.int8]:
    """Two values a byte, the lower half first, each with its sign."""
    halves = np.stack([raw & 15, raw >> 4], axis=1).reshape(-1)[:count].astype(np.int8)
    return np.where(halves > 7, halves - 16, halves).astype(np.int8)


def read_metadata(content: bytes) -> dict[str, str]:
    """Texts in the metadata of a file, by name.

    Raises:
        ArtifactError: not a .tflite file.
    """
    model = parse(content)
    found = {}
    for entry in model.metadata or ():
        data = model.buffers[entry.buffer].data
        if data is not None:
            found[text_of(entry.name)] = bytes(bytearray(data)).decode(errors="replace")
    return found


def add_tensor(model: Any, name: str, values: npt.NDArray[Any]) -> int:
    """A new constant in the first subgraph; returns its index."""
    types = {np.dtype(kind): number for number, kind in _KINDS.items()}
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), dtype=np.uint8)
    model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.name = name.encode()
    tensor.shape = np.array(values.shape, dtype=np.int32)
    tensor.type = types[values.dtype]
    tensor.buffer = len(model.buffers) - 1
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def drop_unread(model: Any) -> dict[int, int]:
    """Take out tensors of the first subgraph that nothing refers to, and buffers likewise.

    Returns:
        The new index of each tensor that is left.
    """
    graph = model.subgraphs[0]
    ends = [*graph.inputs, *graph.outputs]
    read = {int(i) for item in graph.operators for i in (*item.inputs, *item.outputs) if i >= 0}
    kept = sorted(read | {int(index) for index in ends})
    places = {index: place for place, index in enumerate(kept)}
    graph.tensors = [graph.tensors[index] for index in kept]
    for item in graph.operators:
        item.inputs = [places[int(i)] if i >= 0 else -1 for i in item.inputs]
        item.outputs = [places[int(i)] for i in item.outputs]
    graph.inputs = [places[int(i)] for i in graph.inputs]
    graph.outputs = [places[int(i)] for i in graph.outputs]
    for signature in model.signatureDefs or ():
        for entry in (*signature.inputs, *signature.outputs):
            entry.tensorIndex = places[int(entry.tensorIndex)]
    _drop_unread_buffers(model)
    return places


def _drop_unread_buffers(model: Any) -> None:
    owners = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    owners += model.metadata or []
    kept = sorted({0} | {owner.buffer for owner in owners})  # the first one is empty by convention
    places = {index: place for place, index in enumerate(kept)}
    model.buffers = [model.buffers[index] for index in kept]
    for owner in owners:
        owner.buffer = places[owner.buffer]


def activation_inputs(model: Any, operator: Any) -> Iterator[int]:
    """Indices of the float or quantized tensors that an operator reads and that are computed."""
    tensors = model.subgraphs[0].tensors
    for index in operator.inputs:
        if index >= 0:
            tensor = tensors[index]
            if not is_constant(model, tensor) and tensor.type in (FLOAT, INT8):
                yield int(index)


@contextmanager
def silenced() -> Iterator[None]:
    """Keep the runtime's and the converter's own messages off the terminal.

    They come from C++, past `sys.stderr`, so the descriptor itself is turned aside.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def is_constant(model: Any, tensor: Any) -> bool:
    """Whether a tensor's values stand in the file."""
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def weight_index(model: Any, operator: Any) -> int | None:
    """Index of the tensor that holds a layer's weights; None of other operators.

    A layer that dequantizes its weights is followed through the dequantizer.
    """
    place = LAYERS.get(operator_of(model, operator))
    if place is None:
        return None
    graph = model.subgraphs[0]
    index = int(operator.inputs[place])
    for other in graph.operators:
        if index in other.outputs and operator_of(model, other) == "DEQUANTIZE":
            index = int(other.inputs[0])
            break
    return index if is_constant(model, graph.tensors[index]) else None


def layer_of(model: Any, operator: Any) -> str | None:
    """The layer that an operator computes, by the name of its weights; None if it is none."""
    index = weight_index(model, operator)
    name = "" if index is None else name_of(model.subgraphs[0].tensors[index])
    return name.removesuffix(WEIGHT_SUFFIX) if name.endswith(WEIGHT_SUFFIX) else None
