"""Proof, layer by layer: which kernel ran it, in integers or not and why, at what share of time.

Needs the standard library alone.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from autoquant.core.layer import INTEGER_KINDS, Layer, LayerKind

if TYPE_CHECKING:  # a machine that only times files has no pydantic
    from autoquant.core.recipe import Recipe

__all__ = ["LayerProof", "NodeTime", "explain_layers", "match_layers", "other_operators"]

_PLURALS = {"conv_transpose": "transposed convolutions"}


@dataclass(frozen=True)
class NodeTime:
    """One node of the runtime's optimized graph.

    Attributes:
        name: as the runtime calls it.
        kernel: its operator, `QLinearConv` for one.
        ms: median time of a run, milliseconds.
    """

    name: str
    kernel: str
    ms: float


@dataclass(frozen=True)
class LayerProof:
    """What became of one layer on the runtime.

    Attributes:
        name: the layer.
        kind: what it computes.
        macs: multiply-accumulates for one sample.
        stored_as: precision of its weights in the file; None if it has no weights of its own.
        kernel: the runtime's operators that it became.
        integer_kernel: whether they multiply integers.
        time_share: of a whole run, 0..1, by the runtime's profiler.
        reason: why it runs in float, in words; None if it does not.
    """

    name: str
    kind: str
    macs: int
    stored_as: str | None
    kernel: str
    integer_kernel: bool
    time_share: float
    reason: str | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def match_layers(names: Iterable[str], layers: Sequence[str]) -> dict[str, str]:
    """Layers by the names of the nodes that a runtime made of them.

    A runtime names a node after the one that it came from: `conv1_token_4`,
    `fc/MatMulAddFusion`.
    """
    longest_first = sorted(layers, key=len, reverse=True)
    pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})(?:[_#/].*)?$")
    matches = {name: pattern.match(name) for name in names}
    return {name: match[1] for name, match in matches.items() if match}


def explain_layers(
    layers: Sequence[Layer],
    precisions: Mapping[str, str],
    recipe: "Recipe",
    nodes: Sequence[NodeTime],
    integer: frozenset[str],
    kinds: frozenset[LayerKind] = INTEGER_KINDS,
) -> list[LayerProof]:
    """One proof a layer, in network order.

    Args:
        layers: everything that multiplies and accumulates.
        precisions: how the file stores their weights.
        recipe: what was wanted.
        nodes: the runtime's profile; only the nodes that multiply.
        integer: layers that run in integer kernels.
        kinds: what the runtime has such kernels for.
    """
    total = sum(node.ms for node in nodes) or 1.0
    owners = match_layers((node.name for node in nodes), [layer.name for layer in layers])
    proofs = []
    for layer in layers:
        own = [node for node in nodes if owners.get(node.name) == layer.name]
        products = [node for node in own if is_of_layer(node.kernel)]
        proofs.append(
            LayerProof(
                name=layer.name,
                kind=layer.kind,
                macs=layer.macs,
                stored_as=precisions.get(layer.name),
                kernel="+".join(dict.fromkeys(node.kernel for node in products)) or "none",
                integer_kernel=layer.name in integer,
                time_share=sum(node.ms for node in products) / total,
                reason=None
                if layer.name in integer
                else _find_reason(layer, precisions, recipe, kinds),
            )
        )
    return proofs


def is_of_layer(kernel: str) -> bool:
    """Whether an operator of a runtime multiplies and accumulates, or looks up."""
    pattern = r"Conv|Deconvolution|Gather|Gemm|MatMul|LSTM|GRU|RNN|FullyConnected"
    pattern += r"|CONV_2D|TRANSPOSE_CONV|FULLY_CONNECTED|BATCH_MATMUL|EMBEDDING_LOOKUP"  # LiteRT's
    return bool(re.search(pattern, kernel))


def _find_reason(
    layer: Layer,
    precisions: Mapping[str, str],
    recipe: "Recipe",
    kinds: frozenset[LayerKind],
) -> str:
    if layer.obstacle is not None:
        return layer.obstacle
    if recipe.method == "fp32":
        return "the whole model is float"
    if layer.name in recipe.excluded:
        return "excluded by the recipe"
    if recipe.activation_of(layer.name) == "float":
        return "float activations by the recipe"
    if precisions.get(layer.name, "float32") == "float32":
        return "stored as float"
    if layer.kind not in kinds:
        return f"the runtime has no integer kernel for {_PLURALS.get(layer.kind, layer.kind)}"
    return "the runtime did not fuse it into an integer kernel"


def other_operators(layers: Sequence[Layer], nodes: Sequence[NodeTime]) -> list[tuple[str, float]]:
    """Kernels that belong to no layer, with their share of the time, largest first."""
    total = sum(node.ms for node in nodes) or 1.0
    owners = match_layers((node.name for node in nodes), [layer.name for layer in layers])
    shares: dict[str, float] = {}
    for node in nodes:
        if node.name not in owners or not is_of_layer(node.kernel):
            shares[node.kernel] = shares.get(node.kernel, 0.0) + node.ms / total
    return sorted(shares.items(), key=lambda item: -item[1])
