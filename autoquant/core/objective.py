"""What a search optimizes: accuracy, size, and a latency for each machine that it ships to."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

__all__ = ["Kind", "Objective", "is_target_name", "kind_of", "kinds_of", "spread", "target_of"]

Kind = Literal["accuracy", "latency", "size"]
# One of the kinds; or `latency:NAME`, on the target of that name.
Objective = str

_LATENCY = "latency:"
_TARGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")


def is_target_name(name: str) -> bool:
    """Whether a target can be called so: Ray and Optuna take it as a part of a name."""
    return _TARGET.fullmatch(name) is not None


def target_of(objective: Objective) -> str | None:
    """The target whose latency it is; None of an objective that names none."""
    return objective.removeprefix(_LATENCY) if objective.startswith(_LATENCY) else None


def kind_of(objective: Objective) -> Kind:
    """What is measured for it.

    Raises:
        ValueError: it is none.
    """
    match objective.partition(":")[0]:
        case "accuracy" if objective == "accuracy":
            return "accuracy"
        case "size" if objective == "size":
            return "size"
        case "latency":
            return "latency"
    raise ValueError(f"'{objective}' is no objective")


def kinds_of(objectives: Iterable[Objective]) -> list[Kind]:
    """The same of several, each once, in order."""
    return list(dict.fromkeys(map(kind_of, objectives)))


def spread(kinds: Sequence[Kind], targets: Sequence[str]) -> list[Objective]:
    """Objectives of a study: where there are targets, a latency for each of them.

    Args:
        kinds: what is asked for.
        targets: names of the machines.
    """
    latencies = [f"{_LATENCY}{name}" for name in targets] or ["latency"]
    return [name for kind in kinds for name in (latencies if kind == "latency" else [kind])]
