"""Linear layers whose input is on no calibrated grid, as nodes that the runtime fuses."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from autoquant.core.encodings import WeightEncoding
from autoquant.export.packing import packed_tensor

__all__ = ["name_last", "write_blockwise", "write_dynamic"]

Written = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


def write_dynamic(
    name: str, source: str, output: str, weight: WeightEncoding, *, pack: bool
) -> Written:
    """Quantize the input as it comes, multiply integers, scale and add the bias.

    The pattern of ONNX Runtime's own `quantize_dynamic`, which it fuses into one operator.

    Args:
        name: of the layer.
        source: its input, float.
        output: what its result is called.
        weight: 8 or 4 bits.
        pack: store 4-bit weights two to a byte.
    """
    values = np.ascontiguousarray(weight.values.T)
    stored = f"{name}.weight_quantized"
    nodes: list[onnx.NodeProto] = []
    if weight.bits == 4 and pack:
        tensors = [packed_tensor(stored, values)]
        nodes.append(_node("Cast", [stored], f"{name}.weight_int8", to=TensorProto.INT8))
        stored = f"{name}.weight_int8"
    else:
        tensors = [numpy_helper.from_array(values, stored)]
    scale = weight.scale if weight.is_per_channel else weight.scale.reshape(())
    tensors.append(numpy_helper.from_array(scale, f"{name}.weight_scale"))
    tensors.append(numpy_helper.from_array(weight.real_bias, f"{name}.bias_float"))
    own = [f"{name}.input_{part}" for part in ("q", "scale", "zero_point")]
    nodes += [
        helper.make_node("DynamicQuantizeLinear", [source], own, name=f"{name}.input/quantize"),
        helper.make_node("MatMulInteger", [own[0], stored, own[2]], [f"{name}.product"], name=name),
        _node("Cast", [f"{name}.product"], f"{name}.product_float", to=TensorProto.FLOAT),
        _node("Mul", [own[1], f"{name}.weight_scale"], f"{name}.scale"),
        _node("Mul", [f"{name}.product_float", f"{name}.scale"], f"{name}.scaled"),
        _add_bias(name, f"{name}.scaled", output),
    ]
    return nodes, tensors


def write_blockwise(name: str, source: str, output: str, weight: WeightEncoding) -> Written:
    """Multiply the float input by 4-bit weights in blocks; the runtime's MatMulNBits.

    Args:
        name: of the layer.
        source: its input, float.
        output: what its result is called.
        weight: 4 bits, in blocks along the input.
    """
    stored = f"{name}.weight_quantized"
    tensors = [
        packed_tensor(stored, np.ascontiguousarray(weight.values.T)),
        numpy_helper.from_array(np.ascontiguousarray(weight.scale.T), f"{name}.weight_scale"),
        numpy_helper.from_array(weight.real_bias, f"{name}.bias_float"),
    ]
    nodes = [
        _node(
            "DequantizeLinear",
            [stored, f"{name}.weight_scale"],
            f"{name}.weight_dequantized",
            axis=0,
            block_size=weight.block_size,
        ),
        helper.make_node(
            "MatMul", [source, f"{name}.weight_dequantized"], [f"{name}.product"], name=name
        ),
        _add_bias(name, f"{name}.product", output),
    ]
    return nodes, tensors


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name=output, **attributes)


def _add_bias(layer: str, product: str, output: str) -> onnx.NodeProto:
    name = name_last(layer, output)
    return helper.make_node("Add", [product, f"{layer}.bias_float"], [output], name=name)


def name_last(layer: str, output: str) -> str:
    """What a layer's last node is called: after its output, unless the layer goes by that name."""
    return output if output != layer else f"{layer}/output"
