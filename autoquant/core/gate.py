"""`Gate`: is it already certain that an unfinished candidate cannot enter the front?

What is still to be measured is drawn many times, given what was seen: the rest of the images
from the Dirichlet posterior of the paired outcomes so far (Jeffreys prior), the final latency
from its interval so far. Each drawn ending is judged by the rule of the front. A candidate is
hopeless if 99 % of its endings are dominated by the same member, or miss the constraint. Every
look is another chance to be wrong, so early ones have to be surer: after a tenth of the images
99.9 % (alpha spending, Lan and DeMets 1983, doi:10.1093/biomet/70.3.659).

Members come and go, and dominance is not transitive, so the front that turned a candidate away
may not be the last one. `Glimpse.of` brings back what was seen for a second look.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoquant.core.evidence import mcnemar_z
from autoquant.core.front import comparable_log_ratios, decide, exact_z
from autoquant.core.noise import log_sd
from autoquant.core.objective import Objective, kind_of
from autoquant.core.pareto import Bounds
from autoquant.core.trial import BriefLatency, Trial

__all__ = ["Gate", "Glimpse", "Hits", "enough_certainty"]

Hits = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_ERROR = 0.01
_ENDINGS = 2000
_JEFFREYS = 0.5


@dataclass(frozen=True)
class Glimpse:
    """What is known of a candidate that is not fully measured.

    Attributes:
        hits: (m,) whether each of the first samples was right.
        float_hits: (m,) likewise, of the float model.
        total: samples of the whole split.
        size_bytes: the file.
        latency_ratio: so far, or None.
        latency_sd: its standard error, of the logarithm.
        latency_ms: so far, or None.
        latency_ms_sd: its standard error, of the logarithm.
    """

    hits: Hits
    float_hits: Hits
    total: int
    size_bytes: int
    latency_ratio: float | None = None
    latency_sd: float = 0.0
    latency_ms: float | None = None
    latency_ms_sd: float = 0.0

    @classmethod
    def of(cls, trial: Trial, reference: Trial) -> "Glimpse | None":
        """What was seen of a rejected trial; None if the record kept too little of it.

        Args:
            trial: as it was recorded.
            reference: the float model, fully measured.
        """
        seen = trial.partial
        hits = None if trial.evidence is None else trial.evidence.hits
        float_hits = None if reference.evidence is None else reference.evidence.hits
        if seen is None or hits is None or float_hits is None or trial.size_bytes is None:
            return None
        return cls(
            hits, float_hits[: len(hits)], seen.of_samples, trial.size_bytes,
            seen.latency_ratio, log_sd(seen.latency_ratio_ci),
            seen.latency_ms, log_sd(seen.latency_ms_ci),
        )  # fmt: skip


class Gate:
    """The members of a front, as what a candidate must get past.

    Args:
        members: the front so far, with evidence.
        objectives: what counts.
        bounds: constraints.
        scout: the same recipe without training, whose file is as large and as fast; None where
            nothing is trained.
    """

    def __init__(
        self,
        members: Sequence[Trial],
        objectives: Sequence[Objective],
        bounds: Bounds,
        scout: Trial | None = None,
    ) -> None:
        self.scout = scout
        # a candidate is on the way to one target: what it does on the others is not known yet
        is_blind = sum(kind_of(name) == "latency" for name in objectives) > 1
        known = [trial for trial in members if trial.evidence is not None]
        self.members = [] if is_blind else known
        self.objectives = objectives
        self.bounds = bounds
        timed = [trial for trial in self.members if trial.latency_ratio is not None]
        ratios = comparable_log_ratios(timed)
        self._log_ratios = {
            trial.digest: float(ratio) for trial, ratio in zip(timed, ratios, strict=True)
        }

    def imagine(self, hits: Hits, float_hits: Hits, total: int) -> Glimpse | None:
        """The scout with other samples right; None where there is no scout."""
        scout = self.scout
        if scout is None or scout.size_bytes is None:
            return None
        return Glimpse(
            hits, float_hits, total, scout.size_bytes,
            scout.latency_ratio, scout.latency_sd,
            scout.latency_ms, log_sd(scout.latency_ms_ci),
        )  # fmt: skip

    def imagine_targets(self) -> dict[str, BriefLatency] | None:
        """The scout's latency on each target, where the study has some."""
        if self.scout is None or self.scout.targets is None:
            return None
        return {
            name: BriefLatency(latency_ratio=item.latency_ratio, latency_ms=item.latency_ms)
            for name, item in self.scout.targets.items()
        }

    def find_reason(self, glimpse: Glimpse) -> str | None:
        """Why a candidate is hopeless, in words; None while it is not."""
        reason, certainty = self.judge(glimpse)
        return reason if certainty >= enough_certainty(glimpse) else None

    def judge(self, glimpse: Glimpse) -> tuple[str, float]:
        """What most likely keeps a candidate out, in words, and how likely that is, 0..1."""
        generator = np.random.default_rng(0)
        excess = self._find_excess(glimpse, generator)
        if excess is not None:
            return excess, 1.0
        found = [
            (f"trial {member.number} dominates it", self._share(glimpse, member, generator))
            for member in self.members
        ]
        return max(found, key=lambda item: item[1], default=("", 0.0))

    def _find_excess(self, glimpse: Glimpse, generator: np.random.Generator) -> str | None:
        """Which constraint it certainly misses, in words."""
        size_mb, bounds = glimpse.size_bytes / 1e6, self.bounds
        if bounds.max_size_mb is not None and size_mb > bounds.max_size_mb:
            return f"its size of {size_mb:.3f} MB exceeds the allowed {bounds.max_size_mb:g}"
        if bounds.max_drop is not None:
            loss = _draw_gain(glimpse, glimpse.float_hits, generator)[2] / -glimpse.total
            if np.mean(loss > bounds.max_drop) >= enough_certainty(glimpse):
                return f"its accuracy drop exceeds the allowed {bounds.max_drop:g}"
        if bounds.max_latency_ms is not None and glimpse.latency_ms is not None:
            noise = glimpse.latency_ms_sd * generator.standard_normal(_ENDINGS)
            if np.mean(
                glimpse.latency_ms * np.exp(noise) > bounds.max_latency_ms
            ) >= enough_certainty(glimpse):
                return f"its latency exceeds the allowed {bounds.max_latency_ms:g} ms"
        return None

    def _share(self, glimpse: Glimpse, member: Trial, generator: np.random.Generator) -> float:
        """How many of its endings a member dominates, 0..1."""
        drawn: list[tuple[Floats, Floats]] = []
        for name in self.objectives:
            match kind_of(name):
                case "accuracy":
                    hits = member.evidence.hits if member.evidence is not None else None
                    if hits is None or len(hits) != glimpse.total:
                        return 0.0
                    ours, theirs, gain = _draw_gain(glimpse, hits[: len(glimpse.hits)], generator)
                    drawn.append((mcnemar_z(theirs, ours), -gain))
                case "latency":
                    theirs_log = self._log_ratios.get(member.digest)
                    if glimpse.latency_ratio is None or theirs_log is None:
                        return 0.0
                    lead = math.log(glimpse.latency_ratio) - theirs_log
                    drawn.append(_draw_latency(lead, glimpse, member, generator))
                case "size":
                    gap = np.full(_ENDINGS, glimpse.size_bytes - member.objective("size"))
                    drawn.append((exact_z(gap), gap))
        z, gains = np.stack([item[0] for item in drawn]), np.stack([item[1] for item in drawn])
        accuracy = self.objectives.index("accuracy") if "accuracy" in self.objectives else None
        return float(decide(z, gains, accuracy).mean())


def enough_certainty(glimpse: Glimpse) -> float:
    """How sure one has to be after so many of the images."""
    return 1.0 - _ERROR * len(glimpse.hits) / glimpse.total


def _draw_gain(
    glimpse: Glimpse, other: Hits, generator: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """Final counts of samples that the candidate alone, or the other alone, has right.

    Returns:
        Three (endings,): the candidate alone, the other alone, their difference.
    """
    ours = int((glimpse.hits & ~other).sum())
    theirs = int((other & ~glimpse.hits).sum())
    same = len(other) - ours - theirs
    rates = generator.dirichlet(np.array([ours, theirs, same]) + _JEFFREYS, size=_ENDINGS)
    rest = generator.multinomial(glimpse.total - len(other), rates)
    final_ours = (ours + rest[:, 0]).astype(np.float64)
    final_theirs = (theirs + rest[:, 1]).astype(np.float64)
    return final_ours, final_theirs, final_ours - final_theirs


def _draw_latency(
    lead: float, glimpse: Glimpse, member: Trial, generator: np.random.Generator
) -> tuple[Floats, Floats]:
    """How much faster the member will turn out than it seems now: in standard errors, in logs."""
    drawn = lead + glimpse.latency_sd * generator.standard_normal(_ENDINGS)
    # a full timing is about as narrow as the member's was
    error = math.sqrt(2) * member.latency_sd
    return drawn / error if error else exact_z(drawn), drawn
