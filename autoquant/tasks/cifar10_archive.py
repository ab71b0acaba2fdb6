"""CIFAR-10 as it is published, and as arrays: read from the data folder, whichever is there.

Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images". Both official archives
are read, packed or unpacked:

- the binary version, records of one label byte and 3,072 pixel bytes;
- the Python version, pickles of Python 2. A pickle can name any function to run, so these are
  read by an unpickler that knows byte strings, numbers, lists, dicts and arrays of bytes, and
  refuses everything else.
"""

import io
import os
import pickle
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from autoquant.errors import TaskError
from autoquant.tasks.data import VARIABLE

__all__ = ["Part", "read_cifar10", "read_python_batch"]

Part = Literal["train", "test"]
Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]

_SIDE, _CHANNELS, _CLASSES = 32, 3, 10
_PIXELS = _SIDE * _SIDE * _CHANNELS
_BATCH_IMAGES = 10_000
_ARRAYS = {"train": "cifar10_train_20k.npz", "test": "cifar10_test_10k.npz"}
_BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}


@dataclass(frozen=True)
class _Release:
    """One of the official archives."""

    folder: str
    archive: str
    suffix: str


_RELEASES = (
    _Release("cifar-10-batches-bin", "cifar-10-binary.tar.gz", ".bin"),
    _Release("cifar-10-batches-py", "cifar-10-python.tar.gz", ""),
)


def read_cifar10(part: Part) -> Arrays:
    """Images (n, 32, 32, 3) and labels (n,) of one part, from the folder AUTOQUANT_DATA.

    Arrays in an .npz file go first; then the binary version, then the Python version, each
    first as a folder and then as an archive. Archives hold the official order.

    Raises:
        TaskError: nothing is there, and all that was looked for; or a damaged file.
    """
    chosen = os.environ.get(VARIABLE)
    if not chosen:
        raise TaskError(f"set {VARIABLE} to the folder that holds CIFAR-10")
    folder = Path(chosen)
    arrays = folder / _ARRAYS[part]
    if arrays.is_file():
        return _read_arrays(arrays)
    for release in _RELEASES:
        contents = _find_batches(folder, release, part)
        if contents is not None:
            return _join(contents, release)
    looked = ", ".join([_ARRAYS[part], *_describe(part)])
    raise TaskError(
        f"{VARIABLE} is '{folder}', which holds no {part} images of CIFAR-10; looked for {looked}"
    )


def _read_arrays(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as content:
            return content["x"], content["y"]
    except (OSError, ValueError, KeyError) as error:
        raise TaskError(f"{path} is damaged: {error}") from error


def _describe(part: Part) -> Iterator[str]:
    for release in _RELEASES:
        yield f"{release.folder}/{_BATCHES[part][0]}{release.suffix}"
        yield release.archive


def _find_batches(folder: Path, release: _Release, part: Part) -> list[tuple[str, bytes]] | None:
    """Names and contents of the batch files; None where this release is not there."""
    names = [f"{release.folder}/{name}{release.suffix}" for name in _BATCHES[part]]
    if (folder / names[0]).is_file():
        return [(str(folder / name), _read_file(folder / name)) for name in names]
    archive = folder / release.archive
    return _read_members(archive, names) if archive.is_file() else None


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TaskError(f"cannot read '{path}': {error.strerror}") from error


def _read_members(archive: Path, names: list[str]) -> list[tuple[str, bytes]]:
    """Files of an archive, read in memory: nothing is unpacked to disk."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as opened:
            for member in opened:
                file = opened.extractfile(member) if member.name in names else None
                if file is not None:
                    found[member.name] = file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise TaskError(f"{archive} is damaged: {error}") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise TaskError(f"{archive} holds no {missing[0]}")
    return [(f"{archive}: {name}", found[name]) for name in names]


def _join(contents: list[tuple[str, bytes]], release: _Release) -> Arrays:
    read = _read_binary_batch if release.suffix else read_python_batch
    parts = [read(content, name) for name, content in contents]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return images, labels


def _read_binary_batch(content: bytes, name: str) -> Arrays:
    records = np.frombuffer(content, np.uint8)
    if len(records) != _BATCH_IMAGES * (1 + _PIXELS):
        raise TaskError(
            f"{name} is damaged: {len(records):,} bytes instead of "
            f"{_BATCH_IMAGES * (1 + _PIXELS):,}"
        )
    table = records.reshape(_BATCH_IMAGES, 1 + _PIXELS)
    return _arrange(table[:, 1:], table[:, 0], name)


def read_python_batch(content: bytes, name: str) -> Arrays:
    """Images and labels of a batch file of the Python version.

    Raises:
        TaskError: it names anything but arrays of bytes, or does not hold what it should.
    """
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        pixels, labels = batch[b"data"].value, np.asarray(batch[b"labels"])
    except TaskError as error:
        raise TaskError(f"{name}: {error}") from None
    except Exception as error:  # a damaged pickle fails in any way it likes
        reason = f"{type(error).__name__}: {error}"
        raise TaskError(f"{name} is no CIFAR-10 batch of the Python version: {reason}") from error
    if pixels.shape != (_BATCH_IMAGES, _PIXELS) or labels.shape != (_BATCH_IMAGES,):
        raise TaskError(f"{name} is damaged: not {_BATCH_IMAGES:,} images with their labels")
    return _arrange(pixels, labels, name)


def _arrange(pixels: npt.NDArray[np.uint8], labels: npt.NDArray[Any], name: str) -> Arrays:
    """Planes (n, 3072) to images (n, 32, 32, 3)."""
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= _CLASSES:
        raise TaskError(f"{name} is damaged: a label is not among 0 to {_CLASSES - 1}")
    planes = pixels.reshape(-1, _CHANNELS, _SIDE, _SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels.astype(np.uint8)


class _ArrayUnpickler(pickle.Unpickler):
    """Reads arrays of bytes in lists and dicts.

    The three names that an array needs stand for inert classes of ours, so a pickle sets no
    state of numpy's own; every other name is refused before anything is called.
    """

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), "_reconstruct"):
                return _StoredArray
            case "numpy", "ndarray":
                return name  # an argument that _StoredArray leaves aside
            case "numpy", "dtype":
                return _StoredType
        raise TaskError(f"refused: the pickle names {module}.{name}, which is no array of bytes")


class _StoredArray:
    """An array of bytes as a pickle describes it."""

    def __init__(self, *_: Any) -> None:
        self.value: npt.NDArray[np.uint8] = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, _type, is_by_column, content = state
        order: Literal["F", "C"] = "F" if is_by_column else "C"
        self.value = np.frombuffer(content, np.uint8).reshape(shape, order=order)


class _StoredType:
    """The type of an array's items: unsigned bytes, whatever else the pickle says on it."""

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in (b"u1", "u1"):
            raise TaskError(f"refused: the pickle holds an array of {code!r} instead of bytes")

    def __setstate__(self, state: Any) -> None:
        pass
