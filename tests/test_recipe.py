import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoquant.core.recipe import Percentile, PtqOptions, QatOptions, Recipe, method_label
from autoquant.errors import RecipeError

options = st.builds(
    PtqOptions,
    weight_granularity=st.sampled_from(["per_channel", "per_tensor"]),
    weight_scale=st.sampled_from(["max", "mse"]),
    activation_symmetry=st.sampled_from(["asymmetric", "symmetric"]),
    calibration=st.one_of(
        st.sampled_from(["minmax", "mse", "entropy"]),
        st.builds(Percentile, percentile=st.floats(50, 99.9999)),
    ),
    calibration_images=st.integers(1, 5000),
    bias_correction=st.booleans(),
    equalization=st.booleans(),
    rounding=st.sampled_from(["nearest", "gptq", "learned"]),
    rounding_scope=st.sampled_from(["layer", "block"]),
    rounding_iterations=st.integers(1, 5000),
)
widths = st.dictionaries(st.text(min_size=1), st.sampled_from([8, 4, None]), min_size=1)
recipes = st.builds(Recipe.quantized, widths, options)


@given(recipes)
def test_json_round_trip_is_identity(recipe: Recipe) -> None:
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert again.digest == recipe.digest
    assert hash(again) == hash(recipe)


@given(recipes, recipes)
def test_digests_are_equal_exactly_when_decisions_are(one: Recipe, other: Recipe) -> None:
    assert (one.digest == other.digest) == (one.to_dict() == other.to_dict())


@given(widths, options)
def test_digest_ignores_the_order_of_layers(layers: dict[str, int | None], chosen: PtqOptions):
    turned = dict(reversed(layers.items()))
    assert Recipe.quantized(layers, chosen) == Recipe.quantized(turned, chosen)


@given(options)
def test_excluding_every_layer_is_float(chosen: PtqOptions) -> None:
    assert Recipe.quantized({"a": None, "b": None}, chosen) == Recipe(method="fp32")


def test_digest_is_stable_across_versions() -> None:
    recipe = Recipe.quantized({"conv1": 8, "fc": 4, "skip": None})
    assert recipe.digest == "4c9f78764671c4ee"


def test_newer_options_appear_only_where_they_are_chosen() -> None:
    assert "rounding" not in Recipe.uniform(["a"], 4).to_json()
    learned = PtqOptions(rounding="learned", equalization=True).model_dump(mode="json")
    assert learned["rounding"] == "learned"
    assert learned["equalization"] is True
    assert "rounding_scope" not in learned


def test_options_that_mean_nothing_make_no_difference() -> None:
    idle = PtqOptions(rounding="gptq", rounding_scope="block", rounding_iterations=7)
    assert idle == PtqOptions(rounding="gptq")
    # 8-bit weights go to the nearest point, whatever the rounding
    assert Recipe.uniform(["a"], 8, idle) == Recipe.uniform(["a"], 8)
    assert Recipe(method="brevitas", layers={"a": 8}, options=idle) == Recipe.uniform(["a"], 8)
    assert Recipe.uniform(["a"], 4, idle) != Recipe.uniform(["a"], 4)
    blocks = PtqOptions(rounding="learned", rounding_scope="block")
    assert Recipe.uniform(["a"], 4, blocks) != Recipe.uniform(
        ["a"], 4, PtqOptions(rounding="learned")
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Invalid JSON"),
        ('{"method": "magic"}', "method"),
        ('{"method": "fp32", "colour": 1}', "colour"),
        ('{"method": "brevitas", "layers": {"a": 3}, "options": {}}', r"layers\.a"),
        ('{"method": "brevitas", "layers": {"a": 8}}', "options"),
        ('{"method": "fp32", "layers": {"a": 8}}', "decides nothing"),
        ('{"method": "brevitas", "layers": {"a": null}, "options": {}}', "fp32"),
        ('{"method": "brevitas", "layers": {"a": 8}, "options": {"qat": {}}}', "belong to mode"),
        (
            '{"method": "brevitas", "layers": {"a": 8}, "options": {"mode": "qat", "qat": null}}',
            "belong to mode",
        ),
        ('{"version": 2, "method": "fp32"}', "version"),
        ('{"method": "brevitas", "layers": {"a": 4}, "options": {"rounding": "up"}}', "rounding"),
    ],
)
def test_bad_json_names_the_field(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_json(text)


def test_method_label_is_one_word() -> None:
    assert method_label("mse") == "mse"
    assert method_label(Percentile(percentile=99.9)) == "percentile:99.9"


def test_canonical_json_is_sorted() -> None:
    loaded = json.loads(Recipe.uniform(["b", "a"], 8).to_json())
    assert list(loaded) == sorted(loaded)


training = st.builds(
    QatOptions,
    epochs=st.integers(1, 100),
    distillation=st.floats(0, 1),
    optimizer=st.sampled_from(["adamw", "sgd"]),
)


@given(recipes.filter(lambda recipe: recipe.is_quantized), training)
def test_training_makes_another_recipe_and_leads_back(recipe: Recipe, chosen: QatOptions) -> None:
    twin = recipe.trained(chosen)
    assert twin.is_trained
    assert twin.digest != recipe.digest
    assert twin.layers == recipe.layers
    assert Recipe.from_json(twin.to_json()) == twin
    assert twin.trained(None) == recipe


def test_without_training_a_recipe_says_nothing_of_it() -> None:
    assert "qat" not in PtqOptions().model_dump()
    assert PtqOptions(mode="qat").qat == QatOptions()
