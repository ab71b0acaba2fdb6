"""The crew that somebody asks for, on the command line or in the app."""

from autoquant.backends.machine import available_cores
from autoquant.cluster import check_ray
from autoquant.cluster.address import check_address, parse_address
from autoquant.cluster.crew import Crew
from autoquant.config import parse_duration
from autoquant.errors import InputError

__all__ = ["build_crew"]


def build_crew(
    workers: int | None,
    address: str | None,
    gpus_per_qat_trial: float,
    trial_timeout: str | float | None,
    *,
    is_reached: bool = True,
) -> Crew | None:
    """The workers that are asked for; None for a search in this process.

    Args:
        workers: trials at the same time; None fills a cluster.
        address: of the cluster's head, `HOST:PORT` or `auto`; None begins one on this machine.
        gpus_per_qat_trial: GPUs, or a share of one, for a trial that trains.
        trial_timeout: `10m`, or seconds; None for none.
        is_reached: also ask whether somebody listens at the address, for 5 s at most.

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
    if address is not None:
        (check_address if is_reached else parse_address)(address)
    return Crew(
        workers,
        address,
        1 if address is not None else max(1, available_cores() // (workers or 1)),
        gpus_per_qat_trial,
        None if trial_timeout is None else parse_duration(trial_timeout),
    )
