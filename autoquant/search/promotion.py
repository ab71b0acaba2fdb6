"""Which recipes have earned their training.

Training takes a hundred times as long as anything else, so in a space with both modes the sampler
proposes recipes without it, and only those are trained whose figures say that it may pay.
"""

import dataclasses
from collections.abc import Collection, Sequence

from autoquant.core.evidence import Evidence
from autoquant.core.front import find_front
from autoquant.core.hypervolume import seconds_by_mode
from autoquant.core.objective import Objective
from autoquant.core.pareto import Bounds
from autoquant.core.rehearsal import project_hits
from autoquant.core.trial import Trial

__all__ = ["find_promising", "has_time_to_train", "hoped_bounds"]

_REGAINED = 0.75  # of what quantization costs: a hope, checked by the training alone
_SHARE = 0.5


def find_promising(
    trials: Sequence[Trial], objectives: Sequence[Objective], bounds: Bounds
) -> list[Trial]:
    """Untrained trials that would be on the front if training regained most of their loss.

    So the trial is on the front or near it, and meets the constraint or nearly does. The one
    with the most to regain comes first.

    Args:
        trials: of one study, trained ones included.
        objectives: what the front is by.
        bounds: constraints.
    """
    reference = next((trial for trial in trials if trial.name == "fp32"), None)
    if reference is None or ("accuracy" not in objectives and bounds.max_drop is None):
        return []
    losing = [
        trial
        for trial in trials
        if trial.state == "complete"
        and trial.recipe.is_quantized
        and not trial.recipe.is_trained
        and (trial.accuracy_drop or 0.0) > 0
    ]
    found = [
        trial for trial in losing if _would_enter(trial, reference, trials, objectives, bounds)
    ]
    return sorted(found, key=lambda trial: -(trial.accuracy_drop or 0.0))


def hoped_bounds(bounds: Bounds) -> Bounds:
    """The bounds that an untrained recipe has to keep, so that its training may keep them."""
    if bounds.max_drop is None or bounds.max_drop <= 0:
        return bounds
    return dataclasses.replace(bounds, max_drop=bounds.max_drop / (1 - _REGAINED))


def _would_enter(
    trial: Trial,
    reference: Trial,
    trials: Sequence[Trial],
    objectives: Sequence[Objective],
    bounds: Bounds,
) -> bool:
    hoped = _hope(trial, reference)
    front = find_front([*trials, hoped], objectives, bounds)
    return any(member is hoped for member in front)


def _hope(trial: Trial, reference: Trial) -> Trial:
    """The trial as training may leave it."""
    drop, accuracy = trial.accuracy_drop or 0.0, trial.accuracy or 0.0
    hits = None if trial.evidence is None else trial.evidence.hits
    float_hits = None if reference.evidence is None else reference.evidence.hits
    evidence = None
    if hits is not None and float_hits is not None:
        evidence = Evidence.from_hits(project_hits(hits, float_hits, _REGAINED))
    gained = _REGAINED * drop
    figures = {"accuracy": accuracy + gained, "accuracy_drop": drop - gained, "evidence": evidence}
    return trial.model_copy(update=figures)


def has_time_to_train(
    trials: Sequence[Trial],
    timeout_s: float | None,
    seconds_left: float,
    before: Collection[int] = frozenset(),
    *,
    is_all: bool = False,
) -> bool:
    """Whether one more training keeps to its share of the time: half of it.

    Args:
        trials: so far.
        timeout_s: seconds of this run; None takes those of all trials so far for the whole.
        seconds_left: of the run. What a first training takes, nobody knows.
        before: numbers of the trials of earlier runs, whose time this one's limit does not hold.
        is_all: there is nothing else left to do, so that all of the time is its share.
    """
    if seconds_left <= 0:
        return False
    trained = [sum(trial.seconds.values()) for trial in trials if trial.recipe.is_trained]
    expected = max(trained, default=0.0)
    if expected > seconds_left:
        return False
    if is_all:
        return True
    if timeout_s is None:
        spent = seconds_by_mode(trials)
        return spent["qat"] <= _SHARE * sum(spent.values())
    own = [trial for trial in trials if trial.number not in before]
    return seconds_by_mode(own)["qat"] + expected <= _SHARE * timeout_s
