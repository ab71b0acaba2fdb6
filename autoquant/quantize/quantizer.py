"""`Quantizer`: a recipe onto a float graph."""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from brevitas.export.inference.manager import quant_inference_mode
from brevitas.graph.calibrate import bias_correction_mode
from brevitas.nn import QuantIdentity
from torch.fx import Graph, GraphModule, Node

from autoquant.core.batching import input_batches
from autoquant.core.encodings import Encodings
from autoquant.core.layer import Layer
from autoquant.core.recipe import PtqOptions, Recipe
from autoquant.core.task import Dataset
from autoquant.errors import RecipeError
from autoquant.quantize.activations import calibrate, encoding_of
from autoquant.quantize.equalize import equalize
from autoquant.quantize.fit import Fit, measure_channel_means
from autoquant.quantize.layers import LayerNode, find_layers
from autoquant.quantize.placement import Placement, fused_output, place
from autoquant.quantize.rounding import round_layers
from autoquant.quantize.sampling import call, record_values, sample_activations
from autoquant.quantize.weights import (
    QuantLayer,
    WeightChoice,
    build_layer,
    encode_weight,
    with_real_bias,
)

__all__ = ["QuantizedModel", "Quantizer"]

_BATCH = 64
_FIT_BATCH = 16


@dataclass(frozen=True)
class QuantizedModel:
    """A Brevitas model and what it decided.

    Attributes:
        module: the float graph with quantized layers and activation quantizers in place.
        encodings: the same decisions, for an exporter.
        values: nodes of `module` by the value of the float graph that they compute: as it is
            read, on its grid if it has one.
    """

    module: GraphModule
    encodings: Encodings
    values: Mapping[str, str]

    def predict(self, batches: Sequence[Any]) -> torch.Tensor:
        """Outputs for some batches, joined, (n, ...)."""
        # Brevitas' inference mode computes the same, bit for bit, without working out every
        # scale again. Its first pass only fills caches, so it gets one sample.
        with torch.no_grad(), quant_inference_mode(self.module, cache_quant_weight=True):
            call(self.module, _first_sample(batches[0]))
            outputs = [_first_output(call(self.module, batch)) for batch in batches]
        return torch.cat(outputs)

    def trace(self, batch: Any, names: Collection[str]) -> dict[str, torch.Tensor]:
        """Values of the float graph as this model computes them, by name.

        Args:
            batch: one batch.
            names: which values.
        """
        return record_values(self.module, {self.values[name]: name for name in names}, batch)


class Quantizer:
    """Applies recipes to one network.

    What does not depend on the whole recipe is computed once and kept: samples of the float
    activations for each number of images, a calibrated quantizer for each (tensor, method,
    symmetry), and quantized, bias-corrected layers for each (width, granularity, scale).

    Args:
        module: float ATen graph without batch norms.
        calibration: data set whose images set the ranges.
        seed: draws the calibration images and the kept activation values.

    Attributes:
        operators: everything that multiplies and accumulates, in network order.
        names: their names by graph node.
    """

    def __init__(self, module: GraphModule, calibration: Dataset, seed: int = 0) -> None:
        self.module = module
        self.calibration = calibration
        self.seed = seed
        everything = find_layers(module)
        self.operators: list[Layer] = [found.layer for found in everything.values()]
        self.names = {found.node.name: name for name, found in everything.items()}
        self._found: Mapping[str, LayerNode] = {
            name: found for name, found in everything.items() if found.layer.is_quantizable
        }
        self._samples: dict[int, dict[str, torch.Tensor]] = {}
        self._activations: dict[tuple[Any, ...], QuantIdentity] = {}
        self._layers: dict[tuple[Any, ...], dict[str, QuantLayer]] = {}
        self._means: dict[int, dict[str, torch.Tensor]] = {}  # by number of images
        self._twins: dict[frozenset[str], Quantizer] = {}

    @property
    def layers(self) -> list[Layer]:
        """The quantizable layers, in network order."""
        return [layer for layer in self.operators if layer.is_quantizable]

    def quantize(self, recipe: Recipe) -> QuantizedModel:
        """The quantized model of a recipe.

        Raises:
            RecipeError: the recipe is not a Brevitas one, or names other layers.
            NumericError: a weight or an activation that is not finite.
        """
        options = self._check(recipe)
        if options.equalization:
            return self._equalized(recipe.excluded).quantize(_without_equalization(recipe))
        widths = {name: bits for name, bits in recipe.layers.items() if bits is not None}
        static = [name for name in widths if recipe.activation_of(name) == "static"]
        placement = place(self.module.graph, {self._found[name].node for name in static})
        choices = {
            name: WeightChoice.of(bits, options, recipe.activation_of(name))
            for name, bits in widths.items()
        }
        layers = {name: self._prepared(choice, options)[name] for name, choice in choices.items()}
        activations = self._calibrated(placement.sites, options)
        if options.rounding != "nearest":
            encodings = self._encode(placement, activations, layers, choices)
            layers = self._fit(layers, activations, encodings, choices, options)
        encodings = self._encode(placement, activations, layers, choices)
        deployed = {
            name: with_real_bias(layer, encodings.weights[name]) for name, layer in layers.items()
        }
        module, values = self._assemble(deployed, activations, encodings)
        return QuantizedModel(module, encodings, values)

    def _check(self, recipe: Recipe) -> PtqOptions:
        if recipe.options is None:
            raise RecipeError(f"recipe '{recipe.method}' is not made by Brevitas quantizers")
        unknown = [name for name in recipe.layers if name not in self._found]
        missing = [name for name in self._found if name not in recipe.layers]
        if unknown:
            raise RecipeError(
                f"the recipe names layer '{unknown[0]}', which the model does not have; "
                f"there are {', '.join(self._found)}"
            )
        if missing:
            raise RecipeError(f"the recipe says nothing about layer '{missing[0]}'")
        for name, kind in recipe.activations.items():
            able = self._found[name].layer.activations
            if kind not in able:
                raise RecipeError(
                    f"layer '{name}' cannot take its input '{kind}', only {', '.join(able)}"
                )
        return recipe.options

    def output_values(self, encodings: Encodings) -> dict[str, str]:
        """By layer, the value that it computes: where that is on a grid, what lies there."""
        found = {}
        for name, layer in self._found.items():
            fused = fused_output(layer.node)
            is_on_grid = fused.name in encodings.activations
            found[name] = fused.name if is_on_grid else layer.node.name
        return found

    def calibration_images(self, options: PtqOptions | None = None) -> list[int]:
        """Indices of the images that calibrate; the same for the same seed and number."""
        options = options or PtqOptions()
        count = min(options.calibration_images, len(self.calibration))
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(len(self.calibration), generator=generator)[:count].tolist()

    def _calibrated(self, sites: tuple[str, ...], options: PtqOptions) -> dict[str, QuantIdentity]:
        images = self.calibration_images(options)
        kept = self._samples.setdefault(len(images), {})
        new = [name for name in sites if name not in kept]
        if new:
            batches = input_batches(self.calibration, images, _BATCH, torch.stack)
            share = min(1.0, _BATCH / len(images))
            kept.update(sample_activations(self.module, new, batches, share, self.seed))
        return {name: self._calibrated_one(name, len(images), options) for name in sites}

    def _calibrated_one(self, name: str, images: int, options: PtqOptions) -> QuantIdentity:
        key = (name, images, options.calibration, options.activation_symmetry)
        if key not in self._activations:
            self._activations[key] = calibrate(
                self._samples[images][name], options.calibration, options.activation_symmetry
            )
        return self._activations[key]

    def _prepared(self, choice: WeightChoice, options: PtqOptions) -> dict[str, QuantLayer]:
        """Every layer of the network at one choice; those that a recipe wants are picked."""
        needs_images = options.bias_correction or choice.rounding != "nearest"
        images = len(self.calibration_images(options)) if needs_images else 0
        key = (choice, images, options.bias_correction)
        if key not in self._layers:
            able = [name for name, found in self._found.items() if choice.fits(found.layer)]
            layers = {name: self._build(name, choice) for name in able}
            if choice.rounding != "nearest":
                self._round(layers, choice, options)
            if options.bias_correction:
                self._correct_biases(layers, options)
            self._layers[key] = layers
        return self._layers[key]

    def _build(self, name: str, choice: WeightChoice) -> QuantLayer:
        node = self._found[name].node
        weight, bias = node.args[1], node.args[2] if len(node.args) > 2 else None
        assert isinstance(weight, Node)
        return build_layer(
            name, node, self._parameter(weight), self._parameter(bias) if bias else None, choice
        )

    def _parameter(self, node: Any) -> torch.Tensor:
        return self.module.get_parameter(str(node.target)).detach()

    def _round(
        self, layers: Mapping[str, QuantLayer], choice: WeightChoice, options: PtqOptions
    ) -> None:
        """Bring weights onto their grid otherwise than to the nearest point, in place."""
        by_node = {self._found[name].node: layer for name, layer in layers.items()}
        batches, corrects = list(self._batches(options)), options.bias_correction
        round_layers(self.module, by_node, batches, choice.steps, self.seed, corrects=corrects)

    def _fit(
        self,
        layers: Mapping[str, QuantLayer],
        activations: Mapping[str, QuantIdentity],
        encodings: Encodings,
        choices: Mapping[str, WeightChoice],
        options: PtqOptions,
    ) -> dict[str, QuantLayer]:
        """Copies of the layers, fitted block by block; the originals are shared by others.

        Biases are corrected behind the quantized layers of this very recipe; learned rounding
        of whole blocks is done on the way.
        """
        copies = {name: copy.deepcopy(layer) for name, layer in layers.items()}
        model, values = self._assemble(copies, activations, encodings)
        by_node = {self._found[name].node: layer for name, layer in copies.items()}
        learned = {
            self._found[name].node for name, choice in choices.items() if choice.is_left_to_block
        }
        batches = list(self._batches(options, _FIT_BATCH))
        means = self._float_means(options) if options.bias_correction else {}
        fit = Fit(self.module, model, values, by_node, batches, self.seed)
        fit.run(learned, options.rounding_iterations, means)
        return copies

    def _float_means(self, options: PtqOptions) -> dict[str, torch.Tensor]:
        """Of every layer's output on the calibration images, the same for all recipes."""
        images = len(self.calibration_images(options))
        if images not in self._means:
            nodes = [found.node for found in self._found.values()]
            batches = list(self._batches(options, _FIT_BATCH))
            self._means[images] = measure_channel_means(self.module, nodes, batches)
        return self._means[images]

    def _equalized(self, excluded: frozenset[str]) -> "Quantizer":
        """The same for the network whose quantized layers are equalized."""
        if excluded not in self._twins:
            changed = [found for name, found in self._found.items() if name not in excluded]
            module = copy.copy(self.module)
            equalize(module, changed, self._batches(PtqOptions()))
            self._twins[excluded] = Quantizer(module, self.calibration, self.seed)
        return self._twins[excluded]

    def _batches(self, options: PtqOptions, size: int = _BATCH) -> Iterator[Any]:
        images = self.calibration_images(options)
        return input_batches(self.calibration, images, size, torch.stack)

    def _correct_biases(self, layers: Mapping[str, QuantLayer], options: PtqOptions) -> None:
        # Brevitas hands the float output on, so each layer's correction depends on that
        # layer alone: one pass corrects all of them, for whatever mixture a recipe makes.
        model, _ = self._assemble(layers, {}, Encodings({}, {}, {}))
        with torch.no_grad(), bias_correction_mode(model):
            for batch in self._batches(options):
                call(model, batch)
        for layer in layers.values():
            layer.eval()

    def _assemble(
        self,
        layers: Mapping[str, QuantLayer],
        activations: Mapping[str, QuantIdentity],
        encodings: Encodings,
    ) -> tuple[GraphModule, dict[str, str]]:
        """The graph with quantized layers in place of operators and quantizers behind values.

        Returns:
            The module, and its nodes by the values that they compute.
        """
        replaced = {self._found[name].node: name for name in layers}
        root = torch.nn.Module()
        root.layers = torch.nn.ModuleList(layers.values())
        root.activations = torch.nn.ModuleList(activations.values())
        places = {name: f"layers.{index}" for index, name in enumerate(layers)}
        quantizers = {name: f"activations.{index}" for index, name in enumerate(activations)}
        graph = Graph()
        copies: dict[Node, Node] = {}
        on_grid: dict[Node, Node] = {}

        def read(source: Node, reader: str) -> Node:
            is_on_grid = source in on_grid and encodings.is_read_quantized(source.name, reader)
            return on_grid[source] if is_on_grid else copies[source]

        for node in self.module.graph.nodes:
            if node in replaced:
                source = read(node.args[0], node.name)
                copied = graph.call_module(places[replaced[node]], (source,))
            elif node.op == "get_attr" and all(user in replaced for user in node.users):
                continue
            elif node.op == "call_module":
                continue  # torch.export's guards on the example's shape
            else:
                copied = graph.node_copy(node, partial(read, reader=node.name))
            if node.op == "get_attr":
                _attach(root, self.module, str(node.target))
            copies[node] = copied
            if node.name in quantizers:
                on_grid[node] = graph.call_module(quantizers[node.name], (copied,))
        values = {node.name: copied.name for node, copied in (copies | on_grid).items()}
        return GraphModule(root, graph).eval(), values

    def _encode(
        self,
        placement: Placement,
        activations: Mapping[str, QuantIdentity],
        layers: Mapping[str, QuantLayer],
        choices: Mapping[str, WeightChoice],
    ) -> Encodings:
        grids = {name: encoding_of(quantizer) for name, quantizer in activations.items()}
        weights = {}
        for name, layer in layers.items():
            source = self._found[name].node.args[0]
            assert isinstance(source, Node)
            origin = placement.carriers.get(source.name, source.name)
            is_static = choices[name].activation == "static"
            scale = grids[origin].scale if is_static else None
            weights[name] = encode_weight(layer, choices[name], scale)
        dynamic = [name for name, choice in choices.items() if choice.activation == "dynamic"]
        return Encodings(weights, grids, placement.carriers, placement.readers, frozenset(dynamic))


def _without_equalization(recipe: Recipe) -> Recipe:
    assert recipe.options is not None
    options = PtqOptions(**{**dict(recipe.options), "equalization": False})
    return Recipe.quantized(recipe.layers, options, recipe.activations)


def _first_sample(inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {name: value[:1] for name, value in inputs.items()}
    return inputs[:1]


def _first_output(outputs: Any) -> torch.Tensor:
    first = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    assert isinstance(first, torch.Tensor)
    return first


def _attach(root: torch.nn.Module, source: torch.nn.Module, target: str) -> None:
    """Give `root` the parameter or buffer that a get_attr node reads."""
    owner, _, leaf = target.rpartition(".")
    place_ = root
    for part in owner.split(".") if owner else []:
        if not hasattr(place_, part):
            place_.add_module(part, torch.nn.Module())
        place_ = getattr(place_, part)
    value = getattr(source.get_submodule(owner), leaf)
    if isinstance(value, torch.nn.Parameter):
        place_.register_parameter(leaf, value)
    else:
        place_.register_buffer(leaf, value)
