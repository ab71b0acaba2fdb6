"""Layers that are stored in integers and computed in float.

ONNX Runtime runs a DequantizeLinear on a constant anew for every batch (3 ms for a table of
30,522 rows of 384 values), but folds a Cast and a Mul on constants when it loads the file, as
OpenVINO does where it does not take them for the scale of an integer kernel.
"""

from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

from autoquant.core.encodings import WeightEncoding
from autoquant.export.packing import store_integers

__all__ = ["write_table", "write_transposed"]

Written = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


def write_transposed(node: onnx.NodeProto, weight: WeightEncoding, *, pack: bool) -> Written:
    """A transposed convolution, which reads its weights off their grid.

    Args:
        node: the float operator, its input in place.
        weight: one scale, or one an output channel.
        pack: store 4-bit weights two to a byte.
    """
    name = f"{node.name}.weight"
    shape = [-1 if index == weight.axis else 1 for index in range(weight.values.ndim)]
    scale = weight.scale.reshape(shape if weight.is_per_channel else ())
    stored, nodes, values = store_integers(name, weight.values, weight.bits, pack=pack)
    tensors = [
        values,
        numpy_helper.from_array(scale, f"{name}_scale"),
        numpy_helper.from_array(weight.real_bias, f"{node.name}.bias_float"),
    ]
    del node.input[1:]
    node.input.extend([f"{name}_dequantized", f"{node.name}.bias_float"])
    return [*nodes, *_rescale(name, stored, f"{name}_scale"), node], tensors


def write_table(node: onnx.NodeProto, weight: WeightEncoding, *, pack: bool) -> Written:
    """A lookup of integer rows, which are scaled once they are found.

    Args:
        node: the float Gather.
        weight: one scale, or one a row.
        pack: store 4-bit weights two to a byte.
    """
    name, output, indices = f"{node.name}.weight", node.output[0], node.input[1]
    stored, nodes, values = store_integers(name, weight.values, weight.bits, pack=pack)
    scale = f"{name}_scale"
    tensors = [values, numpy_helper.from_array(weight.scale[:, None], scale)]
    node.input[0], node.output[0] = stored, f"{name}_rows"
    nodes.append(node)
    if weight.is_per_channel:
        nodes.append(_node("Gather", [scale, indices], f"{scale}_rows"))
        scale = f"{scale}_rows"
    return [*nodes, *_rescale(name, node.output[0], scale, output)], tensors


def _rescale(name: str, stored: str, scale: str, output: str | None = None) -> list[onnx.NodeProto]:
    """Integers times their scale."""
    return [
        _node("Cast", [stored], f"{name}_float", to=TensorProto.FLOAT),
        _node("Mul", [f"{name}_float", scale], output or f"{name}_dequantized"),
    ]


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name=output, **attributes)
