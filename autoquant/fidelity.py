"""Does the float file compute what the model does? Everything else is compared with that file."""

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils._pytree import tree_leaves

from autoquant.backends.base import FileBackend
from autoquant.core.artifact import Artifact
from autoquant.core.metric import signal_to_noise_db
from autoquant.errors import TraceError
from autoquant.quantize.sampling import call

__all__ = ["check_fidelity"]

# Two orders of adding up floats leave 80 dB and more, also behind a hundred layers.
_LEAST_DB = 50.0
_ROUNDING = 1e-5  # of outputs that are nothing but rounding

Values = npt.NDArray[Any]


def check_fidelity(
    model: torch.nn.Module, file: Artifact, backend: FileBackend, inputs: Any
) -> None:
    """Compare every output of a model in evaluation mode with its float file's.

    A model that answers otherwise when it is asked again has nothing to be compared with.

    Args:
        model: as it was handed over; it stays as it is.
        file: the float model.
        backend: runs it.
        inputs: a batch, a tensor or named tensors.

    Raises:
        TraceError: the file computes something else; says which output, and how far off it is.
        ArtifactError: the runtime cannot load the file.
        TrialError: it cannot run it.
    """
    network = copy.deepcopy(model).eval()
    with torch.no_grad():
        wanted, again = _read(call(network, inputs)), _read(call(network, inputs))
    if any(not np.array_equal(*pair, equal_nan=True) for pair in zip(wanted, again, strict=True)):
        return
    found = list(backend.load(file, 1).run_all(inputs).values())
    if len(found) != len(wanted):  # one that is given twice, or no tensor
        wanted, found = wanted[:1], found[:1]
    for index, (promised, made) in enumerate(zip(wanted, found, strict=True)):
        fault = _compare(promised, made)
        if fault is not None:
            raise TraceError(
                f"output {index} of the float file is not the model's: {fault} on "
                f"{len(promised)} samples. Its translation is wrong; write the part that differs "
                "with other operators of torch, and please report it"
            )


def _read(outputs: Any) -> list[Values]:
    return [
        leaf.detach().numpy() for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor)
    ]


def _compare(wanted: Values, found: Values) -> str | None:
    """What is too far apart, in words; whole numbers, which jump, are left aside."""
    if wanted.shape != found.shape:
        return f"shape {found.shape} instead of {wanted.shape}"
    if not np.issubdtype(wanted.dtype, np.floating):
        return None
    is_finite = np.isfinite(wanted)  # elsewhere there is nothing to keep to
    wanted, found = wanted[is_finite], found[is_finite]
    if not np.isfinite(found).all():
        return "NaN or infinity where the model has none"
    if not wanted.size or np.abs(wanted - found).max() <= _ROUNDING:
        return None
    decibels = signal_to_noise_db(wanted, found)
    if decibels >= _LEAST_DB:
        return None
    return f"SQNR {decibels:.1f} dB, below {_LEAST_DB:.0f} dB,"
