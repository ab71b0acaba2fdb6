"""`Crew`: how many workers a search has, and what each of them may take."""

from dataclasses import dataclass

__all__ = ["Crew"]


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
        targets: machines for which nodes of the cluster stand, each timed for itself; none where
            any probe will do.
    """

    workers: int | None = 1
    address: str | None = None
    cpus: int = 1
    gpus_per_qat_trial: float = 0.0
    trial_timeout_s: float | None = None
    place_s: float = 60.0
    targets: tuple[str, ...] = ()

    def describe(self) -> str:
        """What is asked of a cluster, in words."""
        gpu = f" and one with {self.gpus_per_qat_trial:g} GPU" if self.gpus_per_qat_trial else ""
        several = "s" * (self.workers != 1)
        return f"{self.workers} worker{several} with {self.cpus} CPU each{gpu}"
