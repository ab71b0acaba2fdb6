"""Clipping range of least information loss (entropy calibration), as Brevitas statistics.

Szymon Migacz, "8-bit Inference with TensorRT", GTC 2017: clip |x| where the Kullback-Leibler
divergence between the histogram and its 8-bit rendering is least. Brevitas 0.13 ships a
`KLMinimizerThreshold` that passes counts on as logits, so the statistic is ours; the quantizer
that uses it, its scale and its zero point are Brevitas' own.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["EntropyAbsMax", "EntropyInterval", "EntropyLow", "find_threshold"]

_BINS = 2048
_STRIDE = 16  # candidate thresholds lie this many bins apart: 0.8 % of the range


def find_threshold(magnitudes: npt.NDArray[np.float32], levels: int) -> float:
    """Threshold t so that clipping at t and rounding to `levels` steps loses least.

    Args:
        magnitudes: (n,) absolute values; zeros are left out, any grid represents them.
        levels: number of steps between 0 and t.

    Returns:
        t > 0, at most the largest magnitude; 0.0 if there is nothing but zeros.
    """
    nonzero = magnitudes[magnitudes > 0]
    if nonzero.size == 0:
        return 0.0
    histogram, edges = np.histogram(nonzero, bins=_BINS, range=(0.0, float(nonzero.max())))
    stops = range(levels, _BINS + 1, _STRIDE)
    losses = [_divergence(histogram, stop, levels) for stop in stops]
    return float(edges[stops[int(np.argmin(losses))]])


def _divergence(histogram: npt.NDArray[np.int64], stop: int, levels: int) -> float:
    """KL divergence of the clipped histogram from its rendering in `levels` steps."""
    kept = histogram[:stop]
    clipped = kept.astype(np.float64)
    clipped[-1] += histogram[stop:].sum()
    group = np.minimum(np.arange(stop) * levels // stop, levels - 1)
    occupied = kept > 0
    mass = np.bincount(group, weights=kept, minlength=levels)
    members = np.bincount(group, weights=occupied, minlength=levels)
    rendered = np.where(occupied, (mass / np.maximum(members, 1))[group], 0.0)
    p, q = clipped / clipped.sum(), rendered / max(rendered.sum(), 1.0)
    # mass that was clipped into an empty bin has no rendering: count it as a tiny one
    support = p > 0
    return float(np.sum(p[support] * np.log(p[support] / np.maximum(q[support], 1e-9))))


class _Entropy(torch.nn.Module):
    levels = 128

    def __init__(self) -> None:  # Brevitas' injector refuses *args, which Module.__init__ takes
        super().__init__()

    def threshold(self, x: Tensor) -> Tensor:
        """Clipping threshold of |x|, a scalar tensor."""
        value = find_threshold(x.detach().abs().reshape(-1).cpu().numpy(), self.levels)
        return torch.tensor(value, dtype=x.dtype, device=x.device)


class EntropyAbsMax(_Entropy):
    """Threshold on |x|, for symmetric grids."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape () from any shape."""
        return self.threshold(x)


class EntropyLow(_Entropy):
    """Lower end of the range, at most zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape () from any shape."""
        low = x.min().clamp(max=0.0)
        return torch.maximum(low, -self.threshold(x))


class EntropyInterval(_Entropy):
    """Length of the range, zero included."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape () from any shape."""
        threshold = self.threshold(x)
        low = torch.maximum(x.min().clamp(max=0.0), -threshold)
        return torch.minimum(x.max().clamp(min=0.0), threshold) - low
