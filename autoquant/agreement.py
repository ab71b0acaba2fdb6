"""What is agreed on before a study runs: its header, its conditions, its model."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoquant.backends.registry import DEFAULT_BACKEND, BackendName
from autoquant.config import SpaceConfig, parse_duration
from autoquant.core.artifact import SUFFIXES
from autoquant.core.objective import is_target_name
from autoquant.core.recipe import Recipe
from autoquant.core.task import Task
from autoquant.errors import InputError, StudyError, TaskError
from autoquant.evaluate import EvaluationOptions, Evaluator
from autoquant.search.header import StudyHeader
from autoquant.search.record import Record
from autoquant.search.sampler import SamplerName
from autoquant.search.storage import Location, list_studies

__all__ = [
    "PARITY_MACS",
    "build_header",
    "check_same",
    "check_same_model",
    "extend_header",
    "find_study",
    "load_evaluator",
    "options_of",
]

# Of a search: 250 samples of a ResNet-20, 27 of an EfficientNet-Lite0; see `EvaluationOptions`.
PARITY_MACS = 10e9
_ORIGINS = {"weights_sha256": "weights", "data_sha256": "data"}


def build_header(
    config: SpaceConfig,
    *,
    sampler: SamplerName,
    seed: int,
    threads: int,
    batch: int,
    trials: int | None,
    timeout: str | float | None,
    backend: BackendName = DEFAULT_BACKEND,
    targets: Sequence[str] = (),
) -> StudyHeader:
    """The header of a new study; what the space says of the budget holds where nothing else is.

    Raises:
        InputError: a timeout that is no duration, targets that cannot be.
    """
    _check_targets(targets, config)
    return StudyHeader(
        definition=config.definition(),
        seed=seed,
        sampler=sampler,
        threads=threads,
        batch=batch,
        trials=trials or config.budget.trials,
        timeout_s=config.budget.timeout if timeout is None else parse_duration(timeout),
        backend=backend,
        targets=list(targets),
    )


def _check_targets(targets: Sequence[str], config: SpaceConfig) -> None:
    if isinstance(targets, str):
        raise InputError(f"--target: give a list of names, ['{targets}'], not one text")
    for name in targets:
        if not is_target_name(name):
            raise InputError(f"--target '{name}': use up to 32 letters, digits, '.', '_' and '-'")
        if targets.count(name) > 1:
            raise InputError(f"--target '{name}' is given twice")
    if targets and "latency" not in config.objectives:
        raise InputError(
            "--target gives each machine a latency, which is no objective of this search space: "
            "add latency to its objectives"
        )


def extend_header(
    known: StudyHeader, trials: int | None, timeout: str | float | None
) -> StudyHeader:
    """The header of a study that goes on, with another budget where one is given."""
    seconds = known.timeout_s if timeout is None else parse_duration(timeout)
    return dataclasses.replace(known, trials=trials or known.trials, timeout_s=seconds)


def check_same(record: Record, header: StudyHeader, name: str, *, resume: str, rename: str) -> None:
    """Refuse to go on with a study that was begun otherwise.

    Args:
        record: the study that exists.
        header: what is to be searched.
        name: the study's name.
        resume: how to go on with what exists.
        rename: how to name a new study.

    Raises:
        StudyError: another space, seed, thread count, batch size or backend.
    """
    if dict(record.header.definition) != dict(header.definition):
        raise StudyError(
            f"study '{name}' exists with another search space; go on with it "
            f"({resume}) or give this one a new name ({rename})"
        )
    known = record.header
    if _conditions(known) != _conditions(header):
        targets = f"targets {', '.join(known.targets)}" if known.targets else "no targets"
        raise StudyError(
            f"study '{name}' exists with seed {known.seed}, {known.threads} threads, batch "
            f"{known.batch}, backend {known.backend} and {targets}; go on with those or give this "
            f"one a new name ({rename})"
        )


def _conditions(header: StudyHeader) -> tuple[int, int, int, str, tuple[str, ...]]:
    """What every trial of a study has in common beside its space."""
    return header.seed, header.threads, header.batch, header.backend, tuple(header.targets)


def find_study(results: Path, study: str, storage: str | None) -> Location:
    """Where an existing study lies.

    Raises:
        StudyError: there is none of that name; lists those that there are.
    """
    location = Location(results, study, storage)
    if not location.exists():
        known = list_studies(results, storage)
        there = f"there are {', '.join(known)}" if known else "there is none yet"
        where = "this storage" if storage else f"'{results}'"
        raise StudyError(f"there is no study '{study}' in {where}; {there}")
    return location


def load_evaluator(header: StudyHeader, task: Task, location: Location) -> Evaluator:
    """What measures a study's recipes under the study's conditions.

    Args:
        header: what the study is.
        task: its task.
        location: where it lies, and its checkpoints.

    Raises:
        TaskError: the space asks for training, and the task has no data for it.
    """
    from autoquant.build import build_evaluator

    modes = header.definition.get("quantizer", {}).get("mode", ())
    if "qat" in modes and not task.train:
        raise TaskError(
            f"task '{header.task}' has no training data: drop 'qat' from quantizer.mode in the "
            "search space, or give the task `train`"
        )
    return build_evaluator(
        task, header.seed, options_of(header), header.backend, location.checkpoints
    )


def options_of(header: StudyHeader) -> EvaluationOptions:
    """How a study's recipes are measured."""
    return EvaluationOptions(header.threads, header.batch, parity_macs=PARITY_MACS)


def check_same_model(location: Location, evaluator: Evaluator) -> None:
    """Refuse to mix two models, or two sets of data, in one study, as far as kept files tell.

    Two objects without a name look the same to a study's header.

    Raises:
        StudyError: the study's files were made of other weights or data.
    """
    from autoquant.export.formats import read_artifact

    builder = evaluator.builder
    if not builder.provenance(Recipe(method="fp32")):  # a rehearsal, whose files hold nothing
        return
    for path in sorted(location.artifacts.glob("*.*")):
        if path.suffix not in SUFFIXES:
            continue
        stored = read_artifact(path.read_bytes()).passport
        here = builder.provenance(Recipe.model_validate(stored["recipe"]))
        for key, what in _ORIGINS.items():
            if _is_other(stored.get(key), here[key]):
                raise StudyError(
                    f"study '{location.name}' was made with other {what} than this task's: hand "
                    "over the task that it was made with, or give a new study another name "
                    '(study="NAME")'
                )


def _is_other(stored: Any, here: Any) -> bool:
    """Whether two digests, or two digests of one split, differ; old files know fewer of them."""
    if isinstance(stored, Mapping):
        return any(here.get(split) != value for split, value in stored.items())
    return stored is not None and stored != here
