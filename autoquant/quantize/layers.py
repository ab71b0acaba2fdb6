"""The layers of a graph, and why some of them cannot be quantized."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from autoquant.core.layer import Kernels, Layer, LayerKind
from autoquant.core.recipe import Activation
from autoquant.quantize.blockwise import BLOCK
from autoquant.quantize.operators import (
    CONV_OPS,
    EMBEDDING_OPS,
    LINEAR_OPS,
    PRODUCT_OPS,
    TRANSPOSED_OPS,
    computes,
)

__all__ = ["LayerNode", "count_values", "find_activations", "find_layers"]

_ATEN = torch.ops.aten
_VOLUME_OPS = frozenset({_ATEN.conv3d.default, _ATEN.conv3d.padding})
_MAX_RANK = 4  # a batch of images
_RECURRENT_OPS = frozenset({_ATEN.lstm.input, _ATEN.gru.input, _ATEN.rnn_tanh.input})
_KINDS: Mapping[LayerKind, frozenset[object]] = {
    "conv": CONV_OPS | _VOLUME_OPS,
    "linear": LINEAR_OPS,
    "matmul": PRODUCT_OPS,
    "conv_transpose": TRANSPOSED_OPS,
    "recurrent": _RECURRENT_OPS,
    "embedding": EMBEDDING_OPS,
}


@dataclass(frozen=True)
class LayerNode:
    """A layer and the graph node that computes it."""

    layer: Layer
    node: Node

    @property
    def source(self) -> Node:
        """What the layer reads: activations, or the indices of a table's rows."""
        return _argument(self.node, 1 if self.layer.kind == "embedding" else 0)

    @property
    def weight(self) -> Node:
        """Its weight, or its table."""
        return _argument(self.node, 0 if self.layer.kind == "embedding" else 1)

    @property
    def bias(self) -> Node | None:
        """Its bias, if it has one."""
        arguments = self.node.args
        has_bias = self.layer.kind != "embedding" and len(arguments) > 2
        return _argument(self.node, 2) if has_bias and arguments[2] is not None else None

    @property
    def is_patchwise(self) -> bool:
        """Whether each output is a product of its weights with one patch of the input."""
        return self.layer.kind in ("conv", "linear")

    @property
    def groups(self) -> int:
        """Of a convolution; 1 of anything else."""
        # aten.conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1)
        arguments = self.node.args
        return int(arguments[6]) if self.layer.kind == "conv" and len(arguments) > 6 else 1  # type: ignore[arg-type]

    @property
    def multiplies(self) -> bool:
        """Whether it multiplies and adds a bias; a table does not."""
        return self.layer.kind != "embedding"


def _argument(node: Node, index: int) -> Node:
    argument = node.args[index]
    assert isinstance(argument, Node)
    return argument


def find_layers(module: GraphModule) -> Mapping[str, LayerNode]:
    """Every operator that multiplies and accumulates or looks up, in network order.

    A layer's name is that of the module that owns its weight; a product of two activations
    goes by its name in the graph. `Layer.obstacle` says why a layer has to stay float.
    """
    kinds = {node: kind for node in module.graph.nodes if (kind := _kind_of(node)) is not None}
    uses = Counter(_weight_name(node) for node, kind in kinds.items() if kind != "embedding")
    names = _find_names(kinds)
    found: dict[str, LayerNode] = {}
    for node, kind in kinds.items():
        name, obstacle = names[node], _find_obstacle(node, kind, uses[_weight_name(node)])
        found[name] = LayerNode(_describe(name, len(found), node, kind, obstacle), node)
    return found


def _find_names(kinds: Mapping[Node, LayerKind]) -> dict[Node, str]:
    """Names of layers; a table that is a layer's weight too leaves the name to the layer."""
    seen: Counter[str] = Counter()
    names = {}
    for node in sorted(kinds, key=lambda node: kinds[node] == "embedding"):
        weight = _weight_name(node)
        name = node.name if weight is None else weight.removesuffix(".weight")
        seen[name] += 1
        names[node] = name if seen[name] == 1 else f"{name}#{seen[name]}"
    return names


def _kind_of(node: Node) -> LayerKind | None:
    if computes(node, TRANSPOSED_OPS) and not node.args[6]:
        return None
    if computes(node, EMBEDDING_OPS) and not node.meta["val"].is_floating_point():
        return None
    return next((kind for kind, operators in _KINDS.items() if computes(node, operators)), None)


def _weight_name(node: Node) -> str | None:
    """Qualified name of a layer's weight; None if it is no parameter."""
    if computes(node, _RECURRENT_OPS):
        weights = node.args[2]
        assert isinstance(weights, (list, tuple))
        return str(getattr(weights[0], "target", node.name)).rpartition(".")[0] or None
    weight = node.args[0 if computes(node, EMBEDDING_OPS) else 1]
    is_parameter = isinstance(weight, Node) and weight.op == "get_attr"
    return str(weight.target) if is_parameter else None  # type: ignore[union-attr]


def _find_obstacle(node: Node, kind: LayerKind, uses: int) -> str | None:
    if kind == "recurrent":
        return "the runtime has no integer kernel for recurrent layers"
    if kind == "matmul":
        return "a product of two activations has no weights; it follows the layers around it"
    if kind in ("conv", "conv_transpose") and node.meta["val"].dim() > _MAX_RANK:
        return "convolutions over volumes are not supported"
    if _weight_name(node) is None:
        return "its weight is computed while the model runs"
    if _has_computed_bias(node, kind):
        return "its bias is computed while the model runs"
    if kind == "embedding":
        return _find_obstacle_of_table(node)
    if uses > 1:
        return "it runs more than once, and one bias cannot fit the input scales of all its uses"
    return None


def _has_computed_bias(node: Node, kind: LayerKind) -> bool:
    bias = node.args[2] if kind != "embedding" and len(node.args) > 2 else None
    return isinstance(bias, Node) and bias.op != "get_attr"


def _find_obstacle_of_table(node: Node) -> str | None:
    """Why a table has to stay float; one that others read too is stored once for each."""
    if not node.meta.get("is_written", True):
        return "its rows are the same for all inputs, and the exporter wrote those in its place"
    return None


def _describe(name: str, order: int, node: Node, kind: LayerKind, obstacle: str | None) -> Layer:
    return Layer(
        name=name,
        kind=kind,
        parameters=_count_parameters(node),
        macs=_count_macs(node, kind),
        order=order,
        obstacle=obstacle,
    )


def find_activations(found: LayerNode, kernels: Kernels) -> tuple[Activation, ...]:
    """How a layer can take its input on a runtime.

    No runtime finds grids for convolutions that see one channel at a time, or a part of them, and
    blocks have to fill a row of weights.
    """
    able = kernels.activations.get(found.layer.kind, frozenset())
    inputs = int(found.weight.meta["val"].shape[1]) if able else 0
    activations: list[Activation] = ["static"]
    if "dynamic" in able and (found.layer.kind != "conv" or (found.groups == 1 and inputs > 1)):
        activations.append("dynamic")
    if "float" in able and (not kernels.has_blocks or inputs % BLOCK == 0):
        activations.append("float")
    return tuple(activations)


def _count_parameters(node: Node) -> int:
    parameters = {source for source in node.all_input_nodes if source.op == "get_attr"}
    return sum(_numel(source) for source in parameters)


def _count_macs(node: Node, kind: LayerKind) -> int:
    """Multiply-accumulates for one sample."""
    if kind == "recurrent":
        return _count_parameters(node) * _steps(node)
    if kind == "embedding":
        return 0
    weight, source = _argument(node, 1), _argument(node, 0)
    sizes = weight.meta["val"].shape
    match kind:
        case "conv" | "linear":
            return count_values(node) * math.prod(int(size) for size in sizes[1:])
        case "conv_transpose":  # every input value meets its kernels
            return count_values(source) * math.prod(int(size) for size in sizes[1:])
        case _:
            return count_values(node) * _hint(source.meta["val"].shape[-1])


def _steps(node: Node) -> int:
    source = node.args[0]
    assert isinstance(source, Node)
    shape = source.meta["val"].shape
    return max(_hint(size) for size in shape[:2])


def _batch(node: Node) -> int:
    """The batch that the graph was captured with; figures are for one sample."""
    first = next(item for item in node.graph.nodes if item.op == "placeholder")
    while not isinstance(first.meta.get("val"), torch.Tensor) or not first.meta["val"].dim():
        first = first.next
    return _hint(first.meta["val"].shape[0])


def count_values(node: Node) -> int:
    """Values of a node's output for one sample."""
    return _numel(node) // _batch(node)


def _numel(node: Node) -> int:
    value = node.meta["val"]
    value = value[0] if isinstance(value, (tuple, list)) else value
    return math.prod(_hint(size) for size in value.shape)


def _hint(size: int | torch.SymInt) -> int:
    """A size as it was when the graph was captured."""
    return size if isinstance(size, int) else int(size.node.hint)
