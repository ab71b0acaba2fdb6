"""Capture of a model as one ATen graph, batch norms folded.

Works on the operators that were executed instead of on module classes, so subclasses of
`nn.Conv2d`, functional calls and custom modules are all seen alike.
"""

import copy
import io
import logging
import operator
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from typing import Any

import onnx
import torch
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from autoquant.errors import TaskError, TraceError
from autoquant.quantize.layout import swap_channels
from autoquant.quantize.operators import is_read_by_others
from autoquant.quantize.rewrite import rewrite_for_integers

__all__ = ["trace"]

_ATEN = torch.ops.aten
_CONVOLUTIONS = {
    _ATEN.conv1d.default,
    _ATEN.conv1d.padding,
    _ATEN.conv2d.default,
    _ATEN.conv2d.padding,
}
# (input, weight, bias, stride, padding, output_padding, groups, dilation)
_TRANSPOSED = {_ATEN.conv_transpose1d.default, _ATEN.conv_transpose2d.input}
_LINEAR = _ATEN.linear.default
# (input, weight) each, and aten.addmm(bias, input, weight)
_PRODUCTS = {_ATEN.matmul.default, _ATEN.mm.default}
_ADDMM = _ATEN.addmm.default
_EMBEDDING = _ATEN.embedding.default  # (table, indices, ...)
_BATCH_NORM = _ATEN.batch_norm.default


def trace(model: torch.nn.Module, example_input: Any) -> ExportedProgram:
    """Capture the inference graph of a model, with a dynamic batch dimension.

    Args:
        model: any module; a copy is put into evaluation mode, the original stays as it is.
        example_input: a tensor, or a dict of named tensors, with a batch dimension of 1.

    Returns:
        A program whose batch norms are folded into the preceding convolution or linear layer
        wherever that layer feeds nothing else and they scale its channels by fixed numbers.

    Raises:
        TaskError: weights that no file can hold, or that are not finite; names them.
        TraceError: the model cannot be captured; names the operator or the line.
    """
    _check_weights(model)
    network = copy.deepcopy(model).eval()
    program = _export(network, example_input)
    folded = program.module(check_guards=False)
    _use_linear(folded)
    _own_weights(folded)
    _fold_batch_norms(folded)
    rewrite_for_integers(folded)
    return _export(folded, example_input)


def _check_weights(model: torch.nn.Module) -> None:
    """One ONNX file holds 2 GB; the float model that everything is compared with is one."""
    sizes = {name: value.nbytes for name, value in model.state_dict().items()}
    if sum(sizes.values()) >= onnx.checker.MAXIMUM_PROTOBUF:
        largest = max(sizes, key=lambda name: sizes[name])
        raise TaskError(
            f"the weights take {sum(sizes.values()) / 1e9:.1f} GB ('{largest}' alone "
            f"{sizes[largest] / 1e9:.1f}), and one ONNX file holds 2: cut the model in two tasks"
        )
    for name, value in model.named_parameters():
        if value.is_floating_point() and value.dtype != torch.float32:
            raise TaskError(f"'{name}' is {value.dtype}: hand over the model in float32, .float()")
        if not torch.isfinite(value).all():
            raise TaskError(f"'{name}' holds NaN or infinity; repair the checkpoint")


def _export(model: torch.nn.Module, example_input: Any) -> ExportedProgram:
    # torch.export takes a dimension of one for a constant, so the example is doubled.
    args, kwargs = _as_arguments(example_input)
    batch = Dim("batch", min=1)
    shapes: Any = tuple({0: batch} for _ in args) or {name: {0: batch} for name in kwargs}
    if isinstance(model, GraphModule):
        shapes = _by_placeholder(model, args, kwargs, batch)
    try:
        with torch.no_grad(), _quiet_logs(), _plain_attention():
            return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise TraceError(f"the model cannot be traced: {_explain(error)}") from error


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """Keep torch from printing whole graphs when a capture fails; one line says why.

    Its warnings are about its own internals, such as the flat weights of a recurrent layer.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            redirect_stderr(io.StringIO()),
            redirect_stdout(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep torch from taking a whole encoder layer for one operator."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _as_arguments(example_input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_input, Mapping):
        return (), {name: torch.cat([value, value]) for name, value in example_input.items()}
    return (torch.cat([example_input, example_input]),), {}


def _by_placeholder(
    model: GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any], batch: Any
) -> Any:
    if kwargs:
        return {name: {0: batch} for name in kwargs}
    return tuple({0: batch} for _ in args)


def _explain(error: Exception) -> str:
    """One line on a failed export: the message, and the user's own line if it is named."""
    text = str(error)
    frames = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', text)
    own = [frame for frame in frames if "site-packages" not in frame[0]]
    first = next((line.strip() for line in text.splitlines() if line.strip()), repr(error))
    if not own:
        cause: BaseException | None = error
        own = []
        while cause is not None:
            trail = cause.__traceback__
            while trail is not None:
                code = trail.tb_frame.f_code
                if "site-packages" not in code.co_filename and code.co_name == "forward":
                    own.append((code.co_filename, str(trail.tb_lineno), code.co_name))
                trail = trail.tb_next
            cause = cause.__cause__ or cause.__context__
    own = [frame for frame in own if not frame[0].startswith("<")]
    where = f" (at {own[-1][0]}, line {own[-1][1]})" if own else ""
    if "data-dependent" in first:
        return f"its control flow depends on its data{where}; write it with torch.where"
    return f"{type(error).__name__}: {first[:300]}{where}"


def _use_linear(module: GraphModule) -> None:
    """Write products with a matrix of weights as the linear layers that they are."""
    for node in module.graph.nodes:
        if node.op != "call_function" or node.kwargs:
            continue
        if node.target is _ADDMM and _is_vector(module, node.args[0]):
            bias, source, weight = node.args
        elif node.target in _PRODUCTS:
            (source, weight), bias = node.args, None
        else:
            continue
        is_weight = isinstance(weight, Node) and weight.op == "get_attr"
        if not is_weight or _is_stored(source) or is_read_by_others(weight, node):
            continue
        value = _tensor(module, weight)
        if value.dim() != 2 or not value.is_floating_point():
            continue
        _set_parameter(module, weight, value.t().contiguous())
        node.target = _LINEAR
        node.args = (source, weight) if bias is None else (source, weight, bias)


def _is_stored(node: Any) -> bool:
    return isinstance(node, Node) and node.op == "get_attr"


def _is_vector(module: GraphModule, node: Any) -> bool:
    return _is_stored(node) and _tensor(module, node).dim() == 1


def _set_parameter(module: GraphModule, node: Node, value: torch.Tensor) -> None:
    owner, _, leaf = str(node.target).rpartition(".")
    place = module.get_submodule(owner)
    delattr(place, leaf)
    place.register_parameter(leaf, torch.nn.Parameter(value, requires_grad=False))


def _own_weights(module: GraphModule) -> None:
    """Make parameters of weights that are none, as a filter that was fixed as a buffer."""
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        weight = None
        if node.target in {*_CONVOLUTIONS, *_TRANSPOSED, _LINEAR}:
            weight = node.args[1]
        elif node.target is _EMBEDDING:
            weight = node.args[0]
        if not isinstance(weight, Node) or weight.op != "get_attr":
            continue
        value = _attribute(module, weight)
        if value.is_floating_point() and not isinstance(value, torch.nn.Parameter):
            _set_parameter(module, weight, value)


def _fold_batch_norms(module: GraphModule) -> None:
    """Fold every batch norm into its producer, in place.

    A batch norm over x = Wu + b with statistics (mean, var) is the same layer with
    W' = W g / sqrt(var + eps). Jacob et al. 2018, arXiv 1712.05877, section 3.2.
    """
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target is _BATCH_NORM:
            producer = node.args[0]
            if _can_absorb(producer) and _is_affine(producer, node):
                _absorb(module, producer, node)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()


def _can_absorb(node: Node) -> bool:
    foldable = {*_CONVOLUTIONS, *_TRANSPOSED, _LINEAR}
    is_layer = node.op == "call_function" and node.target in foldable
    if not is_layer or len(node.users) != 1:
        return False
    weight = node.args[1]
    return (
        isinstance(weight, Node) and weight.op == "get_attr" and not is_read_by_others(weight, node)
    )


def _is_affine(layer: Node, norm: Node) -> bool:
    """Whether a batch norm scales and shifts the output channels of a layer, by known numbers.

    It works on dimension 1, and a linear layer over sequences has its channels last.
    """
    mean, var, is_training = norm.args[3:6]
    if is_training or mean is None or var is None:
        return False
    return layer.target is not _LINEAR or layer.meta["val"].dim() == 2


def _absorb(module: GraphModule, layer: Node, norm: Node) -> None:
    weight_node, bias_node = layer.args[1], layer.args[2] if len(layer.args) > 2 else None
    assert isinstance(weight_node, Node)
    weight = _tensor(module, weight_node)
    bias = None if bias_node is None else _tensor(module, bias_node)
    # aten.batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, _)
    gain, shift, mean, var = (
        None if argument is None else _tensor(module, argument) for argument in norm.args[1:5]
    )
    assert var is not None  # see `_is_affine`
    gain = torch.ones_like(var) if gain is None else gain
    shift = torch.zeros_like(var) if shift is None else shift
    fuse: Any = fuse_linear_bn_weights if layer.target is _LINEAR else fuse_conv_bn_weights
    swap = partial(swap_channels, groups=_groups(layer)) if layer.target in _TRANSPOSED else _same
    fused_weight, fused_bias = fuse(swap(weight), bias, mean, var, norm.args[7], gain, shift)
    fused_weight = swap(fused_weight)
    owner, _, leaf = str(weight_node.target).rpartition(".")
    bias_name = _name_bias(owner, leaf, layer)
    submodule = module.get_submodule(owner)
    submodule.register_parameter(leaf, torch.nn.Parameter(fused_weight.detach().clone()))
    submodule.register_parameter(bias_name, torch.nn.Parameter(fused_bias.detach().clone()))
    with module.graph.inserting_before(layer):
        new_bias = module.graph.get_attr(f"{owner}.{bias_name}" if owner else bias_name)
    layer.args = (*layer.args[:2], new_bias, *layer.args[3:])
    norm.replace_all_uses_with(layer)
    module.graph.erase_node(norm)


def _name_bias(owner: str, leaf: str, layer: Node) -> str:
    """Of the bias beside a weight; no name of a parameter that something else reads."""
    name = leaf.replace("weight", "bias") if "weight" in leaf else f"{leaf}_bias"
    full = f"{owner}.{name}" if owner else name
    others = [node for node in layer.graph.nodes if node.op == "get_attr" and node.target == full]
    return f"{name}_folded" if any(is_read_by_others(node, layer) for node in others) else name


def _groups(transposed: Node) -> int:
    return int(str(transposed.args[6])) if len(transposed.args) > 6 else 1


def _same(weight: torch.Tensor) -> torch.Tensor:
    return weight


def _tensor(module: GraphModule, node: Any) -> torch.Tensor:
    return _attribute(module, node).detach()


def _attribute(module: GraphModule, node: Any) -> torch.Tensor:
    value = operator.attrgetter(str(node.target))(module)
    assert isinstance(value, torch.Tensor)
    return value
