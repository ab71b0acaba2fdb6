"""A third of the architectures of `tests/benchmarks/architectures.py`, the quick ones."""

import numpy as np
import pytest

from autoquant.build import build_evaluator
from autoquant.core.metric import signal_to_noise_db
from autoquant.core.recipe import PtqOptions, Recipe
from autoquant.evaluate import EvaluationOptions, Evaluator
from tests.judge import coverage, rounding_limit_db
from tests.zoo import zoo_task

pytestmark = pytest.mark.long

QUICK = (
    "audio_cnn",
    "lstm",
    "unet",
    "squeezenet1_1",
    "shufflenet_v2_x1_0",
    "mobilenet_v3_small",
    "vit_tiny",
    "mixer",
)
OPTIONS = PtqOptions(weight_scale="max")  # the other searches longer for every scale
GOOD_DB, SLACK_DB = 30.0, 4.0


def build(name: str) -> Evaluator:
    return build_evaluator(zoo_task(name, 4, 8), options=EvaluationOptions(latency=None))


def parity_db(evaluator: Evaluator, recipe: Recipe) -> float:
    candidate = evaluator.builder.build(recipe)
    promised = candidate.predict(evaluator.search.batches)
    session = evaluator.backend.load(candidate.artifact, 2)
    return signal_to_noise_db(promised, evaluator.predict(session, evaluator.search.batches))


def assert_agrees(evaluator: Evaluator, recipe: Recipe) -> None:
    found = parity_db(evaluator, recipe)
    assert found >= GOOD_DB or found >= rounding_limit_db(evaluator, recipe) - SLACK_DB


@pytest.mark.parametrize("name", QUICK)
def test_files_agree_as_far_as_rounding_lets_them_and_run_in_integers(name: str) -> None:
    evaluator = build(name)
    names = [layer.name for layer in evaluator.layers]
    recipe = Recipe.uniform(names, 8, OPTIONS)
    assert_agrees(evaluator, recipe)
    ours = evaluator.builder.build(recipe).artifact
    static = evaluator.builder.build(Recipe(method="ort-static")).artifact
    assert coverage(evaluator, ours) >= coverage(evaluator, static) - 0.01
    random = np.random.default_rng(1)
    widths = {name: (8, 4, None)[random.integers(3)] for name in names}
    mixed = Recipe.quantized({**widths, names[0]: 8}, OPTIONS)
    assert_agrees(evaluator, mixed)


def test_what_cannot_be_quantized_is_named_with_its_reason() -> None:
    obstacles = {layer.name: layer.obstacle for layer in build("lstm").operators}
    assert "recurrent" in obstacles["lstm"]
    assert obstacles["fc"] is None


def test_the_residual_stream_of_a_transformer_stays_float() -> None:
    evaluator = build("vit_tiny")
    names = [layer.name for layer in evaluator.layers]
    encodings = evaluator.builder.quantizer.quantize(Recipe.uniform(names, 8, OPTIONS)).encodings
    sites = set(encodings.activations)
    assert not {site for site in sites if site.startswith("add")}
    norms = {site for site in sites if site.startswith("layer_norm")}
    assert norms
    assert all(encodings.readers[site] for site in norms)
