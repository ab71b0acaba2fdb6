"""`.tflite` files: what the quantizers decided is what the file holds and what LiteRT computes."""

import itertools
import json
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from torch import nn
from typer.testing import CliRunner

import autoquant as aq
from autoquant import tflite
from autoquant.backends.litert import has_xnnpack
from autoquant.backends.registry import load_backend
from autoquant.bench import bench_files
from autoquant.browse.handout import inference_snippet
from autoquant.build import TaskBuilder, build_evaluator
from autoquant.cli import app
from autoquant.core.artifact import Artifact
from autoquant.core.check import find_condition_changes, moves_latency
from autoquant.core.metric import signal_to_noise_db
from autoquant.core.recipe import PtqOptions, QatOptions, Recipe
from autoquant.core.split import Split
from autoquant.core.task import Task
from autoquant.core.trial import LatencyFigures
from autoquant.deliver import check_suffix
from autoquant.errors import ArtifactError, InputError, RecipeError, TraceError, TrialError
from autoquant.evaluate import EvaluationOptions
from autoquant.export.formats import read_artifact
from autoquant.export.litert.convert import convert
from autoquant.export.litert.exporter import LiteRtExporter
from autoquant.export.litert.format import LiteRtFormat
from autoquant.search.amend import amend_trial
from autoquant.tasks import load_task
from tests.float_kernels import Ids, Tokens, Up, UpBetween
from tests.networks import Data, Gated, PairData, Residual, make_task
from tests.trials import make_trial

LITERT = {"backend": "litert"}
OPTIONS = EvaluationOptions(latency=None)


class SigmoidGate(nn.Module):
    """A sigmoid, whose grid the specification fixes, a product and pools of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.gate = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 6, 3, stride=2, padding=1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = x * torch.sigmoid(self.gate(x))
        x = F.avg_pool2d(F.relu6(self.last(x)), 2)
        return self.fc(x.mean((2, 3)))


class Joined(nn.Module):
    """Branches of different ranges, joined; a 1-D kernel behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(3, 4, 1)
        self.wide = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.along = nn.Conv1d(8, 6, 3)
        self.fc = nn.Linear(6, 5, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([F.relu(self.narrow(x)), 5 * F.relu(self.wide(x))], 1)
        x = F.max_pool2d(x, 2).flatten(2)
        return self.fc(F.relu(self.along(x)).mean(2))


class Rows(nn.Module):
    """A linear layer for every row of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 4)
        self.fc = nn.Linear(96, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.first(x))
        return self.fc(F.gelu(self.second(x)).flatten(1))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depth = nn.Conv2d(3, 6, 3, groups=3)
        self.point = nn.Conv2d(6, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(F.relu(self.point(F.relu(self.depth(x)))).mean((2, 3)))


class Sorted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).flatten(2).sort(-1).values.mean(2))


@pytest.fixture(scope="module")
def builder() -> TaskBuilder:
    return TaskBuilder(make_task(Residual), conditions=LITERT)


@pytest.fixture(scope="module")
def integer() -> TaskBuilder:
    return TaskBuilder(make_task(Residual), conditions={**LITERT, "full_integer": True})


@cache
def builder_of(network: type[nn.Module]) -> TaskBuilder:
    return TaskBuilder(make_task(network), conditions=LITERT)


def names_of(builder: TaskBuilder) -> list[str]:
    return [layer.name for layer in builder.layers]


def tensors_of(content: bytes) -> dict:
    model = tflite.parse(content)
    return {tflite.name_of(tensor): (model, tensor) for tensor in model.subgraphs[0].tensors}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("network", [Residual, SigmoidGate, Joined, Gated, UpBetween, Rows])
def test_the_file_computes_what_the_quantized_model_does(network, bits) -> None:
    builder = builder_of(network)
    recipe = Recipe.uniform(names_of(builder), bits)
    candidate = builder.build(recipe)
    batch = Data(32).x.numpy()
    found = builder.backend.load(candidate.artifact, 1).predict(batch)
    promised = candidate.predict([batch])
    assert signal_to_noise_db(promised, found) > 30
    assert {candidate.artifact.precisions[name] for name in recipe.layers} == {f"int{bits}"}


@pytest.mark.parametrize("choice", ["8:dynamic", "4:dynamic", "8:float", "4:float"])
@pytest.mark.parametrize("network", [Residual, Rows, Joined, Gated])
def test_layers_take_their_input_in_every_way(network, choice) -> None:
    builder = builder_of(network)
    bits, _, way = choice.partition(":")
    able = {layer.name for layer in builder.layers if choice in layer.choices}
    assert able
    recipe = Recipe.quantized(
        dict.fromkeys(names_of(builder), int(bits)), activations=dict.fromkeys(able, way)
    )
    candidate = builder.build(recipe)
    assert {candidate.artifact.precisions[name] for name in recipe.layers} == {f"int{bits}"}
    integer = builder.backend.find_integer_layers(candidate.artifact, names_of(builder))
    assert integer & able == (able if way == "dynamic" else set())
    batch = Data(16).x.numpy()
    found = builder.backend.load(candidate.artifact, 1).predict(batch)
    assert signal_to_noise_db(candidate.predict([batch]), found) > 40


def test_a_grid_found_anew_is_that_of_a_sample(builder) -> None:
    names = names_of(builder)
    able = [layer.name for layer in builder.layers if "dynamic" in layer.activations]
    recipe = Recipe.quantized(dict.fromkeys(names, 8), activations=dict.fromkeys(able, "dynamic"))
    predict = builder.build(recipe).predict
    batch = Data(6).x.numpy()
    batch[0] *= 50
    alone = np.concatenate([predict([batch[place : place + 1]]) for place in range(6)])
    assert np.allclose(predict([batch]), alone, atol=1e-6)


def test_grouped_convolutions_have_no_kernel_that_finds_grids() -> None:
    builder = TaskBuilder(make_task(Depthwise), conditions=LITERT)
    able = {layer.name: layer.activations for layer in builder.layers}
    assert able["depth"] == ("static", "float")
    assert able["point"] == ("static", "dynamic", "float")


def test_xnnpack_is_told_from_its_absence() -> None:
    assert has_xnnpack()
    assert not has_xnnpack(OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)


def test_timings_without_xnnpack_are_said_not_to_compare(monkeypatch, tmp_path, builder) -> None:
    backend = load_backend("litert")
    assert backend.caveat is None
    assert "without" not in backend.fingerprint()["versions"]["ai-edge-litert"]
    path = builder.build(Recipe(method="fp32")).artifact.save(tmp_path / "model.tflite")
    monkeypatch.setattr("autoquant.backends.litert.has_xnnpack", lambda: False)
    version = backend.fingerprint()["versions"]["ai-edge-litert"]
    assert version.endswith("without XNNPACK")
    done = CliRunner().invoke(app, ["bench", str(path)])
    assert done.exit_code == 0
    assert "timings do not compare" in done.stderr
    here = {"ai-edge-litert": version.split()[0]}
    passport = {"machine": {}, "conditions": {}, "versions": {"ai-edge-litert": version}}
    (change,) = find_condition_changes(passport, {}, here, 1)
    assert moves_latency(change)


def test_the_file_holds_the_very_numbers_of_the_encodings(builder) -> None:
    recipe = Recipe.uniform(names_of(builder), 8)
    encodings = builder.quantizer.quantize(recipe).encodings
    tensors = tensors_of(builder.build(recipe).artifact.content)
    for layer, weight in encodings.weights.items():
        model, tensor = tensors[f"{layer}.weight"]
        stored = tflite.read_array(model, tensor)
        assert np.array_equal(np.sort(stored, axis=None), np.sort(weight.values, axis=None))
        assert np.array_equal(tensor.quantization.scale, weight.scale)
        model, tensor = tensors[f"{layer}.bias"]
        assert np.array_equal(tflite.read_array(model, tensor), weight.bias)
        assert np.array_equal(tensor.quantization.scale, weight.bias_scale)
    found = {
        name.removesuffix(tflite.CHANNELS_LAST): tensor.quantization
        for name, (_, tensor) in tensors.items()
        if tensor.type == tflite.INT8
    }
    for value, grid in encodings.activations.items():
        if value in found:
            assert np.float32(found[value].scale[0]) == np.float32(grid.scale)
            assert found[value].zeroPoint[0] == grid.zero_point - 128
    assert len(set(encodings.activations) & set(found)) >= 3


def test_real_weights_are_read_back_as_the_float_model_has_them(builder) -> None:
    content = builder.build(Recipe(method="fp32")).artifact.content
    weights = LiteRtFormat().read_weights(content)
    assert set(weights) == set(names_of(builder))
    parameters = dict(builder.task.model.named_parameters())
    # the stem's batch norm is in its weights
    own = {
        name: parameters[f"{name}.weight"].detach().numpy() for name in weights if name != "stem"
    }
    turned = {name: w.transpose(0, 2, 3, 1) if w.ndim == 4 else w for name, w in own.items()}
    assert all(np.array_equal(weights[name], value) for name, value in turned.items())
    eight = builder.build(Recipe.uniform(names_of(builder), 8)).artifact.content
    for name, found in LiteRtFormat().read_weights(eight).items():
        if name in turned:
            step = np.abs(turned[name]).max() / 127
            assert 0 < np.abs(found - turned[name]).max() <= 0.51 * step


def test_four_bits_are_stored_two_to_a_byte(builder) -> None:
    files = [builder.build(Recipe.uniform(names_of(builder), bits)) for bits in (8, 4)]
    weights = sum(layer.parameters for layer in builder.layers)
    saved = files[0].artifact.size_bytes - files[1].artifact.size_bytes
    assert saved > 0.4 * weights


def test_a_passport_comes_back_and_its_figures_change_no_size(builder) -> None:
    artifact = builder.build(Recipe.uniform(names_of(builder), 8)).artifact
    kind = LiteRtFormat()
    assert kind.read_passport(artifact.content) == artifact.passport
    sealed = builder.seal(artifact, {"accuracy": 0.5})
    assert sealed.size_bytes == artifact.size_bytes
    assert kind.digest(sealed.content) == artifact.passport["graph_sha256"]
    assert read_artifact(sealed.content).passport["measurement"] == {"accuracy": 0.5}
    assert {"litert-torch", "ai-edge-quantizer", "ai-edge-litert"} <= set(
        sealed.passport["versions"]
    )


def test_the_same_recipe_gives_the_same_file(builder) -> None:
    recipe = Recipe.uniform(names_of(builder), 4)
    again = TaskBuilder(make_task(Residual), conditions=LITERT)
    assert builder.build(recipe).artifact.sha256 == again.build(recipe).artifact.sha256


@pytest.mark.parametrize("length", [9, 100, 1000])
def test_a_truncated_file_is_refused(builder, length: int) -> None:
    content = builder.build(Recipe(method="fp32")).artifact.content[:length]
    with pytest.raises(ArtifactError):
        read_artifact(content)
    with pytest.raises(ArtifactError, match="LiteRT cannot load"):
        builder.backend.load(Artifact(content, {}, {}), 1)


def test_an_onnx_file_is_refused_by_name_of_the_format(builder) -> None:
    other = TaskBuilder(make_task(Residual)).build(Recipe(method="fp32")).artifact
    with pytest.raises(ArtifactError, match=r"reads \.tflite files"):
        builder.backend.load(other, 1)


def test_what_cannot_be_converted_is_named() -> None:
    with pytest.raises(TraceError, match=r"operator 'STABLEHLO_SORT'.*onnxruntime"):
        TaskBuilder(make_task(Sorted), conditions=LITERT)
    with pytest.raises(TraceError, match=r"operator 'mhlo\.convolution'.*onnxruntime"):
        TaskBuilder(make_task(Up), conditions=LITERT)


def test_a_layer_that_the_converter_merged_stays_float_with_a_reason() -> None:
    """Of a hard sigmoid behind a layer it makes a part of the bias."""
    builder = TaskBuilder(make_task(Gated), conditions=LITERT)
    reasons = {layer.name: layer.obstacle for layer in builder.operators if layer.obstacle}
    assert "merged" in reasons["excite"]
    assert "changed its weights" in reasons["scaled"]


class TestFullInteger:
    def test_inputs_and_outputs_are_int8_and_the_passport_has_their_grids(
        self, builder, integer
    ) -> None:
        recipe = Recipe.uniform(names_of(builder), 8)
        plain, whole = (item.build(recipe).artifact for item in (builder, integer))
        grids = whole.passport["io"]
        assert [len(grids[side]) for side in ("inputs", "outputs")] == [1, 1]
        model = tflite.parse(whole.content)
        ends = [*model.subgraphs[0].inputs, *model.subgraphs[0].outputs]
        types = {model.subgraphs[0].tensors[index].type for index in ends}
        assert types == {tflite.INT8}
        batch = Data(16).x.numpy()
        found = [integer.backend.load(item, 1).predict(batch) for item in (plain, whole)]
        assert np.array_equal(*found)
        assert "io" not in plain.passport

    def test_the_grid_of_the_passport_is_the_one_of_the_input(self, integer) -> None:
        artifact = integer.build(Recipe.uniform(names_of(integer), 8)).artifact
        (grid,) = json.loads(json.dumps(artifact.passport["io"]["inputs"])).values()
        batch = Data(4).x.numpy()
        quantized = np.clip(np.round(batch / grid["scale"]) + grid["zero_point"], -128, 127)
        session = integer.backend.load(artifact, 1)
        assert np.array_equal(session.predict(batch), session.predict(quantized.astype(np.int8)))

    def test_a_layer_in_float_is_named(self, integer) -> None:
        names = names_of(integer)
        recipe = Recipe.quantized({**dict.fromkeys(names, 8), names[1]: None})
        with pytest.raises(RecipeError, match=f"'{names[1]}' .* stays float"):
            integer.build(recipe)

    def test_onnx_files_cannot_be_so(self) -> None:
        with pytest.raises(InputError, match="needs --backend litert"):
            TaskBuilder(make_task(Residual), conditions={"full_integer": True})


@pytest.mark.parametrize("kind", ["builder", "integer"])
def test_the_snippet_runs_as_it_is_shown(request, tmp_path, kind) -> None:
    builder = request.getfixturevalue(kind)
    builder.build(Recipe.uniform(names_of(builder), 8)).artifact.save(tmp_path / "model.tflite")
    (tmp_path / "snippet.py").write_text(inference_snippet("model.tflite", 1))
    done = subprocess.run(
        [sys.executable, "snippet.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "(1, 5)" in done.stdout


@pytest.mark.parametrize(
    ("path", "backend", "wanted", "words"),
    [
        ("m.onnx", "litert", None, r"makes \.tflite files.*--backend onnxruntime"),
        ("m.tflite", "openvino", None, r"makes \.onnx files.*--backend litert"),
        ("m.bin", "litert", "onnx", r"--format onnx: study 'night' was judged on litert"),
    ],
)
def test_a_name_of_another_format_is_refused(tmp_path, path, backend, wanted, words) -> None:
    study = "night" if wanted else None
    with pytest.raises(InputError, match=words):
        check_suffix(tmp_path / path, backend, study, wanted)


def test_recipes_of_the_other_runtimes_quantizer_are_refused(builder) -> None:
    with pytest.raises(RecipeError, match="there are litert-static, litert-dynamic"):
        builder.build(Recipe(method="ort-static"))
    with pytest.raises(RecipeError, match="needs --backend litert"):
        TaskBuilder(make_task(Residual)).build(Recipe(method="litert-static"))


@pytest.mark.long
def test_the_runtimes_own_quantizer_is_a_baseline(builder) -> None:
    for method in ("litert-static", "litert-dynamic"):
        artifact = builder.build(Recipe(method=method)).artifact
        found = builder.backend.find_integer_layers(artifact, names_of(builder))
        assert found == set(names_of(builder))


class Stepped(nn.Module):
    """One step of a network that keeps a state, which has no batch."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return self.mix(x) + state.sum(0, keepdim=True)


def convert_plainly(model: nn.Module, *inputs: torch.Tensor) -> bytes:
    return convert(torch.export.export(model.eval(), inputs).module(), inputs)


@pytest.mark.long
def test_files_from_elsewhere_keep_their_own_sizes() -> None:
    x, state = torch.randn(4, 4), torch.randn(2, 4)
    backend = load_backend("litert")
    held = convert_plainly(nn.Linear(4, 3), x)
    session = backend.load(Artifact(held, {}, {}), 1)
    assert session.predict(x.numpy()).shape == (4, 3)
    assert bench_files(("held.tflite", held), batch=4)["latency_ms"] > 0
    with pytest.raises(ArtifactError, match="holds a batch of 4: time it with --batch 4"):
        bench_files(("held.tflite", held))
    model = Stepped()
    stepped = convert_plainly(model, x[:1], state)
    assert bench_files(("stepped.tflite", stepped))["latency_ms"] > 0
    session = backend.load(Artifact(stepped, {}, {}), 1)
    first, second = (spec.name for spec in session.inputs)
    found = session.predict({first: x[:1].numpy(), second: state.numpy()})
    with torch.no_grad():
        assert np.allclose(found, model(x[:1], state).numpy(), atol=1e-5)
    with pytest.raises(TrialError, match="has a size of its own"):
        session.predict({first: x.numpy(), second: state.numpy()})


@pytest.mark.long
def test_two_files_of_two_formats_are_timed_on_two_runtimes(builder) -> None:
    ours = builder.build(Recipe.uniform(names_of(builder), 8)).artifact.content
    float_onnx = TaskBuilder(make_task(Residual)).build(Recipe(method="fp32")).artifact.content
    result = bench_files(("ours.tflite", ours), ("float.onnx", float_onnx))
    assert result["backends"] == {"model": "litert", "vs": "onnxruntime"}
    assert result["ratio"] > 0


@pytest.mark.long
@pytest.mark.parametrize("options", [
    {"weight_granularity": "per_tensor"}, {"rounding": "gptq"}, {"rounding": "learned"},
])  # fmt: skip
def test_ways_mix_with_each_other_and_with_options_of_weights(options) -> None:
    """Of one input channel, as the first layer of the digits has it."""
    builder = TaskBuilder(load_task("digits"), conditions=LITERT)
    ways = itertools.cycle(["float", "dynamic", "static"])
    activations = dict(zip(names_of(builder), ways, strict=False))
    widths = dict.fromkeys(names_of(builder), 4)
    recipe = Recipe.quantized(widths, PtqOptions(**options), activations)
    candidate = builder.build(recipe)
    batch = next(iter(Split(builder.task.search).batches))
    found = builder.backend.load(candidate.artifact, 1).predict(batch)
    assert signal_to_noise_db(candidate.predict([batch]), found) > 35


@pytest.mark.long
@pytest.mark.parametrize("bits", [8, 4])
def test_a_trained_recipe_agrees_as_well(bits) -> None:
    layers = dict.fromkeys(names_of(TaskBuilder(load_task("digits"))), bits)
    training = QatOptions(epochs=1)
    ways = dict(zip(layers, itertools.cycle(["static", "dynamic", "float"]), strict=False))
    recipe = Recipe.quantized(layers, PtqOptions(mode="qat", qat=training), ways)
    artifact, measurement = aq.quantize("digits", recipe, backend="litert", progress=False)
    assert artifact.suffix == ".tflite"
    assert measurement.parity.top1_agreement >= 0.99
    assert measurement.parity.sqnr_db > 30
    assert measurement.training is not None


@pytest.mark.long
def test_the_digits_run_in_integers_as_well_as_on_onnx_runtime() -> None:
    evaluator = build_evaluator(load_task("digits"), options=OPTIONS, backend="litert")
    measurement, artifact = evaluator.evaluate(
        Recipe.uniform([layer.name for layer in evaluator.layers], 8, PtqOptions())
    )
    assert measurement.integer_coverage == 1.0
    assert measurement.parity.top1_agreement >= 0.99
    assert measurement.accuracy_drop <= 0.005
    assert load_backend("litert").measure_memory(artifact, 1) > 0


class Normed(nn.Module):
    """A layer norm whose scale the converter multiplies into the layers behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.query, self.key, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(192, 5)
        with torch.no_grad():
            self.norm.weight.uniform_(0.5, 2)
            self.norm.bias.uniform_(-1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        return self.last((x + F.gelu(self.query(x)) * self.key(x)).flatten(1))


def test_layers_behind_a_layer_norm_get_their_weights_back() -> None:
    builder = TaskBuilder(make_task(Normed), conditions=LITERT)
    assert names_of(builder) == ["query", "key", "last"]
    candidate = builder.build(Recipe.uniform(names_of(builder), 8))
    batch = Data(16).x.numpy()
    found = builder.backend.load(candidate.artifact, 1).predict(batch)
    assert signal_to_noise_db(candidate.predict([batch]), found) > 30
    float_file = builder.build(Recipe(method="fp32")).artifact
    with torch.no_grad():
        expected = builder.task.model(torch.from_numpy(batch)).numpy()
    assert np.allclose(builder.backend.load(float_file, 1).predict(batch), expected, atol=1e-5)


class Tapped(nn.Module):
    """Hands over what its head reads as well, before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        first = F.relu(self.stem(x))
        second = F.relu(self.body(first))
        return self.head(second), first, second


@pytest.mark.parametrize("widths", list(itertools.product([8, None], repeat=3)))
def test_an_output_that_others_read_too_is_handed_over_in_float(widths) -> None:
    data = Data(32, (8,))
    task = make_task(Tapped, example_input=data.x[:1], calibration=data, search=data, report=None)
    builder = TaskBuilder(task, conditions=LITERT)
    names = names_of(builder)
    recipe = Recipe.quantized(dict(zip(names, widths, strict=True)), PtqOptions())
    if not recipe.layers or not any(widths):
        recipe = Recipe(method="fp32")
    artifact = builder.build(recipe).artifact
    quantized = builder.restore_model(recipe)
    model = task.model if quantized is None else quantized.module
    with torch.no_grad():
        promised = [value.numpy() for value in model(data.x[:8])]
    found = builder.backend.load(artifact, 1).run_all(data.x[:8].numpy())
    assert list(found) == ["linear_2", "relu", "relu_1"]
    assert all(
        signal_to_noise_db(*pair) > 30 for pair in zip(promised, found.values(), strict=True)
    )
    interpreter = Interpreter(model_content=artifact.content)
    details = interpreter.get_signature_runner().get_output_details()
    assert {entry["dtype"] for entry in details.values()} == {np.float32}


def test_outputs_that_others_read_are_integers_where_all_is_to_be() -> None:
    data = Data(32, (8,))
    task = make_task(Tapped, example_input=data.x[:1], calibration=data, search=data, report=None)
    builder = TaskBuilder(task, conditions={**LITERT, "full_integer": True})
    recipe = Recipe.uniform(names_of(builder), 8)
    artifact = builder.build(recipe).artifact
    assert set(artifact.passport["io"]["outputs"]) == {"linear_2", "relu", "relu_1"}
    quantized = builder.restore_model(recipe)
    with torch.no_grad():
        promised = [value.numpy() for value in quantized.module(data.x[:8])]
    found = builder.backend.load(artifact, 1).run_all(data.x[:8].numpy())
    assert all(
        signal_to_noise_db(*pair) > 30 for pair in zip(promised, found.values(), strict=True)
    )


class Doubled(nn.Module):
    """Operators that read one value twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(8, 4, 1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.first(x))
        x = F.relu(self.last(torch.cat([x, x], 1)))
        return self.fc((x * x).mean((2, 3)))


@pytest.mark.parametrize("widths", [(8, 8, 8), (8, None, 8), (None, 8, 8)])
def test_a_value_that_is_read_twice_by_one_operator(widths) -> None:
    builder = builder_of(Doubled)
    recipe = Recipe.quantized(dict(zip(names_of(builder), widths, strict=True)), PtqOptions())
    candidate = builder.build(recipe)
    batch = Data(8, seed=2).x.numpy()
    found = builder.backend.load(candidate.artifact, 1).predict(batch)
    assert signal_to_noise_db(candidate.predict([batch]), found) > 30


class Loudness(nn.Module):
    """Takes a logarithm, which noise has none of; its result holds what is no finite number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        level = torch.log(x)
        x = F.relu(self.first(level)).mean((2, 3))
        return self.fc(x), level


class Positive(Data):
    def __getitem__(self, index: int):
        value, target = super().__getitem__(index)
        return value.abs() + 0.1, target


def test_a_model_of_positive_numbers_is_converted() -> None:
    data = Positive(32)
    task = make_task(Loudness, calibration=data, search=data, report=None)
    builder = TaskBuilder(task, conditions=LITERT)
    candidate = builder.build(Recipe.uniform(names_of(builder), 8))
    batch = np.abs(Data(8, seed=2).x.numpy()) + 0.1
    found = builder.backend.load(candidate.artifact, 1).predict(batch)
    assert signal_to_noise_db(candidate.predict([batch]), found) > 30


class Words(nn.Module):
    """A table, and a layer that shares its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.mix = nn.Embedding(40, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.mix(self.words(ids))).mean(1))


def words_task(kind: type[nn.Module]) -> Task:
    data = Ids(16)
    return make_task(kind, example_input=data.x[:1], calibration=data, search=data, report=None)


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize("bits", [8, 4])
def test_rows_of_a_table_are_looked_up_as_integers(bits, granularity) -> None:
    """A table with a scale for every row, or one for all; the head's own weight stays float."""
    builder = TaskBuilder(words_task(Words), conditions=LITERT)
    assert names_of(builder) == ["head#2", "mix", "head"]
    options = PtqOptions(weight_granularity=granularity)
    widths = {**dict.fromkeys(names_of(builder)), "head#2": bits}
    candidate = builder.build(Recipe.quantized(widths, options))
    artifact, batch = candidate.artifact, Ids(8, seed=2).x.numpy()
    assert artifact.precisions == {"head#2": f"int{bits}", "mix": "float32", "head": "float32"}
    found = builder.backend.load(artifact, 1).predict(batch)
    assert np.allclose(candidate.predict([batch]), found, atol=1e-6)
    model = tflite.parse(artifact.content)
    assert "DEQUANTIZE" not in {tflite.operator_of(model, o) for o in model.subgraphs[0].operators}
    float_file = builder.build(Recipe(method="fp32")).artifact
    assert not np.allclose(builder.backend.load(float_file, 1).predict(batch), found, atol=1e-3)


def test_rows_in_float_are_told_where_all_is_to_be_integer() -> None:
    builder = TaskBuilder(words_task(Words), conditions={**LITERT, "full_integer": True})
    with pytest.raises(RecipeError, match=r"\(EMBEDDING_LOOKUP\) gives float.*out --full-integer$"):
        builder.build(Recipe.uniform(names_of(builder), 8))


def test_operators_without_ends_are_read(builder) -> None:
    """Files from elsewhere may keep a state, whose operators have no inputs or no outputs."""
    model = tflite.parse(builder.build(Recipe(method="fp32")).artifact.content)
    bare = schema.OperatorT()
    bare.opcodeIndex = model.subgraphs[0].operators[0].opcodeIndex
    model.subgraphs[0].operators.append(bare)
    again = tflite.parse(tflite.serialize(model))
    assert [len(again.subgraphs[0].operators[-1].inputs)] == [0]
    assert len(again.subgraphs[0].operators[-1].outputs) == 0


class OddWords(nn.Module):
    """A table whose rows do not end at a whole byte in 4 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.mix = nn.Embedding(40, 15), nn.Linear(15, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.mix(self.words(ids).mean(1))


def test_a_table_that_litert_misreads_in_four_bits_stays_float() -> None:
    builder = TaskBuilder(words_task(OddWords), conditions=LITERT)
    assert names_of(builder) == ["mix"]
    reasons = {layer.name: layer.obstacle for layer in builder.operators}
    assert (
        reasons["words"]
        == "LiteRT looks up the wrong 4-bit values in rows of an odd number of them"
    )
    candidate = builder.build(Recipe.uniform(["mix"], 8))
    batch = Ids(8, seed=2).x.numpy()
    found = builder.backend.load(candidate.artifact, 1).predict(batch)
    assert signal_to_noise_db(candidate.predict([batch]), found) > 30


@pytest.mark.parametrize(("bits", "is_right"), [(8, True), (4, False)])
def test_litert_still_misreads_such_a_table(monkeypatch, bits, is_right) -> None:
    """When it does no longer, the obstacle can go."""
    monkeypatch.setattr(LiteRtExporter, "_find_obstacle", lambda *given: None)
    builder = TaskBuilder(words_task(OddWords), conditions=LITERT)
    candidate = builder.build(Recipe.quantized({"words": bits, "mix": None}, PtqOptions()))
    batch = Ids(8, seed=2).x.numpy()
    found = builder.backend.load(candidate.artifact, 1).predict(batch)
    assert (signal_to_noise_db(candidate.predict([batch]), found) > 30) == is_right


@pytest.mark.parametrize("bits", [8, 4])
def test_a_table_and_the_layer_that_shares_its_weights_are_stored_each(bits) -> None:
    evaluator = build_evaluator(words_task(Words), backend="litert", options=OPTIONS)
    recipe = Recipe.uniform(names_of(evaluator.builder), bits)
    measurement, artifact = evaluator.evaluate(recipe)
    assert {*artifact.precisions.values()} == {f"int{bits}"}
    assert measurement.float_layers == ()
    assert measurement.integer_coverage == 1.0
    assert measurement.parity.sqnr_db > 25
    proofs, _ = evaluator.explain(artifact, recipe)
    assert next(proof.kernel for proof in proofs if proof.name == "head#2") == (
        f"EMBEDDING_LOOKUP int32 x int{bits}"
    )


def test_an_operator_that_litert_torch_does_not_know_is_named() -> None:
    with pytest.raises(TraceError, match=r"operator 'prims\.convert_element_type\.default'"):
        TaskBuilder(words_task(Tokens), conditions=LITERT)


class Repeated(nn.Module):
    """A convolution that runs several times, so it stays float, and its weights are stored once."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 7, padding=3)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for _ in range(4):
            x = F.relu(self.again(x))
        return self.fc(x.mean((2, 3)))


class Twice(nn.Module):
    """Two inputs that are equal in the first sample, and one result that is given twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Linear(4, 5)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.fc((F.relu(self.a(a)) + F.relu(self.b(b))).mean((2, 3)))
        return x, x


class Twins(PairData):
    """The first sample is blank; of the others one input is twenty times the other."""

    def __getitem__(self, index: int):
        inputs, target = super().__getitem__(index)
        return {"a": inputs["a"] * index, "b": inputs["a"] * 20 * index}, target


def test_inputs_that_are_equal_in_one_sample_keep_their_own_grids() -> None:
    data = Twins(32)
    example = {name: value[None] for name, value in data[0][0].items()}
    task = make_task(Twice, calibration=data, search=data, report=None, example_input=example)
    builder = TaskBuilder(task, conditions=LITERT)
    candidate = builder.build(Recipe.uniform(names_of(builder), 8))
    samples = [data[index][0] for index in range(1, 9)]
    batch = {name: np.stack([item[name].numpy() for item in samples]) for name in ("a", "b")}
    found = builder.backend.load(candidate.artifact, 1).predict(batch)
    assert signal_to_noise_db(candidate.predict([batch]), found) > 30


@pytest.mark.parametrize("network", [Residual, SigmoidGate, Joined, Gated, Repeated, Normed])
def test_the_float_file_is_the_model_and_holds_nothing_unread(network) -> None:
    builder = TaskBuilder(make_task(network), conditions=LITERT)
    batch = Data(8).x
    with torch.no_grad():
        expected = builder.task.model(batch).numpy()
    kinds = [Recipe(method="fp32"), Recipe.uniform(names_of(builder), 8)]
    files = [builder.build(recipe).artifact for recipe in kinds]
    found = builder.backend.load(files[0], 1).predict(batch.numpy())
    assert np.allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    for file in files:
        model = tflite.parse(file.content)
        graph = model.subgraphs[0]
        read = {int(index) for operator in graph.operators for index in operator.inputs}
        constants = {
            index for index, tensor in enumerate(graph.tensors) if tflite.is_constant(model, tensor)
        }
        assert constants <= read
    # beside what is in both, metadata and names are all that a small ONNX file has less
    assert files[0].size_bytes < builder.float_onnx.size_bytes + 12_000


def test_a_pool_that_divides_otherwise_is_converted_as_it_is() -> None:
    class Divided(Residual):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(F.avg_pool2d(x, 8, divisor_override=3).expand(-1, -1, 8, 8))

    builder = TaskBuilder(make_task(Divided), conditions=LITERT)
    batch = Data(4).x
    with torch.no_grad():
        expected = builder.task.model(batch).numpy()
    float_file = builder.build(Recipe(method="fp32")).artifact
    assert np.allclose(
        builder.backend.load(float_file, 1).predict(batch.numpy()), expected, atol=1e-3
    )


def test_a_recipe_without_integer_ends_is_no_full_integer_file(integer) -> None:
    with pytest.raises(RecipeError, match="leave out --full-integer"):
        integer.build(Recipe(method="litert-dynamic"))


def test_the_ratio_of_the_runtimes_outlives_the_timing_of_the_front() -> None:
    trial = make_trial(0, 0.9, 1.0)
    more = {"over_onnxruntime": 0.5, "over_onnxruntime_ci": (0.49, 0.51)}
    before = trial.model_copy(update={"timing": trial.timing.model_copy(update=more)})
    anew = {"latency_ratio": 1.01, "timing": make_trial(0, 0.9, 1.0, session="front").timing}
    figures = LatencyFigures(
        latency_ms=1.0, latency_ms_ci=(0.9, 1.1), latency_ratio=anew["latency_ratio"],
        latency_ratio_ci=(1.0, 1.02), timing=anew["timing"],
    )  # fmt: skip
    attributes = {"latency": {trial.digest: figures.model_dump(mode="json")}}
    amended = amend_trial(before, attributes)
    assert amended.timing.session == "front"
    assert amended.timing.over_onnxruntime == 0.5
