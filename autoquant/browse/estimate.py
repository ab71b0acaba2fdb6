"""How large a search is, and how long it may take."""

import statistics
from collections.abc import Sequence
from dataclasses import replace

from autoquant.browse.library import StudyView
from autoquant.browse.pace import find_costs
from autoquant.config import SpaceConfig
from autoquant.core.forecast import forecast_search
from autoquant.search.snapshot import Snapshot

__all__ = ["describe_budget", "estimate_minutes"]


def estimate_minutes(
    config: SpaceConfig, studies: Sequence[StudyView], workers: int = 1
) -> float | None:
    """How long it may take by what trials of the task took before; None if none is known.

    Args:
        config: the search space with its budget.
        studies: those that are known.
        workers: trials that are built and judged at the same time. Their files are timed one
            after the other.
    """
    own = [view.snapshot for view in studies if view.snapshot.header.task == config.task]
    found = [_forecast(snapshot, config.budget.trials, workers) for snapshot in own]
    known = [seconds for seconds in found if seconds is not None]
    if not known:
        return None
    minutes = statistics.median(known) / 60
    limit = config.budget.timeout
    return minutes if limit is None else min(minutes, limit / 60)


def _forecast(snapshot: Snapshot, trials: int, workers: int) -> float | None:
    """Seconds of so many trials, by those of a study."""
    costs = find_costs(snapshot)
    timed = [cost for cost in costs if cost.wall_s is not None]
    walls = [(cost.wall_s or 0.0) / cost.work_s for cost in timed if cost.work_s]
    if walls and statistics.median(walls) < 1:
        # workers shared it: trials ended sooner after each other than one takes
        costs = [replace(cost, wall_s=None) for cost in costs]
    forecast = forecast_search(costs, trials)
    if forecast is None:
        return None
    in_turns = sum(cost.work.get("latency", 0.0) for cost in costs)
    share = in_turns / max(sum(cost.work_s for cost in costs), 1e-9)
    return forecast.seconds * max(share, 1 / workers)


def describe_budget(
    config: SpaceConfig,
    studies: Sequence[StudyView],
    layers: Sequence[str],
    workers: int | None = 1,
) -> str:
    """How large the space is and how long the search may take, in one sentence.

    Args:
        config: the search space with its budget.
        studies: those that are known.
        layers: of the task; none if they are not known.
        workers: see `estimate_minutes`; None if only the cluster knows.

    Raises:
        SpaceError: the space does not fit the layers.
    """
    takes = _describe_time(config, studies, workers)
    if not layers:
        return f"{config.budget.trials} trials, {takes}."
    size = config.to_space(list(layers)).size
    amount = f"{size:,}" if size < 10**6 else f"about 10^{len(str(size)) - 1}"
    return f"{amount} recipes over {len(layers)} layers; {config.budget.trials} trials, {takes}."


def _describe_time(config: SpaceConfig, studies: Sequence[StudyView], workers: int | None) -> str:
    minutes = estimate_minutes(config, studies, workers or 1)
    limit = config.budget.timeout
    if minutes is None:
        if limit is None:
            return "for as long as it takes: there is no time limit"
        return f"at most {limit / 60:.0f} min, the time limit"
    takes = f"about {max(1, round(minutes))} min by earlier studies of this task"
    if workers is None:
        return f"{takes} if one worker did it; how many the cluster has is not counted in"
    if workers == 1:
        return takes
    return f"{takes}, by {workers} workers at once whose files are timed one after the other"
