"""Measured trials, made by hand."""

from collections.abc import Mapping

import numpy as np

from autoquant.core.evidence import Evidence
from autoquant.core.recipe import Recipe
from autoquant.core.trial import Latency, Timing, Trial


def make_trial(
    number: int,
    hits: np.ndarray | float,
    ratio: float = 0.5,
    size: int = 1000,
    width: float = 0.02,
    session: str | None = None,
    search_ratio: float | None = None,
) -> Trial:
    """A complete trial; `width` is the relative width of the latency interval."""
    recipe = Recipe.uniform([f"layer{number}"], 8)
    is_share = isinstance(hits, np.ndarray)
    accuracy = float(hits.mean()) if is_share else hits
    timing = Timing(
        reference_ms=1.0, p50_ms=ratio, p90_ms=ratio, p99_ms=ratio, samples=100, stable=True,
        session=session, search_ratio=search_ratio,
    )  # fmt: skip
    return Trial(
        number=number, state="complete", digest=recipe.digest, recipe=recipe,
        accuracy=accuracy, accuracy_drop=0.9 - accuracy,
        latency_ms=ratio, latency_ratio=ratio,
        latency_ratio_ci=(ratio * (1 - width / 2), ratio * (1 + width / 2)),
        timing=timing, size_bytes=size,
        evidence=Evidence.from_hits(hits) if is_share else None,
    )  # fmt: skip


def right(count: int, of: int = 1000) -> np.ndarray:
    """The first `count` samples are right."""
    return np.arange(of) < count


def seen_on(trial: Trial, ratios: Mapping[str, float]) -> Trial:
    """A trial with these latency ratios, the first one's beside them."""
    assert trial.timing is not None
    targets = {
        name: Latency(
            latency_ms=ratio, latency_ms_ci=(ratio, ratio), latency_ratio=ratio,
            latency_ratio_ci=(ratio * 0.99, ratio * 1.01), timing=trial.timing,
        )
        for name, ratio in ratios.items()
    }  # fmt: skip
    first = next(iter(targets.values()))
    return trial.model_copy(update={**dict(first), "targets": targets})
