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
_ERRORS = 2.0  # standard errors that the end has to be worse by


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
        """Their mean."""
        return float(self.losses.mean())


class EpochSelection:
    """Early stopping in hindsight: the end, or an epoch before it that was better beyond chance.

    Training on few images learns them by heart, and steps that are too long leave a network worse
    than they found it; the loss on images that it learned from shows neither. The start counts as
    an epoch, so a training never ends in what is clearly worse than what it began with.

    The cosine schedule makes the last epoch the best one as a rule, and losses on a few images
    are noisy. So an earlier one has to be better by two standard errors of the mean difference on
    the same images.

    Args:
        judge: losses on the held-out images of the model as it is, (n,).
        values: what is trained, by name.
    """

    def __init__(
        self, judge: Callable[[], Tensor], values: Callable[[], Mapping[str, Tensor]]
    ) -> None:
        self._judge = judge
        self._values = values
        self._best: Epoch | None = None
        self._last: Tensor | None = None

    def look(self, step: int) -> float:
        """Judge what training has come to.

        Args:
            step: optimizer steps done; with 0 everything that was seen before is forgotten.

        Returns:
            The mean loss.
        """
        losses = self._judge().cpu()
        self._last = losses
        if step == 0 or self._best is None or float(losses.mean()) < self._best.loss:
            values = {name: value.clone() for name, value in self._values().items()}
            self._best = Epoch(step, losses, values)
        return float(losses.mean())

    def find_better(self) -> Epoch | None:
        """The epoch that beats the last one; None if none does."""
        assert self._best is not None
        assert self._last is not None
        worse = self._last - self._best.losses
        error = float(worse.std()) / math.sqrt(len(worse))
        if float(worse.mean()) <= _ERRORS * error:  # not so of what is no number
            return None
        return self._best

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
