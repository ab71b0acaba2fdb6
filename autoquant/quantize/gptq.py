"""GPTQ: weights rounded one input at a time, the rest making up for the error.

Frantar et al. 2022, arXiv 2210.17323, in Brevitas' implementation.
"""

from collections.abc import Sequence
from typing import Any

import torch
from brevitas.graph.gptq import gptq_mode
from torch.fx import GraphModule

from autoquant.core.activity import announce
from autoquant.quantize.sampling import call

__all__ = ["round_by_gptq"]


def round_by_gptq(model: GraphModule, batches: Sequence[Any]) -> None:
    """Move the weights of all quantized layers so that nearest rounding becomes GPTQ's.

    Each layer sees what the quantized layers before it hand on. The layers keep their float
    weights as `weight_orig`, which Brevitas takes wherever quantization is switched off.

    Args:
        model: Brevitas layers in a graph, their weight scales fixed.
        batches: calibration inputs; as often run as there are layers.
    """
    with torch.no_grad(), gptq_mode(model, use_quant_activations=False, act_order=True) as mode:
        for index in range(mode.num_layers):
            announce(f"GPTQ: layer {index + 1} of {mode.num_layers}")
            for batch in batches:
                call(mode.model, batch)
            mode.update()
