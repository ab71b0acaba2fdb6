"""What is done about trials that a process died of, or with."""

import functools
from collections.abc import Callable

import optuna
from optuna.trial import FrozenTrial, TrialState

from autoquant.core.recipe import Recipe
from autoquant.core.trial import Trial
from autoquant.search.record import CLAIM, Record

__all__ = ["recover"]


def recover(
    record: Record,
    *,
    lives: Callable[[str], bool] = lambda token: False,
    find_crash: Callable[[str], str | None] = lambda token: None,
) -> int:
    """Close what dead processes left running.

    A trial with a record is finished; one with a recipe is queued again, unless the process
    crashed of it: a runtime that does must not end every search. While this looks, nobody is
    between beginning a trial and marking it.

    Args:
        record: the study.
        lives: whether a process still runs it, by the token that it marked its trials with.
        find_crash: how one crashed that does not; None if it was killed, or is not known to have.

    Returns:
        How many were queued again.
    """
    is_alive, queued = functools.cache(lives), 0
    with record.together(is_durable=True):
        for frozen in record.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            token = frozen.user_attrs.get(CLAIM)
            if token is None or not is_alive(token):
                queued += _recover(record, frozen, None if token is None else find_crash(token))
    return queued


def _recover(record: Record, frozen: FrozenTrial, crash: str | None) -> bool:
    """Close one trial; whether it was queued again."""
    attributes = frozen.user_attrs
    if "record" in attributes:
        record.close(Trial.model_validate(attributes["record"]))
        return False
    if "recipe" in attributes and crash is not None:
        _bury(record, frozen, crash)
        return False
    if "recipe" in attributes:
        _requeue(record, frozen)
    record.discard(frozen.number)
    return "recipe" in attributes


def _bury(record: Record, frozen: FrozenTrial, crash: str) -> None:
    recipe = Recipe.model_validate(frozen.user_attrs["recipe"])
    trial = Trial(
        number=frozen.number,
        state="failed",
        digest=recipe.digest,
        recipe=recipe,
        name=frozen.user_attrs.get("name"),
        seed=record.header.seed,
        error=f"the process crashed while it was evaluated: {crash}",
    )
    # Optuna has no public way to a trial that another process began
    optuna.Trial(record.study, frozen._trial_id).set_user_attr("record", trial.to_dict())
    record.close(trial)


def _requeue(record: Record, frozen: FrozenTrial) -> None:
    recipe = Recipe.model_validate(frozen.user_attrs["recipe"])
    if recipe.digest in record.waiting_digests():
        return
    is_inside = frozen.user_attrs.get("in_space", True)
    # a trial that was queued may have died before all its parameters were written
    known = frozen.system_attrs.get("fixed_params", frozen.params)
    parameters = {name: str(value) for name, value in known.items()}
    record.enqueue(recipe, parameters if is_inside else None, frozen.user_attrs.get("name"))
