"""Quantization noise by layer, against what the quantizers say they did."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoquant.build import TaskBuilder
from autoquant.core.recipe import PtqOptions, Recipe
from autoquant.export.onnx_file import load_model
from autoquant.export.readback import read_weights
from tests.networks import ConvHead, Data, Gated, Residual, make_task


class Tokens(nn.Module):
    """A square linear layer over three dimensions: read the wrong way round, it looks right."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x.mean(1)))).mean(1)


def names_of(builder: TaskBuilder) -> list[str]:
    return [layer.name for layer in builder.layers]


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", [Residual, ConvHead, Gated, Tokens])
def test_weights_of_a_file_are_those_of_its_encodings(kind, bits, granularity) -> None:
    builder = TaskBuilder(make_task(kind))
    recipe = Recipe.uniform(names_of(builder), bits, PtqOptions(weight_granularity=granularity))
    encodings = builder.quantizer.quantize(recipe).encodings
    found = read_weights(load_model(builder.build(recipe).artifact.content))
    assert set(found) >= set(encodings.weights)
    for name, weight in encodings.weights.items():
        shape = [-1] + [1] * (weight.values.ndim - 1) if weight.is_per_channel else []
        assert np.array_equal(found[name], weight.values * weight.scale.reshape(shape))


def test_noise_of_weights_is_what_rounding_did() -> None:
    builder = TaskBuilder(make_task(Tokens))
    recipe = Recipe.uniform(names_of(builder), 4)
    noise = builder.measure_noise(builder.build(recipe).artifact, Data(16).x.numpy())
    encodings = builder.quantizer.quantize(recipe).encodings
    assert [item.layer for item in noise] == names_of(builder)
    for item in noise:
        module = builder.task.model.get_submodule(item.layer)
        encoded = encodings.weights[item.layer]
        made = encoded.values * encoded.scale.reshape(-1, 1)
        wanted = module.weight.detach().numpy()
        expected = 10 * np.log10((wanted**2).sum() / ((wanted - made) ** 2).sum())
        assert item.weight_db == pytest.approx(expected, abs=0.02)


def test_a_float_file_has_no_noise_and_more_bits_have_less() -> None:
    builder = TaskBuilder(make_task(Residual))
    inputs = Data(16).x.numpy()

    def measure(recipe: Recipe) -> tuple[float, float]:
        noise = builder.measure_noise(builder.build(recipe).artifact, inputs)
        assert all(item.weight_db is not None and item.output_db is not None for item in noise)
        return (
            min(item.weight_db for item in noise),
            min(item.output_db for item in noise),
        )

    assert measure(Recipe(method="fp32")) == (200.0, 200.0)
    wide = measure(Recipe.uniform(names_of(builder), 8))
    narrow = measure(Recipe.uniform(names_of(builder), 4))
    assert 10 < narrow[0] < wide[0] - 18, "four bits are worth 24 decibels"
    assert narrow[1] < wide[1]
