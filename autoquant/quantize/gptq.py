"""GPTQ: weights rounded one input at a time, the rest making up for the error.

Frantar et al. 2022, arXiv 2210.17323, in Brevitas' implementation. Brevitas' `gptq_mode` runs the
network once for every layer; here one run serves all of them, and what a layer gets does not
depend on the layers before it.
"""

from brevitas.graph.gptq import GPTQ
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer as QuantLayer

from autoquant.quantize.patch import Patches

__all__ = ["round_by_gptq"]

_BLOCKS = 100  # Brevitas' default


def round_by_gptq(layer: QuantLayer, patches: Patches, *, corrects: bool) -> None:
    """Move a layer's weights so that nearest rounding becomes GPTQ's, in place.

    The layer keeps its float weights as `weight_orig`, which Brevitas takes wherever
    quantization is switched off.

    Args:
        layer: its weight scale is fixed.
        patches: what it sees.
        corrects: its bias is corrected afterwards, so a mean error is no error.
    """
    rounding = GPTQ(layer, "", True, 1, create_weight_orig=True, num_blocks=_BLOCKS)
    moment, _ = patches.moment(centered=corrects)
    rounding.H = 2 * moment
    rounding.single_layer_update()
