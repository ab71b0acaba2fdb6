"""The float file computes what the model does, however it is written; what does not is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoquant.backends.onnxruntime import OrtBackend
from autoquant.build import TaskBuilder
from autoquant.core.layer import LayerKind
from autoquant.core.metric import signal_to_noise_db
from autoquant.core.recipe import PtqOptions, Recipe
from autoquant.deliver import load_single_evaluator
from autoquant.errors import TraceError
from autoquant.fidelity import check_fidelity
from autoquant.quantize.equalize import find_pairs
from autoquant.quantize.trace import trace
from tests.networks import Data, Pair, PairData, Residual, make_task, seeded


def shake(norm: nn.Module) -> nn.Module:
    """Statistics that are not those of a new layer."""
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    if norm.weight is not None:
        norm.weight.data.normal_(1.0, 0.2)
        norm.bias.data.normal_()
    return norm


class OverSteps(nn.Module):
    """A batch norm over the steps of a sequence, behind a linear layer over its features."""

    features = 8

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, self.features)
        self.norm = shake(nn.BatchNorm1d(8))
        self.head = nn.Linear(8 * self.features, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.fc(x))).flatten(1))


class OverOtherSteps(OverSteps):
    features = 10


class Plain(nn.Module):
    """A batch norm without gain and shift behind a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(48, 16)
        self.norm = shake(nn.BatchNorm1d(16, affine=False))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.fc(x.flatten(1)))))


class OwnBias(nn.Module):
    """A layer without bias, batch norm behind it, and a `bias` that is added later."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6, 3) / 4)
        self.bias = nn.Parameter(torch.randn(1, 4, 1))
        self.norm = shake(nn.BatchNorm1d(4))
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        found = F.relu(self.norm(F.conv1d(x.transpose(1, 2), self.weight))) + self.bias
        return self.head(found.flatten(1))


class SamePadding(OwnBias):
    """As many steps behind the convolution as before."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        found = self.norm(F.conv1d(x.transpose(1, 2), self.weight, padding="same"))
        return self.head(F.relu(found).flatten(1))


class Centred(nn.Module):
    """The mean of a sequence over its steps and features at once."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        return self.head((x - x.mean((-2, -1), keepdim=True)).flatten(1))


class Blurred(nn.Module):
    """A filter that is fixed, in a buffer, before a batch norm and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("blur", torch.full((6, 1, 3), 1 / 3))
        self.norm = shake(nn.BatchNorm1d(6))
        self.conv = nn.Conv1d(6, 4, 3)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(F.conv1d(x.transpose(1, 2), self.blur, groups=6))
        return self.head(F.relu(self.conv(x)).flatten(1))


class Products(nn.Module):
    """Linear layers that are written as products, as GPT-2's are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 12) / 3)
        self.bias = nn.Parameter(torch.randn(12))
        self.projection = nn.Parameter(torch.randn(12, 4) / 3)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        found = torch.addmm(self.bias, x.reshape(-1, 6), self.weight)
        found = F.relu(found).reshape(-1, 8, 12) @ self.projection
        return self.head(found.flatten(1))


SEQUENCES = [OverSteps, OverOtherSteps, Plain, OwnBias, SamePadding, Centred, Blurred, Products]


def task_of(kind: type[nn.Module], **changes):
    """On sequences of 8 steps, 6 features each."""
    shape = (8, 6)
    given = {
        "example_input": torch.zeros(1, *shape),
        "calibration": Data(64, shape),
        "search": Data(128, shape, seed=1),
        "report": Data(32, shape, seed=2),
    }
    return make_task(kind, **(given | changes))


def norm_free(program) -> bool:
    return not any("batch_norm" in str(node.target) for node in program.graph.nodes)


@pytest.mark.parametrize("kind", SEQUENCES)
def test_what_is_traced_and_what_is_written_compute_what_the_model_does(kind) -> None:
    torch.manual_seed(1)
    task = task_of(kind)
    program = trace(task.model, task.example_input)
    x = task.search.x[:16]
    with torch.no_grad():
        wanted = task.model(x)
        torch.testing.assert_close(program.module()(x), wanted, atol=1e-5, rtol=1e-4)
    builder = TaskBuilder(task)
    names = [layer.name for layer in builder.layers]
    backend = OrtBackend()
    made = backend.load(builder.float_onnx, 1).predict(x.numpy())
    assert signal_to_noise_db(wanted.numpy(), made) > 80
    candidate = builder.build(Recipe.uniform(names, 8))
    quantized = backend.load(candidate.artifact, 1).predict(x.numpy())
    assert signal_to_noise_db(wanted.numpy(), quantized) > 15
    assert signal_to_noise_db(candidate.predict([x.numpy()]), quantized) > 30
    over_steps = kind in (OverSteps, OverOtherSteps)
    assert norm_free(program) != over_steps, "only behind channels it is a part of the layer"


def test_products_with_weights_are_layers() -> None:
    builder = TaskBuilder(task_of(Products))
    assert [(layer.kind, layer.obstacle) for layer in builder.layers] == [("linear", None)] * 3
    assert [layer.name for layer in builder.layers][-1] == "head"


def test_a_mean_over_an_image_is_still_a_pool() -> None:
    graph = TaskBuilder(make_task(Residual)).float_onnx
    import onnx

    kinds = [node.op_type for node in onnx.load_from_string(graph.content).graph.node]
    assert "GlobalAveragePool" in kinds


class OtherOrder(PairData):
    """Samples whose inputs are named in another order than those of the example."""

    def __getitem__(self, index: int):
        inputs, target = super().__getitem__(index)
        return dict(reversed(inputs.items())), target


@pytest.mark.parametrize("options", [
    PtqOptions(), PtqOptions(rounding="gptq"), PtqOptions(rounding="learned"),
], ids=lambda options: options.rounding)  # fmt: skip
def test_named_inputs_in_any_order_calibrate_the_same(options: PtqOptions) -> None:
    found = []
    for kind in (PairData, OtherOrder):
        data = {"calibration": kind(64), "search": kind(128, seed=1), "report": None}
        example, _ = PairData(1)[0]
        example = {name: value[None] for name, value in example.items()}
        builder = TaskBuilder(make_task(Pair, example_input=example, **data))
        names = [layer.name for layer in builder.layers]
        file = builder.build(Recipe.uniform(names, 4, options)).artifact
        found.append(file.passport["graph_sha256"])
    assert found[0] == found[1]


class Embedding(nn.Module):
    """Answers with what its head reads, too."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.fc(x.flatten(1))
        return self.head(found), found


@pytest.mark.parametrize("backend", ["onnxruntime", "litert"])
def test_an_output_that_a_layer_reads_too_is_what_the_quantized_model_says(backend: str) -> None:
    if backend == "litert":
        pytest.importorskip("ai_edge_litert")
    task = make_task(Embedding)
    evaluator = load_single_evaluator(task, 0, 1, 1, backend)
    builder = evaluator.builder
    recipe = Recipe.uniform([layer.name for layer in builder.layers], 8)
    file = builder.build(recipe).artifact
    model = builder.quantizer.quantize(recipe)
    x = task.search.x[:1]
    with torch.no_grad():
        promised = model.module(x)
    made = list(evaluator.backend.load(file, 1).run_all(x.numpy()).values())
    for wanted, found in zip(promised, made, strict=True):
        step = float(np.abs(np.diff(np.unique(wanted.numpy()))).min())
        assert np.abs(wanted.numpy() - found).max() < max(1e-5, step / 4)


class Regression(nn.Module):
    """One number a sample, without a dimension of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, 8)
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc(x.flatten(1)))).squeeze(-1)


def mean_error(outputs, targets) -> float:
    return -float(np.abs(outputs - targets).mean())


def test_a_model_of_one_number_a_sample_is_measured() -> None:
    evaluator = load_single_evaluator(make_task(Regression, metric=mean_error), 0, 1, 1)
    measurement, _ = evaluator.evaluate(Recipe.uniform(["fc", "head"], 8))
    assert measurement.parity.sqnr_db > 30
    assert measurement.parity.top1_agreement == 1.0


def test_a_file_that_computes_something_else_is_refused() -> None:
    builder = TaskBuilder(make_task(Residual))
    model, backend, inputs = seeded(Residual), OrtBackend(), Data(4).x
    check_fidelity(model, builder.float_onnx, backend, inputs)
    with torch.no_grad():
        model.fc.weight.mul_(1.01)
    with pytest.raises(
        TraceError, match=r"output 0 of the float file is not the model's: SQNR [34]"
    ):
        check_fidelity(model, builder.float_onnx, backend, inputs)


class Divided(Residual):
    """Its pool divides by another number than it adds up, which torch's ONNX exporter forgets."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.avg_pool2d(x, 8, divisor_override=3).expand(-1, -1, 8, 8))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_what_the_exporter_gets_wrong_is_refused(backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    with pytest.raises(TraceError, match="of the float file is not the model's: SQNR"):
        TaskBuilder(make_task(Divided), conditions={"backend": backend})


class Restless(Residual):
    """Answers otherwise each time."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * torch.randn_like(x))


def test_a_model_that_answers_otherwise_each_time_has_nothing_to_compare() -> None:
    check_fidelity(seeded(Restless), TaskBuilder(make_task()).float_onnx, OrtBackend(), Data(4).x)


class Mobile(nn.Module):
    """Two layers with a gate between them, whose grid ends at one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(128, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.second(F.hardswish(self.first(x)))).flatten(1))


def test_training_keeps_the_gate_of_a_hard_swish_within_one() -> None:
    """The file clips it by the end of its grid alone."""
    builder = TaskBuilder(make_task(Mobile))
    ceilings = {}

    class Seen(Exception):
        pass

    def train(make):
        _, learnable = make()
        ceilings.update(learnable._ceilings)
        raise Seen

    recipe = Recipe.uniform(["first", "second", "head"], 8)
    with pytest.raises(Seen):
        builder.quantizer.quantize(recipe, train)
    gates = [
        node.name
        for node in builder.quantizer.module.graph.nodes
        if "hardsigmoid" in str(node.target)
    ]
    assert [ceilings.get(name) for name in gates] == [1.0]


class Tied(nn.Module):
    """A table that is the last layer's weight as well."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(16, 8)
        self.fc = nn.Linear(8, 8)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc(self.table(x).mean(1))))


class Tokens(Data):
    def __init__(self, count: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randint(16, (count, 4), generator=generator)
        self.y = torch.randint(5, (count,), generator=generator)


def test_a_layer_whose_weights_are_a_table_too_is_not_equalized() -> None:
    data = {"calibration": Tokens(64), "search": Tokens(128, 1), "report": None}
    example = torch.zeros(1, 4, dtype=torch.int64)
    builder = TaskBuilder(make_task(Tied, example_input=example, **data))
    kinds: set[LayerKind] = {layer.kind for layer in builder.layers}
    assert "linear" in kinds
    assert not find_pairs(builder.quantizer.found.values())
    untied = TaskBuilder(make_task(Mobile))
    assert not find_pairs(untied.quantizer.found.values()), "a gate is no ReLU"
    names = [layer.name for layer in builder.layers]
    plain, equal = (
        builder.build(Recipe.uniform(names, 8, PtqOptions(equalization=value)))
        for value in (False, True)
    )
    inputs = data["search"].x.numpy()
    assert np.array_equal(plain.predict([inputs]), equal.predict([inputs]))
