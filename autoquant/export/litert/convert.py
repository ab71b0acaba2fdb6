"""A torch graph as a float .tflite file, by litert-torch."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator

import litert_torch
import torch
from torch.fx import Graph, GraphModule, Node

from autoquant.errors import TraceError

__all__ = ["convert"]

_ATEN = torch.ops.aten
# The names of operators in litert-torch's errors: `torch.ops.aten.x.y`, `aten.x.y`, 'stablehlo.x'.
_OPERATOR = re.compile(r"(?:torch\.ops\.)?(aten\.\w+(?:\.\w+)?)|'?((?:stablehlo|tfl)\.\w+)'?")


def convert(module: GraphModule, inputs: tuple[torch.Tensor, ...]) -> bytes:
    """The float file, for a batch of one.

    An average over a whole image becomes a mean, whose result may lie on another grid than what
    it reads; a pool's may not.

    Args:
        module: an ATen graph.
        inputs: one example for each of its inputs.

    Raises:
        TraceError: litert-torch cannot convert the graph; names the operator.
    """
    try:
        with _quiet(), torch.no_grad():
            model = litert_torch.convert(_with_means(module).eval(), inputs)
            return bytes(model.model_content())
    except Exception as error:  # torch, MLIR and litert-torch share no base class
        raise TraceError(
            f"litert-torch cannot convert the model: {_explain(error)}; the backends onnxruntime "
            "and openvino do not need it"
        ) from error


def _with_means(module: GraphModule) -> GraphModule:
    """A copy with averages over whole images as means; it shares the parameters."""
    graph = Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    for node in graph.nodes:
        if node.target is _ATEN.avg_pool2d.default and _is_global(node):
            node.target = _ATEN.mean.dim
            node.args = (node.args[0], [2, 3], True)
    return GraphModule(module, graph)


def _is_global(node: Node) -> bool:
    source, out = node.args[0], node.meta["val"]
    assert isinstance(source, Node)
    sizes = list(node.args[1]) if isinstance(node.args[1], (list, tuple)) else [node.args[1]]
    area = list(source.meta["val"].shape[2:])
    padding = list(node.args[3]) if len(node.args) > 3 else [0]  # type: ignore[arg-type]
    is_whole = (sizes * 2)[:2] == area and not any(padding)
    return is_whole and list(out.shape[2:]) == [1, 1]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converter's progress and warnings off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _explain(error: BaseException) -> str:
    """One line: the operator, wherever in the chain of errors it is named, and the message."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    texts = [str(item) for item in chain]
    found = next((match for text in texts if (match := _OPERATOR.search(text))), None)
    first = next((line.strip() for line in texts[0].splitlines() if line.strip()), repr(error))
    if found is None:
        return first[:300]
    return f"operator '{found[1] or found[2]}' ({first[:200]})"
