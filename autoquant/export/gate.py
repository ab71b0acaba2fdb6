"""Hard sigmoids in integers, for which the runtime has no kernel."""

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

__all__ = ["write_hard_sigmoid"]


def write_hard_sigmoid(
    node: onnx.NodeProto, source: str, scale: float, zero_point: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """A hard sigmoid on a grid as the integer addition that it is.

    clip(alpha x + beta, 0, 1): the product with alpha is the same integers read with another
    scale, and the clipping is done by the quantizer behind it, whose grid has no values but
    those from 0 to 1. As a hard sigmoid it would run in float between two conversions.

    Args:
        node: HardSigmoid; its output goes into a quantizer.
        source: its input on its grid, uint8.
        scale: of that grid.
        zero_point: name of that grid's zero point.

    Returns:
        The nodes in its place, and the constants that they read.
    """
    alpha, beta = (_attribute(node, name, value) for name, value in (("alpha", 0.2), ("beta", 0.5)))
    name = node.output[0]
    added: dict[str, npt.NDArray[np.generic]] = {
        f"{name}.input_scale": np.array(scale * alpha, dtype=np.float32),
        f"{name}.beta": np.array(1, dtype=np.uint8),
        f"{name}.beta_scale": np.array(beta, dtype=np.float32),
        f"{name}.beta_zero_point": np.array(0, dtype=np.uint8),
    }
    scaled, constant = f"{name}.input_dequantized", f"{name}.beta_dequantized"
    nodes = [
        helper.make_node(
            "DequantizeLinear",
            [source, f"{name}.input_scale", zero_point],
            [scaled],
            name=f"{name}.input/dequantize",
        ),
        helper.make_node(
            "DequantizeLinear",
            [f"{name}.beta", f"{name}.beta_scale", f"{name}.beta_zero_point"],
            [constant],
            name=f"{name}.beta/dequantize",
        ),
        helper.make_node("Add", [scaled, constant], [name], name=name),
    ]
    return nodes, [numpy_helper.from_array(value, key) for key, value in added.items()]


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    return next((float(item.f) for item in node.attribute if item.name == name), default)
