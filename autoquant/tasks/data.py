"""Where data lies, and arrays as data sets."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from autoquant.errors import TaskError

__all__ = ["VARIABLE", "ImageArray", "cache_folder", "data_file", "load_state_dict"]

VARIABLE = "AUTOQUANT_DATA"
CACHE_VARIABLE = "AUTOQUANT_CACHE"


def data_file(name: str) -> Path:
    """A file of the data folder.

    Raises:
        TaskError: the variable is not set, or the file is not there; says what was looked for.
    """
    folder = os.environ.get(VARIABLE)
    if not folder:
        raise TaskError(f"set {VARIABLE} to the folder that holds {name}")
    path = Path(folder) / name
    if not path.is_file():
        raise TaskError(f"{VARIABLE} is '{folder}', which holds no {name}; set it to one that does")
    return path


def cache_folder() -> Path:
    """Folder for what is made once and kept: AUTOQUANT_CACHE, or the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else base / "autoquant"


def load_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name; never unpickles anything else.

    Raises:
        TaskError: not a state dict.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises four unrelated classes here
        raise TaskError(
            f"{path} is not a file of weights alone; save model.state_dict() and try again"
        ) from error
    is_state = isinstance(loaded, dict) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in loaded.items()
    )
    if not is_state:
        raise TaskError(f"{path} is not a state dict: a dict of names to tensors is expected")
    return dict(loaded)


class ImageArray:
    """Images held as bytes, normalized when they are read.

    Args:
        images: (n, height, width, channels) uint8.
        labels: (n,) integers.
        mean: per channel, of the raw 0..255 values.
        std: likewise.

    Items are ((channels, height, width) float32, int).
    """

    def __init__(
        self,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[Any],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.images = images
        self.labels = labels
        self.mean = np.asarray(mean, dtype=np.float32)
        self.std = np.asarray(std, dtype=np.float32)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        pixels = (self.images[index].astype(np.float32) - self.mean) / self.std
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), int(self.labels[index])

    def part(self, start: int, stop: int) -> "ImageArray":
        """Images start..stop, as views."""
        return ImageArray(
            self.images[start:stop], self.labels[start:stop], self.mean.tolist(), self.std.tolist()
        )
