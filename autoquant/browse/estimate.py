"""How large a search is, and how long it may take."""

import statistics
from collections.abc import Sequence

from autoquant.browse.library import StudyView
from autoquant.browse.pace import find_cost
from autoquant.config import SpaceConfig

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
    costs = [cost for cost in map(find_cost, own) if cost is not None]
    if not costs:
        return None
    seconds = statistics.median(max(cost.timing_s, cost.alone_s / workers) for cost in costs)
    minutes = seconds * config.budget.trials / 60
    limit = config.budget.timeout
    return minutes if limit is None else min(minutes, limit / 60)


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
