"""The quantizable layers of a graph."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from torch.fx import GraphModule, Node

from autoquant.core.layer import Layer
from autoquant.quantize.placement import CONV_OPS, LINEAR_OPS

__all__ = ["LayerNode", "find_layers"]


@dataclass(frozen=True)
class LayerNode:
    """A layer and the graph node that computes it."""

    layer: Layer
    node: Node


def find_layers(module: GraphModule) -> Mapping[str, LayerNode]:
    """Every convolution and linear layer whose weight is a parameter, in network order.

    A layer's name is that of the module that owns its weight. Two kinds stay float: linear
    layers over more than two dimensions, which become MatMul nodes, and layers that run more
    than once, whose one bias cannot fit the input scales of all their uses.
    """
    uses: dict[str, list[Node]] = defaultdict(list)
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in CONV_OPS | LINEAR_OPS:
            weight = node.args[1]
            if isinstance(weight, Node) and weight.op == "get_attr":
                uses[str(weight.target)].append(node)
    single = [(name, nodes[0]) for name, nodes in uses.items() if len(nodes) == 1]
    found = [(name.removesuffix(".weight"), node) for name, node in single if _has_kernel(node)]
    return {
        name: LayerNode(_describe(name, order, node), node)
        for order, (name, node) in enumerate(found)
    }


def _has_kernel(node: Node) -> bool:
    source = node.args[0]
    assert isinstance(source, Node)
    return node.target not in LINEAR_OPS or source.meta["val"].dim() == 2


def _describe(name: str, order: int, node: Node) -> Layer:
    weight, bias = node.args[1], node.args[2] if len(node.args) > 2 else None
    assert isinstance(weight, Node)
    shape = [int(size) for size in weight.meta["val"].shape]
    # every output value costs one kernel of weights; the batch is not counted
    outputs = math.prod(int(size) for size in node.meta["val"].shape[1:])
    return Layer(
        name=name,
        kind="linear" if node.target in LINEAR_OPS else "conv",
        parameters=math.prod(shape) + (shape[0] if bias is not None else 0),
        macs=outputs * math.prod(shape[1:]),
        order=order,
    )
