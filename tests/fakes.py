"""Searches without a network: the shipped fake backend, put together for tests."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from autoquant.backends.fake import FakeBackend, FakeBuilder, FakeData
from autoquant.backends.latency import LatencyProtocol
from autoquant.core.space import LayerRule, SearchSpace, expand_layers
from autoquant.evaluate import EvaluationOptions, Evaluator
from autoquant.search.header import StudyHeader
from autoquant.search.membership import Membership
from autoquant.search.record import Record
from autoquant.search.sampler import SAMPLERS
from autoquant.search.storage import Location, create_record
from autoquant.search.study import Event, Study

QUICK = LatencyProtocol(warmup_s=0.0, block_s=0.0, slice_s=0.0, min_slices=3, max_s=0.0)
DEFINITION = {"version": 1, "task": "fake", "objectives": ["accuracy", "latency", "size"]}
AnyStudy = TypeVar("AnyStudy", bound=Study)
# Gaussian processes of Optuna take seconds a proposal; `test_samplers` looks at them alone.
QUICK_SAMPLERS = tuple(name for name in SAMPLERS if name != "gp")


def fake_evaluator(layers: int = 8) -> Evaluator:
    return Evaluator(
        FakeBuilder(layers),
        FakeBackend(),
        FakeData(1000),
        FakeData(500),
        options=EvaluationOptions(latency=QUICK, front_latency=QUICK),
    )


def fake_space(layers: int = 8, exclude: bool = True) -> SearchSpace:
    names = [f"conv{index}" for index in range(layers)]
    rule = LayerRule((8, 4), (False, True) if exclude else (False,))
    return SearchSpace(
        expand_layers({"*": rule}, names),
        {"calibration": ("minmax", "mse"), "activation_symmetry": ("asymmetric", "symmetric")},
    )


def fake_record(
    location: Location,
    sampler: str = "random",
    seed: int = 0,
    trials: int = 20,
    objectives: list[str] | None = None,
) -> Record:
    location.create_folder()
    definition = DEFINITION if objectives is None else {**DEFINITION, "objectives": objectives}
    return create_record(location, StudyHeader(definition, seed, sampler, trials=trials))


def fake_study(
    results: Path,
    record: Record | None = None,
    space: SearchSpace | None = None,
    on_event: Callable[[Event], None] | None = None,
    evaluator: Evaluator | None = None,
    kind: type[AnyStudy] = Study,
    membership: Membership | None = None,
) -> AnyStudy:
    location = Location(results, "fake")
    return kind(
        record or fake_record(location),
        space or fake_space(),
        evaluator or fake_evaluator(),
        location.artifacts,
        on_event=on_event,
        membership=membership,
    )
