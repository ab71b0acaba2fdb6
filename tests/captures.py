"""Networks of `tests.networks` are captured once a process.

To capture and translate a network takes seconds, far longer than what most tests do with it. A
copy of the first capture gives the same files, byte for byte (`test_export`). Networks that are
not from there, and captures that fail, are not remembered.
"""

import copy
import hashlib
import warnings
from typing import Any

import pytest
from torch import nn

from autoquant import build
from autoquant.export.float_graph import FloatGraph
from autoquant.quantize.trace import trace

__all__ = ["remember_captures"]


def remember_captures(patch: pytest.MonkeyPatch) -> None:
    """Let every `TaskBuilder` take a copy of what was captured before, if it is the same."""
    translate = build.export_float
    known: dict[tuple[str, ...], FloatGraph] = {}

    def capture(model: nn.Module, example_input: Any) -> FloatGraph:
        if type(model).__module__ != "tests.networks":
            return translate(trace(model, example_input))
        key = _key_of(model, example_input)
        if key not in known:
            known[key] = translate(trace(model, example_input))
        return _copy(known[key])

    patch.setattr(build, "trace", lambda *given: given)
    patch.setattr(build, "export_float", lambda given: capture(*given))


def _copy(graph: FloatGraph) -> FloatGraph:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own copies of its trees
        twin = copy.deepcopy(graph)
    for original, copied in zip(graph.module.graph.nodes, twin.module.graph.nodes, strict=True):
        copied.name = original.name  # torch.fx dodges Python's built-in names once more
    return twin


def _key_of(model: nn.Module, example_input: Any) -> tuple[str, ...]:
    inputs = example_input if isinstance(example_input, dict) else {"x": example_input}
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype}".encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    shapes = [f"{name} {value.dtype} {tuple(value.shape)}" for name, value in inputs.items()]
    return (type(model).__name__, digest.hexdigest(), str(model.training), *shapes)
