"""Studies of made-up measurements in a database, trial by trial as a search leaves them."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoquant.core.recipe import Recipe
from autoquant.core.trial import Trial
from autoquant.search.lease import Lease
from autoquant.search.storage import Location
from tests.journals import OBJECTIVES, definition

STORAGES = ("journal", "sqlite", "postgresql")


def place_study(request: pytest.FixtureRequest, folder: Path) -> Location:
    """Where a study of a fresh name lies, in the storage that the fixture's parameter names."""
    urls = {"journal": lambda: None, "sqlite": lambda: f"sqlite:///{folder / 'studies.db'}"}
    if request.param == "postgresql":
        urls["postgresql"] = request.getfixturevalue("server").url
    return Location(folder / "results", f"fake-{os.urandom(3).hex()}", urls[request.param]())


def write_database_study(
    url: str,
    name: str,
    trials: Iterable[Trial],
    *,
    target: int | None = None,
    version: int = 1,
    running: Sequence[Recipe] = (),
    task: str = "digits",
) -> optuna.Study:
    """A study with a header, these trials, and some that are still running."""
    trials = list(trials)
    directions = ["maximize", "minimize", "minimize"]
    study = optuna.create_study(storage=url, study_name=name, directions=directions)
    study.set_metric_names(OBJECTIVES)
    header = {"definition": definition(task), "seed": 0, "sampler": "random", "threads": 1,
              "batch": 1, "trials": target or len(trials), "timeout_s": None,
              "backend": "onnxruntime"}  # fmt: skip
    study.set_user_attr("format", version)
    study.set_user_attr("header", header)
    add_trials(study, trials)
    for recipe in running:
        attributes = {"recipe": recipe.to_dict()}
        study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=attributes))
    return study


def add_trials(study: optuna.Study, trials: Iterable[Trial]) -> None:
    """Finished ones, after those that there are."""
    study.add_trials(map(_freeze, trials))


def _freeze(trial: Trial) -> FrozenTrial:
    attributes: dict[str, Any] = {"recipe": trial.recipe.to_dict(), "record": trial.to_dict()}
    if trial.evidence is not None:
        attributes["evidence"] = trial.evidence.model_dump()
    if trial.state == "failed":
        return create_trial(state=TrialState.FAIL, user_attrs=attributes)
    values = [trial.objective(name) for name in ("accuracy", "latency", "size")]
    return create_trial(values=[-values[0], *values[1:]], user_attrs=attributes)


@contextmanager
def hold_lease(study: optuna.Study) -> Iterator[Lease]:
    """Be the only process that runs this study."""
    lease = Lease(study)
    lease.begin()
    try:
        yield lease
    finally:
        lease.end()
