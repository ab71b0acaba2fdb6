"""Learned rounding: every weight goes up or down so that outputs stay as they were.

AdaRound, Nagel et al. 2020, arXiv 2004.10568: a gate h(V), a stretched sigmoid, stands for the
choice between the grid point below (0) and above (1); a penalty 1 - |2h - 1|^beta with falling
beta drives it to one of them. Brevitas' `LearnedRoundSte` is the gate inside its weight quantizer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from brevitas.core.function_wrapper.learned_round import LearnedRoundSte
from brevitas.inject.enum import LearnedRoundImplType
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer as QuantLayer
from brevitas.nn.utils import _reset_quantizer
from brevitas_examples.common.learned_round.learned_round_method import (
    insert_learned_round_quantizers,
    return_learned_round_quantizers,
)
from torch.fx import GraphModule, Node

from autoquant.core.activity import announce
from autoquant.quantize.gptq import round_by_gptq
from autoquant.quantize.patch import Patches, collect_patches
from autoquant.quantize.placement import fused_output

__all__ = ["learn_rounding", "round_layers"]

_GATE = {"learned_round_zeta": 1.1, "learned_round_gamma": -0.1}
# A gate has to travel far enough to close: few steps must be long ones.
_TRAVEL = 10.0  # longest way, in V; the paper's 10,000 steps of 1e-3
_MAX_RATE = 0.05
_WARM_UP = 0.2  # share of the steps without penalty
_SHARPNESS = (20.0, 2.0)  # beta, from and to
_CLOSED = 0.9  # share of the steps after which the penalty is at its sharpest
_PENALTY = 100.0  # beside an error that begins at one; with less, gates are open at the end
_ROWS = 256  # patches a step
_NO_BIAS, _FIRST = torch.zeros(()), torch.zeros(1, dtype=torch.long)

Loss = Callable[[int], torch.Tensor]


def learn_rounding(layers: Sequence[QuantLayer], loss: Loss, steps: int) -> None:
    """Choose up or down for each weight of some layers, in place.

    Afterwards the weights lie on their grid.

    Args:
        layers: their scales are fixed and stay.
        loss: of the layers as they are now, for a step; about one for nearest rounding.
        steps: of Adam.
    """
    gates = [_soften(layer) for layer in layers]
    rate = min(_MAX_RATE, _TRAVEL / steps)
    optimizer = torch.optim.Adam([gate.value for gate in gates], lr=rate)
    for step in range(steps):
        objective = loss(step) + _penalty(gates, step / steps)
        optimizer.zero_grad()
        objective.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for layer in layers:
        _harden(layer)


def round_layers(
    module: GraphModule,
    layers: Mapping[Node, QuantLayer],
    batches: Sequence[Any],
    steps: int,
    seed: int,
    *,
    corrects: bool,
) -> None:
    """Round each layer by itself, on float inputs, in place: by GPTQ, then by learning.

    What becomes of a layer depends on no other layer: it serves every mixture of widths.

    Args:
        module: the float graph.
        layers: by node.
        batches: calibration inputs.
        steps: of learning, for each layer; 0 leaves it at GPTQ.
        seed: draws the patches.
        corrects: biases are corrected afterwards, so a mean error is no error.
    """
    count = sum(_size(batch) for batch in batches)
    patches = collect_patches(module, layers, batches, count, seed)
    for index, (node, layer) in enumerate(layers.items()):
        announce(f"rounding: layer {index + 1} of {len(layers)}")
        seen = patches.pop(node)
        with torch.no_grad():
            round_by_gptq(layer, seen, corrects=corrects)
        if steps:
            _Lesson(layer, node, seen, seed + index, corrects=corrects).learn(steps)


def _size(batch: Any) -> int:
    first = next(iter(batch.values())) if isinstance(batch, Mapping) else batch
    return len(first)


class _Lesson:
    """One layer, what it sees and what it should answer."""

    def __init__(
        self, layer: QuantLayer, node: Node, patches: Patches, seed: int, *, corrects: bool
    ) -> None:
        self.layer = layer
        self.node = node
        self.patches = patches
        self.corrects = corrects
        self.wanted = _activate(node, patches.outputs)
        self.middle = patches.middle()
        moment, self.share = patches.moment(centered=True)
        self.variances = moment.diagonal(dim1=1, dim2=2)
        self.generator = torch.Generator().manual_seed(seed)

    def learn(self, steps: int) -> None:
        everything = torch.arange(self.patches.count)
        with torch.no_grad():
            first = self.error(everything)
        if first == 0:
            return
        before = self.layer.weight.detach().clone()

        def loss(_: int) -> torch.Tensor:
            rows = torch.randint(self.patches.count, (_ROWS,), generator=self.generator)
            return self.error(rows) / first

        learn_rounding([self.layer], loss, steps)
        with torch.no_grad():
            if self.error(everything) > first:
                self.layer.weight.copy_(before)

    def error(self, rows: torch.Tensor) -> torch.Tensor:
        weight, bias = self.layer.quant_weight().value, self.layer.bias
        if self.corrects:  # the bias will make up for what the weights shift
            bias = bias + self.middle.apply(self.layer.weight_orig - weight, _NO_BIAS, _FIRST)[0]
        found = self.patches.apply(weight, bias, rows)
        seen: torch.Tensor = ((_activate(self.node, found) - self.wanted[rows]) ** 2).mean()
        expected = self._expected_error(weight)
        return seen + (expected - seen) * float(self.share.mean())

    def _expected_error(self, weight: torch.Tensor) -> torch.Tensor:
        """What inputs that know nothing of each other would make of it; see `Patches.moment`."""
        groups = len(self.variances)
        off = (weight - self.layer.weight_orig).reshape(groups, len(weight) // groups, -1)
        error: torch.Tensor = (off.square() * self.variances[:, None]).sum(-1).mean()
        return error


def _activate(node: Node, outputs: torch.Tensor) -> torch.Tensor:
    """A layer's outputs behind the activation that is fused to it."""
    fused = fused_output(node)
    if fused is node:
        return outputs
    target: Any = fused.target
    activated: torch.Tensor = target(outputs, *fused.args[1:], **fused.kwargs)
    return activated


def _soften(layer: QuantLayer) -> LearnedRoundSte:
    insert_learned_round_quantizers(layer, LearnedRoundImplType.HARD_SIGMOID, **_GATE)
    layer.requires_grad_(False)
    layer.weight_quant.train()
    (gate,) = return_learned_round_quantizers(layer)
    gate.value.requires_grad_(True)
    return gate


def _harden(layer: QuantLayer) -> None:
    layer.eval()
    with torch.no_grad():
        layer.weight.copy_(layer.quant_weight().value)
    _reset_quantizer(layer.weight_quant)
    layer.eval()


def _penalty(gates: Sequence[Any], progress: float) -> torch.Tensor | float:
    if progress < _WARM_UP:
        return 0.0
    first, last = _SHARPNESS
    way = min(1.0, (progress - _WARM_UP) / (_CLOSED - _WARM_UP))
    beta = first + (last - first) * way
    count = sum(gate.value.numel() for gate in gates)
    open_ = [
        (1 - (2 * gate.learned_round_impl(gate.value) - 1).abs().pow(beta)).sum() for gate in gates
    ]
    penalty: torch.Tensor = _PENALTY * torch.stack(open_).sum() / count
    return penalty
