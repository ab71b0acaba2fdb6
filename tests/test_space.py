import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoquant.core.recipe import PtqOptions, Recipe
from autoquant.core.space import (
    LayerRule,
    SearchSpace,
    baselines,
    expand_layers,
    named_recipes,
)
from autoquant.errors import SpaceError

LAYERS = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "fc"]

choices = st.sampled_from([("8",), ("4",), ("8", "4"), ("8", "4", "float"), ("8", "float")])
spaces = st.builds(
    SearchSpace,
    st.fixed_dictionaries({name: choices for name in LAYERS}),
    st.fixed_dictionaries(
        {},
        optional={
            "calibration": st.just(("minmax", "mse")),
            "bias_correction": st.just((True, False)),
            "calibration_images": st.just((64, 512)),
            "reduce_range": st.just((False, True)),
            "equalization": st.just((False, True)),
            "rounding": st.just(("nearest", "gptq")),
        },
    ),
)
learned_spaces = st.builds(
    SearchSpace,
    st.fixed_dictionaries({name: choices for name in LAYERS[:2]}),
    st.fixed_dictionaries(
        {"rounding": st.sampled_from([("learned",), ("nearest", "learned")])},
        optional={
            "rounding_scope": st.sampled_from([("block",), ("layer", "block")]),
            "rounding_iterations": st.sampled_from([(5,), (10, 20, 30)]),
        },
    ),
)


@given(spaces | learned_spaces, st.data())
def test_encode_is_the_inverse_of_decode(space: SearchSpace, data: st.DataObject) -> None:
    parameters = {
        name: data.draw(st.sampled_from(values)) for name, values in space.parameters.items()
    }
    recipe = space.decode(parameters)
    assert recipe in space
    assert space.decode(space.encode(recipe)) == recipe
    assert Recipe.from_json(recipe.to_json()) == recipe


@given(spaces | learned_spaces)
def test_size_counts_distinct_recipes(space: SearchSpace) -> None:
    recipes = {space.decode(parameters).digest for parameters in space.enumerate()}
    assert len(recipes) == space.size


def test_last_matching_rule_wins_key_by_key() -> None:
    rules = {
        "*": LayerRule((8, 4), (False, True)),
        "layer1.*": LayerRule(exclude=(False,)),
        "conv1": LayerRule((8,)),
    }
    expanded = expand_layers(rules, LAYERS)
    assert expanded["conv1"] == ("8", "float")
    assert expanded["layer1.0.conv1"] == ("8", "4")
    assert expanded["fc"] == ("8", "4", "float")


def test_pattern_that_matches_nothing_names_the_layers() -> None:
    with pytest.raises(SpaceError, match=r"'fc9' matches no layer; there are conv1, .*fc"):
        expand_layers({"*": LayerRule((8,)), "fc9": LayerRule((4,))}, LAYERS)


def test_long_lists_of_layers_are_shortened() -> None:
    with pytest.raises(SpaceError, match=r"100 in all") as caught:
        expand_layers({"nope": LayerRule((8,))}, [f"layer{index}" for index in range(100)])
    assert len(str(caught.value)) < 200


def test_empty_space_is_an_error() -> None:
    with pytest.raises(SpaceError, match="no quantizable layer"):
        SearchSpace({})
    with pytest.raises(SpaceError, match="'calibration' has no allowed value"):
        SearchSpace({"a": ("8",)}, {"calibration": ()})
    with pytest.raises(SpaceError, match="'a' has no choice left"):
        expand_layers({"*": LayerRule((), (False,))}, ["a"])


def test_options_of_learned_rounding_need_it() -> None:
    with pytest.raises(SpaceError, match="'rounding_scope' decides nothing without 'learned'"):
        SearchSpace({"a": ("4",)}, {"rounding": ("gptq",), "rounding_scope": ("layer", "block")})


def test_names_lead_to_the_baselines_to_learned_rounding_and_to_training() -> None:
    named = named_recipes(LAYERS)
    assert list(named) == [*baselines(LAYERS), "w4a8-learned", "w8a8-qat", "w4a8-qat"]
    learned = named["w4a8-learned"]
    assert learned.layers == dict.fromkeys(LAYERS, 4)
    assert learned.options == PtqOptions(rounding="learned", rounding_scope="block")


def test_parameters_hold_open_decisions_alone() -> None:
    space = SearchSpace({"a": ("8",), "b": ("8", "4")}, {"calibration": ("mse",)})
    assert space.parameters == {"layer.b": ("8", "4")}
    assert space.decode({"layer.b": "4"}).layers == {"a": 8, "b": 4}


def test_decode_refuses_what_is_not_allowed() -> None:
    space = SearchSpace({"a": ("8", "4")})
    with pytest.raises(SpaceError, match=r"layer\.a"):
        space.decode({})
    with pytest.raises(SpaceError, match="'float' is no choice"):
        space.decode({"layer.a": "float"})


def test_encode_refuses_foreign_recipes() -> None:
    space = SearchSpace({"a": ("8", "4")})
    assert Recipe(method="fp32") not in space
    assert Recipe(method="ort-static") not in space
    assert Recipe.uniform(["b"], 8) not in space
    assert Recipe.uniform(["a"], 8, PtqOptions(calibration="mse")) not in space


def test_baselines_are_the_five_of_every_study() -> None:
    assert list(baselines(LAYERS)) == ["fp32", "w8a8", "w4a8", "ort-static", "ort-dynamic"]
    assert baselines(LAYERS)["w4a8"].layers == dict.fromkeys(LAYERS, 4)


def test_where_sums_saturate_w8a8_has_seven_bits_and_the_full_range_stands_beside_it() -> None:
    named = baselines(LAYERS, reduce_range=True, is_exact=False)
    assert list(named) == [*baselines(LAYERS), "w8a8-full"]
    assert named["w8a8"] == baselines(LAYERS, reduce_range=True)["w8a8-reduced"]
    assert named["w8a8-full"] == baselines(LAYERS)["w8a8"]
    trained = named_recipes(LAYERS, is_exact=False)["w8a8-qat"]
    assert trained.trained(None) == named["w8a8"]


MIXED = SearchSpace(
    {"a": ("8", "4"), "b": ("4", "float")},
    {
        "mode": ("ptq", "qat"),
        "calibration": ("minmax", "mse"),
        "qat.epochs": (2, 4, 8),
        "qat.learning_rate": (0.001,),
    },
)


def test_training_multiplies_trained_recipes_alone() -> None:
    recipes = {MIXED.decode(parameters) for parameters in MIXED.enumerate()}
    assert len(recipes) == MIXED.size == 4 * 2 * (1 + 3)
    assert all(MIXED.decode(MIXED.encode(recipe)) == recipe for recipe in recipes)


def test_a_mixed_space_proposes_untrained_recipes_and_knows_their_twins() -> None:
    untrained = MIXED.untrained
    assert set(untrained.parameters) == {"layer.a", "layer.b", "calibration"}
    recipe = untrained.decode({"layer.a": "8", "layer.b": "4", "calibration": "mse"})
    twins = MIXED.trained_twins(recipe)
    assert [twin.options.qat.epochs for twin in twins] == [2, 4, 8]
    assert all(twin in MIXED and twin.trained(None) == recipe for twin in twins)


def test_where_everything_is_trained_nothing_is_left_out() -> None:
    space = SearchSpace({"a": ("8", "4")}, {"mode": ("qat",)})
    assert space.untrained is space
    assert all(space.decode(parameters).is_trained for parameters in space.enumerate())


def test_trained_recipes_have_names() -> None:
    named = named_recipes(LAYERS)
    assert named["w4a8-qat"].trained(None) == named["w4a8"]
    assert named["w8a8-qat"].trained(None) == named["w8a8"]
