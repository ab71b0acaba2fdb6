"""Where quantizers stand: which tensors of a graph are put on an integer grid, for whom.

An operator runs in integers when every tensor input comes from a dequantizer and its output
goes straight into a quantizer. Convolutions, pools and elementwise operators in integers have
no other output than integers: all readers of such a value get it quantized. Matrix products
and transposed convolutions may hand their result over in float, and so does every float
operator: such a value is quantized for its integer readers alone. So the residual stream of a
transformer, or of a ConvNeXt, stays float, while its matrix products run in integers.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch.fx import Graph, Node

from autoquant.core.layer import Kernels, LayerKind
from autoquant.quantize.operators import (
    ELEMENTWISE_OPS,
    LINEAR_OPS,
    PRODUCT_OPS,
    TRANSPOSED_OPS,
    computes,
    is_carrier,
    is_fused_activation,
    is_pool,
    is_zero_pad,
    producer,
    root,
    tensor_inputs,
)

__all__ = ["Placement", "fused_output", "place"]

_SCALINGS: frozenset[object] = frozenset(
    {torch.ops.aten.mul.Tensor, torch.ops.aten.div.Tensor, torch.ops.aten.mul.Scalar}
)
_FLOAT_RESULTS = Kernels().float_results
_OPERATORS: Mapping[LayerKind, frozenset[object]] = {
    "linear": LINEAR_OPS,
    "matmul": PRODUCT_OPS,
    "conv_transpose": TRANSPOSED_OPS,
}


@dataclass(frozen=True)
class Placement:
    """Result of `place`, by node name.

    Attributes:
        sites: values that get an activation quantizer, in network order.
        carriers: values that share the grid of a site, mapped to it.
        readers: of a site that others read in float, those who read it quantized.
    """

    sites: tuple[str, ...]
    carriers: Mapping[str, str]
    readers: Mapping[str, frozenset[str]]


def place(
    graph: Graph,
    quantized: Collection[Node],
    float_results: Collection[LayerKind] = _FLOAT_RESULTS,
) -> Placement:
    """Choose the tensors to quantize so that `quantized` layers run in integers.

    Args:
        graph: an ATen graph, as `trace` leaves it.
        quantized: the layer nodes (convolutions, linears) that are to run in integers.
        float_results: kinds of layers that can hand their result over in float.
    """
    return _Placer(graph, frozenset(quantized), float_results).place()


class _Placer:
    def __init__(
        self, graph: Graph, quantized: frozenset[Node], float_results: Collection[LayerKind]
    ) -> None:
        self.unbound = frozenset().union(*(_OPERATORS[kind] for kind in float_results))
        self.nodes = list(graph.nodes)
        self.quantized = quantized
        self.integer = self._find_integer()
        self.sites: set[Node] = set()
        self.readers: dict[Node, set[Node]] = {}
        self.padded: dict[Node, Node] = {}

    def place(self) -> Placement:
        for node in self.integer:
            output = fused_output(node)
            # the runtime makes a float operator of a matrix product and an activation behind it
            if self._is_bound(node) or output is not node:
                self.sites.add(output)
        for node in self.integer:
            for source in tensor_inputs(node):
                self._want(source, node)
        carriers = {
            node.name: root(node).name
            for node in self.nodes
            if is_carrier(node) and self._is_carried(node)
        }
        carriers |= {pad.name: site.name for pad, site in self.padded.items()}
        names = tuple(node.name for node in self.nodes if node in self.sites)
        readers = {
            site.name: frozenset(node.name for node in who) for site, who in self.readers.items()
        }
        return Placement(names, carriers, readers)

    def _want(self, source: Node, reader: Node) -> None:
        """An integer operator reads this value: it must be on a grid."""
        if root(source) in self.sites and root(source) not in self.readers:
            return
        pads = []
        while is_zero_pad(source):  # the exporter may make it a part of the convolution
            pads.append(source)
            source = next(tensor_inputs(source))
        self.sites.add(source)
        self.readers.setdefault(source, set()).update([reader, *pads])
        self.padded |= dict.fromkeys(pads, source)

    def _is_carried(self, node: Node) -> bool:
        origin = root(node)
        is_bound = origin in self.sites and origin not in self.readers
        return is_bound and isinstance(node.meta.get("val"), torch.Tensor) and self._feeds(node)

    def _feeds(self, node: Node) -> bool:
        """Whether a value reaches an integer operator through carriers alone."""
        return any(
            user in self.integer or (is_carrier(user) and self._feeds(user)) for user in node.users
        )

    def _is_bound(self, node: Node) -> bool:
        """Whether a value is bound to be integer: its operator has no float output."""
        return not computes(node, self.unbound)

    def _find_integer(self) -> set[Node]:
        """Operators to run in integers: the layers, and what pays between them."""
        found: set[Node] = set(self.quantized)
        for node in self.nodes:
            if self._can_be_integer(node, found):
                found.add(node)
        for node in reversed(self.nodes):
            if node in found and computes(node, ELEMENTWISE_OPS) and not _reaches(node, found):
                found.remove(node)
        return found

    def _can_be_integer(self, node: Node, integer: Collection[Node]) -> bool:
        if computes(node, PRODUCT_OPS):
            return _is_of_layers(node, integer)
        is_between = computes(node, ELEMENTWISE_OPS) or is_pool(node)
        return is_between and self._is_ready(node, integer)

    def _is_ready(self, node: Node, integer: Collection[Node]) -> bool:
        """Whether an input is quantized anyway, and all inputs can be."""
        sources = list(tensor_inputs(node))
        is_binary = node.target not in ELEMENTWISE_OPS or _is_whole(node, sources)
        origins = (producer(source) for source in sources)
        return is_binary and any(item in integer and self._is_bound(item) for item in origins)


def _is_of_layers(product: Node, integer: Collection[Node]) -> bool:
    """Whether an operand of a product of activations was computed by a quantized layer."""
    return any(_unscaled(source) in integer for source in tensor_inputs(product))


def _unscaled(node: Node) -> Node:
    """The value behind carriers and products with a number."""
    node = root(node)
    while computes(node, _SCALINGS) and len(list(tensor_inputs(node))) == 1:
        node = root(next(tensor_inputs(node)))
    return node


def _is_whole(node: Node, sources: list[Node]) -> bool:
    """No operand is a parameter or a number."""
    match len(node.args):
        case 0:
            return False
        case 1:
            first = node.args[0]
            return len(sources) == (len(first) if isinstance(first, (list, tuple)) else 1)
        case _:
            operands = node.args[0] if isinstance(node.args[0], (list, tuple)) else node.args[:2]
            return len({*operands}) == len(sources)


def fused_output(node: Node) -> Node:
    """The value that an operator hands out once the activation behind it is fused."""
    users = list(node.users)
    return users[0] if len(users) == 1 and is_fused_activation(users[0]) else node


def _reaches(node: Node, integer: Collection[Node]) -> bool:
    """Whether a value reaches an integer operator, activations on the way allowed."""
    return any(
        user in integer or (_hands_on(user) and _reaches(user, integer)) for user in node.users
    )


def _hands_on(node: Node) -> bool:
    return is_carrier(node) or is_fused_activation(node)
