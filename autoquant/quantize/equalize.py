"""Cross-layer equalization: channels between two layers share their range fairly.

Nagel et al. 2019, arXiv 1906.04721, section 4.1. Brevitas' `EqualizeGraph` walks torch modules
and stops at a ReLU6; a graph of operators has no modules, and mobile networks have little else
than ReLU6, so the walk and the bound at the ReLU6 are made here.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from autoquant.quantize.layers import LayerNode
from autoquant.quantize.operators import (
    computes,
    find_ceiling,
    is_fused_activation,
    is_pool,
    is_read_by_others,
    is_zero_pad,
)
from autoquant.quantize.sampling import record_values

__all__ = ["equalize", "find_pairs"]

_ATEN = torch.ops.aten
_ROUNDS = 10
_TINY = 1e-9
# A channel that fills more of a clamp's range on the calibration images may well be cut on others.
_MARGIN = 0.9
_KEEPS_CHANNELS = frozenset(
    {
        _ATEN.max_pool2d.default,
        _ATEN.dropout.default,
        _ATEN.clone.default,
        _ATEN.contiguous.default,
        _ATEN.alias.default,
    }
)
_FLATTENS = frozenset({_ATEN.flatten.using_ints, _ATEN.view.default, _ATEN.reshape.default})


@dataclass(frozen=True)
class Pair:
    """Two layers with nothing between them that a channel's scale could disturb.

    Attributes:
        first: computes the channels.
        second: the only one that reads them.
        activation: what stands behind the first; None if nothing does.
    """

    first: LayerNode
    second: LayerNode
    activation: Node | None

    @property
    def ceiling(self) -> float | None:
        """Where the activation cuts; None if it does not."""
        return None if self.activation is None else find_ceiling(self.activation)


def equalize(
    module: GraphModule, layers: Collection[LayerNode], batches: Iterable[torch.Tensor]
) -> None:
    """Give a network weights that are easier to quantize, in place.

    Where an activation cuts at a ceiling, only channels that stay below it on the given images
    are scaled, and never beyond it: on those images the network computes what it did.

    Args:
        module: a float graph; whoever shares its parameters keeps them as they are.
        layers: those that may be changed.
        batches: images that show how far channels reach.
    """
    pairs = find_pairs(layers)
    for name, parameter in list(module.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        own = torch.nn.Parameter(parameter.detach().clone())
        module.get_submodule(owner).register_parameter(leaf, own)
    reach = _channel_maxima(module, pairs, batches)
    for _ in range(_ROUNDS):
        for pair in pairs:
            factor = _factor(module, pair, reach.get(pair.first.node.name))
            _scale(module, pair, factor)
            if pair.first.node.name in reach:
                reach[pair.first.node.name] *= factor


def find_pairs(layers: Collection[LayerNode]) -> list[Pair]:
    """Layers that follow each other directly, in network order."""
    by_node = {
        found.node: found
        for found in layers
        if found.is_patchwise and not is_read_by_others(found.weight, found.node)
    }
    return [pair for found in by_node.values() if (pair := _pair_of(found, by_node)) is not None]


def _pair_of(first: LayerNode, by_node: Mapping[Node, LayerNode]) -> Pair | None:
    channels = _weight_shape(first)[0]
    activation, node = None, first.node
    while len(node.users) == 1:
        follower = next(iter(node.users))
        if follower in by_node and follower.args[0] is node:
            second = by_node[follower]
            return Pair(first, second, activation) if _reads(second, channels) else None
        if is_fused_activation(follower) and activation is None:
            activation = follower
        elif not _keeps_channels(follower, channels):
            return None
        node = follower
    return None


def _keeps_channels(node: Node, channels: int) -> bool:
    if computes(node, _FLATTENS):
        value = node.meta["val"]
        return bool(value.dim() == 2 and value.shape[1] == channels)
    return is_pool(node) or is_zero_pad(node) or computes(node, _KEEPS_CHANNELS)


def _weight_shape(found: LayerNode) -> tuple[int, ...]:
    weight = found.node.args[1]
    assert isinstance(weight, Node)
    return tuple(int(size) for size in weight.meta["val"].shape)


def _reads(found: LayerNode, channels: int) -> bool:
    """Whether a layer has one row of weights for each channel, its own or one of all."""
    shape, groups = _weight_shape(found), found.groups
    return shape[1] == channels if groups == 1 else groups == shape[0] == channels


def _channel_maxima(
    module: GraphModule, pairs: list[Pair], batches: Iterable[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """How far each channel in front of a ceiling reaches, (channels,), by node name."""
    names = {pair.first.node.name for pair in pairs if pair.ceiling is not None}
    found: dict[str, torch.Tensor] = {}
    for batch in batches if names else ():
        for name, value in record_values(module, {name: name for name in names}, batch).items():
            largest = value.transpose(0, 1).flatten(1).amax(1)
            found[name] = torch.maximum(found.get(name, largest), largest)
    return found


def _factor(module: GraphModule, pair: Pair, reach: torch.Tensor | None) -> torch.Tensor:
    """What to multiply each channel by, (channels,): then both ranges are the same."""
    first = _parameter(module, pair.first.node.args[1]).flatten(1).abs().amax(1)
    weight = _parameter(module, pair.second.node.args[1])
    turned = weight.transpose(0, 1) if pair.second.groups == 1 else weight
    second = turned.flatten(1).abs().amax(1)
    factor = (second / first.clamp(min=_TINY)).sqrt()
    is_open = (first > _TINY) & (second > _TINY)
    if pair.ceiling is not None and reach is not None:
        limit = _MARGIN * pair.ceiling / reach.clamp(min=_TINY)
        is_open &= limit > 1
        factor = torch.minimum(factor, limit)
    return torch.where(is_open, factor, torch.ones_like(factor))


def _scale(module: GraphModule, pair: Pair, factor: torch.Tensor) -> None:
    first, second = pair.first.node, pair.second.node
    weight = _parameter(module, first.args[1])
    weight.mul_(factor.reshape(-1, *[1] * (weight.dim() - 1)))
    if len(first.args) > 2 and first.args[2] is not None:
        _parameter(module, first.args[2]).mul_(factor)
    weight = _parameter(module, second.args[1])
    shape = (1, -1) if pair.second.groups == 1 else (-1, 1)
    weight.div_(factor.reshape(*shape, *[1] * (weight.dim() - 2)))


def _parameter(module: GraphModule, node: object) -> torch.Tensor:
    assert isinstance(node, Node)
    return module.get_parameter(str(node.target)).detach()
