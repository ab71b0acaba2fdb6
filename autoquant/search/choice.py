"""What a study offers: its front as it is shown, what is recommended, the trial asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from autoquant.core.front import find_front, front_probabilities
from autoquant.core.objective import Kind, Objective, spread
from autoquant.core.pareto import Bounds, find_knee, pick_fastest, pick_smallest
from autoquant.core.recommend import Recommendation, find_nearest_misses, recommend
from autoquant.core.trial import Trial
from autoquant.errors import InputError, NegativeAnswer
from autoquant.report import describe_recommendation
from autoquant.search.record import Record

__all__ = [
    "Advice",
    "FrontView",
    "advise",
    "choose_trial",
    "find_reference",
    "parse_objectives",
    "view_front",
]


@dataclass(frozen=True)
class Advice:
    """A recommended trial.

    Attributes:
        kinds: what it is best at.
        trial: the member of the front.
        reason: one sentence: what it is recommended for, what it costs and buys.
    """

    kinds: tuple[str, ...]
    trial: Trial
    reason: str


@dataclass(frozen=True)
class FrontView:
    """A front as it is shown.

    Attributes:
        members: each with the probability that it belongs there, the knee marked.
        choices: what is recommended of them.
        reference: the float model, or None if it is not measured yet.
    """

    members: list[Trial]
    choices: list[Recommendation]
    reference: Trial | None


def view_front(
    trials: Sequence[Trial], objectives: Sequence[Objective], bounds: Bounds
) -> FrontView:
    """The front of a study's trials within bounds."""
    members = _with_probability(trials, objectives, bounds)
    choices = recommend(members, objectives, bounds)
    return FrontView(_mark_knee(members, choices), choices, find_reference(trials))


def find_reference(trials: Sequence[Trial]) -> Trial | None:
    """The float model among the trials."""
    return next((trial for trial in trials if trial.name == "fp32"), None)


def _with_probability(
    trials: Sequence[Trial], objectives: Sequence[Objective], bounds: Bounds
) -> list[Trial]:
    members = find_front(trials, objectives, bounds)
    probabilities = front_probabilities(trials, objectives, bounds, members)
    return [
        trial.model_copy(update={"front_probability": probabilities[trial.digest]})
        for trial in members
    ]


def _mark_knee(members: Sequence[Trial], choices: Sequence[Recommendation]) -> list[Trial]:
    knee = next((choice.trial.digest for choice in choices if choice.kind == "knee"), None)
    return [trial.model_copy(update={"knee": trial.digest == knee}) for trial in members]


def advise(choices: Sequence[Recommendation], reference: Trial | None) -> list[Advice]:
    """One sentence for each trial that is recommended; none without a float model."""
    if reference is None or reference.state != "complete":
        return []
    by_trial: dict[int, list[Recommendation]] = {}
    for choice in choices:
        by_trial.setdefault(choice.trial.number, []).append(choice)
    return [
        Advice(
            tuple(choice.kind for choice in group),
            group[0].trial,
            describe_recommendation(group, reference),
        )
        for group in by_trial.values()
    ]


def parse_objectives(names: Sequence[str], targets: Sequence[str] = ()) -> list[Objective]:
    """Objectives by name, in the order in which they are always told.

    Args:
        names: of them; `latency` stands for the latencies on all targets.
        targets: of the study.

    Raises:
        InputError: one of them is none; lists those that there are.
    """
    kinds: tuple[Kind, ...] = get_args(Kind)
    known = spread(kinds, targets)
    for name in names:
        if name not in (*known, *kinds):
            raise InputError(f"'{name}' is no objective; there are {', '.join(known)}")
    wanted = set(names) | set(spread(["latency"] if "latency" in names else [], targets))
    return [name for name in known if name in wanted]


def choose_trial(
    record: Record, number: int | None, *, knee: bool, fastest: bool, bounds: Bounds
) -> Trial:
    """The trial that is asked for: by number, or the best of its kind on the front.

    Args:
        record: the study.
        number: of a complete trial, whether it is on the front or not.
        knee: the recommended one.
        fastest: of least latency ratio; if this, `number` and `knee` are left out, the smallest.
        bounds: constraints that go before those of the study.

    Raises:
        InputError: no complete trial has this number.
        NegativeAnswer: no member is within bounds; names the nearest miss.
    """
    complete = [trial for trial in record.trials() if trial.state == "complete"]
    if number is not None:
        found = next((trial for trial in complete if trial.number == number), None)
        if found is None:
            raise InputError(f"trial {number} is not among the complete trials of this study")
        return found
    objectives = record.header.objectives
    bounds = record.header.bounds.overlaid(bounds)
    members = find_front(complete, objectives, bounds)
    if knee:
        picked = find_knee(members, objectives)
    else:
        picked = (pick_fastest if fastest else pick_smallest)(members, bounds)
    if picked is None:
        miss = next(iter(find_nearest_misses(complete, bounds)), None)
        nearest = f"; the nearest miss is trial {miss.number}" if miss else ""
        drop = f" with a drop of {miss.accuracy_drop:.4f}" if miss and miss.accuracy_drop else ""
        raise NegativeAnswer(f"no trial on the front is within the constraint{nearest}{drop}")
    return picked
