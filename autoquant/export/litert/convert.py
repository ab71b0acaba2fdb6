"""A torch graph as a float .tflite file, by litert-torch."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator

import torch
from torch.fx import Graph, GraphModule, Node

from autoquant.errors import TraceError
from autoquant.tflite import silenced

__all__ = ["convert", "explain", "quietly"]

_ATEN = torch.ops.aten
# Names of operators in errors of litert-torch and LiteRT: `torch.ops.aten.x.y`, 'mhlo.x', 'X'.
_OPERATOR = re.compile(
    r"(?:torch\.ops\.)?((?:aten|prims)\.\w+(?:\.\w+)?)"
    r"|'((?:mhlo|stablehlo|tfl)\.\w+)'|opcode '(\w+)'"
)


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
        with quietly(), torch.no_grad():
            import litert_torch  # which prints what it cannot load

            model = litert_torch.convert(_with_means(module).eval(), inputs)
            return bytes(model.model_content())
    except Exception as error:  # torch, MLIR and litert-torch share no base class
        raise TraceError(f"litert-torch cannot convert the model: {explain(error)}") from error


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
    divisor = node.args[6] if len(node.args) > 6 else None
    is_whole = (sizes * 2)[:2] == area and not any(padding) and divisor is None
    return is_whole and list(out.shape[2:]) == [1, 1]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep progress and warnings of LiteRT's tools off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            silenced(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def explain(error: BaseException) -> str:
    """One line: the operator, wherever in the chain of errors it is named, and the message."""
    return f"{_name_operator(error)}; the backends onnxruntime and openvino do without"


def _name_operator(error: BaseException) -> str:
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
    name = next(group for group in found.groups() if group)
    return f"operator '{name}' ({first[:200]})"
