"""`Gain`: whether one trial is more accurate than another, on the same images."""

from dataclasses import dataclass

from autoquant.core.metric import drop_interval
from autoquant.core.trial import Trial

__all__ = ["Gain", "find_gain"]


@dataclass(frozen=True)
class Gain:
    """A difference of two accuracies on the search split, as a fraction.

    Attributes:
        value: first minus second.
        low: lower end of its paired 95 % interval.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @property
    def is_better(self) -> bool:
        """The first is more accurate, beyond chance."""
        return self.value > 0 and self.low > 0

    @property
    def is_worse(self) -> bool:
        """The first is less accurate, beyond chance."""
        return self.value < 0 and self.high < 0


def find_gain(trial: Trial, other: Trial) -> Gain | None:
    """What one trial gains over another; None where the record cannot tell.

    Args:
        trial: of a study, complete.
        other: of the same study, complete.
    """
    if trial.accuracy is None or other.accuracy is None:
        return None
    ours, theirs = trial.evidence, other.evidence
    if ours is None or theirs is None or ours.samples != theirs.samples:
        return None
    value = trial.accuracy - other.accuracy
    return Gain(value, *drop_interval(ours, theirs, value))
