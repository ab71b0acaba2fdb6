"""Random changes of training images: shifts and mirrors, drawn from a given generator."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

__all__ = ["shift_and_flip"]


def shift_and_flip(
    shift: int, fill: Sequence[float], *, flips: bool
) -> Callable[[Tensor, Generator], Tensor]:
    """The augmentation of He et al. 2016 (arXiv 1512.03385, section 4.2): pad, crop, mirror.

    Args:
        shift: pixels by which an image moves at most, along each axis.
        fill: (channels,) what moves in from outside: black, in the images' own normalization.
        flips: mirror half of the images.

    Returns:
        A function of images (n, channels, height, width) and a generator; images out.
    """

    def change(images: Tensor, generator: Generator) -> Tensor:
        count, channels, height, width = images.shape
        outside = torch.as_tensor(fill, dtype=images.dtype).view(1, channels, 1, 1)
        padded = F.pad(images - outside, (shift,) * 4) + outside
        top, left = torch.randint(2 * shift + 1, (2, count), generator=generator)
        rows = top[:, None] + torch.arange(height)
        columns = left[:, None] + torch.arange(width)
        is_flipped = torch.rand(count, generator=generator) < 0.5
        if flips:
            columns = torch.where(is_flipped[:, None], columns.flip(1), columns)
        every = torch.arange(count)[:, None, None]
        # indices at the ends and a slice between them put the channels last
        return padded[every, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    return change
