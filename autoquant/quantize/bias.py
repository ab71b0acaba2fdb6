"""Bias correction: what rounding the weights of a layer does to its mean output, undone.

A layer is linear in its weights, so the mean of its output over images and positions is the
product of its weights with its *mean patch*, the mean over all that the kernel ever covers. One
pass over the calibration images finds the mean patches; they serve every width, granularity and
scale, where Brevitas' `bias_correction_mode` runs each layer twice for every one of them.
"""

import copy
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node

from autoquant.quantize.layout import swap_channels
from autoquant.quantize.operators import LINEAR_OPS, TRANSPOSED_OPS
from autoquant.quantize.sampling import input_values

__all__ = ["channel_sums", "correct_bias", "mean_patches"]


class _Adder(Interpreter):
    """Runs a graph and adds up some of its values over all samples."""

    def __init__(self, module: GraphModule, wanted: Collection[str]) -> None:
        super().__init__(copy.copy(module))
        self.network = module
        self.wanted = frozenset(wanted)
        self.sums: dict[str, torch.Tensor] = {}
        self.samples = 0

    def run_node(self, node: Node) -> Any:
        value = super().run_node(node)
        if node.name in self.wanted:
            total = value.detach().sum(0, keepdim=True, dtype=torch.float64)
            self.sums[node.name] = total + self.sums.get(node.name, 0.0)
        return value

    def add(self, batch: Any) -> None:
        """One more batch, a tensor or named tensors."""
        tensors = list(input_values(self.network, batch).values())
        self.samples += len(tensors[0])
        self.run(*tensors)


def mean_patches(
    module: GraphModule, layers: Mapping[str, Node], batches: Iterable[Any]
) -> dict[str, torch.Tensor]:
    """What each layer's kernel covers on average.

    Args:
        module: the float graph.
        layers: nodes of convolutions, transposed or not, and of `aten.linear` by layer name.
        batches: of the calibration data, tensors or dicts of tensors.

    Returns:
        By layer name, a tensor of the weight's shape: `channel_sums` of its product with the
        weight are the mean output without bias.
    """
    sources = {name: _source(node) for name, node in layers.items()}
    adder = _Adder(module, {source.name for source in sources.values()})
    with torch.no_grad():
        for batch in batches:
            adder.add(batch)
    return {
        name: _mean_patch(module, layers[name], adder.sums[source.name] / adder.samples)
        for name, source in sources.items()
    }


def _source(node: Node) -> Node:
    source = node.args[0]
    assert isinstance(source, Node)
    return source


def _mean_patch(module: GraphModule, node: Node, mean_input: torch.Tensor) -> torch.Tensor:
    """The derivative of a layer's mean output by its weights: true for any geometry."""
    assert isinstance(node.args[1], Node)
    assert callable(node.target)
    weight = module.get_parameter(str(node.args[1].target)).detach().double().requires_grad_()
    with torch.enable_grad():
        output = node.target(mean_input, weight, None, *node.args[3:], **node.kwargs)
        channels = output.shape[-1 if node.target in LINEAR_OPS else 1]
        (patch,) = torch.autograd.grad(output.sum() * channels / output.numel(), weight)
    return patch.float()


def channel_sums(products: torch.Tensor, node: Node) -> torch.Tensor:
    """Sums over all that goes into one output channel.

    Args:
        products: of a layer's weight with a patch, in the weight's shape.
        node: the layer's.

    Returns:
        (channels,).
    """
    if node.target in TRANSPOSED_OPS:
        products = swap_channels(products, int(str(node.args[8])))
    return products.flatten(1).sum(1)


def correct_bias(layer: Any, node: Node, patch: torch.Tensor) -> None:
    """Move a layer's bias so that its mean output is that of the float weights.

    Nagel et al. 2019, arXiv 1906.04721, section 4.2.

    Args:
        layer: a Brevitas layer in evaluation mode, bias (out,).
        node: what it computes.
        patch: see `mean_patches`.
    """
    with torch.no_grad():
        # once rounded otherwise than to the nearest point, `weight` lies on the grid
        exact = getattr(layer, "weight_orig", layer.weight)
        error = exact - layer.quant_weight().value
        layer.bias += channel_sums(error * patch, node)
