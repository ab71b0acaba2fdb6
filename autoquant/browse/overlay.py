"""Studies of one task laid over each other: one table, one front, one reference of latencies."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from autoquant.browse.view import StudyView
from autoquant.core.overlay import (
    Contribution,
    explain_lost_factor,
    find_other_models,
    has_several_runtimes,
    lay_over,
    shared_objectives,
    widen,
)
from autoquant.search.alike import find_difference

__all__ = ["Overlay", "overlay_studies"]


@dataclass(frozen=True)
class Overlay:
    """What is shown of several studies, or of one.

    Attributes:
        table: rows of `build_table`; on the front is what no study's members beat.
        reference: what latencies are ratios to, in words.
        notes: what cannot be compared, and the way out.
    """

    table: pd.DataFrame
    reference: str = "float"
    notes: tuple[str, ...] = ()


def overlay_studies(views: Sequence[StudyView]) -> Overlay:
    """One table of several studies; those that do not compare with the first are left out.

    Where they are of several runtimes, latencies are ratios to the float model on ONNX Runtime; a
    study that does not tell how its runtime compares with that is shown without latencies, and
    is left out of the common front.

    Args:
        views: of studies, each as a whole or as a target sees it.
    """
    kept, notes = _leave_out(views)
    if len(kept) == 1:
        return Overlay(kept[0].table, notes=tuple(notes))
    parts = [view.contribution for view in kept]
    is_mixed = has_several_runtimes(parts)
    notes += find_other_models(parts)
    lost = [part.study for part in parts if is_mixed and part.factor is None]
    notes += [explain_lost_factor(part) for part in parts if part.study in lost]
    objectives = shared_objectives([view.snapshot.header.objectives for view in kept])
    best = {
        (member.study, member.trial.number)
        for member in lay_over([part for part in parts if part.study not in lost], objectives)
        if member.is_on_front
    }
    tables = [
        _rescale(view.table, part) if is_mixed else view.table
        for view, part in zip(kept, parts, strict=True)
    ]
    table = pd.concat(tables, ignore_index=True)
    keys = zip(table["study"], table["number"], strict=True)
    table["is_front"] = np.array([key in best for key in keys], dtype=bool)
    return Overlay(table, "float on ONNX Runtime" if is_mixed else "float", tuple(notes))


def _leave_out(views: Sequence[StudyView]) -> tuple[list[StudyView], list[str]]:
    """Those that compare with the first one, and why the others do not."""
    first, *others = views
    kept, notes = [first], []
    for view in others:
        several = next((item for item in (first, view) if item.snapshot.header.targets), None)
        difference = find_difference(first.snapshot.header, view.snapshot.header)
        wanted = [item.snapshot.header.objectives for item in (*kept, view)]
        if several is not None:
            notes.append(
                f"'{several.key}' has several targets: open it as one of them sees it (Latency on, "
                "at the left) to lay other studies over it"
            )
        elif difference is not None:
            notes.append(
                f"'{first.key}' and '{view.key}' {difference}: their figures do not compare"
            )
        elif not shared_objectives(wanted):
            notes.append(f"'{view.key}' has no objective that all the others have")
        else:
            kept.append(view)
    return kept, notes


def _rescale(table: pd.DataFrame, part: Contribution) -> pd.DataFrame:
    """Ratios to float on ONNX Runtime with their intervals; none where the factor is not known."""
    if part.factor is None:
        return table.assign(latency=np.nan, latency_low=np.nan, latency_high=np.nan)
    factor, interval = part.factor
    latency = table["latency"] * factor
    ends = [
        widen(ratio, None if np.isnan(low) else (low, high), interval)
        for ratio, low, high in zip(
            latency, table["latency_low"], table["latency_high"], strict=True
        )
    ]
    return table.assign(
        latency=latency,
        latency_low=[low for low, _ in ends],
        latency_high=[high for _, high in ends],
    )
