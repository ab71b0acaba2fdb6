"""The float model as ONNX, and as a torch graph whose value names are the same."""

import ast
import logging
import operator
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import torch
from onnx import numpy_helper
from torch.export import ExportedProgram
from torch.fx import GraphModule

from autoquant.errors import TraceError

__all__ = ["OPSET", "FloatGraph", "export_float"]

OPSET = 21  # the first with 4-bit integers
_IMAGE_RANK = 4  # samples, channels, height, width
_SCOPES = "pkg.torch.onnx.name_scopes"
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gather", "Gemm", "MatMul", "LSTM", "GRU", "RNN"})
_ATEN = torch.ops.aten
# Operators of an inference graph that hand their input on as it is; ONNX has no node for them.
_IDENTITIES = frozenset(
    {
        _ATEN.alias.default,
        _ATEN.clone.default,
        _ATEN.contiguous.default,
        _ATEN.detach.default,
        _ATEN.dropout.default,
        _ATEN.lift_fresh_copy.default,
    }
)
_VIEWS = frozenset({_ATEN.view.default, _ATEN._unsafe_view.default})


@dataclass(frozen=True)
class FloatGraph:
    """One network, twice: every value of the torch graph keeps its name in ONNX.

    Attributes:
        model: ONNX, without anything that the runtime does not need.
        module: the ATen graph that the ONNX nodes were translated from.
        origins: by the name of an ONNX node's first output, the ATen node it is a part of.
        shapes: by value name, its shape; the free dimension is -1.
    """

    model: onnx.ModelProto
    module: GraphModule
    origins: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]

    def name_layers(self, names: Mapping[str, str]) -> None:
        """Call operators that multiply and accumulate, or look up, by their layers.

        The runtime keeps these names through its optimizations, which is how its integer
        kernels are told from its float ones.

        Args:
            names: layer names by ATen node.
        """
        taken = set(names.values())
        for node in self.model.graph.node:
            origin = self.origins[node.output[0]]
            if node.op_type in _LAYERS and origin in names:
                node.name = names[origin]
            elif node.name in taken:  # the bias behind a layer that goes by its result's name
                node.name = f"{node.name}/output"


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
            raise TraceError(_explain(error)) from error
        assert translated is not None
        assert translated.exported_program is not None
        module = translated.exported_program.module(check_guards=False)
    assert isinstance(module, GraphModule)
    model = translated.model_proto
    origins = {node.output[0]: _find_origin(node) for node in model.graph.node}
    _strip(model)
    _drop_identities(module)
    _align_inputs(module, model)
    _align_parts(module, model, origins)
    _mark_written(module, model)
    shapes = _find_shapes(module)
    _use_global_pools(model, origins, shapes)
    return FloatGraph(model, module, origins, shapes)


def _explain(error: Exception) -> str:
    """One line on a failed translation: the operator, if the exporter names it."""
    first = str(error.__cause__ or error).strip().splitlines()[0]
    found = re.search(r"target=torch\.ops\.([\w.]+)", first)
    if found is None:
        return f"no ONNX counterpart: {first[:300]}"
    return (
        f"operator '{found[1]}' has no ONNX counterpart; put operators of torch in its place, or "
        "make the part without it a task"
    )


def _find_origin(node: onnx.NodeProto) -> str:
    """The ATen node that an ONNX node was translated from, as the exporter noted it."""
    notes = {entry.key: entry.value for entry in node.metadata_props}
    scopes = ast.literal_eval(notes.get(_SCOPES, "[]"))
    return str(scopes[-1]) if scopes else str(node.output[0])


def _drop_identities(module: GraphModule) -> None:
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target in _IDENTITIES:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
        elif node.op == "call_function" and node.target in _VIEWS:
            node.target = _ATEN.reshape.default  # without the copies, strides differ
    module.recompile()


def _use_global_pools(
    model: onnx.ModelProto, origins: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """A mean over an image is written as the pool that it is: only pools run in integers.

    A pool takes every dimension behind the second, a mean over a video or a sequence does not.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "ReduceMean" and len(node.input) == 2 and node.input[1] in constants:
            axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
            keeps = next((item.i for item in node.attribute if item.name == "keepdims"), 1)
            made = origins.get(node.output[0], "")  # a mean that keeps its axes keeps its rank
            rank = len(shapes.get(node.input[0]) or shapes.get(made, ()))
            if keeps and rank == _IMAGE_RANK and sorted(axes) in ([-2, -1], [2, 3]):
                node.op_type = "GlobalAveragePool"
                del node.input[1:], node.attribute[:]
    _drop_unread(model)


def _drop_unread(model: onnx.ModelProto) -> None:
    read = {name for node in model.graph.node for name in node.input}
    for tensor in [item for item in model.graph.initializer if item.name not in read]:
        model.graph.initializer.remove(tensor)


def _find_shapes(module: GraphModule) -> dict[str, tuple[int, ...]]:
    return {
        node.name: tuple(size if isinstance(size, int) else -1 for size in value.shape)
        for node in module.graph.nodes
        if isinstance(value := node.meta.get("val"), torch.Tensor)
    }


def _align_inputs(module: GraphModule, model: onnx.ModelProto) -> None:
    """Give the graph's inputs their ONNX names.

    torch.fx dodges Python's built-in names (`input` becomes `input_1`), ONNX does not.
    """
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    for node, value in zip(placeholders, model.graph.input, strict=True):
        node.name = value.name


def _align_parts(module: GraphModule, model: onnx.ModelProto, origins: dict[str, str]) -> None:
    """Give each output of a split the name that its part has in the torch graph."""
    made = {name for node in model.graph.node for name in node.output}
    renamed = {}
    for part in module.graph.nodes:
        if part.target is operator.getitem:
            source, index = part.args
            name = f"{source.name}_split_{index}"  # as torch's exporter calls it
            if name in made:
                renamed[name] = part.name
                origins[part.name] = source.name
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]


def _mark_written(module: GraphModule, model: onnx.ModelProto) -> None:
    """Note which lookups the file has: the exporter works out those that no input decides on."""
    made = {name for node in model.graph.node for name in node.output}
    for node in module.graph.nodes:
        if node.target is _ATEN.embedding.default:
            node.meta["is_written"] = node.name in made


def _strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop stack traces, doc strings and intermediate shapes, which would bloat small files."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    model.graph.name = "autoquant"
    for node in model.graph.node:
        node.name = node.output[0]
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    for tensor in model.graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")
    model.producer_name = "autoquant"
    model.producer_version = ""
    return model
