"""`Rehearsal`: between epochs, whether a model in training can still enter the front.

What is looked at is the model in training on the first images of the search split: a proxy that
only ever stops a training, and is never shown as measured.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from autoquant.core.evidence import Evidence
from autoquant.core.gate import Gate, Glimpse, Hits
from autoquant.core.training import Predict, TrainingProgress, TrainingWatch
from autoquant.core.trial import Measurement, Partial
from autoquant.errors import Rejection

__all__ = ["REHEARSED_SAMPLES", "Rehearsal", "project_hits"]

REHEARSED_SAMPLES = 500  # the first of the search split, up to a whole batch


class Rehearsal(TrainingWatch):
    """Watches a training run for those who search.

    Args:
        batches: the first inputs of the search split.
        float_hits: (n,) whether the float model is right on each of them.
        find_hits: the same of other outputs; None for a metric that says nothing on single
            samples: nothing is stopped early then.
        total: samples of the whole split.
        gate: what the model must get past, with a scout; None stops nothing.
        outer: told everything as well.
        pause: called now and then, where others may want the machine.
    """

    def __init__(
        self,
        batches: Sequence[Any],
        float_hits: Hits | None,
        find_hits: Callable[[Any], Hits | None],
        total: int,
        gate: Gate | None,
        outer: TrainingWatch,
        pause: Callable[[], object],
    ) -> None:
        self.batches = batches
        self.float_hits = float_hits
        self.find_hits = find_hits
        self.total = total
        self.gate = gate
        self.outer = outer
        self.pause = pause
        self._best: Hits | None = None  # of the epochs so far, any of which may be kept

    def on_step(self, progress: TrainingProgress) -> None:
        """Make room and pass on."""
        self.pause()
        self.outer.on_step(progress)

    def on_note(self, text: str) -> None:
        """Passed on."""
        self.outer.on_note(text)

    def on_epoch(self, progress: TrainingProgress, predict: Predict) -> float | None:
        """Accuracy so far.

        Raises:
            Rejection: neither the best epoch so far can enter the front, nor the last one, even
                if the rest of the training goes well.
        """
        self.outer.on_epoch(progress, predict)
        if self.float_hits is None:
            return None
        hits = self.find_hits(predict(self.batches))
        if hits is None:
            return None
        self._judge(progress, hits, self.float_hits)
        return float(hits.mean())

    def _judge(self, progress: TrainingProgress, hits: Hits, float_hits: Hits) -> None:
        if self.gate is None:
            return
        done = progress.step / progress.steps
        if self._best is None or hits.sum() > self._best.sum():
            self._best = hits
        hoped = project_hits(hits, float_hits, 1 - done)
        glimpse = self.gate.imagine(hoped, float_hits, self.total)
        reason = self._find_reason(glimpse)
        if glimpse is None or reason is None:
            return
        if self._find_reason(self.gate.imagine(self._best, float_hits, self.total)) is None:
            return
        accuracy, base = float(hits.mean()), float(float_hits.mean())
        partial = Partial(
            reason=f"after epoch {progress.epoch} of {progress.epochs}, {reason}",
            samples=len(hits),
            of_samples=self.total,
            accuracy=accuracy,
            accuracy_drop=base - accuracy,
            latency_ratio=glimpse.latency_ratio,
            latency_ms=glimpse.latency_ms,
            targets=self.gate.imagine_targets(),
        )
        raise Rejection(
            partial.reason,
            Measurement(
                partial=partial,
                size_bytes=glimpse.size_bytes,
                evidence=Evidence.from_hits(hoped),
            ),
        )

    def _find_reason(self, glimpse: Glimpse | None) -> str | None:
        assert self.gate is not None
        return None if glimpse is None else self.gate.find_reason(glimpse)


def project_hits(hits: Hits, float_hits: Hits, share: float) -> Hits:
    """What a model would have right if training closed a share of its gap to the float model.

    Args:
        hits: (n,) what it has right.
        float_hits: (n,) what the float model has right.
        share: of the samples that the float model alone has right, in 0..1.

    Returns:
        (n,) with the first of those samples right as well.
    """
    gap = np.flatnonzero(float_hits & ~hits)
    hoped = hits.copy()
    hoped[gap[: round(share * len(gap))]] = True
    return hoped
