"""Options of searches on several workers."""

from typing import Annotated

import typer

__all__ = [
    "GpusOption",
    "JoinOption",
    "RayOption",
    "TargetOption",
    "TrialTimeoutOption",
    "WorkersOption",
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
TargetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="NAME",
        help="A machine that you ship to: timed on the cluster's nodes with the resource "
        "latency_probe:NAME, an objective of its own. May be given several times.",
    ),
]
TrialTimeoutOption = Annotated[
    str | None,
    typer.Option(
        "--trial-timeout",
        help="Stop a trial that keeps a worker or a probe longer: 90s, 2h.",
    ),
]
JoinOption = Annotated[
    bool,
    typer.Option("--join", help="Take part in the study if another process runs it."),
]
