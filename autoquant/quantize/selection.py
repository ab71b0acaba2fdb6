"""`EpochSelection`: which epoch's values a training ends with, by images it does not learn from."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Epoch", "EpochSelection", "count_held_out"]

_SHARE = 10  # one in so many is held out,
_FEWEST = 32  # but so many at least, since fewer tell little,
_MOST_SHARE = 4  # and one in so many at most
_MOST = 1000
_ERRORS = 2.0  # standard errors that the end has to be worse by,
_TELLING = 1.01  # and times


def count_held_out(images: int) -> int:
    """How many of some training images to learn nothing from."""
    count = min(images // _MOST_SHARE, max(_FEWEST, images // _SHARE), _MOST)
    return count if count > 1 else 0  # one tells nothing of chance


@dataclass(frozen=True)
class Epoch:
    """What training had come to at the end of an epoch.

    Attributes:
        step: optimizer steps done.
        losses: of each held-out image, (n,).
        values: what is trained, by name.
    """

    step: int
    losses: Tensor
    values: Mapping[str, Tensor]

    @property
    def loss(self) -> float:
        """Their mean; infinite where it is no number."""
        mean = float(self.losses.mean())
        return math.inf if math.isnan(mean) else mean


class EpochSelection:
    """Early stopping in hindsight: the end, or an epoch before it that was better beyond chance.

    Training on few images learns them by heart, and steps that are too long leave a network worse
    than they found it; the loss on images that it learned from shows neither. The start counts as
    an epoch, so a training never ends in what is clearly worse than what it began with.

    The cosine schedule makes the last epoch the best one as a rule, and losses on a few images
    are noisy. So an earlier one has to be better by two standard errors of the mean difference on
    the same images, and by a hundredth.
    """

    def __init__(self) -> None:
        self._best: Epoch | None = None
        self._last: Epoch | None = None

    def look(self, step: int, losses: Tensor, values: Callable[[], Mapping[str, Tensor]]) -> float:
        """Take in what training has come to.

        Args:
            step: optimizer steps done; with 0 everything that was seen before is forgotten.
            losses: on the held-out images, (n,).
            values: a copy of what is trained, by name; asked for where it is the best so far.

        Returns:
            The mean loss.
        """
        self._last = Epoch(step, losses, {})
        if step == 0 or self._best is None or self._last.loss < self._best.loss:
            self._best = Epoch(step, losses, values())
        return self._last.loss

    def find_better(self) -> Epoch | None:
        """The epoch that beats the last one; None if none does."""
        assert self._best is not None
        assert self._last is not None
        if self._best.loss == math.inf or self._best.step == self._last.step:
            return None
        worse = self._last.losses - self._best.losses
        error = float(worse.std()) / math.sqrt(len(worse))
        is_chance = float(worse.mean()) <= _ERRORS * error  # not so of what is no number
        return None if is_chance or self._last.loss < _TELLING * self._best.loss else self._best

    def state(self) -> dict[str, Any]:
        """The best so far, for a checkpoint between two epochs."""
        assert self._best is not None
        return {
            "step": self._best.step,
            "losses": self._best.losses,
            "values": dict(self._best.values),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier `state`."""
        self._best = Epoch(state["step"], state["losses"], state["values"])
        self._last = None
