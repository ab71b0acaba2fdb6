"""A search space in the making: what a form may ask, from the schema, and what comes of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args, get_origin

import yaml

from autoquant.browse.library import StudyView
from autoquant.config import (
    LayerConfig,
    QuantizerConfig,
    SpaceConfig,
    load_space,
    parse_space,
    shipped_spaces,
)
from autoquant.core.recipe import Activation, PtqOptions, WeightBits
from autoquant.errors import SpaceError

__all__ = [
    "DRAFT_BYTES",
    "Choice",
    "Draft",
    "known_layers",
    "layer_rows",
    "match_patterns",
    "quantizer_choices",
    "read_draft",
    "starting_points",
    "to_yaml",
]

DRAFT_BYTES = 64 * 1024  # no search space is larger
_CALIBRATIONS = ("minmax", "mse", "entropy", "percentile:99.99", "percentile:99.9")
_FLOAT_WORDS = {"never": [False], "may": [False, True], "always": [True]}
_HIDDEN = ("qat",)
_LONGEST_NUMBER = 12  # digits


@dataclass(frozen=True)
class Choice:
    """One option of the quantizer, as a form asks for it.

    Attributes:
        name: of the option.
        values: allowed values as text; empty where any whole number is one.
        default: what holds where nothing is chosen.
    """

    name: str
    values: tuple[str, ...]
    default: str

    def parse(self, text: str) -> Any:
        """A value as a search space holds it.

        Raises:
            SpaceError: not a value of this option.
        """
        if text.startswith("percentile:"):
            return {"percentile": float(text.partition(":")[2])}
        if text in ("true", "false"):
            return text == "true"
        if self.values:
            return text
        if not text.strip().isdecimal() or len(text) > _LONGEST_NUMBER:
            raise SpaceError(f"{self.name}: '{text}' is no whole number")
        return int(text)

    def show(self, value: Any) -> str:
        """The inverse of `parse`."""
        if isinstance(value, Mapping):
            return f"percentile:{value['percentile']:g}"
        return str(value).lower() if isinstance(value, bool) else str(value)


def quantizer_choices() -> list[Choice]:
    """Every option of the quantizer that the schema knows, those of training left out."""
    defaults = PtqOptions()
    found = []
    for name, field in QuantizerConfig.model_fields.items():
        if name not in _HIDDEN:
            default = getattr(defaults, name)
            text = str(default).lower() if isinstance(default, bool) else str(default)
            found.append(Choice(name, _values(name, field.annotation), text))
    return found


def _values(name: str, annotation: Any) -> tuple[str, ...]:
    if name == "calibration":
        return _CALIBRATIONS
    item = get_args(next(part for part in get_args(annotation) if get_origin(part) is list))[0]
    if item is bool:
        return ("false", "true")
    return tuple(map(str, get_args(item))) if get_origin(item) is Literal else ()


@dataclass(frozen=True)
class Draft:
    """What the form holds.

    Attributes:
        task: its name.
        task_options: what the task is told, from the space that the draft began with.
        objectives: what counts.
        layers: rows of the table: `pattern`, `bits` (widths), `float` (never, may, always) and
            `activation` (how the input comes); what is empty is as an earlier row says.
        quantizer: allowed values as text, by option.
        max_drop: in points; None is no constraint, and likewise the other two.
        max_latency_ms: milliseconds.
        max_size_mb: megabytes.
        trials: finished ones to reach.
        timeout: `30m`; empty for none.
        qat: options of training, from the space that the draft began with.
    """

    task: str
    task_options: Mapping[str, Any] | None
    objectives: Sequence[str]
    layers: Sequence[Mapping[str, Any]]
    quantizer: Mapping[str, Sequence[str]]
    max_drop: float | None
    max_latency_ms: float | None
    max_size_mb: float | None
    trials: int
    timeout: str
    qat: Mapping[str, Any] | None = None

    def to_config(self) -> SpaceConfig:
        """The search space, checked as any file is.

        Raises:
            SpaceError: names what is wrong.
        """
        constraints = {
            "max_accuracy_drop": None if self.max_drop is None else self.max_drop / 100,
            "max_latency_ms": self.max_latency_ms,
            "max_size_mb": self.max_size_mb,
        }
        content: dict[str, Any] = {
            "version": 1,
            "task": self.task,
            "objectives": list(self.objectives),
            "constraints": {key: value for key, value in constraints.items() if value is not None},
            "budget": {"trials": int(self.trials), "timeout": self.timeout.strip() or None},
            "layers": self._layers(),
            "quantizer": self._quantizer(),
        }
        if self.task_options:
            content["task_options"] = dict(self.task_options)
        return parse_space(content, "this form")

    def _layers(self) -> dict[str, dict[str, Any]]:
        rules: dict[str, dict[str, Any]] = {}
        for row in self.layers:
            pattern = str(row.get("pattern") or "").strip()
            if not pattern:
                continue
            word = row.get("float")
            rule = {
                "weight_bits": _in_order(row.get("bits"), WeightBits),
                "exclude": _FLOAT_WORDS[str(word)] if word else [],
                "activation": _in_order(row.get("activation"), Activation),
            }
            if pattern in rules:
                raise SpaceError(f"'{pattern}' stands in two rows: remove one of them")
            if not any(rule.values()):
                raise SpaceError(f"'{pattern}' says nothing: choose bits, float or input for it")
            # what is left out keeps what an earlier pattern says
            rules[pattern] = {key: values for key, values in rule.items() if values}
        if not rules:
            raise SpaceError("name at least one pattern of layers; * stands for all of them")
        return rules

    def _quantizer(self) -> dict[str, Any]:
        known = {choice.name: choice for choice in quantizer_choices()}
        chosen: dict[str, Any] = {
            name: [known[name].parse(text) for text in texts]
            for name, texts in self.quantizer.items()
            if texts
        }
        if self.qat and "qat" in chosen.get("mode", ()):
            chosen["qat"] = dict(self.qat)
        return chosen


def _in_order(chosen: Sequence[Any] | None, known: Any) -> list[Any]:
    """In the order of the schema: one of clicks would make another search space."""
    return [value for value in get_args(known) if value in (chosen or ())]


def to_yaml(config: SpaceConfig) -> str:
    """A search space as the file that the search is given."""
    content = config.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None)


def layer_rows(config: SpaceConfig) -> list[dict[str, Any]]:
    """Rows of the table of layers; the inverse of what `Draft` reads."""
    words = {tuple(sorted(values)): word for word, values in _FLOAT_WORDS.items()}
    return [
        {
            "pattern": pattern,
            "bits": rule.weight_bits,
            "float": None if rule.exclude is None else words[tuple(sorted({*rule.exclude}))],
            "activation": rule.activation,
        }
        for pattern, rule in config.layers.items()
    ]


def read_draft(content: bytes) -> SpaceConfig:
    """A search space that a visitor hands over: data alone, of plain YAML.

    Raises:
        SpaceError: too large, no text, no search space, or one that speaks of files.
    """
    if len(content) > DRAFT_BYTES:
        raise SpaceError(f"this file is larger than {DRAFT_BYTES // 1024} kB: no search space is")
    try:
        text = content.decode("utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise SpaceError("aliases are not read here: write out what they stand for")
        found = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError):
        raise SpaceError("this file is not YAML") from None
    if not isinstance(found, dict):
        raise SpaceError("a search space is a mapping that begins with 'version: 1'")
    if found.get("task_options"):
        raise SpaceError("a task is told where its files lie on the command line alone")
    return parse_space(found, "this file")


def starting_points(studies: Sequence[StudyView]) -> dict[str, SpaceConfig]:
    """Search spaces to begin with, by name: the shipped ones, and those of studies."""
    found = {f"{name} (shipped)": load_space(path) for name, path in shipped_spaces().items()}
    for view in studies:
        header = view.snapshot.header
        try:
            config = parse_space(json.loads(json.dumps(dict(header.definition))), "study")
        except SpaceError:  # of another version
            continue
        found[f"that of study {view.key}"] = config
    return found


def match_patterns(rules: Mapping[str, LayerConfig], layers: Sequence[str]) -> dict[str, list[str]]:
    """The layers that each pattern decides on: it is the last of all that say the same of them."""
    found: dict[str, list[str]] = {pattern: [] for pattern in rules}
    for layer in layers:
        matching = [(p, rule) for p, rule in rules.items() if fnmatchcase(layer, p)]
        last = {key: p for p, rule in matching for key in rule.model_dump(exclude_none=True)}
        for pattern in {*last.values()}:
            found[pattern].append(layer)
    return found


def known_layers(task: str, studies: Sequence[StudyView]) -> list[str]:
    """The layers of a task, in network order, as far as recipes of its studies name them."""
    for view in studies:
        if view.snapshot.header.task == task:
            named = [trial.recipe.layers for trial in view.snapshot.trials if trial.recipe.layers]
            if named:
                return list(named[0])
    return []
