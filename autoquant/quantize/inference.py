"""Brevitas' inference mode, cheaper: the same operations in place, and set up in less time."""

from typing import Any, ClassVar

import torch
from brevitas.core.function_wrapper import RoundSte
from brevitas.export.inference.handler import IntInferenceHandler
from brevitas.export.inference.manager import InferenceManager
from brevitas.export.manager import _set_proxy_export_handler
from brevitas.proxy.quant_proxy import QuantProxyFromInjector

__all__ = ["InPlaceInferenceManager"]


class _InPlaceHandler(IntInferenceHandler):  # type: ignore[misc]
    """A grid that does not change: divide, shift, round, clamp, and back.

    Brevitas allocates a tensor for each step and clamps at tensors, which torch does in a slow
    general loop. Here one tensor is allocated, and the ends of the grid are numbers.
    """

    ends: tuple[float, float]
    is_shifted: bool

    def prepare_for_export(self, module: Any) -> None:
        """Read the grid off a proxy whose caches are filled."""
        super().prepare_for_export(module)
        self.ends = float(self.min_clamp), float(self.max_clamp)
        self.is_shifted = bool(self.zero_point.any())

    def forward(self, x: torch.Tensor, unused_scale: Any = None) -> tuple[torch.Tensor, ...]:
        """Values on the grid; with scale, zero point and width, as Brevitas wants them."""
        if not isinstance(self.float_to_int_impl, RoundSte):
            found: tuple[torch.Tensor, ...] = super().forward(x, unused_scale)
            return found
        value = x / self.scale
        if self.is_shifted:
            value += self.zero_point
        value.round_().clamp_(*self.ends)
        if self.is_shifted:
            value -= self.zero_point
        value *= self.scale
        return value, self.scale, self.zero_point, self.bit_width


class InPlaceInferenceManager(InferenceManager):  # type: ignore[misc]
    """For `quant_inference_mode(..., export_manager=...)`, of a model without recurrent layers.

    A network of fifty layers holds five thousand modules; Brevitas asks each of them, time and
    again, whether it follows a protocol, which takes as long as running it on a few images.
    """

    handlers: ClassVar[list[type]] = [
        _InPlaceHandler if handler is IntInferenceHandler else handler
        for handler in InferenceManager.handlers
    ]

    @classmethod
    def set_export_mode(cls, model: torch.nn.Module, enabled: bool) -> None:
        """Have proxies use their handlers, or no longer."""
        for module in model.modules():
            if isinstance(module, QuantProxyFromInjector):
                module.export_mode = enabled

    @classmethod
    def set_export_handler(cls, module: torch.nn.Module) -> None:
        """Give a proxy its handler; called with every module."""
        if isinstance(module, QuantProxyFromInjector):
            # Brevitas' own step, without its public wrapper, which asks after the protocols
            _set_proxy_export_handler(cls, module)
