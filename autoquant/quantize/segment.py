"""Stretches of a graph: what lies between two values that all else passes through.

A residual network falls apart at its joins: behind each of them one value alone is alive.
Between two such values a quantized network can be fitted to the float one, stretch by stretch.
"""

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node

__all__ = ["Stretch", "find_joints"]

_MAX_LAYERS = 3


def find_joints(module: GraphModule, layers: Collection[Node]) -> list[tuple[Node, list[Node]]]:
    """Values that everything computed so far passes through, in order, the output last.

    Stretches of a layer or two are joined up to three layers, so that the three convolutions of
    an inverted bottleneck are one, with a skip around them or without.

    Args:
        module: a float graph.
        layers: the nodes to fit; at least one lies between two joints.

    Returns:
        Each joint with the layers since the one before it, in network order.
    """
    shortest = _shortest(module, layers)
    found: list[tuple[Node, list[Node]]] = []
    inside: list[Node] = []
    for index, (joint, more) in enumerate(shortest):
        inside = [*inside, *more]
        is_last = index + 1 == len(shortest)
        if is_last or len(inside) + len(shortest[index + 1][1]) > _MAX_LAYERS:
            found.append((joint, inside))
            inside = []
    return found


def _shortest(module: GraphModule, layers: Collection[Node]) -> list[tuple[Node, list[Node]]]:
    """Every joint with a layer before it.

    What no layer has a part in (masks, embeddings, sizes) does not count as alive: it is
    computed again wherever it is read.
    """
    behind = _behind(module, layers)
    nodes = [node for node in module.graph.nodes if node in behind]
    order = {node: index for index, node in enumerate(nodes)}
    until = {
        node: max((order.get(user, len(nodes)) for user in node.users), default=-1)
        for node in nodes
    }
    found: list[tuple[Node, list[Node]]] = []
    furthest = -1
    inside: list[Node] = []
    for index, node in enumerate(nodes):
        is_alone = furthest <= index
        furthest = max(furthest, until[node])
        inside += [node] if node in layers else []
        follows = nodes[index + 1] if index + 1 < len(nodes) else None
        # operators without weights belong to the layer before them
        is_followed = follows is None or follows in layers or len(node.users) > 1
        if is_alone and inside and is_followed:
            found.append((node, inside))
            inside = []
    return found


def _behind(module: GraphModule, layers: Collection[Node]) -> set[Node]:
    """Every node that a layer has a part in."""
    found: set[Node] = set()
    for node in module.graph.nodes:
        if node in layers or any(source in found for source in node.all_input_nodes):
            found.add(node)
    return {node for node in found if node.op != "output"}


class Stretch:
    """The part of a graph that computes some values from others.

    Args:
        module: a graph.
        known: names of nodes whose values are given.
        wanted: names of nodes whose values are asked for.
    """

    def __init__(self, module: GraphModule, known: Collection[str], wanted: Collection[str]):
        self.wanted = list(wanted)
        self.module = module
        self._interpreter = Interpreter(copy.copy(module), garbage_collect_values=False)
        by_name = {node.name: node for node in module.graph.nodes}
        self._known = {name: by_name[name] for name in known}
        needed = _sources([by_name[name] for name in wanted], set(self._known.values()))
        self.nodes = [node for node in module.graph.nodes if node in needed]

    def run(self, known: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The wanted values.

        Args:
            known: values by name; those that the stretch was not told of are left aside.
        """
        values: dict[Node, Any] = {
            node: known[name] for name, node in self._known.items() if name in known
        }
        self._interpreter.env = values
        for node in self.nodes:
            values[node] = self._interpreter.run_node(node)
        return {node.name: value for node, value in values.items() if node.name in self.wanted}


def _sources(wanted: list[Node], known: set[Node]) -> set[Node]:
    """Nodes to compute for the wanted ones, those included, if some are known."""
    needed: set[Node] = set()
    open_ = [node for node in wanted if node not in known]
    while open_:
        node = open_.pop()
        if node not in needed:
            needed.add(node)
            open_ += [source for source in node.all_input_nodes if source not in known]
    return needed
