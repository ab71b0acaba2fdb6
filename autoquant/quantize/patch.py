"""Patches: what single output positions of a layer see, and what they answer.

An image has thousands of positions that say much the same. A few of each, drawn at random, fit a
layer as well as whole images do, at a fraction of the cost (Nagel et al. 2020, arXiv 2004.10568,
section 4, draw whole batches).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any
from zlib import crc32

import torch
import torch.nn.functional as F
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer as QuantLayer
from torch.fx import GraphModule, Interpreter, Node

from autoquant.quantize.sampling import input_values

__all__ = ["Patches", "collect_patches"]

_MAX_PATCHES = 8192
_MAX_VALUES = 10_000_000  # of one layer's patches: 40 MB


@dataclass(frozen=True)
class Patches:
    """What a layer sees at some positions.

    Attributes:
        inputs: (n, groups, inputs of a group * kernel).
        outputs: (n, channels), of the float layer, bias included.
        images: that they were drawn from; positions of one image say much the same.
    """

    inputs: torch.Tensor
    outputs: torch.Tensor
    images: int

    @property
    def count(self) -> int:
        """Number of positions."""
        return len(self.inputs)

    def middle(self) -> "Patches":
        """One patch, the mean of all."""
        inputs, outputs = self.inputs.mean(0, keepdim=True), self.outputs.mean(0, keepdim=True)
        return Patches(inputs, outputs, self.images)

    def moment(self, *, centered: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Second moment of the inputs, its covariance shrunk towards the variances alone.

        A layer of a thousand inputs that is fitted to a hundred images fits their noise: in late
        layers of EfficientNet-Lite0 its error on other images is then above that of nearest
        rounding. How far to shrink follows from the images and the correlations:
        oracle approximating shrinkage, Chen et al. 2010, arXiv 0907.4698, equation 23, of the
        correlation matrix.

        Args:
            centered: leave the means out, since a bias makes up for what they shift.

        Returns:
            The moment, (groups, k, k), and the shares of the variances in it, (groups,).
        """
        seen = self.inputs.transpose(0, 1)
        middle = seen.mean(1, keepdim=True)
        spread = seen - middle
        covariance = spread.transpose(1, 2) @ spread / self.count
        variances = covariance.diagonal(dim1=1, dim2=2)
        share = _shrinkage(covariance, variances, self.images)
        shrunk = torch.lerp(covariance, torch.diag_embed(variances), share[:, None, None])
        return shrunk if centered else shrunk + middle.transpose(1, 2) @ middle, share

    def apply(self, weight: torch.Tensor, bias: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """What a layer of these weights answers, (rows, channels)."""
        inputs = self.inputs[rows]
        groups = inputs.shape[1]
        if groups == 1:
            return F.linear(inputs[:, 0], weight.flatten(1)) + bias
        split = weight.reshape(groups, len(weight) // groups, -1)
        if split.shape[1] == 1:  # depthwise: a product and a sum beat tiny matrix products
            return (inputs * split[:, 0]).sum(-1) + bias
        return torch.einsum("ngk,gok->ngo", inputs, split).flatten(1) + bias


def collect_patches(
    module: GraphModule,
    layers: Mapping[Node, QuantLayer],
    batches: Sequence[Any],
    count: int,
    seed: int,
) -> dict[Node, Patches]:
    """Patches of every layer in one run of the float graph.

    Args:
        module: the float graph.
        layers: by node; their shapes and strides count, their weights do not.
        batches: calibration inputs.
        count: samples in all batches together.
        seed: which positions are drawn.
    """
    collector = _Collector(module, layers, count, seed)
    with torch.no_grad():
        for batch in batches:
            collector.run(*input_values(module, batch).values())
    return {
        node: Patches(torch.cat(inputs), torch.cat(outputs), count)
        for node, (inputs, outputs) in collector.found.items()
    }


class _Collector(Interpreter):
    def __init__(
        self, module: GraphModule, layers: Mapping[Node, QuantLayer], count: int, seed: int
    ) -> None:
        super().__init__(module)
        self.layers = layers
        self.count = count
        # a generator each, so that a layer's patches do not depend on the layers beside it
        self.generators = {
            node: torch.Generator().manual_seed(crc32(f"{seed} {node.name}".encode()))
            for node in layers
        }
        self.found: dict[Node, tuple[list[torch.Tensor], list[torch.Tensor]]] = {
            node: ([], []) for node in layers
        }

    def run_node(self, node: Node) -> Any:
        if node not in self.layers:
            return super().run_node(node)
        source = node.args[0]
        assert isinstance(source, Node)
        inputs, outputs = self.env[source], super().run_node(node)
        self._draw(node, inputs, outputs)
        return outputs

    def _draw(self, node: Node, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        layer, generator = self.layers[node], self.generators[node]
        values = layer.weight[0].numel() * getattr(layer, "groups", 1)
        wanted = min(_MAX_PATCHES, _MAX_VALUES // values)
        each = max(1, round(wanted / self.count))
        draw = _draw_rows if isinstance(layer, torch.nn.Linear) else _draw_patches
        for kept, drawn in zip(
            self.found[node], draw(layer, inputs, outputs, each, generator), strict=True
        ):
            kept.append(drawn)


def _draw_rows(
    layer: QuantLayer,
    inputs: torch.Tensor,
    outputs: torch.Tensor,
    each: int,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    rows, answers = inputs.flatten(0, -2), outputs.flatten(0, -2)
    drawn = torch.randperm(len(rows), generator=generator)[: each * len(inputs)]
    return rows[drawn, None], answers[drawn]


def _draw_patches(
    layer: QuantLayer,
    inputs: torch.Tensor,
    outputs: torch.Tensor,
    each: int,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    padded = F.pad(inputs, layer._reversed_padding_repeated_twice)
    sizes, positions = outputs.shape[2:], outputs[0, 0].numel()
    each = min(each, positions)
    found_inputs, found_outputs = [], []
    for image, answer in zip(padded, outputs, strict=True):
        drawn = torch.randperm(positions, generator=generator)[:each]
        where = _input_index(layer, drawn, sizes, padded.shape[2:])
        seen = image.flatten(1)[:, where.flatten()].reshape(len(image), each, -1)
        found_inputs.append(seen.transpose(0, 1).reshape(each, layer.groups, -1))
        found_outputs.append(answer.flatten(1)[:, drawn].T)
    return torch.cat(found_inputs), torch.cat(found_outputs)


def _input_index(
    layer: QuantLayer, drawn: torch.Tensor, sizes: torch.Size, padded: torch.Size
) -> torch.Tensor:
    """Flat indices into a padded image, (positions, kernel), for flat output positions."""
    kernel = torch.tensor(list(product(*(range(size) for size in layer.kernel_size))))
    places = torch.stack(torch.unravel_index(drawn, sizes), dim=1)
    stride, dilation = torch.tensor(layer.stride), torch.tensor(layer.dilation)
    corners = (places * stride)[:, None] + (kernel * dilation)[None]
    steps = torch.tensor([torch.Size(padded[index + 1 :]).numel() for index in range(len(padded))])
    return (corners * steps).sum(-1)


def _shrinkage(covariance: torch.Tensor, variances: torch.Tensor, images: int) -> torch.Tensor:
    """(groups,) in 0..1: how much of a covariance is noise; see `Patches.moment`."""
    deviations = variances.clamp_min(1e-12).sqrt()
    correlation = covariance / (deviations[:, :, None] * deviations[:, None])
    size = variances.shape[1]
    power = correlation.square().sum((1, 2))
    above = (1 - 2 / size) * power + size**2
    below = (images + 1 - 2 / size) * (power - power.new_tensor(size)).clamp_min(1e-9)
    return (above / below).clamp(0, 1)
