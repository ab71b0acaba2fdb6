"""Search spaces as YAML, read strictly: every error names the key and its path."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from autoquant.core.objective import Kind
from autoquant.core.pareto import Bounds
from autoquant.core.recipe import (
    Activation,
    CalibrationMethod,
    Rounding,
    RoundingScope,
    WeightBits,
)
from autoquant.core.space import TRAINING, LayerRule, SearchSpace, expand_layers
from autoquant.errors import InputError, SpaceError

__all__ = ["SpaceConfig", "find_space", "load_space", "parse_duration", "shipped_spaces"]

_UNITS = {"s": 1, "m": 60, "h": 3600}


def parse_duration(text: str | float | int) -> float:
    """Seconds from `90`, `90s`, `30m` or `2h`.

    Raises:
        InputError: anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", str(text))
    if not match or float(match[1]) <= 0:
        raise InputError(f"'{text}' is no duration; write 90s, 30m or 2h")
    return float(match[1]) * _UNITS[match[2] or "s"]


def _duration(value: Any) -> Any:
    try:
        return value if value is None else parse_duration(value)
    except InputError as error:
        raise ValueError(str(error)) from None


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class LayerConfig(_Strict):
    """What the layers of one pattern may be."""

    weight_bits: Annotated[list[WeightBits], Field(min_length=1)] | None = None
    exclude: Annotated[list[bool], Field(min_length=1)] | None = None
    activation: Annotated[list[Activation], Field(min_length=1)] | None = None

    def to_rule(self) -> LayerRule:
        """The same, as plain values."""
        return LayerRule(
            None if self.weight_bits is None else tuple(dict.fromkeys(self.weight_bits)),
            None if self.exclude is None else tuple(dict.fromkeys(self.exclude)),
            None if self.activation is None else tuple(dict.fromkeys(self.activation)),
        )


class TrainingConfig(_Strict):
    """Values allowed for quantization-aware training; see `QatOptions`."""

    epochs: list[Annotated[int, Field(ge=1)]] | None = None
    learning_rate: list[Annotated[float, Field(gt=0)]] | None = None
    weight_decay: list[Annotated[float, Field(ge=0)]] | None = None
    distillation: list[Annotated[float, Field(ge=0, le=1)]] | None = None
    optimizer: list[Literal["adamw", "sgd"]] | None = None
    batch_size: list[Annotated[int, Field(ge=1)]] | None = None


class QuantizerConfig(_Strict):
    """Values allowed for what holds for the whole network; see `PtqOptions`."""

    weight_granularity: list[Literal["per_channel", "per_tensor"]] | None = None
    weight_scale: list[Literal["max", "mse"]] | None = None
    activation_symmetry: list[Literal["asymmetric", "symmetric"]] | None = None
    calibration: list[CalibrationMethod] | None = None
    calibration_images: list[Annotated[int, Field(ge=1)]] | None = None
    bias_correction: list[bool] | None = None
    reduce_range: list[bool] | None = None
    equalization: list[bool] | None = None
    rounding: list[Rounding] | None = None
    rounding_scope: list[RoundingScope] | None = None
    rounding_iterations: list[Annotated[int, Field(ge=1)]] | None = None
    mode: list[Literal["ptq", "qat"]] | None = None
    qat: TrainingConfig | None = None

    @model_validator(mode="after")
    def _check_training(self) -> Self:
        if self.qat is not None and "qat" not in (self.mode or ()):
            raise ValueError("options of training (qat) without 'qat' among the values of 'mode'")
        return self

    def to_options(self) -> dict[str, tuple[Any, ...]]:
        """Allowed values by name, those of training behind `qat.`."""
        named = {name: getattr(self, name) for name in type(self).model_fields if name != "qat"}
        if self.qat is not None:
            named |= {TRAINING + name: value for name, value in dict(self.qat).items()}
        return {
            name: tuple(dict.fromkeys(values))
            for name, values in named.items()
            if values is not None
        }


class ConstraintConfig(_Strict):
    """Bounds that a model must keep."""

    max_accuracy_drop: float | None = None
    max_latency_ms: Annotated[float, Field(gt=0)] | None = None
    max_size_mb: Annotated[float, Field(gt=0)] | None = None

    def to_bounds(self) -> Bounds:
        """The same, as plain values."""
        return Bounds(self.max_accuracy_drop, self.max_latency_ms, self.max_size_mb)


class BudgetConfig(_Strict):
    """When to stop: after so many finished trials, or so many seconds."""

    trials: Annotated[int, Field(ge=1)] = 50
    timeout: Annotated[float | None, BeforeValidator(_duration)] = None


class SpaceConfig(_Strict):
    """One search space file."""

    version: Literal[1]
    task: str
    task_options: dict[str, Any] | None = None  # the task itself says what it takes
    objectives: Annotated[list[Kind], Field(min_length=1)] = list(get_args(Kind))
    constraints: ConstraintConfig = ConstraintConfig()
    budget: BudgetConfig = BudgetConfig()
    layers: dict[str, LayerConfig] = {"*": LayerConfig(weight_bits=[8, 4])}
    quantizer: QuantizerConfig = QuantizerConfig()

    @model_validator(mode="after")
    def _check_objectives(self) -> Self:
        if len(set(self.objectives)) != len(self.objectives):
            raise ValueError("an objective is named twice")
        return self

    def to_space(
        self,
        layers: list[str],
        *,
        able: Mapping[str, Collection[str]] | None = None,
        is_exact: bool = True,
    ) -> SearchSpace:
        """The recipes allowed for a network with these layers.

        Args:
            layers: names of the quantizable layers.
            able: what goes together in each of them, see `expand_layers`.
            is_exact: the processor adds 8-bit products without saturating; where it does not,
                the reduced weight range becomes a choice, unless the file decides on it.

        Raises:
            SpaceError: a pattern matches no layer, or nothing is allowed.
        """
        rules = {pattern: layer.to_rule() for pattern, layer in self.layers.items()}
        return SearchSpace(expand_layers(rules, layers, able), self._options(is_exact))

    def reduces_range(self, *, is_exact: bool) -> bool:
        """Whether 7-bit weights are among the choices; see `to_space`."""
        return True in self._options(is_exact).get("reduce_range", ())

    def _options(self, is_exact: bool) -> dict[str, tuple[Any, ...]]:
        options = self.quantizer.to_options()
        if not is_exact:
            options.setdefault("reduce_range", (False, True))
        return options

    def with_task_options(self, options: dict[str, Any] | None) -> Self:
        """The same space for a task that is told something else."""
        return self.model_copy(update={"task_options": options})

    def definition(self) -> dict[str, Any]:
        """What makes two studies the same: everything but the budget."""
        return self.model_dump(mode="json", exclude={"budget"}, exclude_none=True)


def shipped_spaces() -> dict[str, Path]:
    """The search spaces that come with autoquant, by name."""
    package = Path(__file__).parent
    for folder in (package / "search_spaces", package.parent / "search_spaces"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def find_space(name: str) -> Path:
    """A search space file by path, or a shipped one by name.

    Raises:
        SpaceError: neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_spaces()
    if name in shipped:
        return shipped[name]
    raise SpaceError(
        f"there is no search space '{name}': give a YAML file or one of {', '.join(shipped)}"
    )


def load_space(path: Path) -> SpaceConfig:
    """Read a search space file.

    Raises:
        SpaceError: names the file, the key and its path, and what would be right.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise SpaceError(f"{path}{line}: not YAML: {getattr(error, 'problem', error)}") from None
    except OSError as error:
        raise SpaceError(f"{path}: {error.strerror}") from None
    if not isinstance(content, dict):
        raise SpaceError(f"{path}: a search space is a mapping that begins with 'version: 1'")
    return parse_space(content, str(path))


def parse_space(content: dict[str, Any], source: str) -> SpaceConfig:
    """Validate a search space.

    Args:
        content: as read from YAML or JSON.
        source: what to call it in messages.

    Raises:
        SpaceError: as `load_space`.
    """
    try:
        return SpaceConfig.model_validate(content)
    except ValidationError as error:
        raise SpaceError(f"{source}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    details = error.errors()
    # an extra key says more than the alternatives of a union that it broke
    first = next((item for item in details if item["type"] == "extra_forbidden"), details[0])
    path = [part for part in first["loc"] if not _is_union_tag(part)]
    where = ".".join(str(part) for part in path) or "top level"
    if first["type"] == "extra_forbidden":
        return f"unknown key '{where}'; allowed here: {', '.join(_allowed_keys(path[:-1]))}"
    if first["type"] == "missing":
        return f"'{where}' is missing"
    return f"{where}: {first['msg']}, not {first['input']!r}"


def _is_union_tag(part: object) -> bool:
    return isinstance(part, str) and ("literal[" in part or part == "Percentile")


def _allowed_keys(path: list[Any]) -> list[str]:
    """Keys of the model that stands at a path of the file."""
    models: dict[str, type[BaseModel]] = {
        "layers": LayerConfig,
        "quantizer": QuantizerConfig,
        "constraints": ConstraintConfig,
        "budget": BudgetConfig,
    }
    if path[:2] == ["quantizer", "calibration"]:
        return ["percentile"]
    if path[:2] == ["quantizer", "qat"]:
        return list(TrainingConfig.model_fields)
    return list((models[path[0]] if path and path[0] in models else SpaceConfig).model_fields)
