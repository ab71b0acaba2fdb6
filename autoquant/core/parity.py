"""Does a file compute what the quantized model does that it came from?"""

from typing import Any

import numpy as np
import numpy.typing as npt

from autoquant.core.metric import agreement, signal_to_noise_db
from autoquant.core.task import Metric
from autoquant.core.trial import Parity
from autoquant.errors import ParityError, TrialError

__all__ = ["MIN_AGREEMENT", "MIN_SQNR_DB", "check_parity", "explain_disparity"]

MIN_AGREEMENT = 0.98
# For outputs that are no classes: one part in a hundred of their power.
MIN_SQNR_DB = 20.0


def check_parity(promised: npt.NDArray[Any], measured: npt.NDArray[Any], metric: Metric) -> Parity:
    """Compare outputs, (n, ...) each.

    Args:
        promised: of the quantized model.
        measured: of the file.
        metric: of the task; one by name says that outputs are scores of classes.

    Raises:
        TrialError: outputs that are not finite.
        ParityError: they differ by more than rounding explains.
    """
    if not (np.isfinite(promised).all() and np.isfinite(measured).all()):
        raise TrialError("the quantized model's outputs are not finite")
    parity = Parity(
        top1_agreement=agreement(measured, promised),
        max_abs_diff=float(np.abs(measured - promised).max()),
        sqnr_db=round(signal_to_noise_db(promised, measured), 2),
        samples=len(promised),
    )
    reason = explain_disparity(parity, metric)
    if reason is not None:
        raise ParityError(f"the exported file disagrees with the Brevitas model: {reason}")
    return parity


def explain_disparity(parity: Parity, metric: Metric) -> str | None:
    """What is too far apart, in words; None if nothing is."""
    seen = f"on {parity.samples} samples, below"
    if isinstance(metric, str) or parity.sqnr_db is None:
        if parity.top1_agreement >= MIN_AGREEMENT:
            return None
        return f"top-1 agreement {parity.top1_agreement:.4f} {seen} {MIN_AGREEMENT}"
    if parity.sqnr_db >= MIN_SQNR_DB:
        return None
    return f"SQNR {parity.sqnr_db:.1f} dB {seen} {MIN_SQNR_DB:.0f} dB"
