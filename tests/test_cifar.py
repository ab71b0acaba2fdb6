"""Claims on real networks and real images."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from autoquant.agreement import PARITY_MACS
from autoquant.build import build_evaluator
from autoquant.core.artifact import Artifact
from autoquant.core.recipe import PtqOptions, Recipe
from autoquant.core.space import baselines, named_recipes
from autoquant.core.trial import Measurement
from autoquant.evaluate import EvaluationOptions, Evaluator
from autoquant.tasks import load_task

pytestmark = pytest.mark.long


@cache
def evaluator_of(name: str, seed: int = 0) -> Evaluator:
    """As a search would judge."""
    options = EvaluationOptions(latency=None, parity_macs=PARITY_MACS)
    return build_evaluator(load_task(name), seed, options)


@pytest.fixture(scope="module")
def resnet20(data_folder: Path) -> Evaluator:
    return evaluator_of("cifar10-resnet20")


@cache
def evaluated(evaluator: Evaluator, recipe: Recipe) -> tuple[Measurement, Artifact]:
    """Each recipe once, whatever many tests claim of it."""
    return evaluator.evaluate(recipe)


@cache
def both_halves(evaluator: Evaluator, recipe: Recipe) -> tuple[float, float]:
    """Accuracy and drop over search and report split together, which are of one size."""
    measurement, artifact = evaluated(evaluator, recipe)
    figures = evaluator.report(artifact)
    return (
        (measurement.accuracy + figures.report_accuracy) / 2,
        (measurement.accuracy_drop + figures.report_accuracy_drop) / 2,
    )


@pytest.mark.parametrize(
    ("name", "top1"),
    [
        ("cifar10-resnet8", 0.8719),
        ("cifar10-resnet20", 0.9173),
        # a minute for one number more
        pytest.param("cifar10-resnet44", 0.9310, marks=pytest.mark.slow),
    ],
)
def test_float_accuracy_is_the_published_one(data_folder, name: str, top1: float) -> None:
    accuracy, drop = both_halves(evaluator_of(name), Recipe(method="fp32"))
    assert accuracy == pytest.approx(top1, abs=1e-4)
    assert drop == 0.0


def test_w8a8_loses_at_most_two_tenths(resnet20: Evaluator) -> None:
    recipe = baselines([layer.name for layer in resnet20.layers])["w8a8"]
    assert both_halves(resnet20, recipe)[1] <= 0.002


def test_w4a8_loses_at_most_one_and_a_half(resnet20: Evaluator) -> None:
    recipe = baselines([layer.name for layer in resnet20.layers])["w4a8"]
    assert both_halves(resnet20, recipe)[1] <= 0.015


def test_integer_coverage_is_that_of_the_runtimes_own_quantizer(resnet20: Evaluator) -> None:
    names = [layer.name for layer in resnet20.layers]
    ours, _ = evaluated(resnet20, Recipe.uniform(names, 8))
    theirs, _ = evaluated(resnet20, Recipe(method="ort-static"))
    assert ours.integer_coverage >= theirs.integer_coverage == 1.0
    assert ours.parity.top1_agreement >= 0.99


def test_excluded_layers_are_float_on_the_runtime(resnet20: Evaluator) -> None:
    """ONNX Runtime would quantize them behind our back; see `export.qdq`."""
    names = [layer.name for layer in resnet20.layers]
    excluded = ["layer1.0.conv1", "layer2.0.conv2", "linear"]
    recipe = Recipe.quantized({name: None if name in excluded else 8 for name in names})
    measurement, _ = evaluated(resnet20, recipe)
    assert measurement.float_layers == tuple(excluded)


@pytest.mark.parametrize("seed", range(3))
def test_packed_file_is_bit_identical(resnet20: Evaluator, seed: int) -> None:
    from autoquant.export.qdq import write_qdq

    random = np.random.default_rng(seed)
    names = [layer.name for layer in resnet20.layers]
    recipe = Recipe.quantized({name: (4, 8, None)[random.integers(3)] for name in names})
    encodings = resnet20.builder.quantizer.quantize(recipe).encodings
    outputs = []
    for pack in (True, False):
        model = write_qdq(resnet20.builder.exporter.graph, encodings, pack=pack)
        session = resnet20.backend.load(Artifact(model.SerializeToString(), {}, {}), 1)
        outputs.append(session.predict(resnet20.search.batches[0]))
    assert (outputs[0] == outputs[1]).all()


def test_size_follows_the_bits(resnet20: Evaluator) -> None:
    names = [layer.name for layer in resnet20.layers]
    half = {name: 4 if index % 2 else 8 for index, name in enumerate(names)}
    sizes = [
        evaluated(resnet20, recipe)[0].size_bytes
        for recipe in (Recipe.uniform(names, 4), Recipe.quantized(half), Recipe.uniform(names, 8))
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] / sizes[2] < 0.62


def test_the_brevitas_model_holds_the_bias_of_the_file(resnet20: Evaluator) -> None:
    """42 dB with biases rounded in both places, 34 dB with biases rounded in the file alone."""
    recipe = Recipe.uniform([layer.name for layer in resnet20.layers], 8)
    candidate = resnet20.builder.build(recipe)
    batches = resnet20.search.batches[:4]
    session = resnet20.backend.load(candidate.artifact, 1)
    promised = candidate.predict(batches)
    noise = np.concatenate([session.predict(batch) for batch in batches]) - promised
    assert 10 * np.log10(np.square(promised).sum() / np.square(noise).sum()) > 38


def test_w4a8_learned_loses_at_most_six_tenths(resnet20: Evaluator) -> None:
    """With a quarter of its steps; `benchmarks/four_bits.py` measures the recipe itself."""
    recipe = named_recipes([layer.name for layer in resnet20.layers])["w4a8-learned"]
    options = PtqOptions(**{**dict(recipe.options), "rounding_iterations": 50})
    assert both_halves(resnet20, Recipe.quantized(recipe.layers, options))[1] <= 0.006


ROUNDINGS = {
    "gptq": PtqOptions(rounding="gptq"),
    "layer": PtqOptions(rounding="learned", rounding_iterations=100),
    "block": PtqOptions(rounding="learned", rounding_scope="block", rounding_iterations=25),
}


@pytest.fixture(scope="module")
def three_resnet8(data_folder: Path) -> list[Evaluator]:
    """Three draws of the calibration images."""
    return [evaluator_of("cifar10-resnet8", seed) for seed in range(3)]


def mean_drop(evaluators: list[Evaluator], options: PtqOptions) -> float:
    """Of all layers at 4 bits."""
    names = [layer.name for layer in evaluators[0].layers]
    recipe = Recipe.uniform(names, 4, options)
    return float(np.mean([both_halves(item, recipe)[1] for item in evaluators]))


def test_bias_correction_loses_less_than_none(three_resnet8: list[Evaluator]) -> None:
    without = mean_drop(three_resnet8, PtqOptions(bias_correction=False))
    assert mean_drop(three_resnet8, PtqOptions()) < without


@pytest.mark.parametrize("name", list(ROUNDINGS))
def test_rounding_loses_less_than_nearest(three_resnet8: list[Evaluator], name: str) -> None:
    assert mean_drop(three_resnet8, ROUNDINGS[name]) < mean_drop(three_resnet8, PtqOptions())
