"""Files of trials that are at hand, and what their verification is told."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoquant.browse.setting import AppSetting
from autoquant.core.artifact import find_kept
from autoquant.core.check import VERIFY_STAGES
from autoquant.core.trial import Trial
from autoquant.search.storage import Location

__all__ = [
    "describe_checks",
    "export_arguments",
    "find_file",
    "find_location",
    "read_passport_of",
    "study_arguments",
    "verify_arguments",
    "verify_share",
]


def find_file(location: Location, trial: Trial) -> Path | None:
    """A trial's file, kept by the search, by a report, or built here before."""
    for folder in ("artifacts", "exports", "cells"):
        path = find_kept(location.folder / folder, trial.digest)
        if path is not None:
            return path
    return None


def verify_arguments(
    location: Location, trial: Trial, file: str | Path, tasks_from: Path | None
) -> dict[str, Any]:
    """What the errand `verify` is told: a trained file is held against what its training left."""
    return {
        "file": str(file),
        "checkpoints": str(location.checkpoints) if trial.recipe.is_trained else None,
        "tasks_from": None if tasks_from is None else str(tasks_from),
    }


def verify_share(stage: str) -> float:
    """How much of a verification is behind it when it says what it is busy with; 0 to 1."""
    if stage not in VERIFY_STAGES:
        return 0.5
    return (VERIFY_STAGES.index(stage) + 1) / (len(VERIFY_STAGES) + 1)


def study_arguments(location: Location, tasks_from: Path | None) -> dict[str, Any]:
    """What every errand on a study is told; a database it knows by its environment."""
    return {
        "results": str(location.results),
        "study": location.name,
        "in_database": location.url is not None,
        "tasks_from": None if tasks_from is None else str(tasks_from),
    }


def find_location(arguments: Mapping[str, Any]) -> Location:
    """Where the study of an errand lies, by `study_arguments`."""
    url = AppSetting.from_environment().storage if arguments.get("in_database") else None
    return Location(Path(arguments["results"]), arguments["study"], url)


def export_arguments(location: Location, trial: Trial, tasks_from: Path | None) -> dict[str, Any]:
    """What the errand `export` is told."""
    return {**study_arguments(location, tasks_from), "trial": trial.number}


def describe_checks(checks: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Checks as rows: a mark, what the passport says, what was found."""
    marks = {True: "✓ agrees", False: "✗ differs", None: "· may differ"}
    return [
        {
            "check": check["name"],
            "passport": check["stored"],
            "here": check["measured"],
            "verdict": marks[check["agrees"]],
            "why": check.get("note", ""),
        }
        for check in checks
    ]


def read_passport_of(path: Path) -> Mapping[str, Any]:
    """The passport inside a file.

    Raises:
        ArtifactError: not a model file, or the passport is damaged.
    """
    from autoquant.export.formats import read_artifact

    return read_artifact(path.read_bytes()).passport
