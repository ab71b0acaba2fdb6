"""Quantized layers in stock: each is built once for a choice and serves every recipe."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from autoquant.core.recipe import PtqOptions
from autoquant.quantize.bias import channel_sums, correct_bias, mean_patches
from autoquant.quantize.calibration import CalibrationData
from autoquant.quantize.layers import LayerNode
from autoquant.quantize.rounding import round_layers
from autoquant.quantize.weights import QuantLayer, WeightChoice, build_layer

__all__ = ["LayerStock"]


class LayerStock:
    """Layers of one network by width, granularity, scale and rounding, biases corrected.

    Args:
        module: the float graph.
        found: its quantizable layers by name.
        data: what they are rounded and corrected for.
    """

    def __init__(
        self, module: GraphModule, found: Mapping[str, LayerNode], data: CalibrationData
    ) -> None:
        self.module = module
        self.found = found
        self.data = data
        self._patches: dict[int, dict[str, torch.Tensor]] = {}
        self._layers: dict[tuple[Any, ...], QuantLayer] = {}

    def get(self, name: str, choice: WeightChoice, options: PtqOptions) -> QuantLayer:
        """A layer at one choice; whoever changes it changes it for all.

        Raises:
            NumericError: a weight that is not finite.
        """
        needs_images = options.bias_correction or choice.rounding != "nearest"
        images = self.data.count(options) if needs_images else 0
        key = (choice, images, options.bias_correction)
        if (name, *key) not in self._layers:
            # one pass of the network shows all layers what they are rounded for
            names = [name] if choice.rounding == "nearest" else self._fitting(choice)
            layers = self._prepare(names, choice, options)
            self._layers |= {(one, *key): layer for one, layer in layers.items()}
        return self._layers[(name, *key)]

    def _fitting(self, choice: WeightChoice) -> list[str]:
        return [
            name
            for name, found in self.found.items()
            if found.is_patchwise and choice.activation in found.layer.activations
        ]

    def _prepare(
        self, names: Sequence[str], choice: WeightChoice, options: PtqOptions
    ) -> dict[str, QuantLayer]:
        layers = {name: self.build(name, choice) for name in names}
        if choice.rounding != "nearest":
            self._round(layers, choice, options)
        if options.bias_correction:
            for name, layer in layers.items():
                if self.found[name].multiplies:
                    correct_bias(layer, self.found[name].node, self._mean_patches(options)[name])
        return layers

    def _mean_patches(self, options: PtqOptions) -> Mapping[str, torch.Tensor]:
        images = self.data.count(options)
        if images not in self._patches:
            nodes = {name: found.node for name, found in self.found.items() if found.multiplies}
            self._patches[images] = mean_patches(self.module, nodes, self.data.batches(options))
        return self._patches[images]

    def build(self, name: str, choice: WeightChoice) -> QuantLayer:
        """A fresh layer, rounded to the nearest point, its bias as it was."""
        found = self.found[name]
        bias = None if found.bias is None else self.parameter(found.bias)
        return build_layer(name, found, self.parameter(found.weight), bias, choice)

    def parameter(self, node: Node) -> torch.Tensor:
        """A weight or a bias of the float graph; a table may be a buffer."""
        owner, _, leaf = str(node.target).rpartition(".")
        value = getattr(self.module.get_submodule(owner), leaf)
        assert isinstance(value, torch.Tensor)
        return value.detach()

    def _round(
        self, layers: Mapping[str, QuantLayer], choice: WeightChoice, options: PtqOptions
    ) -> None:
        """Bring weights onto their grid otherwise than to the nearest point, in place."""
        by_node = {self.found[name].node: layer for name, layer in layers.items()}
        batches = list(self.data.batches(options))
        corrects = options.bias_correction
        round_layers(self.module, by_node, batches, choice.steps, self.data.seed, corrects=corrects)

    def float_means(self, options: PtqOptions) -> dict[str, torch.Tensor]:
        """Of every layer's output on the calibration images, (channels,), by node."""
        patches, means = self._mean_patches(options), {}
        for name, found in self.found.items():
            if found.multiplies:
                mean = channel_sums(self.parameter(found.weight) * patches[name], found.node)
                bias = 0.0 if found.bias is None else self.parameter(found.bias)
                means[found.node.name] = mean + bias
        return means
