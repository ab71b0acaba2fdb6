"""`Quantizer`: a recipe onto a float graph."""

import copy
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from brevitas.export.inference.manager import quant_inference_mode
from brevitas.nn import QuantIdentity
from torch.fx import Graph, GraphModule, Node

from autoquant.core.batching import split_inputs
from autoquant.core.encodings import Encodings
from autoquant.core.layer import Kernels, Layer, choice_text
from autoquant.core.recipe import Activation, PtqOptions, Recipe, WeightBits
from autoquant.core.task import Dataset
from autoquant.errors import RecipeError
from autoquant.quantize.activations import encoding_of
from autoquant.quantize.calibration import ActivationGrids, CalibrationData
from autoquant.quantize.equalize import equalize
from autoquant.quantize.fit import Fit
from autoquant.quantize.inference import InPlaceInferenceManager
from autoquant.quantize.layers import LayerNode, find_activations, find_layers
from autoquant.quantize.learnable import Learnable
from autoquant.quantize.operators import computes, find_ceiling, is_fused_activation
from autoquant.quantize.placement import Placement, fused_output, place
from autoquant.quantize.sampling import (
    call,
    first_output,
    fitting_batch,
    record_values,
)
from autoquant.quantize.stock import LayerStock
from autoquant.quantize.weights import (
    QuantLayer,
    WeightChoice,
    encode_weight,
    with_real_bias,
)

__all__ = ["QuantizedModel", "Quantizer", "Train"]

_FIT_BATCH = 16
# Beside the parameters of float operators, which keep their names: many a model has `layers`.
_LAYERS, _QUANTIZERS = "autoquant_layers", "autoquant_quantizers"

# From a maker of learnable models to the learnable that was trained.
Train = Callable[[Callable[[], tuple[GraphModule, Learnable]]], Learnable]
_ALL = Kernels()


@dataclass(frozen=True)
class QuantizedModel:
    """A Brevitas model and what it decided.

    Attributes:
        module: the float graph with quantized layers and activation quantizers in place.
        encodings: the same decisions, for an exporter.
        values: nodes of `module` by the value of the float graph that they compute: as it is
            read, on its grid if it has one.
        batch_size: how many samples it takes at a time, see `fitting_batch`; None for as many
            as a batch has, where the batch decides on a grid.
    """

    module: GraphModule
    encodings: Encodings
    values: Mapping[str, str]
    batch_size: int | None

    def predict(self, batches: Sequence[Any]) -> torch.Tensor:
        """Outputs for some batches, joined, (n, ...)."""
        # Brevitas' inference mode computes the same, bit for bit, without working out every
        # scale again. Its first pass only fills caches, so it gets one sample.
        with (
            torch.no_grad(),
            quant_inference_mode(
                self.module, cache_quant_weight=True, export_manager=InPlaceInferenceManager
            ),
        ):
            call(self.module, next(split_inputs(batches[0], 1)))
            outputs = [
                first_output(call(self.module, part))
                for batch in batches
                for part in split_inputs(batch, self.batch_size)
            ]
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

    What does not depend on the whole recipe is computed once and kept: calibrated activation
    quantizers (`calibration`) and quantized layers (`stock`). A recipe assembles them.

    Args:
        module: float ATen graph, as `trace` leaves it.
        calibration: data set whose images set the ranges.
        seed: draws the calibration images and the kept activation values.
        kernels: what the runtime has integer kernels for; of other layers the weights alone are
            quantized, and no input is put on a grid for their sake.
        obstacles: why other layers have to stay float, by name.

    Attributes:
        operators: everything that multiplies and accumulates or looks up, in network order.
        names: their names by graph node.
        found: the quantizable ones with their graph nodes, by name, in network order.
        grids: the activation quantizers that recipes are given, and the samples that set them.
        stock: the quantized layers that recipes are given.
    """

    def __init__(
        self,
        module: GraphModule,
        calibration: Dataset,
        seed: int = 0,
        kernels: Kernels = _ALL,
        obstacles: Mapping[str, str] | None = None,
    ) -> None:
        self.module = module
        self.kernels = kernels
        self.calibration = calibration
        self.seed = seed
        self.obstacles = obstacles or {}
        everything = {
            name: _limit(found, kernels, self.obstacles.get(name))
            for name, found in find_layers(module).items()
        }
        self.operators: list[Layer] = [found.layer for found in everything.values()]
        self.names = {found.node.name: name for name, found in everything.items()}
        self.found: Mapping[str, LayerNode] = {
            name: found for name, found in everything.items() if found.layer.is_quantizable
        }
        self._data = CalibrationData(calibration, seed, fitting_batch(module))
        self.grids = ActivationGrids(module, self.names, self._data)
        self.stock = LayerStock(module, self.found, self._data)
        self._twins: dict[frozenset[str], Quantizer] = {}

    @property
    def layers(self) -> list[Layer]:
        """The quantizable layers, in network order."""
        return [layer for layer in self.operators if layer.is_quantizable]

    def quantize(self, recipe: Recipe, train: Train | None = None) -> QuantizedModel:
        """The quantized model of a recipe.

        Args:
            recipe: what to make.
            train: trains what was calibrated; None leaves it as it is.

        Raises:
            RecipeError: the recipe is not a Brevitas one, or names other layers.
            NumericError: a weight or an activation that is not finite.
        """
        options = self._check(recipe)
        if options.equalization:
            twin = self._equalized(recipe.excluded)
            return twin.quantize(_without_equalization(recipe), train)
        widths = {name: bits for name, bits in recipe.layers.items() if bits is not None}
        static = [name for name in widths if recipe.activation_of(name) == "static"]
        integer = {
            self.found[name].node
            for name in static
            if self.found[name].layer.kind in self.kernels.kinds
        }
        placement = place(self.module.graph, integer, self.kernels.float_results)
        choices = {
            name: self._choose(name, bits, options, recipe.activation_of(name))
            for name, bits in widths.items()
        }
        layers = {name: self.stock.get(name, choice, options) for name, choice in choices.items()}
        activations = self.grids.get(placement.sites, options)
        if any(choice.is_left_to_block for choice in choices.values()):
            encodings = self._encode(placement, activations, layers, choices)
            layers = self._fit(layers, activations, encodings, choices, options)
        encodings = self._encode(placement, activations, layers, choices)
        if train is not None:
            trained = train(partial(self._make_learnable, layers, activations, encodings))
            layers, activations = trained.layers, trained.activations
            encodings = self._encode(placement, activations, layers, choices)
        deployed = {
            name: with_real_bias(layer, encodings.weights[name]) for name, layer in layers.items()
        }
        module, values = self._assemble(deployed, activations, encodings)
        depends_on_batch = encodings.dynamic and not self.kernels.grids_by_sample
        batch_size = None if depends_on_batch else self._data.batch_size
        return QuantizedModel(module, encodings, values, batch_size)

    def _choose(
        self, name: str, bits: WeightBits, options: PtqOptions, activation: Activation
    ) -> WeightChoice:
        choice = replace(
            WeightChoice.of(bits, options, activation),
            is_blockwise=activation == "float" and self.kernels.has_blocks,
            is_by_sample=activation == "dynamic" and self.kernels.grids_by_sample,
        )
        return choice if self.found[name].is_patchwise else choice.at_nearest()

    def _make_learnable(
        self,
        layers: Mapping[str, QuantLayer],
        activations: Mapping[str, QuantIdentity],
        encodings: Encodings,
    ) -> tuple[GraphModule, Learnable]:
        ceilings = {
            node.name: ceiling
            for node in self.module.graph.nodes
            if is_fused_activation(node) and (ceiling := find_ceiling(node)) is not None
        }
        # the file has no other clip above than the end of its grid
        gates = frozenset({torch.ops.aten.hardsigmoid.default})
        ceilings |= {node.name: 1.0 for node in self.module.graph.nodes if computes(node, gates)}
        learnable = Learnable(layers, activations, ceilings)
        module, _ = self._assemble(learnable.layers, learnable.activations, encodings)
        return module, learnable

    def _check(self, recipe: Recipe) -> PtqOptions:
        if recipe.options is None:
            raise RecipeError(f"recipe '{recipe.method}' is not made by Brevitas quantizers")
        unknown = [name for name in recipe.layers if name not in self.found]
        missing = [name for name in self.found if name not in recipe.layers]
        if unknown:
            raise RecipeError(
                f"the recipe names layer '{unknown[0]}', which the model does not have; "
                f"there are {', '.join(self.found)}"
            )
        if missing:
            raise RecipeError(f"the recipe says nothing about layer '{missing[0]}'")
        for name, kind in recipe.activations.items():
            bits, layer = recipe.layers[name], self.found[name].layer
            if kind not in layer.activations:
                raise RecipeError(
                    f"layer '{name}' cannot take its input '{kind}', only "
                    f"{', '.join(layer.activations)}"
                )
            if bits is not None and choice_text(bits, kind) not in layer.choices:
                widths = " or ".join(map(str, layer.weight_only))
                raise RecipeError(
                    f"layer '{name}' takes its input in float with weights of {widths} bits, "
                    f"not of {bits}"
                )
        return recipe.options

    def calibration_images(self) -> list[int]:
        """Indices of the images that calibrate by default."""
        return self._data.indices(PtqOptions())

    def output_values(self, on_grid: Container[str]) -> dict[str, str]:
        """By layer, the value that it computes: where that is on a grid, what lies there.

        Args:
            on_grid: values that are.
        """
        found = {}
        for name, layer in self.found.items():
            fused = fused_output(layer.node)
            found[name] = fused.name if fused.name in on_grid else layer.node.name
        return found

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
        by_node = {
            self.found[name].node: layer
            for name, layer in copies.items()
            if self.found[name].multiplies
        }
        learned = {
            self.found[name].node for name, choice in choices.items() if choice.is_left_to_block
        }
        batches = list(self._data.batches(options, _FIT_BATCH))
        means = self.stock.float_means(options) if options.bias_correction else {}
        fit = Fit(self.module, model, values, by_node, batches, self.seed)
        fit.run(learned, options.rounding_iterations, means)
        return copies

    def _equalized(self, excluded: frozenset[str]) -> "Quantizer":
        """The same for the network whose quantized layers are equalized."""
        if excluded not in self._twins:
            changed = [found for name, found in self.found.items() if name not in excluded]
            module = copy.copy(self.module)
            equalize(module, changed, self._data.batches(PtqOptions()))
            self._twins[excluded] = Quantizer(
                module, self.calibration, self.seed, self.kernels, self.obstacles
            )
        return self._twins[excluded]

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
        replaced = {self.found[name].node: name for name in layers}
        root = torch.nn.Module()
        root.add_module(_LAYERS, torch.nn.ModuleList(layers.values()))
        root.add_module(_QUANTIZERS, torch.nn.ModuleList(activations.values()))
        places = {name: f"{_LAYERS}.{index}" for index, name in enumerate(layers)}
        quantizers = {name: f"{_QUANTIZERS}.{index}" for index, name in enumerate(activations)}
        graph = Graph()
        copies: dict[Node, Node] = {}
        on_grid: dict[Node, Node] = {}

        def read(source: Node, reader: str) -> Node:
            is_on_grid = source in on_grid and encodings.is_read_quantized(source.name, reader)
            return on_grid[source] if is_on_grid else copies[source]

        for node in self.module.graph.nodes:
            if node in replaced:
                source = read(self.found[replaced[node]].source, node.name)
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
            found, scale = self.found[name], None
            if choices[name].activation == "static" and found.is_patchwise:
                origin = placement.carriers.get(found.source.name, found.source.name)
                scale = grids[origin].scale
            weights[name] = encode_weight(name, layer, choices[name], scale)
        dynamic = [name for name, choice in choices.items() if choice.activation == "dynamic"]
        return Encodings(weights, grids, placement.carriers, placement.readers, frozenset(dynamic))


def _limit(found: LayerNode, kernels: Kernels, obstacle: str | None) -> LayerNode:
    """A layer as a runtime allows it."""
    layer = found.layer
    why = layer.obstacle or obstacle
    able: tuple[Activation, ...] = ("static",) if why else find_activations(found, kernels)
    limited = replace(layer, activations=able, obstacle=why, weight_only=kernels.weight_only)
    return replace(found, layer=limited)


def _without_equalization(recipe: Recipe) -> Recipe:
    assert recipe.options is not None
    options = PtqOptions(**{**dict(recipe.options), "equalization": False})
    return Recipe.quantized(recipe.layers, options, recipe.activations)


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
