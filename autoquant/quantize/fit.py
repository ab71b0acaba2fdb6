"""A quantized network fitted to the float one, stretch by stretch.

Each stretch lies between two joints of the network and is fitted to the float outputs on inputs
that the quantized network before it computes, so that it makes up for their errors: block
reconstruction, Li et al. 2021 (BRECQ), arXiv 2102.05426, with the rounding of Nagel et al. 2020.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from autoquant.core.activity import announce
from autoquant.quantize.rounding import learn_rounding
from autoquant.quantize.segment import Stretch, find_joints, input_values
from autoquant.quantize.weights import QuantLayer

__all__ = ["Fit"]

_VALUES = 1_000_000  # of all layers' outputs in one step; images of 224 pixels have as many
_TARGET = "/target"  # no node can be called so

Values = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Side:
    """One of the two networks, with its values at the joint that was reached last.

    Attributes:
        module: its graph.
        names: its nodes by the values of the float graph that they compute.
        inputs: by batch, those of the network.
        given: by batch, what is known: inputs, and the value at the joint.
    """

    module: GraphModule
    names: Mapping[str, str]
    inputs: list[Values]
    given: list[Values]

    @classmethod
    def begin(cls, module: GraphModule, names: Mapping[str, str], batches: Sequence[Any]) -> "Side":
        """Nothing is known yet but the inputs."""
        inputs = [input_values(module, batch) for batch in batches]
        return cls(module, names, inputs, inputs)

    def at(self, joint: str, values: Sequence[torch.Tensor]) -> "Side":
        """The same when a joint is reached."""
        name = self.names[joint]
        pairs = zip(self.inputs, values, strict=True)
        given = [{**inputs, name: value} for inputs, value in pairs]
        return Side(self.module, self.names, self.inputs, given)

    def stretch(self, wanted: str) -> Stretch:
        """What computes a value from what is given."""
        return Stretch(self.module, list(self.given[0]), [self.names[wanted]])

    def values(self, wanted: str) -> list[torch.Tensor]:
        """A value, for every batch."""
        stretch, name = self.stretch(wanted), self.names[wanted]
        with torch.no_grad():
            return [stretch.run(given)[name] for given in self.given]


class Fit:
    """Fits the layers of a quantized network in place.

    Args:
        exact: the float graph.
        quantized: the same with quantized layers and activation quantizers.
        names: nodes of `quantized` by the values of the float graph.
        layers: of `quantized`, by their node in the float graph.
        batches: calibration inputs; all of them are held, with the values at one joint.
        seed: draws which batches are learned from.
    """

    def __init__(
        self,
        exact: GraphModule,
        quantized: GraphModule,
        names: Mapping[str, str],
        layers: Mapping[Node, QuantLayer],
        batches: Sequence[Any],
        seed: int,
    ) -> None:
        self.exact = exact
        self.quantized = quantized
        self.layers = layers
        self.batches = batches
        self.same = {node.name: node.name for node in exact.graph.nodes}
        self.names = {**names, **_layer_outputs(quantized, layers)}
        self.seed = seed

    def run(self, steps: int, learned: Collection[Node], *, correct: bool) -> None:
        """Go through the network once.

        Args:
            steps: of learned rounding, for each stretch.
            learned: layers whose rounding is learned.
            correct: shift each bias by the mean error of the layer's output.
        """
        exact = Side.begin(self.exact, self.same, self.batches)
        quantized = Side.begin(self.quantized, self.names, self.batches)
        joints = find_joints(self.exact, self.layers)
        for index, joint in enumerate(joints):
            announce(f"fitting part {index + 1} of {len(joints)}")
            targets = exact.values(joint.name)
            nodes = [node for node in exact.stretch(joint.name).nodes if node in self.layers]
            chosen = [self.layers[node] for node in nodes if node in learned]
            if chosen:
                self._learn(chosen, quantized, joint.name, targets, steps, index)
            for node in nodes if correct else ():
                _correct_bias(self.layers[node], node.name, exact, quantized)
            exact = exact.at(joint.name, targets)
            quantized = quantized.at(joint.name, quantized.values(joint.name))

    def _learn(
        self,
        layers: Sequence[QuantLayer],
        side: Side,
        joint: str,
        targets: Sequence[torch.Tensor],
        steps: int,
        index: int,
    ) -> None:
        stretch, name = side.stretch(joint), side.names[joint]
        generator = torch.Generator().manual_seed(self.seed + index)
        base = sum(map(_error, side.values(joint), targets)) / len(targets)
        count = self._samples_a_step(side, stretch, len(targets[0]))

        def loss(_: int) -> torch.Tensor:
            batch = int(torch.randint(len(targets), (), generator=generator))
            whole = {**side.given[batch], _TARGET: targets[batch]}
            drawn = _draw(whole, count, generator)
            return _error(stretch.run(drawn)[name], drawn[_TARGET]) / base

        if base > 0:
            learn_rounding(layers, loss, steps)

    def _samples_a_step(self, side: Side, stretch: Stretch, batch: int) -> int:
        """As many as have about `_VALUES` values in the outputs of a stretch's layers."""
        outputs = {self.names[node.name] for node in self.layers}
        inside = [node.name for node in stretch.nodes if node.name in outputs]
        probe = Stretch(side.module, list(side.given[0]), inside)
        with torch.no_grad():
            values = sum(value.numel() for value in probe.run(side.given[0]).values())
        return min(batch, max(1, _VALUES * batch // values))


def _draw(values: Values, count: int, generator: torch.Generator) -> Values:
    """Neighbouring samples of a batch; all of it where samples are no longer apart."""
    sizes = {len(value) for value in values.values()}
    size = sizes.pop()
    if sizes or count >= size:
        return values
    start = int(torch.randint(size - count + 1, (), generator=generator))
    return {name: value[start : start + count] for name, value in values.items()}


def _layer_outputs(module: GraphModule, layers: Mapping[Node, QuantLayer]) -> dict[str, str]:
    """Nodes that call the layers, by the layers' nodes in the float graph."""
    calls = {
        id(module.get_submodule(str(node.target))): node.name
        for node in module.graph.nodes
        if node.op == "call_module"
    }
    return {node.name: calls[id(layer)] for node, layer in layers.items()}


def _correct_bias(layer: QuantLayer, name: str, exact: Side, quantized: Side) -> None:
    """Nagel et al. 2019, arXiv 1906.04721, section 4.2, behind a quantized network."""
    axis = -1 if isinstance(layer, torch.nn.Linear) else 1
    wanted, found = (
        torch.stack([value.transpose(0, axis).flatten(1).mean(1) for value in side.values(name)])
        for side in (exact, quantized)
    )
    with torch.no_grad():
        layer.bias += (wanted - found).mean(0)


def _error(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return ((found - wanted) ** 2).mean()
