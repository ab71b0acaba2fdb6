"""Operators put as others that an integer runtime has kernels for. Results stay the same."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch.fx import GraphModule, Node

__all__ = ["rewrite_for_integers"]

_ATEN = torch.ops.aten


def rewrite_for_integers(module: GraphModule) -> None:
    """Replace operators in place; the graph has to be captured once more afterwards.

    - SiLU and hard-swish become products with a gate; products run in integers, and so does
      the sigmoid.
    - Attention becomes two matrix products and a softmax.
    - A mean over a whole image becomes the global pool that it is.
    """
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        if node.target in (_ATEN.silu.default, _ATEN.silu_.default):
            node.target = _silu
        elif node.target in (_ATEN.hardswish.default, _ATEN.hardswish_.default):
            node.target = _hardswish
        elif node.target is _ATEN.scaled_dot_product_attention.default:
            node.target = _attention
        elif node.target is _ATEN.mean.dim and _is_global_pool(node):
            node.target = _global_pool
    module.recompile()


def _silu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


def _hardswish(x: torch.Tensor) -> torch.Tensor:
    return x * F.hardsigmoid(x)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Attention as its definition says.

    Args:
        query: (..., heads, length, size).
        key: likewise.
        value: likewise.
        attn_mask: added to the scores, or of bool: where to look.
        dropout_p: nothing is dropped in a captured inference graph.
        is_causal: no position looks ahead.
        scale: of the scores; one over the root of the size by default.
        enable_gqa: several heads of the query share one of key and value.

    Returns:
        (..., heads, length, size of the values). Vaswani et al. 2017, arXiv 1706.03762.
    """
    del dropout_p
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key = key.repeat_interleave(repeats, dim=-3)
        value = value.repeat_interleave(repeats, dim=-3)
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = torch.matmul(query * factor, key.transpose(-2, -1))
    if is_causal:
        ones = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool)
        scores = scores.masked_fill(ones.tril().logical_not(), -math.inf)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(attn_mask.logical_not(), -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.matmul(torch.softmax(scores, dim=-1), value)


def _is_global_pool(node: Node) -> bool:
    source, dims = node.args[0], node.args[1]
    assert isinstance(source, Node)
    value = source.meta["val"]
    if not isinstance(dims, (list, tuple)) or value.dim() != 4 or node.kwargs:
        return False
    return {int(str(dim)) % 4 for dim in dims} == {2, 3}


def _global_pool(x: torch.Tensor, dim: Any = None, keepdim: bool = False) -> torch.Tensor:
    pooled = F.adaptive_avg_pool2d(x, 1)
    return pooled if keepdim else pooled.flatten(1)
