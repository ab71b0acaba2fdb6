"""Trials as a pandas DataFrame."""

from collections.abc import Sequence
from types import NoneType
from typing import Any, get_args

import pandas as pd

from autoquant.core.trial import Trial

__all__ = ["frame_trials"]

_FIRST = ("number", "name", "state")
_OF_A_FRONT = ("knee", "front_probability")
_RARE = (
    "left_front", "report_error", "training", "node", "probe", "targets", *_OF_A_FRONT
)  # fmt: skip
_KINDS = {float: "float64", int: "int64", bool: "bool"}


def frame_trials(trials: Sequence[Trial], *, is_front: bool = False) -> pd.DataFrame:
    """One row a trial; columns are named as in the JSON, nested values stay dicts and tuples.

    Args:
        trials: what to show.
        is_front: they are members of a front: with the knee and the probability.
    """
    names = _columns(trials, is_front=is_front)
    rows = [trial.model_dump() for trial in trials]
    frame = pd.DataFrame(rows, columns=names)
    kinds = {name: _dtype(Trial.model_fields[name].annotation) for name in names}
    return frame.astype({name: kind for name, kind in kinds.items() if kind is not None})


def _columns(trials: Sequence[Trial], *, is_front: bool) -> list[str]:
    shown = {name for name in Trial.model_fields if name not in (*_RARE, "evidence")}
    shown.update(*(trial.to_dict() for trial in trials))
    shown.update(_OF_A_FRONT if is_front else ())
    return [*_FIRST, *(name for name in Trial.model_fields if name in shown - {*_FIRST})]


def _dtype(annotation: Any) -> str | None:
    """What pandas is to keep a field as, where its own guess depends on what was measured."""
    kinds = get_args(annotation) or (annotation,)
    plain = [kind for kind in kinds if kind is not NoneType]
    if len(plain) != 1:
        return None
    kind = _KINDS.get(plain[0])
    return "Int64" if kind == "int64" and NoneType in kinds else kind
