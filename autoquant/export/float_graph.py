"""The float model as ONNX, and as a torch graph whose value names are the same."""

import logging
import warnings
from dataclasses import dataclass

import onnx
import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule

from autoquant.errors import TraceError

__all__ = ["OPSET", "FloatGraph", "export_float"]

OPSET = 21  # the first with 4-bit integers


@dataclass(frozen=True)
class FloatGraph:
    """One network, twice: every value keeps its name in both.

    Attributes:
        model: ONNX, without anything that the runtime does not need.
        module: the ATen graph that the ONNX nodes were translated from.
    """

    model: onnx.ModelProto
    module: GraphModule


def export_float(program: ExportedProgram) -> FloatGraph:
    """Translate a captured program to ONNX.

    Raises:
        TraceError: an operator that has no ONNX counterpart; names it.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            translated = torch.onnx.export(
                program, dynamo=True, optimize=True, verbose=False, opset_version=OPSET
            )
        except torch.onnx.errors.OnnxExporterError as error:
            first = str(error.__cause__ or error).strip().splitlines()[0]
            raise TraceError(f"no ONNX counterpart: {first[:300]}") from error
        assert translated is not None
        assert translated.exported_program is not None
        module = translated.exported_program.module(check_guards=False)
    assert isinstance(module, GraphModule)
    model = _strip(translated.model_proto)
    _align_inputs(module, model)
    return FloatGraph(model, module)


def _align_inputs(module: GraphModule, model: onnx.ModelProto) -> None:
    """Give the graph's inputs their ONNX names.

    torch.fx dodges Python's built-in names (`input` becomes `input_1`), ONNX does not.
    """
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    for node, value in zip(placeholders, model.graph.input, strict=True):
        node.name = value.name


def _strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop stack traces, doc strings and intermediate shapes, which would bloat small files."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    model.graph.name = "autoquant"
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    for tensor in model.graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")
    _name_layers(model)
    model.producer_name = "autoquant"
    model.producer_version = ""
    return model


def _name_layers(model: onnx.ModelProto) -> None:
    """Call every convolution and matrix product by its module: `layer1.0.conv2`.

    The runtime keeps these names through its optimizations, which is how its integer kernels
    are told from its float ones.
    """
    parameters = {tensor.name for tensor in model.graph.initializer}
    seen: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm") and node.input[1] in parameters:
            name = node.input[1].removesuffix(".weight")
            seen[name] = seen.get(name, 0) + 1
            node.name = name if seen[name] == 1 else f"{name}#{seen[name]}"
