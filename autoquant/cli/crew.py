"""Options of searches on several workers."""

from typing import Annotated

import typer

from autoquant.backends.machine import available_cores
from autoquant.cluster import Crew, check_ray
from autoquant.cluster.address import check_address
from autoquant.config import parse_duration
from autoquant.errors import InputError

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
    """The workers that are asked for; None for a search in this process.

    Raises:
        InputError: Ray is not installed, nobody listens at the address, or an option needs
            workers that are not asked for.
    """
    if address is None and workers in (None, 1):
        if gpus_per_qat_trial or trial_timeout:
            raise InputError(
                "--gpus-per-qat-trial and --trial-timeout need workers: --workers 2 or --ray"
            )
        return None
    check_ray()
    if address not in (None, "auto"):
        check_address(address)
    return Crew(
        workers,
        address,
        1 if address is not None else max(1, available_cores() // (workers or 1)),
        gpus_per_qat_trial,
        None if trial_timeout is None else parse_duration(trial_timeout),
    )
