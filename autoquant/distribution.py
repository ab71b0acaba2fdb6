"""Distributions of a study's layers: looked at once, and kept beside the study.

Importing this loads no torch: whoever only reads what is kept needs none.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from autoquant.backends.machine import package_versions
from autoquant.config import SpaceConfig, parse_space
from autoquant.core.distribution import DistributionPlan, Distributions
from autoquant.core.recipe import CalibrationMethod, Percentile, PtqOptions, Recipe
from autoquant.errors import InputError, StorageError
from autoquant.evaluate import Evaluator
from autoquant.files import replacing
from autoquant.search.header import StudyHeader
from autoquant.search.storage import Location

__all__ = [
    "keep_distributions",
    "keep_record",
    "layer_folder",
    "plan_distributions",
    "read_distributions",
    "reduces_range",
    "space_of",
]

_VERSION = 1  # of what is looked at and how
_FILE = "distributions.json"
_PACKAGES = ("torch", "brevitas", "numpy")
# What a search space varies unless it says otherwise: shown beside its own, so that a reader
# sees what the search did not try.
_METHODS: tuple[CalibrationMethod, ...] = (
    "minmax", Percentile(percentile=99.99), Percentile(percentile=99.9), "mse", "entropy",
)  # fmt: skip


def layer_folder(location: Location) -> Path:
    """Where a study keeps what is known of its single layers."""
    return location.folder / "layers"


def plan_distributions(header: StudyHeader, *, is_exact: bool = True) -> DistributionPlan:
    """What to look at: every shipped method, and what the study's space varies.

    Args:
        header: of the study.
        is_exact: see `reduces_range`.

    Raises:
        SpaceError: the study's space cannot be read.
    """
    config = space_of(header)
    options = config.quantizer.to_options()
    widths = (8, 7, 4) if reduces_range(header, is_exact=is_exact) else (8, 4)
    return DistributionPlan(
        methods=tuple(dict.fromkeys([*_METHODS, *options.get("calibration", ())])),
        symmetries=options.get("activation_symmetry", ("asymmetric",)),
        weight_bits=widths,
        images=max(options.get("calibration_images", (PtqOptions().calibration_images,))),
    )


def space_of(header: StudyHeader) -> SpaceConfig:
    """The study's search space.

    Raises:
        SpaceError: it cannot be read.
    """
    return parse_space(dict(header.definition), "the study's search space")


def reduces_range(header: StudyHeader, *, is_exact: bool) -> bool:
    """Whether a search of this study has 7-bit weights among its choices.

    Args:
        header: of the study.
        is_exact: sums of 8-bit products do not saturate where it is searched.

    Raises:
        SpaceError: its space cannot be read.
    """
    return space_of(header).reduces_range(is_exact=is_exact)


def keep_distributions(
    location: Location, header: StudyHeader, evaluator: Evaluator
) -> Distributions:
    """What is kept, if it is of the same weights, data, versions and plan; else looked at anew.

    Args:
        location: of the study.
        header: what it was started with.
        evaluator: of its task.

    Raises:
        InputError: an evaluator that has no network, or a space that cannot be read.
        NumericError: a weight or an activation that is not finite.
        StorageError: it cannot be kept.
    """
    from autoquant.build import TaskBuilder
    from autoquant.quantize.distribution import look_at_layers

    builder = evaluator.builder
    if not isinstance(builder, TaskBuilder):
        raise InputError("a rehearsal has no layers to look at")
    plan = plan_distributions(header, is_exact=evaluator.is_exact)
    key = _key(plan, builder.provenance(Recipe(method="fp32")), header.seed)
    known, _ = read_distributions(location)
    if known is not None and known.key == key:
        return known
    start = time.perf_counter()
    with evaluator.place.work():
        layers = []
        for layer in look_at_layers(builder.quantizer, plan):
            layers.append(layer)
            evaluator.place.look_around()
    found = Distributions(
        task=header.task,
        key=key,
        images=min(plan.images, len(builder.task.calibration)),
        layers=tuple(layers),
        seconds=round(time.perf_counter() - start, 2),
    )
    keep_record(found, layer_folder(location) / _FILE)
    return found


def _key(plan: DistributionPlan, provenance: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What the figures depend on, as it is read back."""
    key = {
        "version": _VERSION,
        "weights_sha256": provenance["weights_sha256"],
        "data_sha256": provenance["data_sha256"]["calibration"],
        "seed": seed,
        "backend": provenance["conditions"].get("backend"),  # it decides on the integer kinds
        "versions": package_versions(*_PACKAGES),
        "plan": plan.model_dump(mode="json"),
    }
    loaded: dict[str, Any] = json.loads(json.dumps(key))
    return loaded


def keep_record(record: BaseModel, path: Path) -> None:
    """Write a record as JSON, whole or not at all.

    Raises:
        StorageError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(record.model_dump_json().encode())
    except OSError as error:
        raise StorageError(f"cannot write '{path}' ({error.strerror or error})") from error


def read_distributions(location: Location) -> tuple[Distributions | None, str | None]:
    """What a study keeps of its layers, and what is wrong with it, in words.

    Returns:
        The distributions, or None if there are none or they cannot be read; and why not, None
        if nothing is wrong.
    """
    path = layer_folder(location) / _FILE
    try:
        return Distributions.model_validate_json(path.read_bytes()), None
    except FileNotFoundError:
        return None, None
    except (OSError, ValidationError):
        return None, "what was kept of the layers cannot be read"
