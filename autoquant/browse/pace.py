"""How a study goes: its pace, its failures, what its front gained."""

import itertools
import statistics
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from autoquant.core.hypervolume import trace_hypervolume
from autoquant.search.snapshot import Snapshot

__all__ = [
    "Cost",
    "Pace",
    "find_cost",
    "find_failures",
    "find_growth",
    "find_pace",
    "seconds_since",
]

_LONGEST_PAUSE = 10  # median gaps; a longer one is a night between two runs
_RECENT = 20


@dataclass(frozen=True)
class Pace:
    """How fast trials end.

    Attributes:
        per_minute: of late; None if fewer than two ended.
        seconds_a_trial: the median.
        seconds_left: to the target at that pace.
    """

    per_minute: float | None
    seconds_a_trial: float | None
    seconds_left: float | None


def find_pace(snapshot: Snapshot) -> Pace:
    """The pace of a study by when its trials ended, pauses between runs left out."""
    ends = sorted(moment.timestamp() for moment in snapshot.ended.values())
    gaps = np.array([b - a for a, b in itertools.pairwise(ends[-_RECENT - 1 :])])
    if not len(gaps):
        return Pace(None, None, None)
    kept = gaps[gaps <= _LONGEST_PAUSE * max(float(np.median(gaps)), 0.1)]
    mean = float(kept.mean()) if len(kept) else 0.0
    left = max(0, snapshot.header.trials - len(snapshot.trials))
    rate = 60 / mean if mean > 0 else None
    return Pace(rate, float(np.median(gaps)), mean * left)


@dataclass(frozen=True)
class Cost:
    """What a trial takes; medians over a study.

    Attributes:
        alone_s: seconds from trial to trial where one is evaluated after the other.
        timing_s: of these, seconds in which its file is timed.
    """

    alone_s: float
    timing_s: float


def find_cost(snapshot: Snapshot) -> Cost | None:
    """What a trial of a study takes; None if that is not known.

    Where workers evaluated several at once, trials end sooner after each other than one takes:
    there their own seconds count.
    """
    spent = [sum(trial.seconds.values()) for trial in snapshot.trials if trial.seconds]
    if not spent:
        return None
    timed = [trial.seconds.get("latency", 0.0) for trial in snapshot.trials if trial.seconds]
    gap = find_pace(snapshot).seconds_a_trial
    is_crew = any(trial.node is not None for trial in snapshot.trials)
    alone = statistics.median(spent) if is_crew or not gap else gap
    return Cost(alone, min(alone, statistics.median(timed)))


def find_failures(snapshot: Snapshot) -> list[tuple[str, str, list[int]]]:
    """Reasons with the trials that they ended, the most frequent first: (state, reason, numbers).

    Numbers in a reason are those of one trial; what is left of it is what trials share.
    """
    grouped: dict[tuple[str, str], list[int]] = {}
    for trial in snapshot.trials:
        reason = trial.error if trial.partial is None else trial.partial.reason
        if trial.state == "failed" or trial.partial is not None:
            grouped.setdefault((trial.state, _generalize(reason or "")), []).append(trial.number)
    counts = Counter({key: len(numbers) for key, numbers in grouped.items()})
    return [(*key, grouped[key]) for key, _ in counts.most_common()]


def _generalize(reason: str) -> str:
    words = ["N" if any(map(str.isdigit, word)) else word for word in reason.split()]
    return " ".join(words) or "no reason was given"


def find_growth(snapshot: Snapshot) -> list[tuple[float, float]]:
    """(minutes of search, hypervolume) after each trial; see `find_mode_yields` for the box.

    Minutes are the seconds that trials took, so that pauses do not count.
    """
    header = snapshot.header
    volumes = trace_hypervolume(snapshot.trials, header.objectives, header.bounds)
    spent = itertools.accumulate(sum(trial.seconds.values()) / 60 for trial in snapshot.trials)
    return list(zip(spent, volumes, strict=True))


def seconds_since(moment: datetime | None) -> float | None:
    """How long ago; None if nobody knows."""
    return None if moment is None else (datetime.now(UTC) - moment).total_seconds()
