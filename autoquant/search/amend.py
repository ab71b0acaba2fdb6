"""What is measured of a finished trial later, and is kept beside it in the study."""

from collections.abc import Mapping
from typing import Any

from autoquant.core.trial import Trial

__all__ = ["REPRIEVE", "amend_trial"]

_OF_RUNTIMES = ("over_onnxruntime", "over_onnxruntime_ci")
REPRIEVE = "reprieve"  # attribute of a study: what a second look gave, by digest
_LATER = (REPRIEVE, "report", "latency", "departure")


def amend_trial(trial: Trial, attributes: Mapping[str, Any]) -> Trial:
    """A trial with what was measured later: at a second look, beside the front, on report.

    Args:
        trial: as it was finished.
        attributes: of its study.
    """
    amendments = [attributes.get(name, {}).get(trial.digest, {}) for name in _LATER]
    changes: dict[str, Any] = {}
    for figures in amendments:
        changes |= figures
    if not changes:
        return trial
    if "latency_ratio" in amendments[_LATER.index("latency")]:
        reprieved = amendments[_LATER.index(REPRIEVE)]
        searched = {**trial.model_dump(), **reprieved}
        changes |= _remember_search(changes, searched)
        targets = changes.get("targets") or {}
        before = searched.get("targets") or {}
        if targets:
            changes["targets"] = {
                name: {**figures, **_remember_search(figures, before.get(name, {}))}
                for name, figures in targets.items()
            }
    return Trial.model_validate({**trial.model_dump(), "evidence": trial.evidence, **changes})


def _remember_search(now: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """The timing of now, with what the search had given: its ratio, and that of the runtimes."""
    before = then.get("timing") or {}
    kept = {name: before[name] for name in _OF_RUNTIMES if before.get(name)}
    return {"timing": {**now["timing"], **kept, "search_ratio": then.get("latency_ratio")}}
