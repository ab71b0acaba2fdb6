"""When a search is given up: nothing that it proposes can be built or judged."""

from collections import Counter
from collections.abc import Sequence

from autoquant.core.trial import Trial

__all__ = ["MOST_FAILURES", "explain_failures"]

MOST_FAILURES = 20  # proposals that fail, and none that does not, until a search is given up
_NAMED = 3


def explain_failures(trials: Sequence[Trial]) -> str | None:
    """Why a search is given up, its reasons grouped; None while it is not.

    Args:
        trials: finished since the search began or went on; baselines do not count.
    """
    if any(trial.state != "failed" and trial.name is None for trial in trials):
        return None
    proposed = [trial for trial in trials if trial.name is None]
    if len(proposed) < MOST_FAILURES:
        return None
    reasons = Counter(trial.error for trial in proposed).most_common()
    named = "; ".join(f"{count} with: {reason}" for reason, count in reasons[:_NAMED])
    more = len(reasons) - _NAMED
    rest = f"; and {more} other reasons" if more > 0 else ""
    return f"all of {len(proposed)} proposed recipes failed, so the search ends: {named}{rest}"
