"""Workers that a form asks for, and what a command is told of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autoquant.backends.machine import available_cores
from autoquant.cluster import check_ray
from autoquant.cluster.hire import build_crew
from autoquant.config import parse_duration
from autoquant.errors import InputError

__all__ = ["MOST_GPUS", "MOST_WORKERS", "CrewDraft", "explain_no_ray"]

MOST_WORKERS, MOST_GPUS = 1024, 64


def explain_no_ray() -> str | None:
    """Why there are no workers here; None where Ray is installed."""
    try:
        check_ray()
    except InputError as error:
        return str(error)
    return None


@dataclass(frozen=True)
class CrewDraft:
    """Workers as a form holds them.

    Attributes:
        workers: trials at the same time; None fills a cluster.
        address: of a cluster's head, or empty for this machine.
        gpus_per_qat_trial: GPUs, or a share of one, for a trial that trains.
        trial_timeout: `10m`; empty for none.
    """

    workers: int | None = 1
    address: str = ""
    gpus_per_qat_trial: float = 0.0
    trial_timeout: str = ""

    def check(self, *, is_reached: bool = False) -> None:
        """Say what is wrong as the command would.

        Args:
            is_reached: also ask whether somebody listens at the address.

        Raises:
            InputError: names it.
        """
        if self.workers is not None and not 1 <= self.workers <= MOST_WORKERS:
            raise InputError(f"--workers {self.workers}: from 1 to {MOST_WORKERS}")
        if not 0 <= self.gpus_per_qat_trial <= MOST_GPUS:
            raise InputError(f"--gpus-per-qat-trial: from 0 to {MOST_GPUS}")
        if self.trial_timeout.strip():
            parse_duration(self.trial_timeout)
        build_crew(
            self.workers, self.address.strip() or None, self.gpus_per_qat_trial,
            self.trial_timeout.strip() or None, is_reached=is_reached,
        )  # fmt: skip

    def to_options(self) -> list[str]:
        """For the command: each a word of its own, so that none is taken for another option.

        Raises:
            InputError: it is not as it should be.
        """
        self.check()
        if not self.is_several:
            return []
        options = [] if self.workers is None else [f"--workers={self.workers}"]
        if self.address.strip():
            options.append(f"--ray={self.address.strip()}")
        if self.gpus_per_qat_trial:
            options.append(f"--gpus-per-qat-trial={self.gpus_per_qat_trial:.6f}")
        if self.trial_timeout.strip():
            options.append(f"--trial-timeout={parse_duration(self.trial_timeout):.3f}s")
        return options

    @property
    def is_several(self) -> bool:
        """Whether there are workers: otherwise trials run one by one, in the search itself."""
        return bool(self.address.strip()) or self.workers not in (None, 1)

    @property
    def at_once(self) -> int | None:
        """Trials that make progress at the same time; None where only the cluster knows."""
        if self.address.strip():
            return self.workers
        return min(self.workers or 1, available_cores())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> "CrewDraft":
        """The inverse; whatever is no crew is none of several."""
        known = values if isinstance(values, Mapping) else {}
        workers, gpus = known.get("workers", 1), known.get("gpus_per_qat_trial", 0.0)
        draft = cls(
            workers if workers is None or type(workers) is int else 1,
            str(known.get("address", "")),
            float(gpus) if isinstance(gpus, int | float) else 0.0,
            str(known.get("trial_timeout", "")),
        )
        try:
            draft.check()
        except InputError:
            return cls()
        return draft
