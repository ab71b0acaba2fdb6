"""Samples of activations: one pass over the calibration images serves every method."""

import copy
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from zlib import crc32

import torch
from torch.fx import GraphModule, Interpreter, Node

from autoquant.quantize.layers import count_values

__all__ = [
    "MAX_VALUES",
    "as_tensors",
    "call",
    "first_output",
    "fitting_batch",
    "input_values",
    "record_values",
    "sample_activations",
]

# 99.99 % of a million values leaves a hundred above: enough to place a percentile.
MAX_VALUES = 2**20
# Beyond some 16 MB a value falls out of the caches and is allocated anew by every operator,
# which makes a network with large activations several times slower.
_BATCH_VALUES = 2**22
_MAX_BATCH = 64


def as_tensors(inputs: Any) -> Any:
    """A batch of arrays, or of named arrays, as tensors that share their memory."""
    if isinstance(inputs, Mapping):
        return {name: as_tensors(value) for name, value in inputs.items()}
    return torch.as_tensor(inputs)


def call(module: torch.nn.Module, inputs: Any) -> Any:
    """Run a module on a tensor or on named tensors."""
    return module(**inputs) if isinstance(inputs, Mapping) else module(inputs)


def input_values(module: GraphModule, batch: Any) -> dict[str, torch.Tensor]:
    """A batch by the placeholders that take it, in their order.

    Args:
        module: a graph.
        batch: a tensor, or tensors by the names of the model's arguments, in any order.
    """
    places = [node for node in module.graph.nodes if node.op == "placeholder"]
    if not isinstance(batch, Mapping):
        return {places[0].name: batch}
    # an argument that is called like a function of Python has another name in the graph
    return {n.name: batch[n.name if n.name in batch else str(n.target)] for n in places}


def fitting_batch(module: GraphModule) -> int:
    """How many samples at a time a graph runs fastest on."""
    sizes = [
        count_values(node)
        for node in module.graph.nodes
        if node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor)
    ]
    return max(1, min(_MAX_BATCH, _BATCH_VALUES // max(1, *sizes)))


def first_output(outputs: Any) -> torch.Tensor:
    """What a model answers, or the first of what it answers."""
    first = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    assert isinstance(first, torch.Tensor)
    return first


class _Recorder(Interpreter):
    """Runs a graph and keeps some of the values of the wanted nodes."""

    def __init__(self, module: GraphModule, wanted: Collection[str], seed: int) -> None:
        super().__init__(module)
        # A generator each: what is drawn from one value must not depend on which others are
        # sampled beside it, or a recipe would depend on the recipes before it.
        self.generators = {
            name: torch.Generator().manual_seed(crc32(f"{seed} {name}".encode())) for name in wanted
        }
        self.quota = MAX_VALUES
        self.kept: dict[str, list[torch.Tensor]] = defaultdict(list)

    def run_node(self, node: Node) -> Any:
        value = super().run_node(node)
        generator = self.generators.get(node.name)
        if generator is not None:
            self.kept[node.name].append(self._thin(value.detach().reshape(-1), generator))
        return value

    def _thin(self, values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """At most `quota` values drawn with replacement, and both extremes."""
        if values.numel() <= self.quota:
            return values.clone()
        drawn = torch.randint(values.numel(), (self.quota,), generator=generator)
        return torch.cat([values[drawn], torch.stack([values.min(), values.max()])])


def sample_activations(
    module: GraphModule,
    wanted: Collection[str],
    inputs: Iterable[Any],
    share: float,
    seed: int,
) -> dict[str, torch.Tensor]:
    """Values of some nodes while a graph runs over batches.

    Args:
        module: the float graph.
        wanted: node names.
        inputs: batches, tensors or dicts of tensors.
        share: the part of all batches that one batch is, in 0..1; it bounds what is kept.
        seed: which values are drawn where there are too many.

    Returns:
        By node name, (n,) values: all of them, or about `MAX_VALUES` and the extremes.
    """
    recorder = _Recorder(copy.copy(module), wanted, seed)
    recorder.quota = max(1, int(MAX_VALUES * share))
    with torch.no_grad():
        for batch in inputs:
            recorder.run(*input_values(module, batch).values())
    return {name: torch.cat(parts) for name, parts in recorder.kept.items()}


class _Tracer(Interpreter):
    """Runs a graph and keeps the whole values of some nodes."""

    def __init__(self, module: GraphModule, names: Mapping[str, str]) -> None:
        super().__init__(module)
        self.names = names
        self.values: dict[str, torch.Tensor] = {}

    def run_node(self, node: Node) -> Any:
        value = super().run_node(node)
        if node.name in self.names:
            self.values[self.names[node.name]] = value.detach()
        return value


def record_values(
    module: GraphModule, names: Mapping[str, str], inputs: Any
) -> dict[str, torch.Tensor]:
    """Values of some nodes for one batch.

    Args:
        module: a graph.
        names: what to call them, by node name.
        inputs: a tensor or a dict of tensors.
    """
    tracer = _Tracer(module, names)
    with torch.no_grad():
        tracer.run(*input_values(module, inputs).values())
    return tracer.values
