"""Searches on many workers, by Ray: one door to it, opened when somebody asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from autoquant.cluster.crew import Crew
from autoquant.errors import InputError

if TYPE_CHECKING:
    from autoquant.cluster.evaluator import ClusterEvaluator
    from autoquant.cluster.worker import Source
    from autoquant.evaluate import Evaluator
    from autoquant.search.trial_log import TrialLogs

__all__ = ["Crew", "check_ray", "open_crew"]


def check_ray() -> None:
    """Say what to install, before anything is loaded.

    Raises:
        InputError: Ray is not installed.
    """
    if find_spec("ray") is None:
        raise InputError("several workers need Ray: pip install 'autoquant[ray]'")


@contextmanager
def open_crew(
    crew: Crew, source: "Source", local: "Evaluator", logs: "TrialLogs | None" = None
) -> Iterator["ClusterEvaluator"]:
    """Workers of a search, ready to begin; see `cluster.evaluator.open_crew`."""
    check_ray()
    from autoquant.cluster import evaluator

    with evaluator.open_crew(crew, source, local, logs) as found:
        yield found
