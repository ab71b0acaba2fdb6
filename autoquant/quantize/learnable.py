"""Brevitas quantizers whose grids can be trained.

Scales and zero points become parameters that start where calibration and the PTQ recipe put them;
their gradients are those of learned step sizes (Esser et al. 2020, arXiv 1902.08153, section 2).
The grids stay those that are exported: same widths, same limits, zero points rounded.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from brevitas.core.function_wrapper import Identity
from brevitas.core.scaling import ParameterScaling
from brevitas.nn import QuantIdentity
from torch import Tensor
from torch.nn import Parameter

from autoquant.quantize.weights import QuantLayer

__all__ = ["Learnable"]

_SMALLEST = 1e-10  # Brevitas' own least scale


@dataclass(frozen=True)
class _Leaf:
    """A value of a module as a product: what is trained, in units of what it began as."""

    owner: Any
    name: str
    unit: Tensor
    value: Parameter

    @property
    def product(self) -> Tensor:
        return self.unit * self.value


class Learnable:
    """Trainable copies of the quantized layers and activation quantizers of one model.

    Batch norms are folded, so weights of one channel may be a thousand times those of another.
    Everything is therefore trained in a unit of its own: weights in that of the channel's grid,
    ends of grids in that of where they began, biases in that of the layer's outputs. One
    learning rate then suits all of them, whatever the network.

    Args:
        layers: quantized layers by name; they stay as they are.
        activations: calibrated quantizers by tensor name; likewise.

    Attributes:
        layers: their copies, trainable, fast, without tensors that carry their scale along.
        activations: likewise.
    """

    def __init__(
        self, layers: Mapping[str, QuantLayer], activations: Mapping[str, QuantIdentity]
    ) -> None:
        self.layers = {name: _learn_layer(layer) for name, layer in layers.items()}
        self.activations = {name: _learn_grid(item) for name, item in activations.items()}
        self._leaves: dict[str, _Leaf] = {}

    def begin(self, run: Callable[[], object]) -> None:
        """Take the units; nothing can be trained before.

        Args:
            run: sends a batch through the model that the copies stand in.
        """
        spreads = self._measure_outputs(run)
        for name, layer in self.layers.items():
            ends = layer.weight_quant.tensor_quant.scaling_impl.value.detach().abs()
            self._leaves[f"{name}.bias"] = _lift(layer, "bias", spreads[name])
            self._leaves[f"{name}.weight"] = _lift(layer, "weight", _per_channel(ends, layer))
        modules = {**self.layers, **self.activations}
        for name, module in modules.items():
            scaling = _tensor_quant(module).scaling_impl
            ends = scaling.value.detach().abs().clamp(min=_SMALLEST)
            self._leaves[f"{name}.end"] = _lift(scaling, "value", ends)
            zero_point = _tensor_quant(module).zero_point_impl
            # a grid that begins at zero has to stay so: a ReLU before it is a part of it
            if getattr(zero_point, "value", None) is not None and zero_point.value.abs().sum() > 0:
                self._leaves[f"{name}.shift"] = _lift(zero_point, "value", ends)
        self.refresh()

    def _measure_outputs(self, run: Callable[[], object]) -> dict[str, Tensor]:
        """Standard deviation of each layer's outputs, (channels,)."""
        found: dict[str, Tensor] = {}

        def hook(name: str) -> Any:
            def keep(module: Any, inputs: Any, output: Tensor) -> None:
                values = output.detach()
                values = (
                    values.transpose(1, -1) if values.dim() > 2 and _is_conv(module) else values
                )
                found[name] = values.reshape(-1, values.shape[-1]).std(0)

            return keep

        hooks = [layer.register_forward_hook(hook(name)) for name, layer in self.layers.items()]
        with torch.no_grad():
            run()
        for item in hooks:
            item.remove()
        return {name: value.clamp(min=value.mean() / 10) for name, value in found.items()}

    def refresh(self) -> None:
        """Put what is trained in its place; before every forward pass."""
        for leaf in self._leaves.values():
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
            delattr(leaf.owner, leaf.name)
            value = Parameter(leaf.product.detach().cpu(), requires_grad=False)
            # Brevitas' own would make a new quantizer for the new weight
            torch.nn.Module.register_parameter(leaf.owner, leaf.name, value)
        for module in (*self.layers.values(), *self.activations.values()):
            grid = _tensor_quant(module)
            if isinstance(grid.int_quant, _LearnedSteps):
                grid.int_quant = grid.int_quant.original
            for proxy in _proxies(module):
                proxy.skip_create_quant_tensor = False
            module.cpu()


def _lift(owner: Any, name: str, unit: Tensor) -> _Leaf:
    """Take a parameter out of its module; `refresh` puts the product in its place."""
    value = getattr(owner, name).detach()
    delattr(owner, name)
    return _Leaf(owner, name, unit.clone(), Parameter((value / unit).contiguous()))


def _per_channel(ends: Tensor, layer: QuantLayer) -> Tensor:
    """Ends of a weight's grid in a shape that multiplies it; of blocks, the largest."""
    ends = ends.clamp(min=_SMALLEST)
    if ends.numel() > 1:
        channels = len(layer.weight)
        ends = ends.reshape(channels, -1).amax(1).view(channels, *[1] * (layer.weight.dim() - 1))
    return ends


def _is_conv(module: Any) -> bool:
    dimensions: int = module.weight.dim()
    return dimensions > 2


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
    """Quantize by `_LearnedSteps`, and hand on plain tensors; weights in blocks stay Brevitas'."""
    grid = _tensor_quant(module)
    if isinstance(grid.int_quant.input_view_impl, Identity):
        grid.int_quant = _LearnedSteps(grid.int_quant, values)
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


class _LearnedSteps(torch.nn.Module):
    """Brevitas' `IntQuant` in a quarter of the time, with a balanced gradient of the scale.

    The gradient of a scale sums over all values on its grid, so it is divided by
    sqrt(values * levels) (Esser et al. 2020, section 2.2). What is trained is the end of the
    grid, `levels` scales long; the square of that makes its step that of the scale.
    """

    def __init__(self, original: Any, values: int | None) -> None:
        super().__init__()
        self.original = original
        self.values = values  # on one scale; None: as many as one sample brings

    def forward(self, scale: Tensor, zero_point: Tensor, bit_width: Tensor, x: Tensor) -> Tensor:
        """Any shape in and out."""
        low = float(self.original.min_int(bit_width))
        high = float(self.original.max_int(bit_width))
        values = self.values or max(1, x.numel() // max(1, len(x)))
        gain = high**2 / math.sqrt(values * high)
        learned: Any = _LearnedStep.apply
        result: Tensor = learned(x, scale, zero_point, low, high, gain)
        return result


class _LearnedStep(torch.autograd.Function):
    """Fake quantization y = (clamp(round(x / s) + z, low, high) - z) * s.

    Straight through inside the grid, nothing to x beyond it. The scale gets y/s - x/s inside
    and y/s beyond; the zero point -s beyond (Bhalgat et al. 2020, arXiv 2004.09576, section 3).
    """

    @staticmethod
    def forward(
        context: Any, x: Tensor, scale: Tensor, zero_point: Tensor, low: float, high: float,
        gain: float,
    ) -> Tensor:  # fmt: skip
        shift = zero_point.detach().round()
        steps = x.detach().div(scale).round_()
        if scale.numel() == 1:
            offset = float(shift)
            ends = low - offset, high - offset
            y = steps.clamp_(*ends).mul_(scale)
            context.ends = ends[0] * float(scale), ends[1] * float(scale)
        else:
            y = steps.clamp_(low - shift, high - shift).mul_(scale)
            context.ends = (low - shift) * scale, (high - shift) * scale
        context.save_for_backward(x, y, scale)
        context.zero_shape, context.gain = zero_point.shape, gain
        return y

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        (outer,) = gradients
        x, y, scale = context.saved_tensors
        low, high = context.ends
        if scale.numel() == 1:
            inner = torch.ops.aten.hardtanh_backward(outer, x, low, high)
            slope = (_dot(outer, y) - _dot(inner, x)) / scale
        else:
            inner = outer * ((x > low) & (x < high))
            slope = (outer * y - inner * x).sum_to_size(scale.shape) / scale
        shift = None
        if context.needs_input_grad[2]:
            shift = ((inner - outer) * scale).sum_to_size(context.zero_shape)
        return inner, slope.reshape(scale.shape) * context.gain, shift, None, None, None


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Sum of products of two tensors of one shape, without a copy where both lie alike."""
    if one.stride() != other.stride() or not _is_dense(one):
        return (one * other).sum()
    flat = (one.numel(),), (1,)
    return torch.dot(one.as_strided(*flat), other.as_strided(*flat))


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or (
        x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    )
