"""Layers that are stored in integers, whatever kernel runs them: ups and tables."""

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from autoquant.backends.onnxruntime import open_session
from autoquant.build import TaskBuilder, build_evaluator
from autoquant.core.metric import signal_to_noise_db
from autoquant.core.recipe import PtqOptions, QatOptions, Recipe
from autoquant.core.task import Task
from autoquant.evaluate import EvaluationOptions, Evaluator
from autoquant.export.expose import expose_values
from autoquant.export.onnx_file import load_model
from autoquant.quantize.equalize import find_pairs
from autoquant.quantize.sampling import record_values
from autoquant.quantize.weights import WeightChoice
from tests.float_kernels import Ids, Tokens, Up, UpBetween, UpInGroups
from tests.networks import Data, make_task

UPS = ["up", "last"]
TABLES = ["head#2", "places"]
EXACT = PtqOptions(reduce_range=True)  # on any processor and runtime


def tokens_task(kind: type[Tokens] = Tokens, **changes) -> Task:
    example = torch.ones(1, 6, dtype=torch.int64)
    data = {"calibration": Ids(64), "search": Ids(128, seed=1), "report": None}
    return make_task(kind, example_input=example, **data, **changes)


def evaluator_of(task: Task, backend: str = "onnxruntime") -> Evaluator:
    return build_evaluator(task, options=EvaluationOptions(latency=None), backend=backend)


def names_of(builder: Evaluator | TaskBuilder) -> list[str]:
    return [layer.name for layer in builder.layers]


def readers(model: onnx.ModelProto, name: str) -> list[str]:
    return [node.op_type for node in model.graph.node if name in node.input]


@pytest.mark.parametrize("kind", [Up, UpInGroups])
@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_a_corrected_bias_restores_the_mean_of_every_channel(kind, granularity) -> None:
    """Nagel et al. 2019, whatever the geometry and the groups."""
    quantizer = TaskBuilder(make_task(kind)).quantizer
    options = PtqOptions(calibration_images=64, weight_granularity=granularity)
    batch = next(quantizer._data.batches(options, 64))
    for name in UPS:
        layer = quantizer.stock.get(name, WeightChoice.of(4, options), options)
        found = quantizer.found[name]
        wanted = [found.source.name, found.node.name]
        seen, exact = record_values(quantizer.module, {n: n for n in wanted}, batch).values()
        with torch.no_grad():
            means = [value.mean((0, 2, 3)) for value in (layer(seen), exact)]
        assert (layer(seen) - exact).abs().max() > 1e-3
        assert torch.allclose(*means, atol=1e-5)


@pytest.mark.parametrize("kind", [Up, UpInGroups])
def test_channels_of_transposed_convolutions_have_a_scale_each(kind) -> None:
    quantizer = TaskBuilder(make_task(kind)).quantizer
    options = PtqOptions(weight_scale="max", bias_correction=False)
    names = [layer.name for layer in quantizer.layers]
    weights = quantizer.quantize(Recipe.uniform(names, 4, options)).encodings.weights
    for name in UPS:
        encoding = weights[name]
        weight = quantizer.stock.parameter(quantizer.found[name].weight).numpy()
        largest = np.abs(weight).max((0, 2, 3))
        assert encoding.axis == 1
        assert np.allclose(encoding.scale, largest / 7, rtol=1e-5)
        assert np.abs(encoding.values).max((0, 2, 3)).tolist() == [7] * len(largest)


def test_batch_norms_fold_into_transposed_convolutions_in_groups_as_well() -> None:
    class Grouped(Up):
        def __init__(self) -> None:
            super().__init__()
            self.up = torch.nn.ConvTranspose2d(8, 12, 3, 2, 1, 1, groups=4)

    for kind in (Up, Grouped):
        task = make_task(kind)
        evaluator = evaluator_of(task)
        # whoever leaves it to the exporter has other weights in torch than in the file
        targets = {str(node.target) for node in evaluator.builder.quantizer.module.graph.nodes}
        assert not {name for name in targets if "batch_norm" in name}
        with torch.no_grad():
            exact = task.model(task.search.x).numpy()
        assert np.allclose(exact, evaluator.float_outputs, atol=1e-4)


@pytest.mark.parametrize(("bits", "stored"), [(8, "int8"), (4, "int4")])
def test_transposed_convolutions_are_stored_in_integers_and_run_in_float(bits, stored) -> None:
    evaluator = evaluator_of(make_task(Up))
    recipe = Recipe.uniform(names_of(evaluator), bits)
    measurement, artifact = evaluator.evaluate(recipe)
    assert {artifact.precisions[name] for name in UPS} == {stored}
    assert measurement.float_layers == tuple(UPS)
    assert measurement.parity.sqnr_db > 35
    ups = sum(layer.macs for layer in evaluator.layers if layer.name in UPS)
    total = sum(layer.macs for layer in evaluator.operators)
    assert measurement.integer_coverage == (total - ups) / total
    proofs, _ = evaluator.explain(artifact, recipe)
    found = {proof.name: proof for proof in proofs}
    assert found["up"].reason == "the runtime has no integer kernel for transposed convolutions"
    assert (found["up"].stored_as, found["up"].kernel) == (stored, "ConvTranspose")
    # weights are taken off their grid when the file is loaded, not in every run
    kernels = [kernel for _, kernel in evaluator.backend._kernels(artifact)]
    assert "Cast" not in kernels
    assert "Mul" not in kernels


def test_the_runtime_leaves_the_grid_of_a_transposed_convolution_alone() -> None:
    """It would quantize float weights between a dequantizer and a quantizer, per tensor."""
    evaluator = evaluator_of(make_task(UpBetween))
    names = names_of(evaluator)
    recipe = Recipe.quantized({**dict.fromkeys(names, 8), "up": 4})
    candidate = evaluator.builder.build(recipe)
    up = evaluator.builder.quantizer.found["up"].node.name
    model = load_model(candidate.artifact.content)
    batch = evaluator.search.batches[0]
    inner = expose_values(model, [up])[up]
    session = open_session(model.SerializeToString(), 1)
    promised = evaluator.builder.quantizer.quantize(recipe).trace(torch.from_numpy(batch), [up])
    # a sum that ends between two steps of the output's grid may fall on either
    differs = np.abs(session.run_all(batch)[inner] - promised[up].numpy()) > 1e-3
    assert differs.mean() < 1e-3


def test_equalization_leaves_transposed_convolutions_out() -> None:
    quantizer = TaskBuilder(make_task(UpBetween)).quantizer
    pairs = find_pairs(quantizer.found.values())
    assert "up" not in {found.layer.name for pair in pairs for found in (pair.first, pair.second)}


def test_an_excluded_one_keeps_its_float_weights() -> None:
    evaluator = evaluator_of(make_task(Up))
    widths = {**dict.fromkeys(names_of(evaluator), 8), "up": None}
    measurement, artifact = evaluator.evaluate(Recipe.quantized(widths))
    assert (artifact.precisions["up"], artifact.precisions["last"]) == ("float32", "int8")
    assert measurement.parity.sqnr_db > 35
    tokens = evaluator_of(tokens_task())
    widths = {**dict.fromkeys(names_of(tokens), 8), "places": None}
    measurement, artifact = tokens.evaluate(Recipe.quantized(widths))
    assert (artifact.precisions["places"], artifact.precisions["head#2"]) == ("float32", "int8")
    assert measurement.float_layers == ("places",)


def test_inputs_are_put_on_a_grid_where_the_runtime_gains_by_it() -> None:
    """ONNX Runtime computes in float anyway; OpenVINO in integers, where they begin at zero."""
    pytest.importorskip("openvino")
    task, integer = make_task(Up), {}
    for backend in ("onnxruntime", "openvino"):
        evaluator = evaluator_of(task, backend)
        recipe = Recipe.uniform(names_of(evaluator), 8, EXACT)
        candidate = evaluator.builder.build(recipe)
        encodings = evaluator.builder.quantizer.quantize(recipe).encodings
        last = evaluator.builder.quantizer.found["last"]
        assert (last.source.name in encodings.activations) == (backend == "openvino")
        assert last.node.name not in encodings.activations
        integer[backend] = evaluator.find_integer_layers(candidate.artifact)
        outputs = evaluator.predict(
            evaluator.backend.load(candidate.artifact, 1), evaluator.search.batches
        )
        assert signal_to_noise_db(candidate.predict(evaluator.search.batches), outputs) > 35
    assert integer["onnxruntime"] == {"stem", "fc"}
    assert integer["openvino"] == {"stem", "up", "last", "fc"}


@pytest.mark.parametrize(("bits", "kind"), [(8, "Gather"), (4, "Cast")])
def test_tables_are_looked_up_as_integers(bits, kind) -> None:
    evaluator = evaluator_of(tokens_task())
    names = names_of(evaluator)
    assert names == ["head#2", "places", "mix", "head"]
    recipe = Recipe.uniform(names, bits)
    measurement, artifact = evaluator.evaluate(recipe)
    model = load_model(artifact.content)
    for name in TABLES:
        assert artifact.precisions[name] == f"int{bits}"
        assert readers(model, f"{name}.weight_quantized") == [kind]
    assert "DequantizeLinear" not in readers(model, "places.weight_quantized_int8")
    assert measurement.float_layers == ()
    assert measurement.integer_coverage == 1.0
    assert measurement.parity.sqnr_db > 35
    kept = Recipe.quantized({**dict.fromkeys(names, bits), **dict.fromkeys(TABLES)})
    saved = evaluator.builder.build(kept).artifact.size_bytes - artifact.size_bytes
    values, rows = (40 + 6) * 32, 40 + 6
    # nodes and names take some bytes; the head's own weight is stored beside the table
    assert saved > values * (4 - bits / 8) - rows * 4 - 2000


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_looked_up_values_are_those_of_the_quantizer(granularity) -> None:
    """Padding rows too; per row a scale, or one for all."""
    evaluator = evaluator_of(tokens_task())
    options = PtqOptions(weight_granularity=granularity)
    widths = {**dict.fromkeys(names_of(evaluator)), "head#2": 4, "places": 8}
    candidate = evaluator.builder.build(Recipe.quantized(widths, options))
    batch = evaluator.search.batches[0]
    assert (np.asarray(batch) == 0).any()
    promised = candidate.predict([batch])
    found = evaluator.backend.load(candidate.artifact, 1).predict(batch)
    assert np.allclose(promised, found, atol=1e-6)
    assert not np.allclose(promised, evaluator.float_outputs[: len(found)], atol=1e-3)


def test_openvino_reads_tables_as_well() -> None:
    pytest.importorskip("openvino")
    evaluator = evaluator_of(tokens_task(), "openvino")
    measurement, _ = evaluator.evaluate(Recipe.uniform(names_of(evaluator), 8, EXACT))
    assert measurement.parity.sqnr_db > 35
    assert not {*TABLES} & {*measurement.float_layers}


@pytest.mark.parametrize(
    "options",
    [
        PtqOptions(rounding="gptq"),
        PtqOptions(rounding="learned", rounding_iterations=5),
        PtqOptions(rounding="learned", rounding_scope="block", rounding_iterations=5),
        PtqOptions(equalization=True, rounding="gptq"),
        PtqOptions(mode="qat", qat=QatOptions(epochs=1, distillation=1.0, batch_size=32)),
    ],
    ids=["gptq", "learned", "blocks", "equalized", "trained"],
)
@pytest.mark.parametrize("network", ["tokens", "ups"])
def test_every_way_to_round_leaves_files_that_agree(network, options) -> None:
    """What does not know these layers rounds them to the nearest point."""
    if network == "tokens":
        evaluator = evaluator_of(tokens_task(train=Ids(64)))
    else:
        evaluator = evaluator_of(make_task(UpInGroups, train=Data(64)))
    measurement, _ = evaluator.evaluate(Recipe.uniform(names_of(evaluator), 4, options))
    assert measurement.parity.sqnr_db > 30


def test_rows_that_no_input_decides_on_stay_what_the_exporter_made_of_them() -> None:
    class Fixed(Tokens):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.words(ids) + self.places(torch.arange(6))
            return self.head(F.relu(self.mix(x)).mean(1))

    builder = TaskBuilder(tokens_task(Fixed))
    left = {layer.name: layer.obstacle for layer in builder.operators if layer.obstacle}
    assert list(left) == ["places"]
    assert "the same for all inputs" in left["places"]
    assert builder.build(Recipe.uniform(names_of(builder), 8)).artifact.size_bytes
