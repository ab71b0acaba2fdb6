"""`Recipe`: the complete, hashable decision for one candidate."""

import hashlib
import json
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from autoquant.errors import RecipeError

__all__ = [
    "Activation",
    "CalibrationMethod",
    "Method",
    "Percentile",
    "PtqOptions",
    "QatOptions",
    "Recipe",
    "Rounding",
    "RoundingScope",
    "WeightBits",
    "method_label",
]

WeightBits = Literal[8, 4]
# How a layer takes its input: on a calibrated grid, on one found anew for every input, or as it
# is, with the weights alone quantized; `core.layer.Kernels` says what a runtime has of these.
Activation = Literal["static", "dynamic", "float"]
Method = Literal["fp32", "brevitas", "ort-static", "ort-dynamic", "litert-static", "litert-dynamic"]
Rounding = Literal["nearest", "gptq", "learned"]
RoundingScope = Literal["layer", "block"]

DEFAULT_ITERATIONS = 200
# What the first recipes did not know: left out of their JSON at its default.
_NEWER = (
    "reduce_range", "equalization", "rounding", "rounding_scope", "rounding_iterations", "qat",
)  # fmt: skip


class Percentile(BaseModel):
    """Clip the activation range at this percentile of the calibration values (in percent)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    percentile: Annotated[float, Field(ge=50.0, lt=100.0)]


CalibrationMethod = Literal["minmax", "mse", "entropy"] | Percentile


def method_label(method: CalibrationMethod) -> str:
    """One word for a calibration method: `minmax`, `mse`, `entropy`, `percentile:99.9`."""
    return f"percentile:{method.percentile:g}" if isinstance(method, Percentile) else method


class QatOptions(BaseModel):
    """How a network is trained with its quantizers in place.

    Attributes:
        epochs: passes over the task's training data.
        learning_rate: at the start; it falls to zero along a cosine. In units of what each
            value began as, so that one rate suits every layer.
        weight_decay: of the weights.
        distillation: share of the loss that is the distance from the float model's outputs
            (Hinton et al. 2015, arXiv 1503.02531); the rest is that from the labels. With 1
            no labels are looked at: for tasks whose labels are none, or not to be trusted.
        optimizer: `adamw`, or `sgd` with a momentum of 0.9.
        batch_size: images a step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    epochs: Annotated[int, Field(ge=1)] = 8
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.5
    optimizer: Literal["adamw", "sgd"] = "adamw"
    batch_size: Annotated[int, Field(ge=1)] = 100


class PtqOptions(BaseModel):
    """What holds for the whole network: everything in a recipe but the layers' widths.

    Attributes:
        weight_granularity: one weight scale a layer, or one an output channel.
        weight_scale: `max` takes the largest magnitude as the end of the grid, `mse` the
            scale of least squared error.
        activation_symmetry: `symmetric` keeps the zero point in the middle of the grid
            (or at its lower end for tensors without negative values).
        calibration: how an activation's range is read off the calibration images.
        calibration_images: number of images that calibrate; fewer if the task has fewer.
        bias_correction: absorb the mean error of the quantized weights into the bias
            (Nagel et al. 2019, arXiv 1906.04721, section 4.2).
        reduce_range: 8-bit weights use 7 bits of their grid, so that sums of two products fit
            16 bits: for processors without an integer dot product, where they saturate.
        equalization: scale channels between neighbouring layers so that both use their grids
            alike (Nagel et al. 2019, arXiv 1906.04721, section 4.1).
        rounding: how 4-bit weights come onto their grid (8-bit weights go to the nearest
            point): `nearest`, `gptq` (Frantar et al. 2022, arXiv 2210.17323) or `learned`
            from there on (AdaRound, Nagel et al. 2020, arXiv 2004.10568).
        rounding_scope: learned rounding keeps each layer's output, or those of whole blocks
            behind the quantized layers before them (BRECQ, Li et al. 2021, arXiv 2102.05426).
            Layers are learned once for all recipes of a study, blocks for each recipe.
        rounding_iterations: optimizer steps for each layer or block.
        mode: `ptq`, or `qat`: what post-training quantization makes is then trained, weights
            and grids alike (Jacob et al. 2018, arXiv 1712.05877).
        qat: how it is trained; None without training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    weight_granularity: Literal["per_channel", "per_tensor"] = "per_channel"
    weight_scale: Literal["max", "mse"] = "mse"
    activation_symmetry: Literal["asymmetric", "symmetric"] = "asymmetric"
    calibration: CalibrationMethod = "minmax"
    calibration_images: Annotated[int, Field(ge=1)] = 512
    bias_correction: bool = True
    reduce_range: bool = False
    equalization: bool = False
    rounding: Rounding = "nearest"
    rounding_scope: RoundingScope = "layer"
    rounding_iterations: Annotated[int, Field(ge=1)] = DEFAULT_ITERATIONS
    mode: Literal["ptq", "qat"] = "ptq"
    qat: QatOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_in_training(cls, values: Any) -> Any:
        """The defaults of training are spelled out, so that a digest means what was done."""
        is_bare = isinstance(values, dict) and values.get("mode") == "qat"
        return {"qat": {}, **values} if is_bare else values

    @model_validator(mode="after")
    def _check_training(self) -> Self:
        if (self.mode == "qat") != (self.qat is not None):
            raise ValueError("options of training (qat) belong to mode 'qat', and only to it")
        return self

    @model_validator(mode="after")
    def _forget_what_means_nothing(self) -> Self:
        """Options that decide the same are the same: nearest rounding has no scope."""
        if self.rounding != "learned":
            # the instance is frozen for everyone else
            self.__dict__["rounding_scope"] = "layer"
            self.__dict__["rounding_iterations"] = DEFAULT_ITERATIONS
        return self

    @model_serializer(mode="wrap")
    def _leave_out_newer_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What the first recipes did not know appears only where it is chosen: digests stay."""
        values: dict[str, Any] = serialize(self)
        fields = type(self).model_fields
        for name in _NEWER:
            if getattr(self, name) == fields[name].default:
                del values[name]
        return values

    def for_widths(self, widths: Collection[WeightBits | None]) -> "PtqOptions":
        """The same decision for layers of these widths, in canonical form."""
        changes: dict[str, Any] = {}
        if self.reduce_range and 8 not in widths:
            changes["reduce_range"] = False
        if self.rounding != "nearest" and 4 not in widths:
            changes["rounding"] = "nearest"
        return PtqOptions(**{**dict(self), **changes}) if changes else self


class Recipe(BaseModel):
    """A frozen, hashable, complete decision for one candidate.

    `layers` maps every quantizable layer to its weight width in bits, or to None for a layer
    that stays float. `activations` names the layers that do not take their input on a
    calibrated grid. Recipes that decide the same are equal: a recipe that excludes every
    layer *is* `fp32`, and an excluded layer has no width to differ in.

    Examples:
        >>> recipe = Recipe.quantized({"conv1": 8, "fc": 4})
        >>> Recipe.from_json(recipe.to_json()) == recipe
        True
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: Literal[1] = 1
    method: Method
    layers: dict[str, WeightBits | None] = {}
    activations: dict[str, Literal["dynamic", "float"]] = {}
    options: PtqOptions | None = None

    @model_serializer(mode="wrap")
    def _leave_out_newer_fields(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What the first recipes did not know appears only where it is chosen: digests stay."""
        values: dict[str, Any] = serialize(self)
        if not self.activations:
            del values["activations"]
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.method == "brevitas") != (self.options is not None):
            raise ValueError("options belong to recipes of method 'brevitas', and only to those")
        if self.method != "brevitas" and self.layers:
            raise ValueError(f"a recipe of method '{self.method}' decides nothing about layers")
        if self.method == "brevitas" and not any(self.layers.values()):
            raise ValueError("every layer is float: the recipe to name is 'fp32'")
        odd = [name for name in self.activations if self.layers.get(name) is None]
        if odd:
            raise ValueError(f"activation of '{odd[0]}': a layer that is not quantized has none")
        if self.options is not None:
            # the instance is frozen for everyone else
            self.__dict__["options"] = self.options.for_widths(self.layers.values())
        return self

    @classmethod
    def quantized(
        cls,
        layers: Mapping[str, WeightBits | None],
        options: PtqOptions | None = None,
        activations: Mapping[str, Activation] | None = None,
    ) -> "Recipe":
        """The recipe of these widths, in canonical form."""
        if not any(layers.values()):
            return cls(method="fp32")
        named = {
            name: kind
            for name, kind in (activations or {}).items()
            if kind != "static" and layers[name] is not None
        }
        options = options or PtqOptions()
        return cls(method="brevitas", layers=dict(layers), activations=named, options=options)

    @classmethod
    def uniform(
        cls, layers: list[str], bits: WeightBits, options: PtqOptions | None = None
    ) -> "Recipe":
        """Every layer at the same width."""
        return cls.quantized(dict.fromkeys(layers, bits), options)

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """Read a recipe.

        Raises:
            RecipeError: not JSON, or not a recipe of this version; names the field.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "recipe"
            raise RecipeError(f"not a recipe: {where}: {first['msg']}") from None

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no white space."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-ready values."""
        return self.model_dump(mode="json")

    @cached_property
    def digest(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.digest == other.digest

    @property
    def is_quantized(self) -> bool:
        """True if Brevitas quantizers made the weights and ranges."""
        return self.method == "brevitas"

    @property
    def is_trained(self) -> bool:
        """True if training goes on from what the quantizers made."""
        return self.options is not None and self.options.qat is not None

    def trained(self, training: QatOptions | None) -> "Recipe":
        """The same recipe with training, or, of None, without."""
        assert self.options is not None
        mode = "ptq" if training is None else "qat"
        options = self.options.model_copy(update={"mode": mode, "qat": training})
        # a copy by pydantic would keep the digest of this one
        kept = {name: getattr(self, name) for name in type(self).model_fields}
        return Recipe(**{**kept, "options": options})

    def activation_of(self, layer: str) -> Activation:
        """How a layer takes its input."""
        return self.activations.get(layer, "static")

    @property
    def excluded(self) -> frozenset[str]:
        """Layers that stay float."""
        return frozenset(name for name, bits in self.layers.items() if bits is None)
