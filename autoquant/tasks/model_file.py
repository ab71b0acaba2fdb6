"""Models from files: a TorchScript archive, or a program saved by `torch.export.save`."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule
from torch.fx.graph import CodeGen

from autoquant.errors import TaskError
from autoquant.tasks.model_audit import audit_program, audit_script
from autoquant.tasks.model_source import ModelSource

__all__ = ["open_model_file"]

_ATEN = torch.ops.aten
# Position of the argument that says whether an operator trains.
_TRAINING = {
    _ATEN.batch_norm.default: 5,
    _ATEN.native_batch_norm.default: 5,
    _ATEN._native_batch_norm_legit.default: 5,
    _ATEN.dropout.default: 2,
}
# input, weight, bias, stride, padding, dilation, transposed, output_padding, groups, ...
_CONVOLUTIONS = {
    _ATEN._convolution.default,
    _ATEN._convolution.deprecated,
    _ATEN.convolution.default,
}
_FORWARD = {1: _ATEN.conv1d.default, 2: _ATEN.conv2d.default}
_TRANSPOSED = {1: _ATEN.conv_transpose1d.default, 2: _ATEN.conv_transpose2d.input}


def open_model_file(path: Path) -> ModelSource:
    """A model from a TorchScript file, or from an ExportedProgram (.pt2).

    Neither is executed on trust: `model_audit` says what torch would run of a file, and refuses
    it. A pickled module is refused as such: to read it is to run it.

    Raises:
        TaskError: missing, none of these formats, or refused; names the reason.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        hint = "" if path.suffix else f"; a model by name is timm:{path.name} or the like"
        raise TaskError(f"model: cannot read '{path}': {error.strerror}{hint}") from error
    try:
        return _open(content)
    except TaskError as error:
        raise TaskError(f"model: '{path}' is refused: {error}") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise TaskError(f"model: '{path}' is refused: it is damaged: {error!r}"[:300]) from error


def _open(content: bytes) -> ModelSource:
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(content))
        records = reader.get_all_records()
    except RuntimeError as error:
        raise TaskError(
            "neither a TorchScript file nor an exported program (torch.export.save); a pickle "
            "of a module could run anything"
        ) from error
    if "models/model.json" in records:
        audit_program(reader)
        return _from_program(_load_program(content))
    if "constants.pkl" in records:
        audit_script(reader)
        return ModelSource({}, lambda example: _from_script(content, example))
    raise TaskError(
        "it holds weights or a pickled module, but no network; save it by torch.export.save, or "
        "name the network and give this file as weights"
    )


def _load_program(content: bytes) -> ExportedProgram:
    # not torch.export.load: that falls back to an older format, which was not audited
    from torch.export.pt2_archive._package import load_pt2

    try:
        with _silence():
            return load_pt2(io.BytesIO(content)).exported_programs["model"]
    except Exception as error:  # torch raises many unrelated classes here
        raise TaskError(
            f"torch {torch.__version__} cannot load it: {_first_line(error)}"
        ) from error


def _from_program(program: ExportedProgram) -> ModelSource:
    placeholders = [
        program.graph_module.graph.find_nodes(op="placeholder")[index]
        for index, spec in enumerate(program.graph_signature.input_specs)
        if spec.kind == torch.export.graph_signature.InputKind.USER_INPUT
    ]
    shapes = [getattr(node.meta.get("val"), "shape", ()) for node in placeholders]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise TaskError("it does not take one batch of images (n, channels, height, width)")
    known = {}
    if all(isinstance(side, int) for side in shapes[0][2:]):
        known["image_size"] = tuple(shapes[0][2:])
    model = _as_module(program)
    return ModelSource(known, lambda example: model)


def _as_module(program: ExportedProgram) -> GraphModule:
    """A module that takes one tensor, gives one, and can be put into evaluation mode.

    The module that a program makes of itself refuses `eval`, checks its input against the
    example's, and carries structures of inputs and outputs that one tensor needs not.

    Raises:
        TaskError: it gives several outputs, or was exported in training mode.
    """
    bound = program.module(check_guards=False)
    graph = bound.graph
    output = graph.output_node()
    results = output.args[0]
    if not isinstance(results, tuple | list) or len(results) != 1:
        raise TaskError("it gives several outputs; export a model that gives the classes alone")
    output.args = (results[0],)
    graph.set_codegen(CodeGen())
    _name_convolutions(graph)
    model = GraphModule(bound, graph)
    _check_mode(model)
    _restore_parameters(model)
    return model


def _name_convolutions(graph: Graph) -> None:
    """Call a convolution by its kind: traces and decomposed programs have one for all."""
    for node in graph.nodes:
        if node.target not in _CONVOLUTIONS:
            continue
        inputs, weight, bias, stride, padding, dilation, is_transposed = node.args[:7]
        output_padding, groups = node.args[7:9]
        kinds: Any = (_TRANSPOSED if is_transposed else _FORWARD).get(len(stride))
        if kinds is None:
            continue
        node.target = kinds
        node.args = (
            (inputs, weight, bias, stride, padding, output_padding, groups, dilation)
            if is_transposed
            else (inputs, weight, bias, stride, padding, dilation, groups)
        )


def _restore_parameters(model: GraphModule) -> None:
    """Weights that a file stores as buffers become parameters again; statistics do not."""
    for name, value in list(model.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        if value.is_floating_point() and not leaf.startswith("running_"):
            module = model.get_submodule(owner)
            del module._buffers[leaf]
            module.register_parameter(leaf, nn.Parameter(value))


def _check_mode(model: GraphModule) -> None:
    for node in model.graph.nodes:
        position: Any = _TRAINING.get(node.target)
        if position is not None and len(node.args) > position and node.args[position] is True:
            raise TaskError("it was exported in training mode; call model.eval() before")


def _from_script(content: bytes, example: Tensor) -> nn.Module:
    """Load TorchScript and translate it to a graph of ATen operators.

    Raises:
        TaskError: torch's converter does not know some of it.
    """
    from torch._export.converter import TS2EPConverter

    try:
        with _silence(), torch.no_grad():
            script = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()  # type: ignore[no-untyped-call]
            pair = (torch.cat([example, torch.ones_like(example)]),)
            program = TS2EPConverter(script, pair).convert()
    except Exception as error:  # torch raises many unrelated classes here
        raise TaskError(
            f"model: this TorchScript cannot be translated: {_first_line(error)}; save the model "
            "by torch.export.save instead"
        ) from error
    return _as_module(program)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep torch from printing graphs and advice; one line says what matters."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            with redirect_stdout(io.StringIO()):
                yield
    finally:
        logging.disable(before)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
