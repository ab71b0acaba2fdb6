"""`Deadline`: when a search has to be over, and whether there is time for one more of anything."""

import math
import time
from collections.abc import Sequence

from autoquant.core.forecast import Cost, forecast_closing, forecast_trial
from autoquant.core.trial import Trial

__all__ = ["Deadline"]

_MOST_RESERVED = 0.5  # of the whole time: what is closed has to be found first


class Deadline:
    """The end of a search, what makes its front whole included.

    Args:
        timeout_s: seconds from now; None for no limit.
    """

    def __init__(self, timeout_s: float | None = None) -> None:
        self.timeout_s = timeout_s
        self._end = math.inf if timeout_s is None else time.monotonic() + timeout_s

    @property
    def left_s(self) -> float:
        """Seconds; infinite without a limit."""
        return self._end - time.monotonic()

    def left_for_trials(
        self, trials: Sequence[Trial], front: Sequence[Trial], *, has_report: bool = True
    ) -> float:
        """Seconds within which whatever is begun now has to end; less than a trial takes: 0.

        Args:
            trials: finished ones.
            front: members of the front so far.
            has_report: the report split is read for each of them that it was not read for.
        """
        if self.timeout_s is None:
            return math.inf
        costs = [Cost.of(trial) for trial in trials]
        closing = forecast_closing(costs, front=len(front))
        reported = sum(trial.report_accuracy is not None for trial in front)
        reserved = closing.unreported
        if has_report:
            reserved += max(0, closing.members - reported) * closing.report
        left = self.left_s - min(reserved, _MOST_RESERVED * self.timeout_s)
        return left if left > max(forecast_trial(costs), _find_training(trials)) else 0.0


def _find_training(trials: Sequence[Trial]) -> float:
    """Seconds of the next trial where all that is proposed is trained: as the longest so far."""
    proposed = [trial for trial in trials if trial.name is None]
    if not all(trial.recipe.is_trained for trial in proposed):
        return 0.0
    return max((sum(trial.seconds.values()) for trial in proposed), default=0.0)
