"""What a search knew beside its trials, kept in the study so that it can be asked afterwards."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from autoquant.config import parse_space
from autoquant.core.layer import Layer, choice_text
from autoquant.core.objective import kinds_of
from autoquant.core.sensitivity import Sensitivity
from autoquant.core.space import SearchSpace
from autoquant.core.trial import Trial
from autoquant.errors import StudyError
from autoquant.search.header import StudyHeader
from autoquant.search.prior import Knowledge

if TYPE_CHECKING:  # a reader knows no Optuna
    import optuna

__all__ = [
    "KNOWLEDGE",
    "keep_knowledge",
    "recall_exactness",
    "recall_knowledge",
    "recall_space",
]

KNOWLEDGE = "knowledge"  # the study's attribute


def keep_knowledge(study: "optuna.Study", knowledge: Knowledge) -> None:
    """Note what a sampler is told; sensitivities of an earlier run stay where this has none.

    As text: Optuna copies every attribute whenever one is asked for, value by value.
    """
    kept = study.user_attrs.get(KNOWLEDGE)
    found = knowledge.sensitivity
    written = found.model_dump(mode="json") if found else _read(kept).get("sensitivity")
    layers = [dataclasses.asdict(layer) for layer in knowledge.layers]
    wanted = json.dumps({"layers": layers, "sensitivity": written}, separators=(",", ":"))
    if wanted != kept:
        study.set_user_attr(KNOWLEDGE, wanted)


def _read(kept: object) -> dict[str, Any]:
    """What was kept; nothing where that is not as this version writes it."""
    try:
        content = json.loads(kept) if isinstance(kept, str) else None
    except json.JSONDecodeError:
        content = None
    return content if isinstance(content, dict) else {}


def recall_knowledge(kept: object, header: StudyHeader) -> Knowledge:
    """What the search knew; of a study from before this was kept, what its header says.

    Args:
        kept: the study's attribute `knowledge`; None where it has none.
        header: of the study.
    """
    content = _read(kept)
    try:
        layers = tuple(map(_to_layer, content.get("layers", ())))
        written = content.get("sensitivity")
        sensitivity = None if written is None else Sensitivity.model_validate(written)
    except (ValidationError, TypeError, AttributeError):  # a later version's
        layers, sensitivity = (), None
    return Knowledge(layers, sensitivity, kinds_of(header.objectives), header.bounds)


def _to_layer(item: Mapping[str, Any]) -> Layer:
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in item.items()
    }
    return Layer(**values)


def recall_space(
    header: StudyHeader, knowledge: Knowledge, trials: Sequence[Trial], name: str
) -> SearchSpace:
    """The recipes that were allowed, without the task.

    Args:
        header: of the study.
        knowledge: which layers there are, and how each can take its input.
        trials: tell the layers where the knowledge does not.
        name: of the study.

    Raises:
        StudyError: no trial decides on layers yet.
        SpaceError: the space does not fit them.
    """
    config = parse_space(dict(header.definition), f"study '{name}'")
    layers = [layer for layer in knowledge.layers if layer.is_quantizable]
    quantized = [trial for trial in trials if trial.recipe.layers]
    if not quantized:
        raise StudyError(
            f"no trial of study '{name}' decides on layers yet: autoquant resume {name}"
        )
    names = [layer.name for layer in layers] or list(quantized[0].recipe.layers)
    able = {layer.name: layer.choices for layer in layers} or _seen_choices(quantized)
    return config.to_space(names, able=able, is_exact=recall_exactness(trials) is not False)


def recall_exactness(trials: Sequence[Trial]) -> bool | None:
    """Whether sums of products did not saturate where a study began; None if nothing says so.

    The baseline of 8 bits takes 7 of them where they do; see `baselines`.
    """
    eight = next((t.recipe.options for t in trials if t.name == "w8a8"), None)
    return None if eight is None else not eight.reduce_range


def _seen_choices(trials: Sequence[Trial]) -> dict[str, tuple[str, ...]]:
    """What can be said of the layers from trials alone: they took their input in these ways."""
    seen: dict[str, dict[str, None]] = {}
    for trial in trials:
        for layer, bits in trial.recipe.layers.items():
            own = seen.setdefault(layer, dict.fromkeys(("8", "4")))
            activation = trial.recipe.activation_of(layer)
            if bits is not None:
                own[choice_text(bits, activation)] = None
            if activation == "dynamic":
                own |= dict.fromkeys(("8:dynamic", "4:dynamic"))
    return {layer: tuple(choices) for layer, choices in seen.items()}
