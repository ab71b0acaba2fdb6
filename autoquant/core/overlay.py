"""Fronts of several studies of one task, laid over each other.

Every study has one runtime, and its latencies are ratios to the float model on that runtime. The
float model of another runtime than ONNX Runtime was timed beside ONNX Runtime's once; by that
factor all ratios have one reference.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoquant.core.front import find_common_front
from autoquant.core.noise import Z95, log_sd
from autoquant.core.objective import Objective
from autoquant.core.trial import Trial

__all__ = [
    "Contribution",
    "OverlayMember",
    "explain_lost_factor",
    "find_other_models",
    "has_several_runtimes",
    "lay_over",
    "shared_objectives",
    "widen",
]

_ONNX_RUNTIME = "onnxruntime"
_OTHER_MODEL = 0.01  # share of the samples on which float models of two runtimes may differ


@dataclass(frozen=True)
class Contribution:
    """One study's part.

    Attributes:
        study: its name.
        backend: the runtime that judged it.
        members: of its front.
        reference: its trial of the float model; None if it has none.
    """

    study: str
    backend: str
    members: Sequence[Trial]
    reference: Trial | None

    @property
    def factor(self) -> tuple[float, tuple[float, float]] | None:
        """Float here over float on ONNX Runtime, with its interval; None if never timed."""
        if self.backend == _ONNX_RUNTIME:
            return 1.0, (1.0, 1.0)
        timing = None if self.reference is None else self.reference.timing
        if timing is None or timing.over_onnxruntime is None or timing.over_onnxruntime_ci is None:
            return None
        return timing.over_onnxruntime, timing.over_onnxruntime_ci


@dataclass(frozen=True)
class OverlayMember:
    """A member of one study's front among those of others.

    Attributes:
        study: whose it is.
        backend: the runtime that it runs on.
        trial: as its study has it, its latency a ratio to float on its own runtime.
        ratio: latency over that of the float model on ONNX Runtime; None without a latency,
            or where the float models were never timed beside each other.
        ratio_ci: its 95 % interval.
        is_on_front: no member of any of the studies beats it.
    """

    study: str
    backend: str
    trial: Trial
    ratio: float | None
    ratio_ci: tuple[float, float] | None
    is_on_front: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "study": self.study,
            "backend": self.backend,
            "is_on_front": self.is_on_front,
            "ratio_to_onnxruntime": self.ratio,
            "ratio_to_onnxruntime_ci": self.ratio_ci,
            **self.trial.to_dict(),
        }


def explain_lost_factor(part: Contribution) -> str:
    """Why a study without a factor cannot stand beside those of other runtimes."""
    return (
        f"'{part.study}' does not tell how {part.backend} runs the float model beside ONNX "
        "Runtime: it was made before that was timed, or times nothing; search once more under "
        "another name"
    )


def shared_objectives(lists: Sequence[Sequence[Objective]]) -> list[Objective]:
    """Objectives that all studies have, in the order of the first."""
    return [name for name in lists[0] if all(name in other for other in lists)]


def has_several_runtimes(parts: Sequence[Contribution]) -> bool:
    """Whether latencies compare by factors alone; ratios of one runtime compare as they are."""
    return len({part.backend for part in parts}) > 1


def find_other_models(parts: Sequence[Contribution]) -> list[str]:
    """What tells that studies were not of one float model on one search split, in words.

    Runtimes add up in other orders, which changes the class of few samples.
    """
    known = [(part.study, hits) for part in parts if (hits := _hits(part)) is not None]
    found = []
    for study, hits in known[1:]:
        first, others = known[0]
        if len(hits) != len(others):
            found.append(
                f"the float models of '{first}' and '{study}' were judged on {len(others):,} and "
                f"{len(hits):,} samples: their accuracies do not compare"
            )
        elif np.mean(hits != others) > _OTHER_MODEL:
            found.append(
                f"the float models of '{first}' and '{study}' differ on "
                f"{np.mean(hits != others):.0%} of the samples: their weights or data are not the "
                "same, and their figures do not compare"
            )
    return found


def _hits(part: Contribution) -> npt.NDArray[np.bool_] | None:
    evidence = None if part.reference is None else part.reference.evidence
    return None if evidence is None else evidence.hits


def lay_over(parts: Sequence[Contribution], objectives: Sequence[Objective]) -> list[OverlayMember]:
    """Members of several fronts, most accurate first, and which of them no other beats.

    What is not known of a study's factor is the same for all of its members: it decides nothing
    among them, and counts where they stand against those of another study.

    Args:
        parts: of studies of one task; each has a factor if they are of several runtimes.
        objectives: what counts.
    """
    owners = [(part, trial) for part in parts for trial in part.members]
    rescaled = [_rescale(part, trial) for part, trial in owners]
    ends = [_widen(part, common) for (part, _), common in zip(owners, rescaled, strict=True)]
    if has_several_runtimes(parts):
        trials = rescaled
        apart = [
            trial.model_copy(update={"latency_ratio_ci": interval})
            for trial, interval in zip(rescaled, ends, strict=True)
        ]
    else:
        trials = apart = [trial for _, trial in owners]
    best = find_common_front(trials, apart, [part.study for part, _ in owners], objectives)
    members = [
        OverlayMember(
            part.study,
            part.backend,
            trial,
            None if part.factor is None else common.latency_ratio,
            interval,
            bool(is_best),
        )
        for (part, trial), common, interval, is_best in zip(
            owners, rescaled, ends, best, strict=True
        )
    ]
    return sorted(members, key=lambda member: -(member.trial.accuracy or 0.0))


def _widen(part: Contribution, common: Trial) -> tuple[float, float] | None:
    if part.factor is None or common.latency_ratio is None:
        return None
    return widen(common.latency_ratio, common.latency_ratio_ci, part.factor[1])


def widen(
    ratio: float, own: tuple[float, float] | None, factor: tuple[float, float]
) -> tuple[float, float]:
    """The interval of a rescaled ratio: its own, and that of the factor.

    Args:
        ratio: over the common reference.
        own: its 95 % interval by whatever units: what counts is how wide it is, relatively.
        factor: interval of the factor.
    """
    sd = math.hypot(log_sd(own), log_sd(factor))
    return ratio * math.exp(-Z95 * sd), ratio * math.exp(Z95 * sd)


def _rescale(part: Contribution, trial: Trial) -> Trial:
    """A trial with its latency over that of float on ONNX Runtime."""
    if part.factor is None or trial.latency_ratio is None:
        return trial
    factor, _ = part.factor
    ratio, ends = trial.latency_ratio * factor, trial.latency_ratio_ci
    ends = None if ends is None else (ends[0] * factor, ends[1] * factor)
    # whoever was timed in one session was so on one runtime: here sessions do not count
    timing = None if trial.timing is None else trial.timing.model_copy(update={"session": None})
    return trial.model_copy(
        update={"latency_ratio": ratio, "latency_ratio_ci": ends, "timing": timing}
    )
