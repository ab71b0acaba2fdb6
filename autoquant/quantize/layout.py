"""Weights of transposed convolutions with their output channels first, as all others have them."""

from torch import Tensor

__all__ = ["swap_channels"]


def swap_channels(weight: Tensor, groups: int) -> Tensor:
    """Swap input and output channels within each group; its own inverse.

    Args:
        weight: (in, out of a group, k...), the groups' inputs one after the other.
        groups: how many.

    Returns:
        (out, in of a group, k...), the groups' outputs one after the other.
    """
    split = weight.reshape(groups, -1, *weight.shape[1:])
    return split.transpose(1, 2).flatten(0, 1)
