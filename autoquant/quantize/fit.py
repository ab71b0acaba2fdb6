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
from autoquant.quantize.sampling import input_values
from autoquant.quantize.segment import Stretch, find_joints
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

    def stretch(self, wanted: Collection[str]) -> Stretch:
        """What computes some values from what is given."""
        return Stretch(self.module, list(self.given[0]), [self.names[name] for name in wanted])

    def values(self, wanted: str) -> list[torch.Tensor]:
        """A value, for every batch."""
        stretch, name = self.stretch([wanted]), self.names[wanted]
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
        seed: draws what is learned from.
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
        self.layers = layers
        self.joints = find_joints(exact, layers)
        same = {node.name: node.name for node in exact.graph.nodes}
        calls = _find_calls(quantized, layers)
        self.exact = Side.begin(exact, same, batches)
        self.quantized = Side.begin(quantized, {**names, **calls}, batches)
        self.seed = seed

    def run(self, learned: Collection[Node], steps: int, means: Mapping[str, torch.Tensor]) -> None:
        """Go through the network once: learn rounding, then correct biases.

        Args:
            learned: layers whose rounding is learned, stretch by stretch.
            steps: of learning, for each stretch.
            means: of the float layers' outputs, (channels,), by node; the bias of a layer that
                is left out stays.
        """
        exact, quantized = self.exact, self.quantized
        for index, (joint, nodes) in enumerate(self.joints):
            announce(f"fitting block {index + 1} of {len(self.joints)}")
            targets = exact.values(joint.name)
            chosen = [node for node in nodes if node in learned]
            self._learn(chosen, quantized, joint.name, targets, steps, index)
            corrected = [node for node in nodes if node.name in means]
            values = self._correct(corrected, quantized, joint.name, targets, means)
            exact, quantized = exact.at(joint.name, targets), quantized.at(joint.name, values)

    def _correct(
        self,
        nodes: Sequence[Node],
        side: Side,
        joint: str,
        targets: Sequence[torch.Tensor],
        means: Mapping[str, torch.Tensor],
    ) -> list[torch.Tensor]:
        """Correct biases of a stretch, unless its outputs are closer to the float ones without.

        A channel that is nearly always cut off by its ReLU has a mean that says little on what
        gets through: in late blocks of EfficientNet-Lite0 right means made wrong outputs.

        Returns:
            The quantized values at the joint, by batch.
        """
        before = side.values(joint)
        biases = [self.layers[node].bias.detach().clone() for node in nodes]
        for node in nodes:
            _correct_bias(self.layers[node], means[node.name], side.values(node.name))
        after = side.values(joint)
        if _total_error(after, targets) <= _total_error(before, targets):
            return after
        with torch.no_grad():
            for node, bias in zip(nodes, biases, strict=True):
                self.layers[node].bias.copy_(bias)
        return before

    def _learn(
        self,
        nodes: Sequence[Node],
        side: Side,
        joint: str,
        targets: Sequence[torch.Tensor],
        steps: int,
        index: int,
    ) -> None:
        stretch, name = side.stretch([joint]), side.names[joint]
        generator = torch.Generator().manual_seed(self.seed + index)
        base = _total_error(side.values(joint), targets) / len(targets) if nodes else 0.0
        if base == 0:
            return
        count = _count_samples(side, nodes)

        def loss(_: int) -> torch.Tensor:
            batch = int(torch.randint(len(targets), (), generator=generator))
            whole = {**side.given[batch], _TARGET: targets[batch]}
            drawn = _draw(whole, count, generator)
            return _error(stretch.run(drawn)[name], drawn[_TARGET]) / base

        learn_rounding([self.layers[node] for node in nodes], loss, steps)


def _find_calls(module: GraphModule, layers: Mapping[Node, QuantLayer]) -> dict[str, str]:
    """Nodes that call the layers, by the layers' nodes in the float graph."""
    calls = {
        id(module.get_submodule(str(node.target))): node.name
        for node in module.graph.nodes
        if node.op == "call_module"
    }
    return {node.name: calls[id(layer)] for node, layer in layers.items()}


def _count_samples(side: Side, nodes: Sequence[Node]) -> int:
    """So many of a batch that the layers' outputs have about `_VALUES` values."""
    with torch.no_grad():
        outputs = side.stretch([node.name for node in nodes]).run(side.given[0]).values()
    batch = min(len(value) for value in side.inputs[0].values())
    return min(batch, max(1, _VALUES * batch // sum(value.numel() for value in outputs)))


def _draw(values: Values, count: int, generator: torch.Generator) -> Values:
    """Neighbouring samples of a batch; all of it where samples are no longer apart."""
    sizes = {len(value) for value in values.values()}
    size = sizes.pop()
    if sizes or count >= size:
        return values
    start = int(torch.randint(size - count + 1, (), generator=generator))
    return {name: value[start : start + count] for name, value in values.items()}


def _correct_bias(layer: QuantLayer, mean: torch.Tensor, outputs: Sequence[torch.Tensor]) -> None:
    """Nagel et al. 2019, arXiv 1906.04721, section 4.2, behind a quantized network."""
    axis = -1 if isinstance(layer, torch.nn.Linear) else 1
    sums = [_channel_mean(value, axis) * len(value) for value in outputs]
    with torch.no_grad():
        layer.bias += mean - torch.stack(sums).sum(0) / sum(map(len, outputs))


def _channel_mean(outputs: torch.Tensor, axis: int) -> torch.Tensor:
    return outputs.transpose(0, axis).flatten(1).mean(1)


def _total_error(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    return float(sum(map(_error, found, wanted)))


def _error(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return ((found - wanted) ** 2).mean()
