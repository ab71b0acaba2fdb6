"""Why a trial's recipe is as it is: what was measured of its choices, and what others would do."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from autoquant.core.explanation import (
    ChoiceEvidence,
    Explanation,
    LayerReason,
    OptionReason,
    Outcome,
)
from autoquant.core.gain import find_gain
from autoquant.core.recipe import Recipe
from autoquant.core.space import FLOAT, SearchSpace
from autoquant.core.trial import Trial
from autoquant.errors import InputError, SpaceError
from autoquant.search.contrast import Contrast, Differences, fill_in
from autoquant.search.features import Features
from autoquant.search.history import History
from autoquant.search.prior import LAYER_PREFIX, Knowledge

__all__ = ["explain_trial"]

_BASE = "8"
_MOST = 1000  # trials that are learned from, the last ones: more take longer and tell no more
_SHOWN = 8  # trials that an error names

Code = tuple[int, ...]
Figure = TypeVar("Figure", int, float)


def explain_trial(
    trials: Sequence[Trial], space: SearchSpace, knowledge: Knowledge, number: int
) -> Explanation:
    """Why a recipe: for each layer what was measured, saved, and what another choice would do.

    Nothing is measured. Where the study tried the changed recipe, its figures stand in place of
    the estimates of the models that the search itself uses.

    Args:
        trials: of one study, finished.
        space: the recipes that it allows.
        knowledge: what is known beside the trials, which may be nothing.
        number: of a complete trial whose recipe is of the space.

    Raises:
        InputError: no such trial; names some that there are.
    """
    return _Explainer(trials, space, knowledge, _find(trials, space, number)).explain()


def _find(trials: Sequence[Trial], space: SearchSpace, number: int) -> Trial:
    found = next((trial for trial in trials if trial.number == number), None)
    if found is None:
        raise InputError(f"there is no trial {number} in this study{_name_others(trials, space)}")
    if found.state != "complete":
        raise InputError(
            f"trial {number} is {found.state} and has no figures to explain"
            f"{_name_others(trials, space)}"
        )
    if _as_searched(found.recipe, space) not in space.untrained:
        what = found.name or "its recipe"
        raise InputError(
            f"trial {number} ({what}) is not of the study's search space, which is all that its "
            f"models know{_name_others(trials, space)}"
        )
    return found


def _name_others(trials: Sequence[Trial], space: SearchSpace) -> str:
    """The way out: trials that can be explained."""
    known = space.untrained
    able = [
        str(trial.number)
        for trial in trials
        if trial.state == "complete" and _as_searched(trial.recipe, space) in known
    ]
    if not able:
        return "; none can be explained yet: autoquant resume goes on with it"
    more = "..., " if len(able) > _SHOWN else ""
    return f"; there are {more}{', '.join(able[-_SHOWN:])} (autoquant trials lists all)"


def _as_searched(recipe: Recipe, space: SearchSpace) -> Recipe:
    """Of a mixed space, the recipe before its training: that is what samplers choose there."""
    return recipe.trained(None) if space.is_mixed and recipe.is_trained else recipe


@dataclass(frozen=True)
class _Change:
    """One decision made otherwise."""

    place: int
    choice: str
    code: Code
    recipe: Recipe


class _Explainer:
    """Explains one trial."""

    def __init__(
        self, trials: Sequence[Trial], space: SearchSpace, knowledge: Knowledge, trial: Trial
    ) -> None:
        self.trial = trial
        self.trials = trials
        self.space = space.untrained
        self.is_mixed = space.is_mixed
        self.knowledge = knowledge
        self.features = Features(self.space, fill_in(knowledge, self.space, trials))
        self.parameters = self.space.encode(_as_searched(trial.recipe, space))
        code = self.features.encode(self.parameters)
        assert code is not None  # it is of the space
        self.code = code
        self.by_digest = {item.digest: item for item in trials}

    @cached_property
    def contrast(self) -> Contrast:
        """The models."""
        before = [item for item in self.trials[:-_MOST] if item.name is not None]
        learned = [*before, *self.trials[-_MOST:]]
        coded = [(item, self._encode(item)) for item in learned]
        history = History.of(self.features, coded)
        return Contrast(self.features, history)

    def _encode(self, trial: Trial) -> Code | None:
        """What the search knew a trial as: trained ones teach the models nothing."""
        try:
            return self.features.encode(self.space.encode(trial.recipe))
        except SpaceError:
            return None

    def explain(self) -> Explanation:
        """Everything."""
        sensitivity = self.knowledge.sensitivity
        outcomes = self._find_outcomes()
        return Explanation(
            trial=self.trial.number,
            is_trained=self.trial.recipe.is_trained,
            proxy=None if sensitivity is None else sensitivity.proxy,
            sensitivity_samples=None if sensitivity is None else sensitivity.samples,
            reference_ms=self.reference_ms,
            layers=tuple(self._explain_layers(outcomes)),
            options=tuple(
                OptionReason(option=name, value=self.parameters[name], outcomes=outcomes[name])
                for name in self.features.names
                if not self.space.is_layer(name)
            ),
            trust=self.contrast.judge(),
        )

    @cached_property
    def reference_ms(self) -> float | None:
        """The float model's time over the study."""
        timings = [item.timing or item.partial for item in self.trials]
        times = [item.reference_ms for item in timings if item and item.reference_ms]
        return statistics.median(times) if times else None

    # What another choice would do

    def _find_outcomes(self) -> Mapping[str, tuple[Outcome, ...]]:
        """By parameter."""
        changes = list(self._find_changes())
        found: dict[str, list[Outcome]] = {name: [] for name in self.features.names}
        if changes:
            codes = np.array([change.code for change in changes], dtype=np.int64)
            differences = self.contrast.compare(codes, np.array([self.code], dtype=np.int64))
            for index, change in enumerate(changes):
                outcome = self._describe(change, differences, index)
                found[self.features.names[change.place]].append(outcome)
        return {name: tuple(items) for name, items in found.items()}

    def _find_changes(self) -> Iterator[_Change]:
        options = self.trial.recipe.options
        training = options.qat if options and self.is_mixed else None
        for place, choices in enumerate(self.features.choices):
            for index, choice in enumerate(choices):
                code = (*self.code[:place], index, *self.code[place + 1 :])
                recipe = self.space.decode(self.features.decode(code))
                if training is not None and recipe.is_quantized:
                    recipe = recipe.trained(training)
                if recipe.digest != self.trial.digest:  # it decides something
                    yield _Change(place, choice, code, recipe)

    def _describe(self, change: _Change, differences: Differences, index: int) -> Outcome:
        name = self.features.names[change.place]
        evidence = (
            self._find_evidence(name.removeprefix(LAYER_PREFIX), change.choice)
            if self.space.is_layer(name)
            else None
        )
        tried = self.by_digest.get(change.recipe.digest)
        if tried is not None:
            return self._measure(change.choice, tried, evidence)
        latency = differences.latency
        return Outcome(
            choice=change.choice,
            drop_change=float(differences.drop[index]),
            drop_change_se=float(differences.drop_se[index]),
            size_change_bytes=round(float(differences.size_bytes[index])),
            latency_change=None if latency is None else float(latency[index]),
            evidence=evidence,
        )

    def _measure(self, choice: str, tried: Trial, evidence: ChoiceEvidence | None) -> Outcome:
        """What became of the changed recipe, which the study evaluated."""
        gain = find_gain(tried, self.trial) if tried.state == "complete" else None
        seen = tried.partial or tried
        return Outcome(
            choice=choice,
            source=tried.state,
            trial=tried.number,
            drop_change=_subtract(seen.accuracy_drop, self.trial.accuracy_drop),
            drop_change_ci=None if gain is None else (-gain.high, -gain.low),
            size_change_bytes=_subtract(tried.size_bytes, self.trial.size_bytes),
            latency_change=_subtract(seen.latency_ratio, self.trial.latency_ratio),
            evidence=evidence,
        )

    # What was measured of the choices that were made

    def _explain_layers(self, outcomes: Mapping[str, tuple[Outcome, ...]]) -> Iterator[LayerReason]:
        known = {layer.name: layer for layer in self.knowledge.layers}
        for name, choices in self.space.layers.items():
            parameter = LAYER_PREFIX + name
            choice = self.parameters.get(parameter, choices[0])
            layer = known.get(name)
            own, wide = self._bytes_of(name, choice), self._bytes_of(name, FLOAT)
            are_measured = all(self._is_from_files(name, item) for item in (choice, FLOAT))
            to_8, to_float = self._find_microseconds(name, choice)
            yield LayerReason(
                layer=name,
                kind=None if layer is None else layer.kind,
                parameters=None if layer is None else layer.parameters,
                choice=choice,
                evidence=self._find_evidence(name, choice),
                saved_bytes_to_8=-own,
                saved_bytes_to_float=wide - own,
                size_source="file" if are_measured else "estimate",
                saved_us_to_8=to_8,
                saved_us_to_float=to_float,
                outcomes=outcomes.get(parameter, ()),
            )

    def _find_evidence(self, layer: str, choice: str) -> ChoiceEvidence | None:
        sensitivity = self.knowledge.sensitivity
        cost = None if sensitivity is None else sensitivity.by_choice.get((layer, choice))
        if sensitivity is None or cost is None or cost.proxy is None:
            return None
        return ChoiceEvidence(
            expected_drop=sensitivity.expected_drop(layer, choice) or 0.0,
            extra_drop=cost.extra_drop,
            extra_drop_ci=cost.extra_drop_ci,
            proxy=cost.proxy,
        )

    def _is_from_files(self, layer: str, choice: str) -> bool:
        found = self.knowledge.sensitivity
        cost = None if found is None else found.by_choice.get((layer, choice))
        return choice == _BASE or (cost is not None and cost.bytes_saved is not None)

    def _bytes_of(self, layer: str, choice: str) -> int:
        """Bytes that a choice adds to the layer at 8 bits."""
        if choice == _BASE:
            return 0
        column = self._columns.get((layer, choice))
        if column is not None and not self._is_from_files(layer, choice):
            return round(column)
        return round(self.features.knowledge.expected_bytes(layer, choice))

    @cached_property
    def _columns(self) -> dict[tuple[str, str], float]:
        """Bytes by layer and choice, against 8 bits, as the sizes of the trials say."""
        features, found = self.features, self.contrast.layer_bytes
        return {
            features.describe(*pair): float(value)
            for pair, value in zip(features.pairs, found, strict=True)
            if features.choices[pair[0]][features.references[pair[0]]] == _BASE
        }

    def _find_microseconds(self, layer: str, choice: str) -> tuple[float | None, float | None]:
        """Saved against 8 bits and against float, by the profiler."""
        own, wide = (self._change_of(layer, item) for item in (choice, FLOAT))
        if own is None or self.reference_ms is None:
            return None, None
        scale = 1000 * self.reference_ms
        return -scale * own + 0.0, None if wide is None else scale * (wide - own)

    def _change_of(self, layer: str, choice: str) -> float | None:
        """Share of the float model's time that a choice adds to the layer at 8 bits."""
        found = self.knowledge.sensitivity
        if found is None or choice == _BASE:
            return None if found is None else 0.0
        cost = found.by_choice.get((layer, choice))
        return None if cost is None else cost.latency_change


def _subtract(one: Figure | None, other: Figure | None) -> Figure | None:
    return None if one is None or other is None else one - other
