"""What is known of a study's layers, read without its task; and what finds out more is told."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from autoquant.browse.kept import find_file, study_arguments
from autoquant.core.distribution import Distributions
from autoquant.core.layer import LayerNoise
from autoquant.core.sensitivity import Sensitivity
from autoquant.core.trial import Trial
from autoquant.distribution import layer_folder, read_distributions
from autoquant.search.storage import Location

__all__ = [
    "KeptLayers",
    "NoiseRecord",
    "describe_files",
    "explain_no_noise",
    "find_layer_names",
    "layer_arguments",
    "noise_path",
    "read_layers",
    "read_noises",
    "sensitivity_path",
]


class NoiseRecord(BaseModel):
    """Quantization error of one trial's file, layer by layer."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    layers: tuple[LayerNoise, ...]


@dataclass(frozen=True)
class KeptLayers:
    """What a study keeps of its layers.

    Attributes:
        distributions: of weights and inputs; None if nobody has looked.
        sensitivity: as far as it was measured; None if it was not.
        problems: what cannot be read, in words.
    """

    distributions: Distributions | None
    sensitivity: Sensitivity | None
    problems: tuple[str, ...]


def read_layers(location: Location) -> KeptLayers:
    """Everything but the errors of trials."""
    distributions, problem = read_distributions(location)
    sensitivity, other = _read_sensitivity(sensitivity_path(location))
    problems = tuple(text for text in (problem, other) if text is not None)
    return KeptLayers(distributions, sensitivity, problems)


def _read_sensitivity(path: Path) -> tuple[Sensitivity | None, str | None]:
    try:
        return Sensitivity.model_validate_json(path.read_bytes()), None
    except FileNotFoundError:
        return None, None
    except (OSError, ValidationError):
        return None, "what was kept of the sensitivities cannot be read"


def sensitivity_path(location: Location) -> Path:
    """Where a study keeps a copy of what was measured for its conditions."""
    return layer_folder(location) / "sensitivity.json"


def noise_path(location: Location, trial: Trial) -> Path:
    """Where the errors of a trial's file are kept."""
    return layer_folder(location) / f"noise-{trial.digest}.json"


def read_noises(location: Location, trials: Sequence[Trial]) -> dict[int, Sequence[LayerNoise]]:
    """Errors that are known, by the trial's number; not those of a file that was since replaced."""
    found: dict[int, Sequence[LayerNoise]] = {}
    for trial in trials:
        file, kept = find_file(location, trial), noise_path(location, trial)
        try:
            if file is not None and kept.stat().st_mtime >= file.stat().st_mtime:
                record = NoiseRecord.model_validate_json(kept.read_bytes())
                found[trial.number] = record.layers
        except (OSError, ValidationError):
            continue  # measured anew
    return found


def explain_no_noise(location: Location, trial: Trial) -> str | None:
    """Why the errors of a trial cannot be found, and what to do; None if they can."""
    if trial.recipe.options is not None and trial.recipe.options.equalization:
        return (
            f"trial {trial.number} is equalized: its layers compute scaled values, which cannot "
            "be held against the float model's"
        )
    if find_file(location, trial) is None:
        return f"no file is kept of trial {trial.number}: build it on the page Export first"
    return None


def find_layer_names(kept: KeptLayers, trials: Sequence[Trial]) -> list[str]:
    """Layers in network order, from what was looked at or from recipes; none if neither tells."""
    if kept.distributions is not None:
        return list(kept.distributions.by_name)
    return next((list(trial.recipe.layers) for trial in trials if trial.recipe.layers), [])


def describe_files(known: Sensitivity | None, names: Sequence[str]) -> str | None:
    """How many files measuring takes, in words; None if nothing is missing.

    Args:
        known: what was measured.
        names: of the layers; none if nobody knows them yet.
    """
    if not names:
        return "a file a layer and width"
    choices = {(name, choice) for name in names for choice in ("4", "float")}
    if known is None:
        return f"about {len(choices) + 1} files"
    missing = len(choices - {(cost.layer, cost.choice) for cost in known.costs})
    return f"about {missing} more files" if missing else None


def layer_arguments(
    location: Location, tasks_from: Path | None, trials: Sequence[int] = ()
) -> dict[str, Any]:
    """What the errands `look`, `sensitivity` and `noise` are told."""
    return {**study_arguments(location, tasks_from), "trials": list(trials)}
