"""Histograms and ranges of layers: laws, and the very grids that recipes get."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from autoquant.browse.errand import run_errand
from autoquant.browse.layers import layer_arguments, read_layers, read_noises
from autoquant.browse.library import Library
from autoquant.build import TaskBuilder, build_evaluator
from autoquant.core.distribution import DistributionPlan, LayerDistribution, find_clipped
from autoquant.core.layer import INTEGER_KINDS, Kernels
from autoquant.core.recipe import Percentile, PtqOptions, Recipe, method_label
from autoquant.distribution import keep_distributions, plan_distributions, read_distributions
from autoquant.errors import InputError
from autoquant.quantize import sampling
from autoquant.quantize.distribution import look_at_layers
from autoquant.search.header import StudyHeader
from autoquant.search.storage import Location
from autoquant.tasks import registry
from tests.float_kernels import UpInGroups
from tests.journals import definition, measured_trials, write_study
from tests.networks import ConvHead, Data, Gated, Residual, make_task

PERCENTILES = (99.99, 99.9, 99.0, 90.0)
METHODS = ("minmax", "mse", "entropy", *(Percentile(percentile=value) for value in PERCENTILES))
PLAN = DistributionPlan(
    methods=METHODS, symmetries=("asymmetric", "symmetric"), weight_bits=(8, 7, 4), images=32
)


def look(kind=Residual, plan: DistributionPlan = PLAN) -> list[LayerDistribution]:
    return list(look_at_layers(TaskBuilder(make_task(kind)).quantizer, plan))


@pytest.fixture(scope="module")
def looked() -> list[LayerDistribution]:
    return look()


def test_histograms_hold_every_value(looked) -> None:
    builder = TaskBuilder(make_task(Residual))
    assert [item.layer for item in looked] == [layer.name for layer in builder.layers]
    for item in looked:
        weight = builder.task.model.get_submodule(item.layer).weight
        assert item.weights.total == weight.numel()
        assert item.inputs.histogram.total == item.inputs.of_values
        assert not item.inputs.is_sampled
    assert looked[0].inputs.of_values == 32 * 3 * 8 * 8


def test_minmax_clips_nothing_and_a_lower_percentile_more(looked) -> None:
    for item in looked:
        found = {one.method: one for one in item.inputs.ranges if one.symmetry == "asymmetric"}
        assert found["minmax"].clipped == 0
        shares = [found[f"percentile:{value:g}"].clipped for value in PERCENTILES]
        assert shares == sorted(shares)
        assert shares[-1] > 0
        # ten percent above, and, of values with two tails, ten percent below
        assert shares[-1] <= 0.2


def test_what_a_symmetric_minmax_clips_lies_within_a_step(looked) -> None:
    """Its grid ends a step below the largest magnitude: Brevitas divides that by 128."""
    for item in looked:
        (found,) = (
            one for one in item.inputs.ranges
            if one.symmetry == "symmetric" and one.method == "minmax"
        )  # fmt: skip
        assert item.inputs.histogram.high <= found.high + found.step * 1.001
        assert item.inputs.histogram.low >= found.low - found.step * 1.001


@pytest.mark.parametrize("symmetry", ["asymmetric", "symmetric"])
def test_ranges_are_those_of_a_recipe_with_that_method(looked, symmetry) -> None:
    builder = TaskBuilder(make_task(Residual))
    names = [layer.name for layer in builder.layers]
    for method in METHODS:
        options = PtqOptions(
            calibration=method, activation_symmetry=symmetry, calibration_images=32
        )
        encodings = builder.quantizer.quantize(Recipe.uniform(names, 8, options)).encodings
        for item in looked:
            (found,) = (
                one for one in item.inputs.ranges
                if (one.method, one.symmetry) == (method_label(method), symmetry)
            )  # fmt: skip
            grid = encodings.activations[item.inputs.value]
            assert found.step == grid.scale
            assert found.low == -grid.zero_point * grid.scale
            assert found.high == (255 - grid.zero_point) * grid.scale


@pytest.mark.parametrize("bits", [8, 7, 4])
def test_weight_grids_are_those_of_a_recipe(looked, bits: int) -> None:
    builder = TaskBuilder(make_task(Residual))
    names = [layer.name for layer in builder.layers]
    for granularity, scale in (("per_channel", "max"), ("per_tensor", "mse")):
        options = PtqOptions(weight_granularity=granularity, weight_scale=scale,
                             reduce_range=bits == 7, bias_correction=False)  # fmt: skip
        recipe = Recipe.uniform(names, 4 if bits == 4 else 8, options)
        encodings = builder.quantizer.quantize(recipe).encodings
        for item in looked:
            (grid,) = (
                one for one in item.grids
                if (one.bits, one.granularity, one.scale) == (bits, granularity, scale)
            )  # fmt: skip
            steps = encodings.weights[item.layer].scale
            assert grid.steps == pytest.approx((steps.min(), steps.max()), rel=1e-6)
            assert scale != "max" or grid.clipped == 0


def test_more_bits_fit_better_and_the_best_scale_fits_best(looked) -> None:
    for item in looked:
        found = {(one.bits, one.granularity, one.scale): one.sqnr_db for one in item.grids}
        for (bits, granularity, scale), decibels in found.items():
            assert bits == 4 or decibels > found[4, granularity, scale] + 12
            assert scale == "max" or decibels >= found[bits, granularity, "max"] - 0.05


@pytest.mark.parametrize("kind", [ConvHead, Gated])
def test_every_architecture_can_be_looked_at(kind) -> None:
    for item in look(kind, DistributionPlan(methods=("minmax",), images=8)):
        assert item.inputs.ranges[0].clipped == 0
        assert len(item.grids) == 8


def test_a_layer_without_an_integer_kernel_has_weights_alone() -> None:
    task = make_task(UpInGroups)
    plan = DistributionPlan(methods=("minmax",), images=8)
    found = {item.layer: item for item in look_at_layers(TaskBuilder(task).quantizer, plan)}
    assert found["up"].inputs is None
    assert "no integer kernel" in found["up"].note
    assert all(grid.sqnr_db > 10 for grid in found["up"].grids)
    able = Kernels(INTEGER_KINDS | {"conv_transpose"})
    builder = TaskBuilder(task, kernels=able)
    found = {item.layer: item for item in look_at_layers(builder.quantizer, plan)}
    assert found["up"].inputs is not None


def test_a_sample_says_how_much_it_can_tell(monkeypatch) -> None:
    monkeypatch.setattr(sampling, "MAX_VALUES", 2000)
    plan = DistributionPlan(methods=("minmax",), images=32)
    first = look(plan=plan)[0].inputs
    assert first.is_sampled
    assert first.histogram.total < first.of_values == 32 * 192
    assert 0 < first.finest_share < 0.01
    assert first.ranges[0].clipped == 0, "the extremes are in the sample"


def test_half_a_step_outside_is_rounding_and_more_is_clipping() -> None:
    values = np.array([-1.6, -1.4, 0.0, 3.5, 3.6])
    assert find_clipped(values, -1.0, 3.0, 1.0) == 0.4
    channels = np.array([[1.0, 3.0], [1.0, 3.0]])
    ends = np.array([[1.0], [3.0]])
    assert find_clipped(channels, -ends, ends, ends / 7) == 0.25


# Kept beside a study


def header(**quantizer) -> StudyHeader:
    found = definition("test")
    return StudyHeader({**found, "quantizer": {**found["quantizer"], **quantizer}}, 0, "random")


def test_the_plan_has_what_the_space_varies_and_what_it_might() -> None:
    told = header(calibration=[{"percentile": 98.0}], calibration_images=[8, 32],
                  activation_symmetry=["symmetric"], reduce_range=[True])  # fmt: skip
    plan = plan_distributions(told)
    labels = [method_label(method) for method in plan.methods]
    assert labels == ["minmax", "percentile:99.99", "percentile:99.9", "mse", "entropy",
                      "percentile:98"]  # fmt: skip
    assert (plan.symmetries, plan.weight_bits, plan.images) == (("symmetric",), (8, 7, 4), 32)
    assert plan_distributions(header(reduce_range=[False])).weight_bits == (8, 4)


def test_what_is_kept_is_read_until_something_changes(tmp_path: Path, monkeypatch) -> None:
    location, told = Location(tmp_path, "s"), header(calibration_images=[8])
    evaluator = build_evaluator(make_task())
    first = keep_distributions(location, told, evaluator)
    assert read_distributions(location) == (first, None)
    looks = []
    monkeypatch.setattr(
        "autoquant.quantize.distribution.look_at_layers",
        lambda *given: looks.append(given) or iter(first.layers),
    )
    assert keep_distributions(location, told, evaluator) == first
    assert not looks
    keep_distributions(location, header(calibration_images=[16]), evaluator)
    keep_distributions(location, told, build_evaluator(make_task(calibration=Data(64, seed=9))))
    keep_distributions(location, dataclasses.replace(told, seed=1), evaluator)
    assert len(looks) == 3


@pytest.mark.parametrize("text", ["", "{}", '{"version": 2}', "\0", '{"version": 1, "layers": []}'])
def test_what_is_damaged_is_named_and_made_again(tmp_path: Path, text: str) -> None:
    location = Location(tmp_path, "s")
    (tmp_path / "s" / "layers").mkdir(parents=True)
    (tmp_path / "s" / "layers" / "distributions.json").write_text(text)
    found, problem = read_distributions(location)
    assert found is None
    assert "cannot be read" in problem


def test_a_rehearsal_has_no_layers_to_look_at(tmp_path: Path) -> None:
    evaluator = SimpleNamespace(builder=object())
    with pytest.raises(InputError, match="rehearsal"):
        keep_distributions(Location(tmp_path, "s"), header(), evaluator)


# Errands, on a study of a small network


@pytest.fixture
def asked(tmp_path: Path, monkeypatch) -> dict:
    """A study of one trial, whose file lies beside it; what the errands are told."""
    monkeypatch.setitem(registry._FACTORIES, "small", make_task)
    monkeypatch.setenv("AUTOQUANT_CACHE", str(tmp_path / "cache"))
    builder = TaskBuilder(make_task())
    recipe = Recipe.uniform([layer.name for layer in builder.layers], 8)
    trial = measured_trials(1)[0].model_copy(
        update={"recipe": recipe, "digest": recipe.digest, "name": "w8a8"}
    )
    write_study(tmp_path, "s", [trial], task="small")
    content = builder.build(recipe).artifact.content
    (tmp_path / "s" / "artifacts" / f"{recipe.digest}.onnx").write_bytes(content)
    return layer_arguments(Location(tmp_path, "s"), None, [0, 7])


def test_an_errand_looks_at_the_layers_and_says_what_it_does(asked, tmp_path: Path) -> None:
    said: list[str] = []
    run_errand("look", asked, said.append)
    kept = read_layers(Location(tmp_path, "s"))
    assert [item.layer for item in kept.distributions.layers] == ["stem", "body", "down", "fc"]
    assert kept.sensitivity is None, "nothing is measured unasked"
    assert "looking at layer body, 2 of 4" in said
    assert run_errand("sensitivity", asked, said.append) == []
    assert any("fc at float, 8 of 8" in text for text in said)
    assert len(read_layers(Location(tmp_path, "s")).sensitivity.costs) == 8


def test_an_errand_finds_errors_and_says_which_it_cannot(asked, tmp_path: Path) -> None:
    said = run_errand("noise", asked, lambda _: None)
    assert said == ["trial 7: the study has no such trial"]
    location = Location(tmp_path, "s")
    trials = Library(tmp_path).view("s").snapshot.trials
    noise = read_noises(location, trials)[0]
    assert [item.layer for item in noise] == ["stem", "body", "down", "fc"]
    assert all(item.weight_db > 30 and item.output_db > 15 for item in noise)
