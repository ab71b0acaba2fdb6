"""`Checkpoint`: what a training run leaves behind, so that a killed one goes on."""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

__all__ = ["EVERY_S", "Checkpoint"]

EVERY_S = 20.0  # seconds between two checkpoints


class Checkpoint:
    """One file, written whole or not at all.

    Args:
        path: where it lies.
        key: digest of everything that the run depends on; a file of another key is not read.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.key = key
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was saved last; None if there is nothing of this key.

        Never unpickles anything but tensors and plain values.
        """
        try:
            state: Any = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception:  # missing, or whatever torch raises on a damaged file
            return None
        is_ours = isinstance(state, dict) and state.get("key") == self.key
        return state if is_ours else None

    def exists(self) -> bool:
        """Whether there is a file, of this key or another."""
        return self.path.is_file()

    def is_due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self._last >= EVERY_S

    def save(self, state: dict[str, Any]) -> None:
        """Write beside the target and rename, so that no reader ever sees half a file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.path.parent, delete=False) as file:
            torch.save({**state, "key": self.key}, file)
        Path(file.name).replace(self.path)
        self._last = time.monotonic()
