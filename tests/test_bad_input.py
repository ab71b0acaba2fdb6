"""Models and data that are odd: they work, or one line names what is wrong and the way out."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoquant.build import TaskBuilder, build_evaluator
from autoquant.core.recipe import Percentile, PtqOptions, Recipe
from autoquant.core.task import Task
from autoquant.errors import AutoquantError, InputError
from autoquant.evaluate import EvaluationOptions
from tests.networks import Branching, Data, Residual, ZeroChannel, make_task, seeded

METHODS = ["minmax", "mse", "entropy", Percentile(percentile=99.9)]


class Dead(nn.Module):
    """A ReLU that lets nothing through."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.Conv2d(4, 5, 3)
        nn.init.constant_(self.first.bias, -1e4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x))).mean((2, 3))


@torch.library.custom_op("autoquant_tests::twist", mutates_args=())
def twist(x: Tensor) -> Tensor:
    return x.flip(1).clone()


@twist.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Custom(Dead):
    """Calls an operator that only the user knows."""

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.ops.autoquant_tests.twist(self.first(x))).mean((2, 3))


class Large(nn.Module):
    """More weights than one file holds, none of them in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Linear(8, 8)
        self.large = nn.Linear(2**16, 2**14, device="meta")


class Mended(Data):
    """As `Data`, changed by a function."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(16)
        self.items = [change(x) for x in self.x]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.items[index], int(self.y[index])


def changed(change: Callable[[nn.Module], object], kind: type[nn.Module] = Residual) -> nn.Module:
    model = seeded(kind)
    with torch.no_grad():
        change(model)
    return model


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(make_task(ZeroChannel), id="zero channel"),
        pytest.param(
            make_task(model=changed(lambda m: m.body.weight[0].fill_(0.3))), id="constant channel"
        ),
        pytest.param(make_task(model=changed(lambda m: m.body.weight.zero_())), id="zero layer"),
        pytest.param(make_task(Dead), id="all-zero activation"),
        pytest.param(make_task(calibration=Data(1)), id="one calibration image"),
        pytest.param(make_task(calibration=Mended(lambda x: x * 0)), id="black images"),
        pytest.param(make_task(calibration=Mended(lambda x: x * 0 + 0.5)), id="grey images"),
        pytest.param(make_task(calibration=Mended(lambda x: -x.abs() - 1)), id="all negative"),
        pytest.param(make_task(calibration=Mended(lambda x: x * 1e-30)), id="tiny"),
        pytest.param(make_task(calibration=Mended(lambda x: x * 1e30)), id="huge"),
    ],
)
@pytest.mark.parametrize("symmetry", ["asymmetric", "symmetric"])
@pytest.mark.long
def test_odd_models_and_data_work(task: Task, symmetry: str) -> None:
    """Each builds a file whose every scale is finite and that agrees with the Brevitas model."""
    evaluator = build_evaluator(task, options=EvaluationOptions(latency=None))
    names = [layer.name for layer in evaluator.layers]
    for bits, method in zip((8, 4, 8, 4), METHODS, strict=True):
        options = PtqOptions(calibration=method, activation_symmetry=symmetry)
        measurement, _ = evaluator.evaluate(Recipe.uniform(names, bits, options))
        assert measurement.parity is not None
        assert measurement.parity.top1_agreement == 1.0


def nan_at(*position: int) -> Callable[[Tensor], Tensor]:
    def change(x: Tensor) -> Tensor:
        x = x.clone()
        x[position] = float("nan")
        return x

    return change


@pytest.mark.parametrize(
    ("task", "message"),
    [
        pytest.param(
            lambda: make_task(model=changed(lambda m: m.fc.weight[0].fill_(float("inf")))),
            r"'fc\.weight' holds NaN or infinity; repair the checkpoint",
            id="infinite weight",
        ),
        pytest.param(
            lambda: make_task(model=seeded(Residual).half()),
            r"'stem\.weight' is torch\.float16: hand over the model in float32",
            id="half precision",
        ),
        pytest.param(
            lambda: make_task(model=Large()),
            r"take 4\.3 GB \('large\.weight' alone 4\.3\), and one ONNX file holds 2: cut",
            id="over 2 GB",
        ),
        pytest.param(
            lambda: make_task(Custom),
            r"operator 'autoquant_tests\.twist\.default' has no ONNX counterpart; put operators",
            id="custom operator",
        ),
        pytest.param(
            lambda: make_task(
                Branching, example_input=torch.zeros(1, 4), calibration=Data(4, (4,)),
                search=Data(4, (4,)), report=None,
            ),
            r"control flow depends on its data \(at .*networks\.py, line \d+\); write it with",
            id="control flow",
        ),
        pytest.param(
            lambda: make_task(calibration=Mended(nan_at(0, 0, 0))),
            "sample 0 of the calibration data holds NaN or infinity; repair it or leave it out",
            id="NaN in calibration data",
        ),
        pytest.param(
            lambda: make_task(search=Mended(nan_at(0, 0, 0))),
            "sample 0 of the search data holds NaN",
            id="NaN in search data",
        ),
        pytest.param(
            lambda: make_task(calibration=Data(4, (8, 8))),
            r"sample 0 of the calibration data has shape \(8, 8\), the example input \(3, 8, 8\)",
            id="another rank",
        ),
        pytest.param(
            lambda: make_task(calibration=Data(0)), "the calibration data is empty", id="no data"
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_in_one_line(task: Callable[[], Task], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        TaskBuilder(task())
    assert "\n" not in str(raised.value)


def test_an_activation_that_overflows_names_the_layer_that_reads_it() -> None:
    class Overflow(Dead):
        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.exp(self.first(x) + 2e4)).mean((2, 3))

    evaluator = build_evaluator(make_task(Overflow), options=EvaluationOptions(latency=None))
    with pytest.raises(AutoquantError, match="input of layer 'second' is not finite on the cal"):
        evaluator.evaluate(Recipe.uniform(["first", "second"], 8))


def test_a_folded_weight_that_overflows_names_the_layer() -> None:
    model = changed(lambda m: m.norm.running_var[0].fill_(float("nan")))
    evaluator = build_evaluator(make_task(model=model), options=EvaluationOptions(latency=None))
    with pytest.raises(AutoquantError, match="layer 'stem' has weights that are not finite"):
        evaluator.evaluate(Recipe.uniform([layer.name for layer in evaluator.layers], 8))
