"""Errands of the page Layers: what they find is kept beside the study, where the page reads it.

What loads torch is imported late: a task that is not there is said so at once.
"""

from collections.abc import Mapping
from typing import Any

from autoquant.agreement import load_evaluator
from autoquant.browse.kept import find_file, find_location
from autoquant.browse.layers import NoiseRecord, noise_path, sensitivity_path
from autoquant.core.activity import announce
from autoquant.core.sensitivity import Sensitivity
from autoquant.core.trial import Trial
from autoquant.distribution import keep_distributions, keep_record, reduces_range
from autoquant.errors import AutoquantError, InputError
from autoquant.evaluate import Evaluator
from autoquant.search.record import Record
from autoquant.search.storage import Location, load_record
from autoquant.tasks import load_task

__all__ = ["find_noise", "find_sensitivity", "look"]

Arguments = Mapping[str, Any]


def look(arguments: Arguments) -> None:
    """Distributions of all layers; and sensitivities, as far as they were measured before."""
    location, record, evaluator = _load(arguments)
    from autoquant.sensitivity import keep_folder, read_sensitivity

    keep_distributions(location, record.header, evaluator)
    reduced = reduces_range(record.header, is_exact=evaluator.is_exact)
    known = read_sensitivity(evaluator, record.header.task, keep_folder(), reduce_range=reduced)
    _keep(known, location)


def find_sensitivity(arguments: Arguments) -> list[str]:
    """Sensitivities under the study's conditions; what is to be said of an older measurement."""
    location, record, evaluator = _load(arguments)
    from autoquant.sensitivity import keep_folder, measure_sensitivity

    reduced = reduces_range(record.header, is_exact=evaluator.is_exact)
    found, refusal = measure_sensitivity(
        evaluator, record.header.task, keep_folder(), reduce_range=reduced
    )
    _keep(found, location)
    return [] if refusal is None else [f"{refusal}: measured anew"]


def _keep(found: Sensitivity | None, location: Location) -> None:
    """A copy beside the study, or none where what is there is of something else."""
    path = sensitivity_path(location)
    if found is None:
        path.unlink(missing_ok=True)
    else:
        keep_record(found, path)


def find_noise(arguments: Arguments) -> list[str]:
    """Quantization errors of some trials' files; what is to be said of those without."""
    location, record, evaluator = _load(arguments)
    by_number = {trial.number: trial for trial in record.trials()}
    problems = []
    for number in arguments["trials"]:
        announce(f"comparing the layers of trial {number} with the float model's")
        try:
            trial = by_number.get(number)
            if trial is None:
                raise InputError("the study has no such trial")
            keep_record(_measure_noise(location, trial, evaluator), noise_path(location, trial))
        except AutoquantError as error:
            problems.append(f"trial {number}: {error}")
    return problems


def _measure_noise(location: Location, trial: Trial, evaluator: Evaluator) -> NoiseRecord:
    from autoquant.compose import measure_file_noise
    from autoquant.export.formats import read_artifact

    path = find_file(location, trial)
    if path is None:
        raise InputError("its file is gone: build it on the page Export")
    artifact = read_artifact(path.read_bytes())
    return NoiseRecord(layers=tuple(measure_file_noise(evaluator, artifact)))


def _load(arguments: Arguments) -> tuple[Location, Record, Evaluator]:
    location = find_location(arguments)
    record = load_record(location)
    announce(f"loading task {record.header.task}")
    task = load_task(record.header.task, record.header.task_options)
    return location, record, load_evaluator(record.header, task, location)
