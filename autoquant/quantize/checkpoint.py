"""`Checkpoint`: what a training run leaves behind, so that a killed one goes on."""

import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from autoquant.errors import CheckpointError
from autoquant.files import replacing

__all__ = ["EVERY_S", "Checkpoint"]

EVERY_S = 20.0  # seconds between two checkpoints


class Checkpoint:
    """One file, written whole or not at all.

    Args:
        path: where it lies.
        key: everything that the run depends on, by name; a file of another key is refused.
    """

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        self.path = path
        self.key = dict(key)
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was saved last; None if there is nothing.

        Never unpickles anything but tensors and plain values.

        Raises:
            CheckpointError: damaged, or of another key; says what is another.
        """
        if not self.path.is_file():
            return None
        try:
            with zipfile.ZipFile(self.path) as file:
                is_whole = file.testzip() is None  # torch itself looks at no checksum
            state: Any = torch.load(self.path, map_location="cpu", weights_only=True)
            key = dict(state["key"])
        except Exception:  # whatever torch raises, and what no run of ours has written
            is_whole = False
        if not is_whole:
            raise CheckpointError(
                f"the checkpoint '{self.path.name}' is damaged, or of an older version"
            )
        others = [name for name, value in self.key.items() if key.get(name) != value]
        if others:
            raise CheckpointError(
                f"the checkpoint '{self.path.name}' is of another training ({', '.join(others)})"
            )
        return dict(state)

    def is_due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self._last >= EVERY_S

    def save(self, state: dict[str, Any]) -> None:
        """Write it, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as file:
            torch.save({**state, "key": self.key}, file)
        self._last = time.monotonic()
