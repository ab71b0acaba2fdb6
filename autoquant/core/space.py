"""`SearchSpace`: the recipes allowed, and their parameters."""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from autoquant.core.layer import choice_text
from autoquant.core.recipe import (
    Activation,
    CalibrationMethod,
    Method,
    PtqOptions,
    QatOptions,
    Recipe,
    WeightBits,
    method_label,
)
from autoquant.errors import SpaceError

__all__ = [
    "FLOAT",
    "FULL",
    "REDUCED",
    "TRAINING",
    "LayerRule",
    "SearchSpace",
    "baselines",
    "expand_layers",
    "named_recipes",
    "option_text",
    "own_methods",
]

FLOAT = "float"
REDUCED = "w8a8-reduced"
FULL = "w8a8-full"
LEARNED = "w4a8-learned"
TRAINING = "qat."  # before the name of an option of training
_LAYER_PREFIX = "layer."
_MIXTURES: tuple[tuple[WeightBits, ...], ...] = ((8,), (4,), (8, 4))
# What the quantizer makes that comes with a runtime; OpenVINO reads ONNX Runtime's files.
_OWN_METHODS: Mapping[str, tuple[Method, ...]] = {
    "onnxruntime": ("ort-static", "ort-dynamic"),
    "litert": ("litert-static", "litert-dynamic"),
}
_STATIC = ("8", "4")  # choices of layers that nothing else is known of
_OF_LEARNED = ("rounding_scope", "rounding_iterations")


@dataclass(frozen=True)
class LayerRule:
    """What the layers of one name pattern may be.

    Attributes:
        weight_bits: widths allowed, or None to keep what an earlier rule said.
        exclude: whether the layer may (True), must not (False) stay float; None as above.
        activation: how a layer may take its input; None as above.
    """

    weight_bits: tuple[WeightBits, ...] | None = None
    exclude: tuple[bool, ...] | None = None
    activation: tuple[Activation, ...] | None = None


def expand_layers(
    rules: Mapping[str, LayerRule],
    layers: Sequence[str],
    able: Mapping[str, Collection[str]] | None = None,
) -> dict[str, tuple[str, ...]]:
    """Choices per layer: `"8"`, `"4"`, `"8:dynamic"`, `"4:float"`, `"float"`.

    Rules apply in order. The last rule that matches a layer and says something about a key
    wins for that key. What makes no sense for a layer is no choice of it.

    Args:
        rules: by name pattern.
        layers: names of all quantizable layers.
        able: what goes together in each layer, as `Layer.choices`; an input on a calibrated
            grid alone for those left out.

    Raises:
        SpaceError: a pattern that matches no layer, or leaves it no choice; names the layers.
    """
    bits: dict[str, tuple[WeightBits, ...]] = dict.fromkeys(layers, (8,))
    exclude: dict[str, tuple[bool, ...]] = dict.fromkeys(layers, (False,))
    kinds: dict[str, tuple[Activation, ...]] = dict.fromkeys(layers, ("static",))
    for pattern, rule in rules.items():
        matched = [name for name in layers if fnmatchcase(name, pattern)]
        if not matched:
            raise SpaceError(f"'{pattern}' matches no layer; there are {_shorten(layers)}")
        if rule.weight_bits is not None:
            bits.update(dict.fromkeys(matched, rule.weight_bits))
        if rule.exclude is not None:
            exclude.update(dict.fromkeys(matched, rule.exclude))
        if rule.activation is not None:
            kinds.update(dict.fromkeys(matched, rule.activation))
    found = {}
    for name in layers:
        wanted = [choice_text(width, kind) for kind in kinds[name] for width in bits[name]]
        found[name] = _choices(name, wanted, exclude[name], (able or {}).get(name, _STATIC))
    return found


def _choices(
    name: str, wanted: Sequence[str], exclude: tuple[bool, ...], able: Collection[str]
) -> tuple[str, ...]:
    quantized = [choice for choice in wanted if False in exclude and choice in able]
    choices = (*quantized, *((FLOAT,) if True in exclude else ()))
    if not choices:
        raise SpaceError(
            f"layer '{name}' has no choice left among its weight_bits, exclude and activation: "
            f"the runtime has {', '.join(able)} for it"
        )
    return choices


def _shorten(names: Sequence[str], keep: int = 12) -> str:
    if len(names) <= keep:
        return ", ".join(names)
    return f"{', '.join(names[: keep - 1])}, ... , {names[-1]} ({len(names)} in all)"


@dataclass(frozen=True)
class SearchSpace:
    """The recipes allowed for one network.

    Attributes:
        layers: choices by layer name, in network order; see `expand_layers`.
        options: allowed values by `PtqOptions` field, or by `qat.` and a field of `QatOptions`;
            a field that is missing keeps its default.
    """

    layers: Mapping[str, tuple[str, ...]]
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        empty = [name for name, values in {**self.layers, **self.options}.items() if not values]
        if not self.layers:
            raise SpaceError("the search space is empty: the model has no quantizable layer")
        if empty:
            raise SpaceError(f"the search space is empty: '{empty[0]}' has no allowed value")
        if "learned" not in self.options.get("rounding", ()):
            idle = [name for name in _OF_LEARNED if name in self.options]
            if idle:
                raise SpaceError(f"'{idle[0]}' decides nothing without 'learned' among 'rounding'")

    @cached_property
    def parameters(self) -> dict[str, tuple[str, ...]]:
        """Choices as text, for every decision that has more than one."""
        named = {_LAYER_PREFIX + name: choices for name, choices in self.layers.items()}
        named |= {name: tuple(map(option_text, values)) for name, values in self.options.items()}
        return {name: choices for name, choices in named.items() if len(choices) > 1}

    @property
    def reduces_range(self) -> bool:
        """Whether 7-bit weights are among the choices."""
        return True in self.options.get("reduce_range", ())

    @property
    def is_mixed(self) -> bool:
        """Whether a recipe may be trained or not."""
        return {"ptq", "qat"} <= {*self.options.get("mode", ())}

    @cached_property
    def untrained(self) -> "SearchSpace":
        """Of a mixed space, the recipes without training; of any other, the space itself."""
        if not self.is_mixed:
            return self
        kept = {
            name: values for name, values in self.options.items() if not name.startswith(TRAINING)
        }
        return SearchSpace(self.layers, {**kept, "mode": ("ptq",)})

    def trained_twins(self, recipe: Recipe) -> list[Recipe]:
        """What a recipe without training becomes with it, in every way that is allowed."""
        ways = {
            name.removeprefix(TRAINING): values
            for name, values in self.options.items()
            if name.startswith(TRAINING)
        }
        chosen = itertools.product(*ways.values())
        return [recipe.trained(QatOptions(**dict(zip(ways, way, strict=True)))) for way in chosen]

    @staticmethod
    def is_layer(parameter: str) -> bool:
        """Whether a parameter decides on a layer."""
        return parameter.startswith(_LAYER_PREFIX)

    @property
    def size(self) -> int:
        """Number of distinct recipes."""
        all_float = self._count(())
        eight, four, both = (self._count(widths) - all_float for widths in _MIXTURES)
        counts = zip(_MIXTURES, (eight, four, both - eight - four), strict=True)
        return min(all_float, 1) + sum(
            count * self._count_options(widths) for widths, count in counts if count
        )

    def _count(self, widths: Collection[WeightBits]) -> int:
        """Combinations of layers that have these widths or are float."""
        allowed = {None, *widths}
        return math.prod(
            sum(_to_bits(choice) in allowed for choice in choices)
            for choices in self.layers.values()
        )

    def _count_options(self, widths: Collection[WeightBits]) -> int:
        """Decisions on the whole network that differ for layers of these widths."""
        combinations = itertools.product(*self.options.values())
        options = (
            _to_options(dict(zip(self.options, values, strict=True))) for values in combinations
        )
        return len({item.for_widths(widths) for item in options})

    def enumerate(self) -> Iterator[dict[str, str]]:
        """Every combination of parameters; only for spaces known to be small."""
        names = list(self.parameters)
        for values in itertools.product(*self.parameters.values()):
            yield dict(zip(names, values, strict=True))

    def decode(self, parameters: Mapping[str, str]) -> Recipe:
        """The recipe of these parameters.

        Raises:
            SpaceError: a parameter that is missing, or a value that is not allowed.
        """
        widths = {
            name: self._pick(_LAYER_PREFIX + name, choices, choices, parameters)
            for name, choices in self.layers.items()
        }
        options = {
            name: self._pick(name, tuple(map(option_text, values)), values, parameters)
            for name, values in self.options.items()
        }
        return Recipe.quantized(
            {name: _to_bits(text) for name, text in widths.items()},
            _to_options(options),
            {name: _to_activation(text) for name, text in widths.items()},
        )

    def encode(self, recipe: Recipe) -> dict[str, str]:
        """The parameters of a recipe; the inverse of `decode`.

        Raises:
            SpaceError: the recipe is not in this space.
        """
        if recipe.method == "fp32":
            layers = dict.fromkeys(self.layers, FLOAT)
            values = {name: allowed[0] for name, allowed in self.options.items()}
        elif recipe.options is not None and set(recipe.layers) == set(self.layers):
            layers = {
                name: _to_choice(bits, recipe.activation_of(name))
                for name, bits in recipe.layers.items()
            }
            # what means nothing in this recipe is at its default, which need not be allowed
            values = {
                name: value if value in allowed else allowed[0]
                for name, allowed in self.options.items()
                for value in (self._read_option(recipe.options, name),)
            }
        else:
            raise SpaceError(f"recipe {recipe.digest} is not of this space")
        named = {_LAYER_PREFIX + name: text for name, text in layers.items()}
        named |= {name: option_text(value) for name, value in values.items()}
        parameters = {name: named[name] for name in self.parameters}
        if self.decode(parameters) != recipe:
            raise SpaceError(f"recipe {recipe.digest} is not of this space")
        return parameters

    def __contains__(self, recipe: Recipe) -> bool:
        try:
            self.encode(recipe)
        except SpaceError:
            return False
        return True

    def _read_option(self, options: PtqOptions, name: str) -> Any:
        """Value of a parameter; what does not matter without training has its first one."""
        if not name.startswith(TRAINING):
            return getattr(options, name)
        if options.qat is None:
            return self.options[name][0]
        return getattr(options.qat, name.removeprefix(TRAINING))

    @staticmethod
    def _pick(
        name: str, texts: tuple[str, ...], values: tuple[Any, ...], parameters: Mapping[str, str]
    ) -> Any:
        if len(texts) == 1:
            return values[0]
        try:
            return values[texts.index(parameters[name])]
        except KeyError:
            raise SpaceError(f"parameter '{name}' is missing") from None
        except ValueError:
            allowed = ", ".join(texts)
            raise SpaceError(f"'{parameters[name]}' is no choice for {name}: {allowed}") from None


def own_methods(backend: str) -> tuple[Method, ...]:
    """What the quantizer that comes with a runtime makes, by names of recipes."""
    return _OWN_METHODS["litert" if backend == "litert" else "onnxruntime"]


def baselines(
    layers: Sequence[str],
    *,
    reduce_range: bool = False,
    is_exact: bool = True,
    backend: str = "onnxruntime",
) -> dict[str, Recipe]:
    """The named recipes that every study measures first.

    Args:
        layers: names of all quantizable layers.
        reduce_range: whether 7-bit weights are in question too.
        is_exact: the processor adds 8-bit products without saturating. Where it does not,
            `w8a8` has 7-bit weights, and the full range stands beside it by a name of its own.
        backend: the runtime, whose own quantizer's files are measured too.
    """
    names = list(layers)
    full = Recipe.uniform(names, 8, PtqOptions())
    reduced = Recipe.uniform(names, 8, PtqOptions(reduce_range=True))
    if is_exact:
        best, beside = full, {REDUCED: reduced} if reduce_range else {}
    else:
        best, beside = reduced, {FULL: full}
    return {
        "fp32": Recipe(method="fp32"),
        "w8a8": best,
        "w4a8": Recipe.uniform(names, 4, PtqOptions()),
        **{method: Recipe(method=method) for method in own_methods(backend)},
        **beside,
    }


def named_recipes(
    layers: Sequence[str], *, is_exact: bool = True, backend: str = "onnxruntime"
) -> dict[str, Recipe]:
    """Every recipe that goes by a name: the baselines, and what takes minutes to make.

    Args:
        layers: names of all quantizable layers.
        is_exact: as for `baselines`.
        backend: likewise.
    """
    names = list(layers)
    learned = PtqOptions(rounding="learned", rounding_scope="block")
    trained = PtqOptions(mode="qat")
    eight = PtqOptions(mode="qat", reduce_range=not is_exact)
    return {
        **baselines(layers, is_exact=is_exact, backend=backend),
        LEARNED: Recipe.uniform(names, 4, learned),
        "w8a8-qat": Recipe.uniform(names, 8, eight),
        "w4a8-qat": Recipe.uniform(names, 4, trained),
    }


def _to_options(values: Mapping[str, Any]) -> PtqOptions:
    """Options of these values, those of training left out where there is none."""
    plain = {name: value for name, value in values.items() if not name.startswith(TRAINING)}
    if plain.get("mode") == "qat":
        plain["qat"] = {
            name.removeprefix(TRAINING): value
            for name, value in values.items()
            if name.startswith(TRAINING)
        }
    return PtqOptions(**plain)


def option_text(value: CalibrationMethod | bool | float) -> str:
    """A value of an option as the parameters of a space have it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (int, float)) else method_label(value)


def _to_bits(text: str) -> WeightBits | None:
    match text.partition(":")[0]:
        case "8":
            return 8
        case "4":
            return 4
        case _:
            return None


def _to_activation(text: str) -> Activation:
    match text.partition(":")[2]:
        case "dynamic":
            return "dynamic"
        case "float":
            return "float"
        case _:
            return "static"


def _to_choice(bits: WeightBits | None, activation: Activation) -> str:
    return FLOAT if bits is None else choice_text(bits, activation)
