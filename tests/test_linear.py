"""Linear layers: activations on a calibrated grid, on one found anew, or in float."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from autoquant.build import build_evaluator
from autoquant.compare import compare_layers
from autoquant.core.layer import Layer
from autoquant.core.metric import signal_to_noise_db
from autoquant.core.proof import LayerProof, NodeTime, explain_layers, match_layers, other_operators
from autoquant.core.recipe import Recipe
from autoquant.core.space import LayerRule, SearchSpace, expand_layers
from autoquant.errors import RecipeError, SpaceError
from autoquant.evaluate import EvaluationOptions, Evaluator
from autoquant.report import describe_shares, find_first_disagreement, tabulate_layers
from tests.networks import Data, make_task


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 96)
        self.second = nn.Linear(96, 40)
        self.odd = nn.Linear(40, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.odd(nn.functional.gelu(self.second(x)))


NAMES = ["first", "second", "odd"]
ABLE = ("static", "dynamic", "float")


@pytest.fixture(scope="module", params=[(64,), (7, 64)], ids=["flat", "sequence"])
def evaluator(request) -> Evaluator:
    shape = request.param
    task = make_task(
        Perceptron,
        example_input=torch.zeros(1, *shape),
        calibration=Data(64, shape),
        search=Data(128, shape, seed=1),
        report=None,
        metric=lambda outputs, targets: 0.0,
    )
    return build_evaluator(task, options=EvaluationOptions(latency=None))


def test_what_a_layer_is_able_to_do_depends_on_its_inputs(evaluator: Evaluator) -> None:
    able = {layer.name: layer.activations for layer in evaluator.layers}
    assert able == {"first": ABLE, "second": ABLE, "odd": ("static", "dynamic")}


@pytest.mark.parametrize(
    ("activation", "bits", "kernels", "least_db"),
    [
        ("static", 8, {"QGemm"}, 60),
        ("static", 4, {"QGemm"}, 60),
        ("dynamic", 8, {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}, 45),
        ("dynamic", 4, {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}, 45),
        ("float", 4, {"MatMulNBits", "DequantizeLinear"}, 35),
    ],
)
def test_each_way_runs_on_its_kernel_and_agrees(
    evaluator: Evaluator, activation: str, bits: int, kernels: set[str], least_db: float
) -> None:
    chosen = {name: activation for name in NAMES if activation in ABLE[: 3 - (name == "odd")]}
    recipe = Recipe.quantized(dict.fromkeys(NAMES, bits), None, chosen)
    candidate = evaluator.builder.build(recipe)
    onnx.checker.check_model(onnx.load_from_string(candidate.artifact.content), full_check=True)
    promised = candidate.predict(evaluator.search.batches)
    session = evaluator.backend.load(candidate.artifact, 1)
    measured = evaluator.predict(session, evaluator.search.batches)
    assert signal_to_noise_db(promised, measured) > least_db
    found = Counter(kernel for _, kernel in evaluator.backend._kernels(candidate.artifact))
    assert set(found) & kernels
    assert set(candidate.artifact.precisions.values()) == {f"int{bits}"}


class Plain(nn.Module):
    """Its layer goes by the name that its result has in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


@pytest.mark.parametrize("shape", [(64,), (7, 64)])
@pytest.mark.parametrize("activation", ABLE)
def test_a_layer_may_go_by_the_name_of_its_result(shape, activation: str) -> None:
    data = Data(32, shape)
    task = make_task(
        Plain, example_input=torch.zeros(1, *shape), calibration=data, search=data, report=None,
        metric=lambda outputs, targets: 0.0,
    )  # fmt: skip
    evaluator = build_evaluator(task, options=EvaluationOptions(latency=None))
    recipe = Recipe.quantized({"linear": 4}, None, {"linear": activation})
    candidate = evaluator.builder.build(recipe)
    session = evaluator.backend.load(candidate.artifact, 1)
    batches = evaluator.search.batches
    found = evaluator.predict(session, batches)
    assert signal_to_noise_db(candidate.predict(batches), found) > 35


def test_packed_dynamic_file_is_bit_identical_to_unpacked(evaluator: Evaluator) -> None:
    from autoquant.core.artifact import Artifact
    from autoquant.export.qdq import write_qdq

    recipe = Recipe.quantized(dict.fromkeys(NAMES, 4), None, dict.fromkeys(NAMES, "dynamic"))
    encodings = evaluator.builder.quantizer.quantize(recipe).encodings
    outputs = []
    for pack in (True, False):
        model = write_qdq(evaluator.builder.exporter.graph, encodings, pack=pack)
        session = evaluator.backend.load(Artifact(model.SerializeToString(), {}, {}), 1)
        outputs.append(evaluator.predict(session, evaluator.search.batches))
    assert (outputs[0] == outputs[1]).all()


def test_a_way_that_a_layer_does_not_know_is_refused(evaluator: Evaluator) -> None:
    recipe = Recipe.quantized(dict.fromkeys(NAMES, 4), None, {"odd": "float"})
    with pytest.raises(RecipeError, match="'odd' cannot take its input 'float', only static, dyn"):
        evaluator.builder.build(recipe)
    wide = Recipe.quantized(dict.fromkeys(NAMES, 8), None, {"first": "float"})
    with pytest.raises(RecipeError, match=r"'first' takes .* in float with weights of 4 bits, not"):
        evaluator.builder.build(wide)


def test_proofs_name_kernel_share_and_reason(evaluator: Evaluator) -> None:
    widths = {"first": 8, "second": 4, "odd": None}
    recipe = Recipe.quantized(widths, None, {"second": "float"})
    artifact = evaluator.builder.build(recipe).artifact
    proofs, others = evaluator.explain(artifact, recipe)
    found = {proof.name: proof for proof in proofs}
    assert found["first"].integer_kernel
    assert found["first"].reason is None
    assert found["second"].reason == "float activations by the recipe"
    assert found["odd"].reason == "excluded by the recipe"
    assert (found["second"].stored_as, found["odd"].stored_as) == ("int4", "float32")
    total = sum(proof.time_share for proof in proofs) + sum(share for _, share in others)
    assert total == pytest.approx(1.0)


def test_layers_are_compared_one_by_one(evaluator: Evaluator) -> None:
    recipe = Recipe.uniform(NAMES, 8)
    artifact = evaluator.builder.build(recipe).artifact
    found = compare_layers(artifact, recipe, evaluator.builder, evaluator.search.batches[0])
    assert list(found) == NAMES
    assert min(found.values()) > 50


# Recipes and spaces


def test_static_is_no_entry_and_old_digests_stay() -> None:
    plain = Recipe.quantized({"a": 8, "b": 4})
    told = Recipe.quantized({"a": 8, "b": 4}, None, {"a": "static", "b": "static"})
    assert told == plain
    assert "activations" not in plain.to_dict()
    other = Recipe.quantized({"a": 8, "b": 4}, None, {"b": "float"})
    assert other != plain
    assert Recipe.from_json(other.to_json()) == other


def test_an_excluded_layer_has_no_activation() -> None:
    assert Recipe.quantized({"a": 8, "b": None}, None, {"b": "dynamic"}).activations == {}
    with pytest.raises(RecipeError, match="not quantized has none"):
        Recipe.from_json(
            Recipe.quantized({"a": 8, "b": 4}, None, {"b": "float"})
            .to_json()
            .replace('"b":4', '"b":null')
        )


def test_choices_are_what_makes_sense_and_decode_inverts_encode() -> None:
    rule = LayerRule((8, 4), (False, True), ABLE)
    able = Layer("fc", "linear", 1, 1, 1, activations=ABLE).choices
    choices = expand_layers({"*": rule}, ["conv", "fc"], {"fc": able})
    assert choices == {
        "conv": ("8", "4", "float"),
        "fc": ("8", "4", "8:dynamic", "4:dynamic", "4:float", "float"),
    }
    space = SearchSpace(choices)
    for parameters in space.enumerate():
        recipe = space.decode(parameters)
        assert space.decode(space.encode(recipe)) == recipe


def test_a_convolution_without_static_has_no_choice() -> None:
    with pytest.raises(SpaceError, match=r"'conv' has no choice left .* the runtime has 8, 4 for"):
        expand_layers({"*": LayerRule((8,), (False,), ("dynamic",))}, ["conv"])


def test_widths_of_weights_alone_are_those_of_the_runtime() -> None:
    layer = Layer("conv", "conv", 1, 1, 0, activations=("static", "float"), weight_only=(8, 4))
    assert layer.choices == ("8", "4", "8:float", "4:float")
    rule = LayerRule((8,), (False,), ("float",))
    assert expand_layers({"*": rule}, ["conv"], {"conv": layer.choices}) == {"conv": ("8:float",)}
    narrow = Layer("fc", "linear", 1, 1, 0, activations=ABLE)
    with pytest.raises(SpaceError, match=r"'fc' has no choice left .* 8:dynamic, 4:dynamic, 4:flo"):
        expand_layers({"*": rule}, ["fc"], {"fc": narrow.choices})


# Proofs


def test_nodes_are_matched_with_the_longest_layer_name() -> None:
    layers = ["fc", "fc_out", "block.0"]
    names = ["fc_token_3", "fc_out/MatMulAddFusion", "block.0#2", "block.01", "other"]
    assert match_layers(names, layers) == {
        "fc_token_3": "fc",
        "fc_out/MatMulAddFusion": "fc_out",
        "block.0#2": "block.0",
    }


def test_tables_of_layers() -> None:
    from autoquant.core.layer import Layer

    layers = [Layer("a", "conv", 1, 30, 0), Layer("b", "linear", 1, 10, 1)]
    nodes = [NodeTime("a", "QLinearConv", 3.0), NodeTime("b", "Gemm", 1.0), NodeTime("s", "Add", 1)]
    recipe = Recipe.quantized({"a": 8, "b": 8})
    stored = {"a": "int8", "b": "int8"}
    proofs = explain_layers(layers, stored, recipe, nodes, frozenset({"a"}))
    assert isinstance(proofs[0], LayerProof)
    assert proofs[1].reason == "the runtime did not fuse it into an integer kernel"
    columns, rows = tabulate_layers([proof.to_dict() for proof in proofs])
    assert len(columns) == len(rows[0])
    assert rows[0][:6] == ["a", "int8", "QLinearConv", "yes", "60.0%", "75.0%"]
    assert describe_shares(other_operators(layers, nodes)) == "20% of the time (Add 20%)"


def test_the_first_layer_that_disagrees_is_named() -> None:
    layers = [{"name": "a", "sqnr_db": 60.0}, {"name": "b", "sqnr_db": 3.0}, {"name": "c"}]
    assert find_first_disagreement(layers).startswith("the file parts from the Brevitas model at")
    assert "'b'" in find_first_disagreement(layers)
    assert find_first_disagreement(layers[:1]) is None


def test_signal_to_noise() -> None:
    signal = np.ones((4, 2))
    assert signal_to_noise_db(signal, signal) == 200.0
    assert signal_to_noise_db(signal, signal * 1.1) == pytest.approx(20.0)
