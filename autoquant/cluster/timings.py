"""What the targets of a study say of one file, joined: the first one's figures stand for all."""

import dataclasses
from collections import Counter
from collections.abc import Mapping

from autoquant.core.trial import BriefLatency, Latency, LatencyFigures, Measurement
from autoquant.search.executor import Outcome

__all__ = ["join_figures", "join_timings", "next_to_time"]


def next_to_time(built: Outcome, timings: Mapping[str | None, Outcome]) -> Outcome:
    """What the next target is told of a file.

    Args:
        built: what was measured where it was built.
        timings: what the targets before said, by name. Where one turned it away, the others time
            it for a moment, as they do with what was turned away where it was built.
    """
    turned_away = [timed for timed in timings.values() if timed.state == "rejected"]
    if not turned_away:
        return built
    costs = {"seconds": built.measurement.seconds}  # of the others' timings nothing
    seen = turned_away[0].measurement.model_copy(update=costs)
    return dataclasses.replace(built, state="rejected", measurement=seen)


def join_timings(built: Outcome, timings: Mapping[str | None, Outcome]) -> Outcome:
    """What came of a trial that all targets have timed, or one of them could not.

    Args:
        built: what was measured where it was built.
        timings: by target, in their order; by None where the study names no target.
    """
    first = next(iter(timings.values()))
    if None in timings:
        return first
    named = {str(name): timed for name, timed in timings.items()}
    for name, timed in named.items():
        if timed.state == "failed":
            return dataclasses.replace(timed, error=f"on target '{name}': {timed.error}")
    figures = {name: timed.measurement for name, timed in named.items()}
    changes = {"seconds": _add_up(built.measurement, [*figures.values()])}
    return dataclasses.replace(
        first,
        measurement=first.measurement.model_copy(update={**changes, **_find_targets(figures)}),
        probe=", ".join(str(timed.probe) for timed in named.values()),
        fingerprints=tuple(item for timed in named.values() for item in timed.fingerprints),
    )


def _add_up(built: Measurement, timed: list[Measurement]) -> dict[str, float]:
    """Seconds by stage: each timing's hold those of the building too."""
    total = Counter(timed[0].seconds)
    for item in timed[1:]:
        total.update(item.seconds)
        total.subtract(built.seconds)
    return {stage: round(seconds, 4) for stage, seconds in total.items()}


def _find_targets(figures: Mapping[str, Measurement]) -> dict[str, object]:
    """Latencies by target, where the first one's stand."""
    first = next(iter(figures.values()))
    if first.partial is None:
        return {"targets": {name: _read_latency(item) for name, item in figures.items()}}
    brief = {
        name: BriefLatency(**{key: getattr(item.partial, key) for key in BriefLatency.model_fields})
        for name, item in figures.items()
    }
    return {"partial": first.partial.model_copy(update={"targets": brief})}


def join_figures(
    found: Mapping[str | None, Mapping[str, LatencyFigures]],
) -> Mapping[str, LatencyFigures]:
    """Figures of a front that was timed on each target, by digest.

    Args:
        found: by target, in their order; by None where the study names no target.
    """
    first = next(iter(found.values()))
    if None in found:
        return first
    joined = {}
    for digest, figures in first.items():
        targets = {str(name): _read_latency(items[digest]) for name, items in found.items()}
        joined[digest] = figures.model_copy(update={"targets": targets})
    return joined


def _read_latency(figures: Measurement | LatencyFigures) -> Latency:
    return Latency(**{name: getattr(figures, name) for name in Latency.model_fields})
