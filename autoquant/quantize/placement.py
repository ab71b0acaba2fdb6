"""Where quantizers stand: which tensors of a graph are put on an integer grid.

The rules mirror what ONNX Runtime's CPU provider fuses (its QDQ selectors): an operator runs
in integers when every tensor input comes from a dequantizer and its output goes straight into
a quantizer. A tensor that no integer operator needs stays float.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch.fx import Graph, Node

__all__ = ["LINEAR_OPS", "Placement", "place"]

_ATEN = torch.ops.aten

CONV_OPS = frozenset({_ATEN.conv1d.default, _ATEN.conv2d.default, _ATEN.conv2d.padding})
LINEAR_OPS = frozenset({_ATEN.linear.default})

# Operators with an integer kernel of their own, beside the layers.
_INTEGER_OPS = frozenset(
    {
        _ATEN.add.Tensor,
        _ATEN.cat.default,
        _ATEN.avg_pool2d.default,
        _ATEN.adaptive_avg_pool2d.default,
    }
)
# Activations that disappear into the quantizer behind them: its range starts at zero.
_FUSED_ACTIVATIONS = frozenset(
    {_ATEN.relu.default, _ATEN.hardtanh.default, _ATEN.clamp.default, _ATEN.relu6.default}
)
# Operators that only move or select values: their output lies on their input's grid.
_CARRIERS = frozenset(
    {
        _ATEN.slice.Tensor,
        _ATEN.select.int,
        _ATEN.pad.default,
        _ATEN.constant_pad_nd.default,
        _ATEN.view.default,
        _ATEN.reshape.default,
        _ATEN.flatten.using_ints,
        _ATEN.permute.default,
        _ATEN.transpose.int,
        _ATEN.squeeze.dims,
        _ATEN.squeeze.dim,
        _ATEN.unsqueeze.default,
        _ATEN.max_pool2d.default,
        _ATEN.max_pool1d.default,
        _ATEN.clone.default,
        _ATEN.contiguous.default,
        _ATEN.dropout.default,
        _ATEN.alias.default,
    }
)


@dataclass(frozen=True)
class Placement:
    """Result of `place`, by node name.

    Attributes:
        sites: values that get an activation quantizer, in network order.
        carriers: values that share the grid of a site, mapped to it.
    """

    sites: tuple[str, ...]
    carriers: dict[str, str]


def place(graph: Graph, quantized: Collection[Node]) -> Placement:
    """Choose the tensors to quantize so that `quantized` layers run in integers.

    Args:
        graph: an ATen graph without batch norms.
        quantized: the layer nodes (convolutions, linears) that are not excluded.
    """
    integer = _integer_nodes(graph, quantized)
    wanted: set[Node] = set()
    for node in integer:
        wanted.update(_root(source) for source in _tensor_inputs(node))
        output = _fused_output(node)
        # A matrix product may hand its result over in float; a convolution may not.
        if node.target not in LINEAR_OPS or _feeds(output, integer):
            wanted.add(output)
    carriers = {
        node.name: _root(node).name
        for node in graph.nodes
        if _is_carrier(node) and _root(node) in wanted and _feeds(node, integer)
    }
    return Placement(tuple(node.name for node in graph.nodes if node in wanted), carriers)


def _integer_nodes(graph: Graph, quantized: Collection[Node]) -> set[Node]:
    integer: set[Node] = set()
    for node in graph.nodes:
        if node in quantized:
            integer.add(node)
        elif node.op == "call_function" and node.target in _INTEGER_OPS:
            sources = list(_tensor_inputs(node))
            is_elementwise = node.target is not _ATEN.add.Tensor or len(sources) == 2
            if is_elementwise and any(_producer(source) in integer for source in sources):
                integer.add(node)
    return integer


def _tensor_inputs(node: Node) -> Iterator[Node]:
    """Activations that a node reads; weights and sizes are none."""
    for source in node.all_input_nodes:
        value = source.meta.get("val")
        if source.op != "get_attr" and isinstance(value, torch.Tensor):
            yield source


def _is_carrier(node: Node) -> bool:
    if node.op != "call_function" or node.target not in _CARRIERS:
        return False
    is_pad = node.target in {_ATEN.pad.default, _ATEN.constant_pad_nd.default}
    return not is_pad or _pads_with_zero(node)


def _pads_with_zero(node: Node) -> bool:
    if node.target is _ATEN.constant_pad_nd.default:
        return len(node.args) < 3 or bool(node.args[2] == 0)
    mode = node.args[2] if len(node.args) > 2 else "constant"
    value = node.args[3] if len(node.args) > 3 else None
    return mode == "constant" and bool(value in (None, 0, 0.0))


def _root(node: Node) -> Node:
    while _is_carrier(node):
        source = node.args[0]
        assert isinstance(source, Node)
        node = source
    return node


def _producer(node: Node) -> Node:
    """The operator behind a value, looking through carriers and fused activations."""
    node = _root(node)
    if node.op == "call_function" and node.target in _FUSED_ACTIVATIONS:
        source = node.args[0]
        assert isinstance(source, Node)
        if len(source.users) == 1:
            return source
    return node


def _fused_output(node: Node) -> Node:
    users = list(node.users)
    is_fused = len(users) == 1 and users[0].target in _FUSED_ACTIVATIONS
    return users[0] if is_fused else node


def _feeds(node: Node, integer: Collection[Node]) -> bool:
    """Whether a value reaches an integer operator through carriers alone."""
    return any(
        user in integer or (_is_carrier(user) and _feeds(user, integer)) for user in node.users
    )
