"""What the app was started with; its processes hand it on by their environment."""

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["RESULTS_VARIABLE", "TASKS_VARIABLE", "AppSetting"]

RESULTS_VARIABLE = "AUTOQUANT_RESULTS"
TASKS_VARIABLE = "AUTOQUANT_TASKS_FROM"


@dataclass(frozen=True)
class AppSetting:
    """What whoever started the app decided; no visitor can change it.

    Attributes:
        results: folder that holds studies.
        tasks_from: file that registers tasks, or None.
    """

    results: Path
    tasks_from: Path | None

    @classmethod
    def from_environment(cls) -> "AppSetting":
        """As `to_environment` left it."""
        tasks = os.environ.get(TASKS_VARIABLE)
        results = Path(os.environ.get(RESULTS_VARIABLE) or "results")
        return cls(results, Path(tasks) if tasks else None)

    def to_environment(self) -> dict[str, str]:
        """For a process of the app."""
        tasks = {} if self.tasks_from is None else {TASKS_VARIABLE: str(self.tasks_from.absolute())}
        return {RESULTS_VARIABLE: str(self.results), **tasks}
