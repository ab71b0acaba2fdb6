"""What a study's trials tell a sampler, read once from Optuna's storage."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import optuna
from optuna.trial import FrozenTrial, TrialState

from autoquant.core.noise import Z95
from autoquant.core.trial import Partial, Trial, mean_ratio
from autoquant.search.amend import REPRIEVE
from autoquant.search.features import Features

__all__ = ["History", "Row"]

_DISCORDANT = 0.02  # share of samples on which a file and the float model differ, at least


@dataclass(frozen=True)
class Row:
    """One finished trial.

    Attributes:
        number: of the trial.
        code: its parameters; None if it lies outside the space.
        state: `complete`, `rejected` or `failed`.
        name: of a baseline, or None.
        drop: accuracy drop against float; None where it was not measured.
        drop_sd: standard error that it has because few samples were looked at.
        compared_sd: standard error of a comparison on all samples; zero where none is known.
        latency: ratio to the float model, or None; of several targets, the geometric mean.
        reference_ms: the float model beside it, or None.
        size: bytes, or None.
    """

    number: int
    code: tuple[int, ...] | None
    state: str
    name: str | None
    drop: float | None
    drop_sd: float
    latency: float | None
    reference_ms: float | None
    size: int | None
    compared_sd: float = 0.0

    @property
    def is_usable(self) -> bool:
        """Whether it tells something of a recipe of the space."""
        return self.code is not None and self.drop is not None


@dataclass
class History:
    """Finished trials by number, and the codes that are under way."""

    features: Features
    rows: dict[int, Row] = field(default_factory=dict)
    pending: list[tuple[int, ...]] = field(default_factory=list)

    @classmethod
    def of(cls, features: Features, trials: Iterable[tuple[Trial, tuple[int, ...] | None]]) -> Self:
        """The same of trials that were read already, each with its code."""
        found = cls(features)
        for trial, code in trials:
            found.rows[trial.number] = _read(trial.number, code, _flatten(trial))
        return found

    def update(self, study: optuna.Study, current: int) -> None:
        """Take in what has finished since, and what other workers are at.

        Args:
            study: where the trials are.
            current: number of the trial that is asked for, which is under way too.
        """
        self.pending = []
        second_looks: Mapping[str, Any] | None = None  # copied when it is asked for
        for frozen in study.get_trials(deepcopy=False):
            if frozen.number in self.rows or frozen.number == current:
                continue
            if frozen.state.is_finished():
                if second_looks is None:
                    second_looks = study.user_attrs.get(REPRIEVE, {})
                self._take(frozen, second_looks)
            elif frozen.state is TrialState.RUNNING:
                code = self.features.encode(frozen.params)
                self.pending += [] if code is None else [code]

    def _take(self, frozen: FrozenTrial, second_looks: Mapping[str, Any]) -> None:
        record = frozen.user_attrs.get("record")
        if record is not None:  # without one it was interrupted, and is tried again
            again = second_looks.get(record.get("digest"))
            if again is not None:
                record = {**record, **again, "partial": None}
            code = self.features.encode(frozen.params)
            self.rows[frozen.number] = _read(frozen.number, code, record)


def _read(number: int, code: tuple[int, ...] | None, record: Mapping[str, Any]) -> Row:
    partial = record.get("partial")
    seen = partial or record
    timing = record.get("timing") or partial or {}
    samples = partial["samples"] if partial else 0
    drop = seen.get("accuracy_drop")
    spread = max(_DISCORDANT, abs(drop or 0.0)) / samples if samples else 0.0
    return Row(
        number=number,
        code=code,
        state=record["state"],
        name=record.get("name"),
        drop=drop,
        drop_sd=math.sqrt(spread),
        latency=_find_latency(seen),
        reference_ms=timing.get("reference_ms"),
        size=record.get("size_bytes"),
        compared_sd=_half_width(record.get("accuracy_drop_ci")) / Z95,
    )


def _find_latency(seen: Mapping[str, Any]) -> float | None:
    """As `Trial.mean_latency_ratio`, of a record."""
    targets = (seen.get("targets") or {}).values()
    return mean_ratio([item["latency_ratio"] for item in targets] or [seen.get("latency_ratio")])


def _half_width(interval: Sequence[float] | None) -> float:
    return 0.0 if interval is None else (interval[1] - interval[0]) / 2


def _flatten(trial: Trial) -> dict[str, Any]:
    """What is read of a record; all of it would take a while for thousands."""
    timing, partial = trial.timing, trial.partial
    return {
        "state": trial.state,
        "name": trial.name,
        "accuracy_drop": trial.accuracy_drop,
        "accuracy_drop_ci": trial.accuracy_drop_ci,
        "latency_ratio": trial.latency_ratio,
        "size_bytes": trial.size_bytes,
        "timing": None if timing is None else {"reference_ms": timing.reference_ms},
        "partial": None if partial is None else {**dict(partial), **_flatten_targets(partial)},
        **_flatten_targets(trial),
    }


def _flatten_targets(seen: Trial | Partial) -> dict[str, Any]:
    targets = seen.targets or {}
    return {
        "targets": {name: {"latency_ratio": item.latency_ratio} for name, item in targets.items()}
    }
