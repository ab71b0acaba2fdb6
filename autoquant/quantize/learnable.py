"""Brevitas quantizers whose grids can be trained.

Scales and zero points become parameters that start where calibration and the PTQ recipe put them;
their gradients are those of learned step sizes (Esser et al. 2020, arXiv 1902.08153, section 2).
The grids stay those that are exported: same widths, same limits, zero points rounded.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from brevitas.core.function_wrapper import Identity
from brevitas.core.scaling import ParameterScaling
from brevitas.nn import QuantIdentity
from torch import Tensor
from torch.nn import Parameter

from autoquant.quantize.steps import LearnedSteps
from autoquant.quantize.weights import QuantLayer

__all__ = ["Learnable"]

_SMALLEST = 1e-10  # Brevitas' own least scale


@dataclass(frozen=True)
class _Leaf:
    """A value of a module as a product: what is trained, in units of what it began as.

    Attributes:
        owner: the module.
        name: of the value there.
        unit: what it began as.
        value: what is trained.
        most: what the product may become at most; None where nothing bounds it.
    """

    owner: Any
    name: str
    unit: Tensor
    value: Parameter
    most: float | None = None

    def confine(self) -> None:
        """Take back what a step of training has gone too far."""
        if self.most is not None:
            self.value.data.clamp_(max=(self.most / self.unit).clamp(min=1.0))

    @property
    def product(self) -> Tensor:
        return self.unit * self.value


class Learnable:
    """Trainable copies of the quantized layers and activation quantizers of one model.

    Batch norms are folded, so weights of one channel may be a thousand times those of another.
    Everything is therefore trained in a unit of its own: weights in that of the channel's grid,
    ends of grids in that of where they began, biases in that of the layer's outputs. One
    learning rate then suits all layers of a network; not all networks, see `TrainingRun`.

    Args:
        layers: quantized layers by name; they stay as they are.
        activations: calibrated quantizers by tensor name; likewise.
        ceilings: where an activation cuts tensors off, by name. A runtime takes the activation
            for a part of the grid behind it, and the layer before for one in integers, as long
            as the grid ends there; so trained grids do not grow beyond.

    Attributes:
        layers: their copies, trainable, fast, without tensors that carry their scale along.
        activations: likewise.
    """

    def __init__(
        self,
        layers: Mapping[str, QuantLayer],
        activations: Mapping[str, QuantIdentity],
        ceilings: Mapping[str, float],
    ) -> None:
        self.layers = {name: _learn_layer(layer) for name, layer in layers.items()}
        self.activations = {name: _learn_grid(item) for name, item in activations.items()}
        self._ceilings = ceilings
        self._leaves: dict[str, _Leaf] = {}

    def begin(self, run: Callable[[], object]) -> None:
        """Take the units; nothing can be trained before.

        Args:
            run: sends a batch through the model that the copies stand in.
        """
        spreads = self._measure_outputs(run)
        for name, layer in self.layers.items():
            ends = layer.weight_quant.tensor_quant.scaling_impl.value.detach().abs()
            if name in spreads:
                self._leaves[f"{name}.bias"] = _lift(layer, "bias", spreads[name])
            self._leaves[f"{name}.weight"] = _lift(layer, "weight", _per_channel(ends, layer))
            self._lift_grid(f"{name}.grid", layer)
        for name, quantizer in self.activations.items():
            self._lift_grid(f"value.{name}", quantizer, self._ceilings.get(name))
        self.refresh()

    def _lift_grid(self, name: str, module: Any, most: float | None = None) -> None:
        grid = _tensor_quant(module)
        ends = grid.scaling_impl.value.detach().abs().clamp(min=_SMALLEST)
        self._leaves[f"{name}.end"] = _lift(grid.scaling_impl, "value", ends, most)
        lowest = getattr(grid.zero_point_impl, "value", None)
        # a grid that begins at zero has to stay so: a ReLU before it is a part of it
        if lowest is not None and bool(lowest.any()):
            self._leaves[f"{name}.lowest"] = _lift(grid.zero_point_impl, "value", ends)

    def _measure_outputs(self, run: Callable[[], object]) -> dict[str, Tensor]:
        """Root mean square of the outputs of each layer with a bias, (channels,)."""
        found: dict[str, Tensor] = {}

        def watch(name: str, layer: QuantLayer) -> Any:
            def keep(module: Any, inputs: Any, output: Tensor) -> None:
                channels = 1 if layer.weight.dim() > 2 else -1
                values = output.detach().movedim(channels, -1)
                found[name] = values.reshape(-1, values.shape[-1]).square().mean(0).sqrt()

            return layer.register_forward_hook(keep)

        hooks = [
            watch(name, layer) for name, layer in self.layers.items() if hasattr(layer, "bias")
        ]
        with torch.no_grad():
            run()
        for hook in hooks:
            hook.remove()
        # a dead channel takes its unit from the others
        return {
            name: value.clamp(min=float(value.mean()) / 10).clamp(min=_SMALLEST)
            for name, value in found.items()
        }

    def refresh(self) -> None:
        """Put what is trained in its place; before every forward pass."""
        for leaf in self._leaves.values():
            leaf.confine()
            setattr(leaf.owner, leaf.name, leaf.product)

    @property
    def weights(self) -> list[Parameter]:
        """What is trained of the weights: it decays."""
        return [leaf.value for name, leaf in self._leaves.items() if name.endswith(".weight")]

    @property
    def others(self) -> list[Parameter]:
        """What is trained of biases and grids."""
        return [leaf.value for name, leaf in self._leaves.items() if not name.endswith(".weight")]

    def state(self) -> dict[str, Tensor]:
        """What is trained, and its units, by name."""
        values = {name: leaf.value.detach() for name, leaf in self._leaves.items()}
        return values | {f"{name}.unit": leaf.unit for name, leaf in self._leaves.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take values and units from an earlier `state` of the same model."""
        for name, leaf in self._leaves.items():
            leaf.value.data.copy_(state[name])
            leaf.unit.copy_(state[f"{name}.unit"])
        self.refresh()

    def settle(self) -> None:
        """Hand everything back to Brevitas' own arithmetic, for encoding."""
        for leaf in self._leaves.values():
            leaf.confine()
            delattr(leaf.owner, leaf.name)
            value = Parameter(leaf.product.detach().cpu(), requires_grad=False)
            # Brevitas' own would make a new quantizer for the new weight
            torch.nn.Module.register_parameter(leaf.owner, leaf.name, value)
        for module in (*self.layers.values(), *self.activations.values()):
            grid = _tensor_quant(module)
            if isinstance(grid.int_quant, LearnedSteps):
                grid.int_quant = grid.int_quant.original
            for proxy in _proxies(module):
                proxy.skip_create_quant_tensor = False
            module.cpu()


def _lift(owner: Any, name: str, unit: Tensor, most: float | None = None) -> _Leaf:
    """Take a parameter out of its module; `refresh` puts the product in its place."""
    value = getattr(owner, name).detach()
    delattr(owner, name)
    return _Leaf(owner, name, unit.clone(), Parameter((value / unit).contiguous()), most)


def _per_channel(ends: Tensor, layer: QuantLayer) -> Tensor:
    """Ends of a weight's grid in a shape that multiplies it; of blocks, the largest."""
    ends = ends.clamp(min=_SMALLEST)
    if ends.numel() > 1 and layer.output_channel_dim == 0:
        channels = len(layer.weight)
        ends = ends.reshape(channels, -1).amax(1).view(channels, *[1] * (layer.weight.dim() - 1))
    return ends


def _learn_layer(layer: QuantLayer) -> QuantLayer:
    twin = copy.deepcopy(layer)
    grid = twin.weight_quant.tensor_quant
    quantized = twin.quant_weight()
    _learn_scale(grid, _raw_scale(quantized))
    return _speed_up(twin, twin.weight.numel() // grid.scaling_impl.value.numel())


def _raw_scale(quantized: Any) -> Tensor:
    """The scale as the quantizer holds it: of blocks, one for each."""
    scale: Tensor = quantized.scale_ if hasattr(quantized, "scale_") else quantized.scale
    return scale.detach().clone()


def _learn_grid(quantizer: QuantIdentity) -> QuantIdentity:
    twin = copy.deepcopy(quantizer)
    twin.act_quant._cached_act = None  # Brevitas' inference mode leaves the old grid there
    grid = twin.act_quant.fused_activation_quant_proxy.tensor_quant
    scale = twin.act_quant.scale().detach().clone()
    if hasattr(grid.zero_point_impl, "init_zp"):
        grid.zero_point_impl.init_zp()
    _learn_scale(grid, scale)
    return _speed_up(twin, None)


def _learn_scale(grid: Any, scale: Tensor) -> None:
    ends = scale * grid.int_scaling_impl(grid.msb_clamp_bit_width_impl())
    grid.scaling_impl = ParameterScaling(
        scaling_init=ends, scaling_shape=tuple(ends.shape), scaling_min_val=_SMALLEST
    )


def _speed_up(module: Any, values: int | None) -> Any:
    """Quantize by `LearnedSteps`, and hand on plain tensors; weights in blocks stay Brevitas'."""
    grid = _tensor_quant(module)
    if isinstance(grid.int_quant.input_view_impl, Identity):
        grid.int_quant = LearnedSteps(grid.int_quant, values)
        for proxy in _proxies(module):
            proxy.skip_create_quant_tensor = True
    return module


def _proxies(module: Any) -> Iterator[Any]:
    names = ("weight_quant", "act_quant", "input_quant")
    yield from (proxy for name in names if (proxy := getattr(module, name, None)) is not None)


def _tensor_quant(module: Any) -> Any:
    """Quantizer of a layer's weight, or of an activation."""
    if hasattr(module, "weight_quant"):
        return module.weight_quant.tensor_quant
    return module.act_quant.fused_activation_quant_proxy.tensor_quant
