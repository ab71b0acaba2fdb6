"""How a study goes: its pace, its failures, what its front gained."""

import itertools
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from autoquant.core.forecast import Cost, Forecast, forecast_rest
from autoquant.core.hypervolume import trace_hypervolume
from autoquant.search.snapshot import Snapshot

__all__ = [
    "Pace",
    "find_costs",
    "find_failures",
    "find_growth",
    "find_left",
    "find_pace",
    "seconds_since",
]

_LONGEST_PAUSE = 10  # median gaps; a longer one is a night between two runs
_RECENT, _PAUSE_S = 20, 60.0


@dataclass(frozen=True)
class Pace:
    """How fast trials end.

    Attributes:
        per_minute: of late; None if fewer than two ended.
        left: what the search has still to go since its last trial ended; None before anything
            tells.
    """

    per_minute: float | None
    left: Forecast | None


def find_pace(snapshot: Snapshot) -> Pace:
    """The pace of a study by when its trials ended, pauses between runs left out."""
    ends = sorted(moment.timestamp() for moment in snapshot.ended.values())
    gaps = np.array([b - a for a, b in itertools.pairwise(ends[-_RECENT - 1 :])])
    kept = gaps[gaps <= _LONGEST_PAUSE * max(float(np.median(gaps)), 0.1)] if len(gaps) else gaps
    mean = float(kept.mean()) if len(kept) else 0.0
    # trainings are an option of the space; how many there will be, nobody knows
    modes = snapshot.header.definition.get("quantizer", {}).get("mode") or ()
    left = forecast_rest(
        find_costs(snapshot),
        snapshot.header.trials,
        front=_last_members(snapshot),
        may_train={"ptq", "qat"} <= {*modes},
    )
    return Pace(60 / mean if mean > 0 else None, left)


def find_left(snapshot: Snapshot, pace: Pace) -> Forecast | None:
    """What is left now; None before anything tells, and when that time is over."""
    since = seconds_since(max(snapshot.ended.values(), default=None))
    if pace.left is None or since is None:
        return None
    left = pace.left.after(since)
    return left if left.high > 0 else None


def find_costs(snapshot: Snapshot) -> list[Cost]:
    """What each trial took, in the order in which they ended; pauses are nobody's time."""
    moments = {number: moment.timestamp() for number, moment in snapshot.ended.items()}
    trials = sorted(snapshot.trials, key=lambda trial: moments.get(trial.number, 0.0))
    costs: list[Cost] = []
    before: float | None = None
    for trial in trials:
        end, work = moments.get(trial.number), sum(trial.seconds.values())
        gap = None if end is None or before is None else end - before
        is_pause = gap is not None and gap > _PAUSE_S + _LONGEST_PAUSE * work
        costs.append(Cost.of(trial, None if is_pause else gap))
        before = end
    return costs


def _last_members(snapshot: Snapshot) -> int:
    """About how many members the front has: those of the last session of timing, if there was."""
    sessions = [trial.timing_session for trial in snapshot.trials if trial.timing_session]
    return sessions.count(sessions[-1]) if sessions else 0


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
