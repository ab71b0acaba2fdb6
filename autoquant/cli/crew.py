"""Options of searches on several workers."""

from typing import Annotated

import typer

from autoquant.cluster import Crew, plan_crew
from autoquant.config import parse_duration

__all__ = [
    "GpusOption",
    "RayOption",
    "TrialTimeoutOption",
    "WorkersOption",
    "build_crew",
]

WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Trials that are built and judged at the same time; a cluster's CPUs if left out.",
    ),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray", metavar="ADDRESS", help="Head of a Ray cluster, HOST:PORT or auto, to search on."
    ),
]
GpusOption = Annotated[
    float,
    typer.Option(
        "--gpus-per-qat-trial", min=0.0, help="GPUs, or a share of one, for a trial that trains."
    ),
]
TrialTimeoutOption = Annotated[
    str | None,
    typer.Option("--trial-timeout", help="Stop a trial that takes longer: 90s, 30m or 2h."),
]


def build_crew(
    workers: int | None, address: str | None, gpus_per_qat_trial: float, trial_timeout: str | None
) -> Crew | None:
    """The workers that are asked for; see `plan_crew`."""
    timeout_s = None if trial_timeout is None else parse_duration(trial_timeout)
    return plan_crew(workers, address, gpus_per_qat_trial, timeout_s)
