"""`Crew`: how many workers a search has, and what each of them may take."""

from dataclasses import dataclass
from importlib.util import find_spec

from autoquant.backends.machine import available_cores
from autoquant.cluster.address import check_address
from autoquant.errors import InputError

__all__ = ["Crew", "check_ray", "plan_crew"]


@dataclass(frozen=True)
class Crew:
    """The workers of a search.

    Attributes:
        workers: how many evaluate trials at the same time; None fills the cluster.
        address: of the cluster's head, `HOST:PORT` or `auto`; None begins one on this machine.
        cpus: processors of each worker, and its threads.
        gpus_per_qat_trial: GPUs, or a share of one, for trials that are trained; 0 asks for none.
        trial_timeout_s: seconds after which a trial is stopped and recorded as failed.
        place_s: seconds within which the first worker must have found a place.
    """

    workers: int | None = 1
    address: str | None = None
    cpus: int = 1
    gpus_per_qat_trial: float = 0.0
    trial_timeout_s: float | None = None
    place_s: float = 60.0

    def describe(self) -> str:
        """What is asked of a cluster, in words."""
        gpu = f" and one with {self.gpus_per_qat_trial:g} GPU" if self.gpus_per_qat_trial else ""
        several = "s" * (self.workers != 1)
        return f"{self.workers} worker{several} with {self.cpus} CPU each{gpu}"


def check_ray() -> None:
    """Say what to install, before anything is loaded.

    Raises:
        InputError: Ray is not installed.
    """
    if find_spec("ray") is None:
        raise InputError("several workers need Ray: pip install 'autoquant[ray]'")


def plan_crew(
    workers: int | None,
    address: str | None,
    gpus_per_qat_trial: float,
    trial_timeout_s: float | None,
) -> Crew | None:
    """The workers that are asked for; None for a search in this process.

    Args:
        workers: how many; None is one, or fills a cluster.
        address: of a cluster's head; None begins one on this machine.
        gpus_per_qat_trial: GPUs, or a share of one, for a trial that trains.
        trial_timeout_s: seconds after which a trial is stopped.

    Raises:
        InputError: Ray is not installed, nobody listens at the address, or an option needs
            workers that are not asked for.
    """
    if address is None and workers in (None, 1):
        if gpus_per_qat_trial or trial_timeout_s is not None:
            raise InputError(
                "--gpus-per-qat-trial and --trial-timeout need workers: --workers 2 or --ray"
            )
        return None
    check_ray()
    if address is not None and address != "auto":
        check_address(address)
    cpus = 1 if address is not None else max(1, available_cores() // (workers or 1))
    return Crew(workers, address, cpus, gpus_per_qat_trial, trial_timeout_s)
