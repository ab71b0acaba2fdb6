"""What the evaluator refuses to give figures for."""

import dataclasses

import numpy as np
import pytest

from autoquant.build import build_evaluator
from autoquant.core.artifact import Artifact
from autoquant.core.recipe import Recipe
from autoquant.errors import ParityError, TrialError
from autoquant.evaluate import EvaluationOptions, Evaluator
from autoquant.export.qdq import _Writer, write_qdq
from autoquant.export.readback import read_precisions
from tests.networks import Data, Residual, make_task

LAYERS = ["stem", "body", "down", "fc"]


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return build_evaluator(make_task(Residual), options=EvaluationOptions(latency=None))


def test_a_file_that_disagrees_with_the_brevitas_model_fails(evaluator: Evaluator) -> None:
    """A file whose classifier has its biases in the wrong order."""
    honest = evaluator.builder.build(Recipe.uniform(LAYERS, 8))
    encodings = evaluator.builder.quantizer.quantize(Recipe.uniform(LAYERS, 8)).encodings
    wrong = dict(encodings.weights)
    wrong["fc"] = dataclasses.replace(wrong["fc"], bias=wrong["fc"].bias[::-1].copy())
    model = write_qdq(evaluator.builder._graph.model, dataclasses.replace(encodings, weights=wrong))
    swapped = Artifact(model.SerializeToString(), read_precisions(model), {})
    evaluator.measure(honest)
    with pytest.raises(ParityError, match=r"top-1 agreement 0\.\d+ on 128 samples, below 0.98"):
        evaluator.measure(dataclasses.replace(honest, artifact=swapped))


def test_a_float_layer_that_the_runtime_quantizes_fails(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the writer's counter-measure the runtime does it, and it is found out."""
    recipe = Recipe.quantized({"stem": 8, "body": None, "down": 8, "fc": 8})
    assert evaluator.evaluate(recipe)[0].float_layers == ("body",)
    monkeypatch.setattr(_Writer, "_keep_float", lambda self, node: [])
    with pytest.raises(TrialError, match="layer 'body' is stored as float but the runtime"):
        evaluator.evaluate(recipe)


def test_same_recipe_same_figures(evaluator: Evaluator) -> None:
    recipe = Recipe.uniform(LAYERS, 4)
    one, other = (evaluator.evaluate(recipe)[0] for _ in range(2))
    same = {"accuracy", "accuracy_drop", "size_bytes", "integer_coverage", "parity"}
    assert one.model_dump(include=same) == other.model_dump(include=same)


def test_drop_is_on_the_same_images_and_a_gain_is_negative() -> None:
    flipped = make_task(Residual, metric=lambda outputs, targets: float(outputs.mean()))
    evaluator = build_evaluator(flipped, options=EvaluationOptions(latency=None))
    base = evaluator.evaluate(Recipe(method="fp32"))[0]
    measured = evaluator.evaluate(Recipe.uniform(LAYERS, 4))[0]
    assert base.accuracy_drop == 0.0
    assert measured.accuracy_drop == pytest.approx(base.accuracy - measured.accuracy)
    assert measured.accuracy_ci is None, "no interval is claimed for a metric of one's own"


def test_a_metric_that_returns_nan_fails_the_trial() -> None:
    task = make_task(Residual, metric=lambda outputs, targets: float("nan"))
    evaluator = build_evaluator(task, options=EvaluationOptions(latency=None))
    with pytest.raises(TrialError, match="finite"):
        evaluator.evaluate(Recipe.uniform(LAYERS, 8))


def test_batches_do_not_change_the_accuracy(evaluator: Evaluator) -> None:
    other = build_evaluator(make_task(Residual), options=EvaluationOptions(latency=None))
    other.search.batch_size = 7
    recipe = Recipe.uniform(LAYERS, 8)
    assert other.evaluate(recipe)[0].accuracy == evaluator.evaluate(recipe)[0].accuracy


def test_timing_uses_the_batch_that_was_asked_for() -> None:
    options = EvaluationOptions(batch=3)
    evaluator = build_evaluator(make_task(Residual), options=options)
    assert np.shape(evaluator._timed_inputs) == (3, 3, 8, 8)
    measurement, artifact = evaluator.evaluate(Recipe.uniform(LAYERS, 8))
    assert measurement.latency_ratio > 0
    assert artifact.passport["conditions"] == {"threads": 1, "batch": 3}


def test_no_report_split_no_report_figures() -> None:
    options = EvaluationOptions(latency=None)
    for report in (None, Data(0)):
        evaluator = build_evaluator(make_task(Residual, report=report), options=options)
        _, artifact = evaluator.evaluate(Recipe.uniform(LAYERS, 8))
        assert evaluator.report(artifact) is None
