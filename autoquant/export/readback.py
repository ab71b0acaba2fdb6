"""What a file really holds, read off its graph."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

__all__ = ["read_precisions", "read_weights"]

_NAMES = {
    TensorProto.FLOAT: "float32",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "int8",
    TensorProto.INT4: "int4",
}
# Where an operator takes its weights.
_LAYER_KINDS = {
    "Conv": 1, "ConvTranspose": 1, "Gemm": 1, "ConvInteger": 1, "MatMulInteger": 1, "MatMul": 1,
    "Gather": 0,
}  # fmt: skip
# What stands between weights as they are stored and as they are used.
_UNPACKING = ("DequantizeLinear", "Cast", "Transpose")


def read_precisions(model: onnx.ModelProto) -> dict[str, str]:
    """Stored weight precision of every convolution, matrix product and table, by layer name."""
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for node in model.graph.node:
        if node.op_type in _LAYER_KINDS:
            source = _trace_weight(node.input[_LAYER_KINDS[node.op_type]], makers)
            layer = node.name.removesuffix("_quant")
            # other things than tables are looked up in, too
            if source in kinds and (node.op_type != "Gather" or source.startswith(layer)):
                found[layer] = _NAMES.get(kinds[source], "other")
    return found


def read_weights(model: onnx.ModelProto) -> dict[str, npt.NDArray[np.float32]]:
    """Real weights of every convolution and linear layer, by layer name, output channels first.

    Those on a grid are dequantized. Left out is what is stored in blocks.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            weight = _read_weight(node.input[1], tensors, makers)
            if weight is not None:
                is_turned = node.op_type == "MatMul" or (
                    node.op_type == "Gemm" and not _attribute(node, "transB")
                )
                found[node.name] = weight.T if is_turned else weight
    return found


def _read_weight(
    name: str, tensors: dict[str, TensorProto], makers: dict[str, onnx.NodeProto]
) -> npt.NDArray[np.float32] | None:
    """A constant, through the nodes that widen, scale and turn it; None if it is none."""
    if name in tensors:
        return numpy_helper.to_array(tensors[name]).astype(np.float32)
    node = makers.get(name)
    if node is None or node.op_type not in ("DequantizeLinear", "Cast", "Transpose"):
        return None
    inner = _read_weight(node.input[0], tensors, makers)
    if inner is None or node.op_type == "Cast":
        return inner
    if node.op_type == "Transpose":
        return np.transpose(inner, _attribute(node, "perm"))
    scale = numpy_helper.to_array(tensors[node.input[1]])
    if _attribute(node, "block_size"):
        return None
    if scale.ndim:
        shape = [1] * inner.ndim
        shape[_attribute(node, "axis") or 0] = -1
        scale = scale.reshape(shape)
    return np.asarray(inner * scale, dtype=np.float32)


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    """Value of an attribute; None where it is not set."""
    found = next((item for item in node.attribute if item.name == name), None)
    return None if found is None else onnx.helper.get_attribute_value(found)


def _trace_weight(name: str, makers: dict[str, onnx.NodeProto]) -> str:
    while name in makers and (makers[name].op_type in _UNPACKING or _is_scaling(name, makers)):
        name = makers[name].input[0]
    return name


def _is_scaling(name: str, makers: dict[str, onnx.NodeProto]) -> bool:
    """Whether integers are multiplied by their scale."""
    widened = makers.get(makers[name].input[0])
    return makers[name].op_type == "Mul" and widened is not None and widened.op_type == "Cast"
