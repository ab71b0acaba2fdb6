import copy

import numpy as np
import pytest
import torch
from torch import nn

from autoquant.build import TaskBuilder
from autoquant.core.encodings import ActivationEncoding, Encodings, WeightEncoding
from autoquant.core.recipe import Percentile, PtqOptions, Recipe
from autoquant.errors import NumericError, RecipeError, TraceError
from autoquant.quantize.activations import calibrate, encoding_of
from autoquant.quantize.entropy import find_threshold
from autoquant.quantize.sampling import MAX_VALUES, sample_activations
from autoquant.quantize.trace import trace
from autoquant.quantize.weights import WeightChoice
from tests.networks import Branching, Data, Residual, Subclassed, ZeroChannel, make_task, seeded

LAYERS = ["stem", "body", "down", "fc"]
METHODS = ["minmax", "mse", "entropy", Percentile(percentile=99.9)]


@pytest.fixture(scope="module")
def builder() -> TaskBuilder:
    return TaskBuilder(make_task(Residual))


def test_folding_batch_norms_changes_nothing_and_spares_the_original() -> None:
    model = seeded(Residual)
    before = copy.deepcopy(model.state_dict())
    program = trace(model, torch.zeros(1, 3, 8, 8))
    inputs = Data(16).x
    with torch.no_grad():
        assert torch.allclose(program.module()(inputs), model(inputs), atol=1e-5)
    assert not any("batch_norm" in str(node.target) for node in program.graph.nodes)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_two_builders_of_one_model_agree() -> None:
    """Merging batch norms in place would ruin the second one."""
    task = make_task(Residual)
    contents = [TaskBuilder(task).build(Recipe.uniform(LAYERS, 8)).artifact for _ in range(2)]
    assert contents[0].sha256 == contents[1].sha256


def test_layers_are_found_with_their_macs(builder: TaskBuilder) -> None:
    found = {layer.name: (layer.kind, layer.macs, layer.order) for layer in builder.layers}
    assert found == {
        "stem": ("conv", 8 * 64 * 27, 0),
        "body": ("conv", 8 * 64 * 72, 1),
        "down": ("conv", 16 * 16 * 72, 2),
        "fc": ("linear", 80, 3),
    }


@pytest.mark.parametrize("symmetry", ["asymmetric", "symmetric"])
def test_predicting_in_place_is_bit_identical_to_brevitas(
    builder: TaskBuilder, symmetry: str
) -> None:
    options = PtqOptions(activation_symmetry=symmetry, calibration=Percentile(percentile=99.0))
    model = builder.quantizer.quantize(
        Recipe.quantized(dict(zip(LAYERS, (8, 4, None, 8), strict=True)), options)
    )
    inputs = Data(16).x * 3  # some of it beyond every grid
    with torch.no_grad():
        (plain,) = model.module(inputs)
    assert torch.equal(model.predict([inputs]), plain)
    with torch.no_grad():  # and leaves nothing behind
        assert torch.equal(model.module(inputs)[0], plain)


def test_subclasses_are_quantized() -> None:
    builder = TaskBuilder(make_task(Subclassed))
    assert [layer.name for layer in builder.layers] == ["conv", "fc"]
    artifact = builder.build(Recipe.uniform(["conv", "fc"], 8)).artifact
    assert set(artifact.precisions.values()) == {"int8"}


@pytest.mark.parametrize("symmetry", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_file_agrees_with_the_brevitas_model(builder, method, symmetry) -> None:
    options = PtqOptions(calibration=method, activation_symmetry=symmetry)
    candidate = builder.build(Recipe.quantized({**dict.fromkeys(LAYERS, 8), "body": 4}, options))
    import onnxruntime as ort

    session = ort.InferenceSession(candidate.artifact.content, providers=["CPUExecutionProvider"])
    inputs = Data(64, seed=5).x.numpy()
    promised = candidate.predict([inputs])
    measured = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    noise = np.square(promised - measured).sum()
    assert 10 * np.log10(np.square(promised).sum() / noise) > 30


@pytest.mark.parametrize("symmetry", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("kind", ["relu", "normal", "positive", "zero", "single"])
def test_grids_are_finite_and_hold_zero(kind: str, method, symmetry) -> None:
    normal = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    samples = {
        "relu": normal.relu(), "normal": normal, "positive": normal.abs() + 3,
        "zero": torch.zeros(50), "single": torch.tensor([1.5]),
    }  # fmt: skip
    encoding = encoding_of(calibrate(samples[kind], method, symmetry))
    assert encoding.scale > 0
    assert 0 <= encoding.zero_point <= 255
    if symmetry == "symmetric":
        assert encoding.zero_point == (128 if kind == "normal" else 0)


def test_minmax_covers_the_range_and_percentile_clips_it() -> None:
    values = torch.linspace(-1.0, 3.0, 100_001)

    def ends(method) -> tuple[float, float]:
        grid = encoding_of(calibrate(values, method, "asymmetric"))
        return -grid.zero_point * grid.scale, (255 - grid.zero_point) * grid.scale

    assert ends("minmax") == pytest.approx((-1.0, 3.0), abs=0.02)
    # 10 % of a uniform range of 4 is cut off on either side
    assert ends(Percentile(percentile=90)) == pytest.approx((-0.6, 2.6), abs=0.02)


def test_entropy_keeps_a_uniform_range_and_clips_an_outlier() -> None:
    uniform = np.random.default_rng(0).uniform(0, 1, 100_000).astype(np.float32)
    assert find_threshold(uniform, 128) > 0.95
    with_outlier = np.append(np.abs(np.random.default_rng(0).normal(size=100_000)), 100.0)
    assert find_threshold(with_outlier.astype(np.float32), 128) < 50
    assert find_threshold(np.zeros(10, dtype=np.float32), 128) == 0.0


def test_nan_in_calibration_is_refused() -> None:
    with pytest.raises(NumericError, match="not finite"):
        calibrate(torch.tensor([1.0, float("nan")]), "minmax", "asymmetric")


def test_zero_channel_gets_a_scale_that_holds_its_bias() -> None:
    builder = TaskBuilder(make_task(ZeroChannel))
    encodings = builder.quantizer.quantize(Recipe.uniform(LAYERS, 8)).encodings
    body = encodings.weights["body"]
    expected = builder.quantizer.module.get_parameter("body.bias").detach().numpy()
    assert body.real_bias[0] == pytest.approx(expected[0], rel=1e-6)
    assert abs(int(body.bias[0])) < 2**31 - 1
    assert (body.values[0] == 0).all()


class Geometries(nn.Module):
    """Every way in which a kernel can lie on its input."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Conv2d(3, 8, 3, padding="same", dilation=2)
        self.grouped = nn.Conv2d(8, 8, 3, stride=2, padding=(1, 2), groups=4)
        self.line = nn.Conv1d(8, 8, 3, padding=1)
        self.tokens = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.grouped(self.same(x).relu()).relu()
        x = self.line(x.flatten(2)).relu()
        return self.head(self.tokens(x.transpose(1, 2)).mean(1))


@pytest.mark.parametrize("network", [Residual, Geometries])
def test_bias_correction_is_that_of_brevitas(network: type[nn.Module]) -> None:
    """Nagel et al. 2019: afterwards each quantized layer's mean output is the float one's."""
    from brevitas.graph.calibrate import bias_correction_mode  # warns unless the product is there

    quantizer = TaskBuilder(make_task(network)).quantizer
    options = {on: PtqOptions(bias_correction=on, calibration_images=64) for on in (False, True)}

    def layers(on: bool) -> dict[str, nn.Module]:
        choice = WeightChoice.of(4, options[on])
        names = [layer.name for layer in quantizer.layers]
        return {name: quantizer.stock.get(name, choice, options[on]) for name in names}

    ours, theirs = layers(True), layers(False)
    before = {name: layer.bias.detach().clone() for name, layer in theirs.items()}
    model, _ = quantizer._assemble(theirs, {}, Encodings({}, {}, {}))
    with torch.no_grad(), bias_correction_mode(model):
        model(Data(64).x)
    for name, layer in ours.items():
        moved = (theirs[name].bias - before[name]).abs().max()
        assert (layer.bias - theirs[name].bias).abs().max() < 1e-4 * moved


def test_sampling_keeps_extremes_and_is_bounded() -> None:
    module = TaskBuilder(make_task(Residual)).quantizer.module
    inputs = Data(64).x
    inputs[3, 0, 0, 0] = 1000.0
    full = sample_activations(module, ["x"], [inputs], 1.0, 0)["x"]
    assert full.numel() == inputs.numel() <= MAX_VALUES
    thin = sample_activations(module, ["x"], [inputs], 100 / MAX_VALUES, 0)["x"]
    assert thin.numel() == 102
    assert thin.max() == 1000.0


def test_a_sample_does_not_depend_on_what_is_sampled_beside_it() -> None:
    module = TaskBuilder(make_task(Residual)).quantizer.module
    share = 100 / MAX_VALUES
    alone = sample_activations(module, ["x"], [Data(64).x], share, 0)["x"]
    names = [node.name for node in module.graph.nodes if "conv" in node.name]
    assert names
    beside = sample_activations(module, [*names, "x"], [Data(64).x], share, 0)["x"]
    assert torch.equal(alone, beside)


def test_same_seed_same_file(builder: TaskBuilder) -> None:
    recipe = Recipe.uniform(LAYERS, 4)
    assert builder.build(recipe).artifact.sha256 == builder.build(recipe).artifact.sha256
    other = TaskBuilder(builder.task, seed=0).build(recipe).artifact
    assert other.sha256 == builder.build(recipe).artifact.sha256


def test_recipe_that_does_not_fit_names_the_layer(builder: TaskBuilder) -> None:
    with pytest.raises(RecipeError, match=r"'fc9'.*there are stem, body"):
        builder.build(Recipe.uniform([*LAYERS, "fc9"], 8))
    with pytest.raises(RecipeError, match="nothing about layer 'fc'"):
        builder.build(Recipe.uniform(LAYERS[:3], 8))


def test_model_that_cannot_be_traced_names_the_line() -> None:
    with pytest.raises(TraceError, match=r"cannot be traced.*networks\.py, line \d+"):
        trace(Branching(), torch.zeros(1, 4))


def test_encodings_refuse_what_no_file_may_hold() -> None:
    with pytest.raises(NumericError):
        ActivationEncoding(float("nan"), 0)
    with pytest.raises(NumericError):
        ActivationEncoding(0.1, 256)
    ones = np.ones(1, dtype=np.float32)
    none = np.zeros(1, dtype=np.int32)
    with pytest.raises(NumericError, match="4-bit"):
        WeightEncoding(np.array([[8]], dtype=np.int8), ones, 4, none, ones)
    with pytest.raises(NumericError, match="weight scale"):
        WeightEncoding(np.array([[1]], dtype=np.int8), ones * 0, 8, none, ones)
    with pytest.raises(NumericError, match="bias scale"):
        WeightEncoding(np.array([[1]], dtype=np.int8), ones, 8, none, ones * np.inf)
