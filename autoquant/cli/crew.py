"""Options of searches on several workers."""

from typing import Annotated

import typer

__all__ = ["GpusOption", "JoinOption", "RayOption", "TrialTimeoutOption", "WorkersOption"]

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
JoinOption = Annotated[
    bool,
    typer.Option("--join", help="Take part in the study if another process runs it."),
]
