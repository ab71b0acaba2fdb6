"""What a file really holds, read off its graph."""

import onnx
from onnx import TensorProto

from autoquant.core.artifact import Artifact
from autoquant.export.passport import load_model, read_passport

__all__ = ["read_artifact", "read_precisions"]

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


def read_artifact(content: bytes) -> Artifact:
    """An artifact from the bytes of a file.

    Raises:
        ArtifactError: not an ONNX file.
    """
    model = load_model(content)
    return Artifact(content, read_precisions(model), read_passport(model))


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


def _trace_weight(name: str, makers: dict[str, onnx.NodeProto]) -> str:
    while name in makers and (makers[name].op_type in _UNPACKING or _is_scaling(name, makers)):
        name = makers[name].input[0]
    return name


def _is_scaling(name: str, makers: dict[str, onnx.NodeProto]) -> bool:
    """Whether integers are multiplied by their scale."""
    widened = makers.get(makers[name].input[0])
    return makers[name].op_type == "Mul" and widened is not None and widened.op_type == "Cast"
