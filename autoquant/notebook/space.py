"""Search spaces as people have them at hand, each as the configuration that a study records."""

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from autoquant.config import SpaceConfig, find_space, load_space, parse_space
from autoquant.core.space import FLOAT, SearchSpace
from autoquant.errors import SpaceError

__all__ = ["Space", "check_complete", "name_space", "read_space"]

Space = SearchSpace | Mapping[str, Any] | str | Path | None

_DEFAULT: dict[str, Any] = {
    "version": 1,
    "layers": {"*": {"weight_bits": [8, 4], "exclude": [False, True]}},
    "quantizer": {
        "weight_granularity": ["per_channel", "per_tensor"],
        "weight_scale": ["max", "mse"],
        "activation_symmetry": ["asymmetric", "symmetric"],
        "calibration": ["minmax", {"percentile": 99.99}, {"percentile": 99.9}, "mse", "entropy"],
    },
}


def read_space(space: Space, task: str) -> SpaceConfig:
    """The configuration of a space, for this task; a task that the space names gives way.

    Args:
        space: resolved, as the content of a file, a file, a shipped name, or None for the
            default: every layer at 8 or 4 bits or float, all calibration methods.
        task: name of the task.

    Raises:
        SpaceError: it does not hold together; names the key and its path.
    """
    match space:
        case None:
            return parse_space({**_DEFAULT, "task": task}, "default space")
        case SearchSpace():
            return parse_space({**_describe(space), "task": task}, "search space")
        case str() | Path():
            return load_space(find_space(str(space))).model_copy(update={"task": task})
        case Mapping():
            return parse_space({"version": 1, **space, "task": task}, "search space")
    raise SpaceError(
        "a search space is a SearchSpace, a dict as in a YAML file, a file or a shipped name, "
        f"not {type(space).__name__}"
    )


def name_space(space: Space, task: str) -> str:
    """What a study of this space is called unless it is given a name."""
    return find_space(str(space)).stem if isinstance(space, str | Path) else task


def check_complete(space: Space, layers: list[str]) -> None:
    """A resolved space decides on every layer; a configuration has a default for the others.

    Raises:
        SpaceError: it says nothing about a layer of the network.
    """
    missing = [] if not isinstance(space, SearchSpace) else set(layers) - set(space.layers)
    if missing:
        raise SpaceError(f"the search space says nothing about layer '{min(missing)}'")


def _describe(space: SearchSpace) -> dict[str, Any]:
    """A resolved space as configuration: one rule a layer, by its exact name."""
    return {
        "version": 1,
        "layers": {glob.escape(name): _rule(choices) for name, choices in space.layers.items()},
        "quantizer": {
            name: [_plain(value) for value in values] for name, values in space.options.items()
        },
    }


def _rule(choices: tuple[str, ...]) -> dict[str, Any]:
    widths = [int(text) if text.isdigit() else text for text in choices if text != FLOAT]
    exclude = [value for value in (False, True) if (FLOAT in choices if value else widths)]
    return {"exclude": exclude, **({"weight_bits": widths} if widths else {})}


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
