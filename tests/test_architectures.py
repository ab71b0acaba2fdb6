"""Small networks, each with one difficulty: built, run, compared, layer by layer."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from autoquant.build import TaskBuilder, build_evaluator
from autoquant.core.metric import signal_to_noise_db
from autoquant.core.recipe import PtqOptions, Recipe
from autoquant.core.space import baselines
from autoquant.evaluate import EvaluationOptions
from tests.float_kernels import Ids, Tokens, Up, UpInGroups
from tests.networks import (
    Builtin,
    ConvHead,
    Data,
    Gated,
    Named,
    Pair,
    PairData,
    Residual,
    Shared,
    Subclassed,
    make_task,
)

OPTIONS = EvaluationOptions(latency=None)
PAIR = {
    "example_input": {"a": torch.zeros(1, 3, 8, 8), "b": torch.zeros(1, 3, 8, 8)},
    "calibration": PairData(64),
    "search": PairData(128, seed=1),
    "report": PairData(32, seed=2),
}
TOKENS = {
    "example_input": torch.ones(1, 6, dtype=torch.int64),
    "calibration": Ids(64),
    "search": Ids(128, seed=1),
    "report": Ids(32, seed=2),
}
NETWORKS = [
    (Residual, {}),
    (Subclassed, {}),
    (ConvHead, {}),
    (Builtin, {}),
    (Shared, {}),
    (Gated, {}),
    (Named, {}),
    (Pair, PAIR),
    (Up, {}),
]
# ONNX Runtime's own quantizer makes no file of these that runs.
MORE_NETWORKS = [(UpInGroups, {}), (Tokens, TOKENS)]


def metric(outputs: np.ndarray, targets: np.ndarray) -> float:
    return float(-np.square(outputs).mean())


@pytest.mark.parametrize(("kind", "changes"), NETWORKS, ids=lambda v: getattr(v, "__name__", ""))
@pytest.mark.long
def test_every_baseline_builds_runs_and_is_executed_in_integers(kind, changes) -> None:
    evaluator = build_evaluator(make_task(kind, metric=metric, **changes), options=OPTIONS)
    names = [layer.name for layer in evaluator.layers]
    for name, recipe in baselines(names).items():
        measurement, artifact = evaluator.evaluate(recipe)
        assert artifact.passport["digest"] == recipe.digest
        if name in ("w8a8", "w4a8"):
            kinds = evaluator.backend.kernels.kinds
            able = sum(layer.macs for layer in evaluator.layers if layer.kind in kinds)
            total = sum(layer.macs for layer in evaluator.operators)
            assert measurement.integer_coverage == able / total
            assert measurement.parity.top1_agreement >= 0.98


@pytest.mark.parametrize("symmetry", ["asymmetric", "symmetric"])
@pytest.mark.parametrize(
    ("kind", "changes"), [*NETWORKS, *MORE_NETWORKS], ids=lambda v: getattr(v, "__name__", "")
)
def test_random_recipes_agree_with_the_brevitas_model(kind, changes, symmetry) -> None:
    evaluator = build_evaluator(make_task(kind, metric=metric, **changes), options=OPTIONS)
    names = [layer.name for layer in evaluator.layers]
    random = np.random.default_rng(3)
    for granularity in ("per_channel", "per_tensor"):
        options = PtqOptions(activation_symmetry=symmetry, weight_granularity=granularity)
        widths = {name: (8, 4, None)[random.integers(3)] for name in names} | {names[0]: 8}
        recipe = Recipe.quantized(widths, options)
        candidate = evaluator.builder.build(recipe)
        batches = evaluator.search.batches
        promised = candidate.predict(batches)
        session = evaluator.backend.load(candidate.artifact, 1)
        measured = np.concatenate([session.predict(batch) for batch in batches])
        noise = np.square(promised - measured).sum()
        assert 10 * np.log10(np.square(promised).sum() / max(noise, 1e-30)) > 35
        float_layers = evaluator.evaluate(recipe)[0].float_layers
        left = {
            layer.name
            for layer in evaluator.operators
            if not layer.is_quantizable or layer.kind == "conv_transpose"
        }
        assert set(float_layers) == recipe.excluded | left


def test_a_float_layer_keeps_its_weights_whatever_it_is_called() -> None:
    """`layers.1` of the network is not the second of the quantized layers."""
    evaluator = build_evaluator(make_task(Named), options=OPTIONS)
    names = [layer.name for layer in evaluator.layers]
    kept = dict.fromkeys(names[1:3])
    measurement, _ = evaluator.evaluate(Recipe.quantized({**dict.fromkeys(names, 8), **kept}))
    assert measurement.float_layers == tuple(kept)
    assert measurement.parity.sqnr_db > 35


def test_hard_sigmoids_run_as_integer_additions() -> None:
    evaluator = build_evaluator(make_task(Gated), options=OPTIONS)
    recipe = Recipe.uniform([layer.name for layer in evaluator.layers], 8)
    _, artifact = evaluator.evaluate(recipe)
    kernels = [node.kernel for node in evaluator.backend.profile_nodes(artifact, 1, 1)]
    assert "HardSigmoid" not in kernels
    assert kernels.count("QLinearAdd") == 3


def test_layers_that_run_twice_stay_float() -> None:
    builder = TaskBuilder(make_task(Shared))
    assert [layer.name for layer in builder.layers] == ["stem", "fc"]
    left = {layer.name: layer.obstacle for layer in builder.operators if layer.obstacle}
    assert set(left) == {"body", "body#2"}
    assert "runs more than once" in left["body"]
    model = builder.build(Recipe.uniform(["stem", "fc"], 8)).artifact
    assert {name for name, kind in model.precisions.items() if kind == "int8"} == {"stem", "fc"}


class ScaledBias(Residual):
    """A layer whose bias is worked out in every run."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.body(F.relu(self.norm(self.stem(x)))))
        return F.linear(self.down(x).mean((2, 3)), self.fc.weight, self.fc.bias * 0.1)


@pytest.mark.parametrize("backend", ["onnxruntime", "litert"])
def test_a_layer_whose_bias_is_computed_stays_float(backend: str) -> None:
    builder = TaskBuilder(make_task(ScaledBias), conditions={"backend": backend})
    names = [layer.name for layer in builder.layers]
    assert names == ["stem", "body", "down"]
    left = {layer.name: layer.obstacle for layer in builder.operators if layer.obstacle}
    assert left == {"fc": "its bias is computed while the model runs"}
    candidate = builder.build(Recipe.uniform(names, 8))
    batch = Data(8, seed=2).x.numpy()
    found = builder.backend.load(candidate.artifact, 1).predict(batch)
    assert signal_to_noise_db(candidate.predict([batch]), found) > 30


def test_single_calibration_image_works() -> None:
    builder = TaskBuilder(make_task(Residual, calibration=Data(1)))
    names = [layer.name for layer in builder.layers]
    assert builder.build(Recipe.uniform(names, 8)).artifact.size_bytes > 0
