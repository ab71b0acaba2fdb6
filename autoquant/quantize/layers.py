"""The quantizable layers of a graph."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from torch.fx import Graph, GraphModule, Node

from autoquant.core.layer import Layer
from autoquant.quantize.placement import CONV_OPS, LINEAR_OPS

__all__ = ["LayerNodes", "find_layers"]


@dataclass(frozen=True)
class LayerNodes:
    """A layer and the graph nodes that compute it: several where a module is called twice."""

    layer: Layer
    nodes: tuple[Node, ...]


def find_layers(module: GraphModule) -> Mapping[str, LayerNodes]:
    """Every convolution and linear layer whose weight is a parameter, in network order.

    A layer's name is that of the module that owns its weight.
    """
    found: dict[str, list[Node]] = defaultdict(list)
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in CONV_OPS | LINEAR_OPS:
            weight = node.args[1]
            if isinstance(weight, Node) and weight.op == "get_attr" and _has_kernel(node):
                found[str(weight.target).removesuffix(".weight")].append(node)
    return {
        name: LayerNodes(_describe(name, order, nodes, module.graph), tuple(nodes))
        for order, (name, nodes) in enumerate(found.items())
    }


def _has_kernel(node: Node) -> bool:
    """Linear layers over more than two dimensions become MatMul nodes, which stay float."""
    source = node.args[0]
    assert isinstance(source, Node)
    return node.target not in LINEAR_OPS or source.meta["val"].dim() == 2


def _describe(name: str, order: int, nodes: list[Node], graph: Graph) -> Layer:
    weight, bias = nodes[0].args[1], nodes[0].args[2] if len(nodes[0].args) > 2 else None
    assert isinstance(weight, Node)
    shape = weight.meta["val"].shape
    channels = int(shape[0])
    return Layer(
        name=name,
        kind="linear" if nodes[0].target in LINEAR_OPS else "conv",
        parameters=math.prod(shape) + (channels if bias is not None else 0),
        # every output value costs one kernel of weights; the batch is not counted
        macs=sum(
            math.prod(int(size) for size in node.meta["val"].shape[1:])
            * (math.prod(shape) // channels)
            for node in nodes
        ),
        order=order,
    )
