"""What the app was started with; its processes hand it on by their environment."""

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["RESULTS_VARIABLE", "STORAGE_VARIABLE", "TASKS_VARIABLE", "AppSetting"]

RESULTS_VARIABLE = "AUTOQUANT_RESULTS"
TASKS_VARIABLE = "AUTOQUANT_TASKS_FROM"
# of the command line too: everybody on a machine sees arguments, and a URL may hold a password
STORAGE_VARIABLE = "AUTOQUANT_STORAGE"
_OPEN_VARIABLE = "AUTOQUANT_APP_IS_OPEN"


@dataclass(frozen=True)
class AppSetting:
    """What whoever started the app decided; no visitor can change it.

    Attributes:
        results: folder that holds studies.
        tasks_from: file that registers tasks, or None.
        storage: URL of a database that holds studies too, or None.
        is_open: others than this machine reach the app. A cluster hands over code to whoever
            joins it, so that visitors may not name one there.
    """

    results: Path
    tasks_from: Path | None
    storage: str | None = None
    is_open: bool = False

    @classmethod
    def from_environment(cls) -> "AppSetting":
        """As `to_environment` left it."""
        tasks = os.environ.get(TASKS_VARIABLE)
        results = Path(os.environ.get(RESULTS_VARIABLE) or "results")
        storage = os.environ.get(STORAGE_VARIABLE) or None
        is_open = bool(os.environ.get(_OPEN_VARIABLE))
        return cls(results, Path(tasks) if tasks else None, storage, is_open)

    def to_environment(self) -> dict[str, str]:
        """For a process of the app."""
        tasks = {} if self.tasks_from is None else {TASKS_VARIABLE: str(self.tasks_from.absolute())}
        storage = {STORAGE_VARIABLE: self.storage or ""}
        is_open = {_OPEN_VARIABLE: "1" if self.is_open else ""}
        return {RESULTS_VARIABLE: str(self.results), **tasks, **storage, **is_open}
