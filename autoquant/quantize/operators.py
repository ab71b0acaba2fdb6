"""What each ATen operator is to an integer runtime.

The tables mirror what ONNX Runtime's CPU provider fuses (its QDQ selectors): which operators
have an integer kernel, which merely move values, which disappear into a quantizer.
"""

import operator
from collections.abc import Iterator

import torch
from torch.fx import Node

__all__ = [
    "CONV_OPS",
    "ELEMENTWISE_OPS",
    "EMBEDDING_OPS",
    "LINEAR_OPS",
    "PRODUCT_OPS",
    "TRANSPOSED_OPS",
    "computes",
    "is_carrier",
    "is_fused_activation",
    "is_global_pool",
    "is_pool",
    "is_read_by_others",
    "is_zero_pad",
    "producer",
    "root",
    "tensor_inputs",
]

_ATEN = torch.ops.aten

CONV_OPS = frozenset(
    {
        _ATEN.conv1d.default,
        _ATEN.conv1d.padding,
        _ATEN.conv2d.default,
        _ATEN.conv2d.padding,
    }
)
LINEAR_OPS = frozenset({_ATEN.linear.default})
# aten.convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding,
# groups): what the exporter leaves of a transposed convolution, and of no other.
TRANSPOSED_OPS = frozenset({_ATEN.convolution.default})
# aten.embedding(table, indices, ...)
EMBEDDING_OPS = frozenset({_ATEN.embedding.default})
# Matrix products of two activations, as in attention.
PRODUCT_OPS = frozenset({_ATEN.matmul.default, _ATEN.bmm.default, _ATEN.mm.default})

# Operators with an integer kernel beside the layers. Pools shrink their input, so they pay
# wherever it is quantized already; the others only pay between integer operators. A hard
# sigmoid is written as the addition that it is.
ELEMENTWISE_OPS = frozenset(
    {
        _ATEN.add.Tensor,
        _ATEN.mul.Tensor,
        _ATEN.cat.default,
        _ATEN.sigmoid.default,
        _ATEN.hardsigmoid.default,
    }
)
_POOL_OPS = frozenset({_ATEN.avg_pool2d.default, _ATEN.adaptive_avg_pool2d.default})

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
        _ATEN._unsafe_view.default,
        _ATEN.reshape.default,
        _ATEN.flatten.using_ints,
        _ATEN.unflatten.int,
        _ATEN.permute.default,
        _ATEN.transpose.int,
        _ATEN.t.default,
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
_PADS = frozenset({_ATEN.pad.default, _ATEN.constant_pad_nd.default})
_SPLITS = frozenset(
    {
        _ATEN.split.Tensor,
        _ATEN.split_with_sizes.default,
        _ATEN.chunk.default,
        _ATEN.unbind.int,
    }
)


def computes(node: Node, operators: frozenset[object]) -> bool:
    """Whether a node calls one of some operators."""
    return node.op == "call_function" and node.target in operators


def is_read_by_others(parameter: Node, reader: Node) -> bool:
    """Whether anything else in the graph reads the same parameter or buffer."""
    return any(
        user is not reader
        for node in parameter.graph.nodes
        if node.op == "get_attr" and node.target == parameter.target
        for user in node.users
    )


def is_pool(node: Node) -> bool:
    """Whether a node averages over an image, or over windows of one."""
    return computes(node, _POOL_OPS) or is_global_pool(node)


def is_global_pool(node: Node) -> bool:
    """Whether a node is a mean over the two last of four dimensions, which it keeps."""
    if not computes(node, frozenset({_ATEN.mean.dim})) or len(node.args) < 3 or node.kwargs:
        return False
    source, dims, keeps = node.args[:3]
    assert isinstance(source, Node)
    assert isinstance(dims, (list, tuple))
    rank = source.meta["val"].dim()
    return rank == 4 and keeps is True and {int(str(dim)) % 4 for dim in dims} == {2, 3}


def tensor_inputs(node: Node) -> Iterator[Node]:
    """Activations that a node reads; weights, constants and sizes are none."""
    for source in node.all_input_nodes:
        if isinstance(source.meta.get("val"), torch.Tensor) and not _is_constant(source):
            yield source


def _is_constant(node: Node) -> bool:
    """Whether a value depends on no input, as the tensor that an exporter makes of a number."""
    is_called = node.op == "call_function"
    return node.op == "get_attr" or (is_called and all(map(_is_constant, node.all_input_nodes)))


def is_carrier(node: Node) -> bool:
    """Whether a node's output is on its input's grid, whatever that is."""
    if node.target is operator.getitem:
        source = node.args[0]
        return isinstance(source, Node) and computes(source, _SPLITS)
    if not computes(node, _CARRIERS | _SPLITS):
        return False
    return not computes(node, _PADS) or is_zero_pad(node)


def is_zero_pad(node: Node) -> bool:
    """Whether a node pads with zero, which every grid holds."""
    if not computes(node, _PADS):
        return False
    if node.target is _ATEN.constant_pad_nd.default:
        return len(node.args) < 3 or bool(node.args[2] == 0)
    mode = node.args[2] if len(node.args) > 2 else "constant"
    value = node.args[3] if len(node.args) > 3 else None
    return mode == "constant" and bool(value in (None, 0, 0.0))


def root(node: Node) -> Node:
    """The value that a chain of carriers carries."""
    while is_carrier(node):
        source = node.args[0]
        assert isinstance(source, Node)
        node = source
    return node


def is_fused_activation(node: Node) -> bool:
    """Whether a quantizer behind a node does the node's work."""
    if not computes(node, _FUSED_ACTIVATIONS):
        return False
    # Clamping anywhere else than at zero cuts into the grid: it stays an operator.
    is_clamp = node.target in {_ATEN.clamp.default, _ATEN.hardtanh.default}
    lowest = node.args[1] if len(node.args) > 1 else (None if is_clamp else 0)
    return not is_clamp or bool(lowest == 0)


def find_ceiling(node: Node) -> float | None:
    """Where a fused activation cuts off from above; None if it does not."""
    if node.target is _ATEN.relu6.default:
        return 6.0
    highest = node.args[2] if len(node.args) > 2 else None
    return float(highest) if isinstance(highest, (int, float)) else None


def producer(node: Node) -> Node:
    """The operator behind a value, looking through carriers and fused activations."""
    node = root(node)
    if is_fused_activation(node):
        source = node.args[0]
        assert isinstance(source, Node)
        if len(source.users) == 1:
            return source
    return node
