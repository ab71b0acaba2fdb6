"""Quantized layers in stock: each is built once for a choice and serves every recipe."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from autoquant.core.recipe import PtqOptions
from autoquant.quantize.bias import correct_bias, mean_patches
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
            if choice.activation in found.layer.activations
        ]

    def _prepare(
        self, names: Sequence[str], choice: WeightChoice, options: PtqOptions
    ) -> dict[str, QuantLayer]:
        layers = {name: self.build(name, choice) for name in names}
        if choice.rounding != "nearest":
            self._round(layers, choice, options)
        if options.bias_correction:
            for name, layer in layers.items():
                correct_bias(layer, self._mean_patches(options)[name])
        return layers

    def _mean_patches(self, options: PtqOptions) -> Mapping[str, torch.Tensor]:
        images = self.data.count(options)
        if images not in self._patches:
            nodes = {name: found.node for name, found in self.found.items()}
            self._patches[images] = mean_patches(self.module, nodes, self.data.batches(options))
        return self._patches[images]

    def build(self, name: str, choice: WeightChoice) -> QuantLayer:
        """A fresh layer, rounded to the nearest point, its bias as it was."""
        node = self.found[name].node
        weight, bias = node.args[1], node.args[2] if len(node.args) > 2 else None
        assert isinstance(weight, Node)
        return build_layer(
            name, node, self.parameter(weight), self.parameter(bias) if bias else None, choice
        )

    def parameter(self, node: Any) -> torch.Tensor:
        """A weight or a bias of the float graph."""
        return self.module.get_parameter(str(node.target)).detach()

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
            weight, bias = (*found.node.args[1:3], None)[:2]
            mean = (self.parameter(weight) * patches[name]).flatten(1).sum(1)
            means[found.node.name] = mean if bias is None else mean + self.parameter(bias)
        return means
