"""Image files as a model wants them: decoded, resized, cropped, normalized."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from autoquant.errors import TaskError

__all__ = ["PictureCache", "Pictures", "Preprocessing", "read_picture"]

CACHE_BYTES = 2**30


@dataclass(frozen=True)
class Preprocessing:
    """How an image file becomes a model's input.

    Attributes:
        image_size: height and width of the input.
        resize: length of the image's shorter side before the centre is cut out; or height and
            width, whatever the image's own proportions.
        interpolation: `nearest`, `bilinear`, `bicubic`, `lanczos`, `box` or `hamming`.
        mean: by channel, of values in 0..1; one channel means grey.
        std: likewise.
    """

    image_size: tuple[int, int]
    resize: int | tuple[int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        """Three for colour, one for grey."""
        return len(self.mean)


def read_picture(path: Path, how: Preprocessing) -> npt.NDArray[np.uint8]:
    """Decode an image file.

    The steps are those of torchvision's and timm's evaluation transforms, in Pillow's own
    arithmetic on bytes.

    Returns:
        (height, width, channels) of the model's input, 0..255.

    Raises:
        TaskError: no image, or a damaged one; names the file.
    """
    try:
        from PIL import Image
    except ImportError:
        raise TaskError("image files need Pillow: pip install 'autoquant[models]'") from None
    method = Image.Resampling[how.interpolation.upper()]
    try:
        with Image.open(path) as opened:
            image = opened.convert("L" if how.channels == 1 else "RGB")
            image = image.resize(_resized(image.size, how.resize), method)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise TaskError(f"'{path}' is no image that can be read: {error}") from error
    height, width = how.image_size
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)))
    return pixels.reshape(height, width, how.channels)


def _resized(size: tuple[int, int], resize: int | tuple[int, int]) -> tuple[int, int]:
    """Width and height after resizing; the longer side is rounded down, as torchvision does."""
    width, height = size
    if not isinstance(resize, int):
        return resize[1], resize[0]
    if width <= height:
        return resize, int(resize * height / width)
    return int(resize * width / height), resize


class PictureCache:
    """Decoded images up to a number of bytes; what does not fit is decoded anew each time.

    Splits are read from start to end and again, so throwing out the oldest would throw out
    what is needed next: what is in stays in.
    """

    def __init__(self, how: Preprocessing, max_bytes: int = CACHE_BYTES) -> None:
        self.how = how
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._pictures: dict[Path, npt.NDArray[np.uint8]] = {}

    def read(self, path: Path) -> npt.NDArray[np.uint8]:
        """As `read_picture`."""
        known = self._pictures.get(path)
        if known is not None:
            return known
        picture = read_picture(path, self.how)
        if self.used_bytes + picture.nbytes <= self.max_bytes:
            self._pictures[path] = picture
            self.used_bytes += picture.nbytes
        return picture


class Pictures:
    """Image files as a data set.

    Args:
        paths: the files.
        labels: the model's output for each.
        cache: reads them; several data sets may share one.

    Items are ((channels, height, width) float32, int).
    """

    def __init__(self, paths: Sequence[Path], labels: Sequence[int], cache: PictureCache) -> None:
        self.paths = paths
        self.labels = labels
        self.cache = cache
        how = cache.how
        self._mean = 255 * np.asarray(how.mean, dtype=np.float32)
        self._std = 255 * np.asarray(how.std, dtype=np.float32)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        pixels = (self.cache.read(self.paths[index]).astype(np.float32) - self._mean) / self._std
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), self.labels[index]

    def check(self) -> None:
        """Read every image once.

        Raises:
            TaskError: one cannot be read.
        """
        for path in self.paths:
            self.cache.read(path)
