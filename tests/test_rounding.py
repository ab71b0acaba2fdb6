import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoquant.build import TaskBuilder
from autoquant.core.activity import listening
from autoquant.core.recipe import PtqOptions, Recipe
from autoquant.quantize.bias import channel_sums
from autoquant.quantize.equalize import find_pairs
from autoquant.quantize.layers import find_layers
from autoquant.quantize.patch import Patches, collect_patches
from autoquant.quantize.quantizer import Quantizer
from autoquant.quantize.rounding import learn_rounding
from autoquant.quantize.segment import Stretch, find_joints
from autoquant.quantize.stock import LayerStock
from autoquant.quantize.trace import trace
from autoquant.quantize.weights import WeightChoice
from tests.networks import Builtin, Data, Pair, PairData, Residual, make_task, seeded

LAYERS = ["stem", "body", "down", "fc"]
METHODS = {
    "gptq": {"rounding": "gptq"},
    "layer": {"rounding": "learned", "rounding_iterations": 60},
    "block": {"rounding": "learned", "rounding_scope": "block", "rounding_iterations": 60},
    "equalization": {"equalization": True},
}


class Bottleneck(nn.Module):
    """Inverted bottlenecks with ReLU6, one with a skip; strides, groups and dilation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.expand = nn.Conv2d(6, 12, 1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=2, dilation=2, groups=12)
        self.project = nn.Conv2d(12, 6, 1)
        self.grouped = nn.Conv2d(6, 8, (3, 1), stride=(2, 1), padding="valid", groups=2)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x))
        y = F.relu6(self.expand(x))
        x = self.project(F.relu6(self.depthwise(y))) + x
        x = F.relu(self.grouped(x))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def quantizer_of(kind: type[nn.Module]) -> Quantizer:
    model = seeded(kind)
    graph = trace(model, torch.zeros(1, 3, 8, 8)).module(check_guards=False)
    return Quantizer(graph, Data(64))


@pytest.fixture(scope="module")
def residual() -> TaskBuilder:
    return TaskBuilder(make_task(Residual))


def recipe_of(method: str, layers: list[str] = LAYERS, **options) -> Recipe:
    return Recipe.uniform(layers, 4, PtqOptions(**METHODS[method], **options))


@pytest.mark.parametrize("kind", [Bottleneck, Residual])
def test_patches_hold_what_a_layer_sees(kind: type[nn.Module]) -> None:
    quantizer = quantizer_of(kind)
    found = quantizer.found
    built = {found[name].node: layer for name, layer in _built(quantizer).items()}
    collected = collect_patches(quantizer.module, built, [Data(16).x], 16, seed=0)
    assert set(collected) == set(built)
    for node, patches in collected.items():
        weight, bias = (quantizer.stock.parameter(source) for source in node.args[1:3])
        rows = torch.arange(patches.count)
        assert torch.allclose(patches.apply(weight, bias, rows), patches.outputs, atol=1e-5)
        assert patches.count >= 16


def _built(quantizer: Quantizer) -> dict[str, nn.Module]:
    choice = WeightChoice.of(4, PtqOptions())
    return {name: quantizer.stock.build(name, choice) for name in quantizer.found}


def test_joints_are_where_one_value_is_alive() -> None:
    quantizer = quantizer_of(Bottleneck)
    by_node = {found.node: name for name, found in quantizer.found.items()}
    joints = find_joints(quantizer.module, by_node)
    known, stretches, values = ["x"], [], {"x": Data(4).x}
    with torch.no_grad():
        for joint, inside in joints:
            stretch = Stretch(quantizer.module, known, [joint.name])
            assert inside == [node for node in stretch.nodes if node in by_node]
            stretches.append([by_node[node] for node in inside])
            values = {"x": Data(4).x, **stretch.run(values)}
            known = list(values)
        whole = quantizer.module(Data(4).x)
    # the skip holds the middle three together; three layers are the most that are joined
    assert stretches == [["stem"], ["expand", "depthwise", "project"], ["grouped", "fc"]]
    assert torch.equal(values[joints[-1][0].name], whole)


def test_learning_takes_each_weight_up_or_down() -> None:
    quantizer = quantizer_of(Residual)
    choice = WeightChoice.of(4, PtqOptions(rounding="learned"))
    layer, inputs = quantizer.stock.build("down", choice), torch.rand(32, 8, 8, 8)
    before = layer.weight.detach().clone()
    scale = layer.quant_weight().scale.detach()
    nearest = layer.quant_weight().value.detach()
    with torch.no_grad():
        wanted = F.conv2d(inputs, before, None, 2, 1)

    def loss(_: int) -> Tensor:
        found = F.conv2d(inputs, layer.quant_weight().value, None, 2, 1)
        return ((found - wanted) ** 2).mean() / first

    first = 1.0
    first = loss(0).item()
    learn_rounding([layer], loss, 200)
    found = layer.quant_weight().value.detach()
    assert torch.equal(layer.weight, found), "the weights lie on their grid"
    assert torch.allclose(found / scale, (found / scale).round(), atol=1e-5)
    assert (found - before.clamp(-7 * scale, 7 * scale)).abs().max() <= scale.max() * 1.001
    assert not torch.equal(found, nearest)
    assert loss(0) < 0.8


@pytest.mark.parametrize("method", ["gptq", "layer", "block"])
def test_rounding_keeps_scales_and_changes_weights(residual: TaskBuilder, method: str) -> None:
    encodings = residual.quantizer.quantize(recipe_of(method)).encodings
    nearest = residual.quantizer.quantize(Recipe.uniform(LAYERS, 4)).encodings
    moved = []
    for name in LAYERS:
        one, other = encodings.weights[name], nearest.weights[name]
        assert np.array_equal(one.scale, other.scale)
        moved += [name] if not np.array_equal(one.values, other.values) else []
    # pixels of noise have nothing in common: there the nearest point is the best one
    assert set(LAYERS) - {"stem"} <= set(moved)


@pytest.mark.parametrize("method", list(METHODS))
def test_file_agrees_with_the_brevitas_model(residual: TaskBuilder, method: str) -> None:
    layers = {**dict.fromkeys(LAYERS, 4), "body": 8}
    candidate = residual.build(Recipe.quantized(layers, PtqOptions(**METHODS[method])))
    import onnxruntime as ort

    session = ort.InferenceSession(candidate.artifact.content, providers=["CPUExecutionProvider"])
    inputs = Data(64, seed=5).x.numpy()
    promised = candidate.predict([inputs])
    measured = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    noise = np.square(promised - measured).sum()
    assert 10 * np.log10(np.square(promised).sum() / noise) > 30


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.long
def test_a_recipe_does_not_depend_on_the_recipes_before_it(method: str) -> None:
    task = make_task(Residual)
    mixture = Recipe.quantized({**dict.fromkeys(LAYERS, 4), "fc": 8}, PtqOptions(**METHODS[method]))
    fresh = TaskBuilder(task).build(mixture).artifact.sha256
    used = TaskBuilder(task)
    for other in METHODS:
        used.build(recipe_of(other))
    used.build(Recipe.uniform(LAYERS, 4))
    assert used.build(mixture).artifact.sha256 == fresh


@pytest.mark.parametrize("method", ["gptq", "layer", "block"])
@pytest.mark.long
def test_rounding_brings_outputs_closer_than_nearest(method: str) -> None:
    quantizer = quantizer_of(Residual)
    inputs = Data(256, seed=7).x
    with torch.no_grad():
        exact = quantizer.module(inputs)

    def error(recipe: Recipe) -> float:
        return float(((quantizer.quantize(recipe).predict([inputs]) - exact) ** 2).mean())

    options = METHODS[method] | ({} if method == "gptq" else {"rounding_iterations": 300})
    learned = Recipe.uniform(LAYERS, 4, PtqOptions(**options))
    assert error(learned) < 0.9 * error(Recipe.uniform(LAYERS, 4))


@pytest.mark.parametrize("kind", [Pair, Builtin])
@pytest.mark.parametrize("method", list(METHODS))
def test_networks_of_other_shapes_are_rounded_too(kind: type[nn.Module], method: str) -> None:
    changes = {}
    if kind is Pair:
        example = {"a": torch.zeros(1, 3, 8, 8), "b": torch.zeros(1, 3, 8, 8)}
        splits = {"calibration": PairData(64), "search": PairData(16), "report": PairData(16)}
        changes = {"example_input": example, **splits}
    builder = TaskBuilder(make_task(kind, **changes))
    names = [layer.name for layer in builder.layers]
    precisions = builder.build(recipe_of(method, names)).artifact.precisions
    assert [precisions[name] for name in names] == ["int4"] * len(names)


def test_equalization_changes_no_output_and_evens_out_channels() -> None:
    quantizer = quantizer_of(Bottleneck)
    with torch.no_grad():  # one channel far smaller than its neighbours, as in MobileNets
        for source in quantizer.found["expand"].node.args[1:3]:
            quantizer.stock.parameter(source)[3].mul_(0.01)
    twin = quantizer._equalized(frozenset({"project"}))
    inputs = Data(64).x
    with torch.no_grad():
        assert torch.allclose(twin.module(inputs), quantizer.module(inputs), atol=1e-4)
    names = {pair.first.layer.name: pair.second.layer.name for pair in find_pairs(
        list(find_layers(quantizer.module).values())
    )}  # fmt: skip
    assert names == {"expand": "depthwise", "depthwise": "project", "grouped": "fc"}
    before, after = (_spread(side, "expand") for side in (quantizer, twin))
    assert after < before / 5
    same = [_weight(side, "project") for side in (quantizer, twin)]
    assert torch.equal(*same), "a layer that stays float keeps its weights"


def _weight(quantizer: Quantizer, name: str) -> Tensor:
    return quantizer.stock.parameter(quantizer.found[name].node.args[1])


def _spread(quantizer: Quantizer, name: str) -> float:
    """Largest over smallest channel."""
    ranges = _weight(quantizer, name).flatten(1).abs().amax(1)
    return float(ranges.max() / ranges.min())


def test_equalization_leaves_a_channel_alone_that_reaches_the_ceiling() -> None:
    quantizer = quantizer_of(Bottleneck)
    with torch.no_grad():
        quantizer.stock.parameter(quantizer.found["expand"].node.args[2])[0] = 20.0
    before = copy.deepcopy(_weight(quantizer, "expand"))
    after = _weight(quantizer._equalized(frozenset()), "expand")
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


def test_long_work_says_what_it_does() -> None:
    said: list[str] = []
    with listening(said.append):
        quantizer_of(Residual).quantize(recipe_of("block"))
    assert said[0] == "rounding: layer 1 of 4"
    assert said[-1] == "fitting block 2 of 2"


def test_a_correction_that_makes_outputs_worse_is_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Means that are far from the truth change no bias; the true ones change some."""
    recipe, true_means = recipe_of("block"), LayerStock.float_means

    def quantize(change) -> dict[str, np.ndarray]:
        monkeypatch.setattr(LayerStock, "float_means", lambda *a: change(true_means(*a)))
        weights = TaskBuilder(make_task(Residual)).quantizer.quantize(recipe).encodings.weights
        return {name: weight.real_bias for name, weight in weights.items()}

    none = quantize(lambda means: {})
    wrong = quantize(lambda means: {name: mean + 100 for name, mean in means.items()})
    right = quantize(lambda means: means)
    assert all(np.array_equal(none[name], wrong[name]) for name in none)
    assert not all(np.array_equal(none[name], right[name]) for name in none)


@pytest.mark.parametrize("rounding", ["nearest", "gptq", "learned"])
def test_a_rounded_layer_keeps_its_mean_output(residual: TaskBuilder, rounding: str) -> None:
    stock = residual.quantizer.stock
    options = PtqOptions(rounding=rounding, rounding_iterations=20)
    means, patches = stock.float_means(options), stock._mean_patches(options)
    for name in LAYERS:
        layer = stock.get(name, WeightChoice.of(4, options, "static"), options)
        node = stock.found[name].node
        with torch.no_grad():
            found = channel_sums(layer.quant_weight().value * patches[name], node) + layer.bias
        torch.testing.assert_close(found, means[node.name], rtol=1e-4, atol=1e-4)


def test_few_images_say_little_and_many_say_all() -> None:
    generator = torch.Generator().manual_seed(0)
    mixture = torch.randn(20, 20, generator=generator)
    inputs = torch.randn(4000, 1, 20, generator=generator) @ mixture
    shares = [
        float(Patches(inputs, inputs[:, 0], images).moment(centered=True)[1])
        for images in (2, 20, 200, 4000)
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.5
    assert shares[-1] < 0.01
    variances = inputs[:, 0].var(0, correction=0)
    moment, _ = Patches(inputs, inputs[:, 0], 2).moment(centered=True)
    torch.testing.assert_close(moment[0].diagonal(), variances)
