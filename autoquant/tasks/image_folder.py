"""Folders of class folders: which images there are, of which class, for which split."""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoquant.errors import TaskError

__all__ = ["ImageFolder", "ImageList", "list_image_folder", "map_classes", "read_classes"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_TRAIN, _VALIDATION, _TEST = "train", "val", "test"
# Of each class, where one folder holds everything: half for calibration, a quarter to search on.
_SHARES = (0.5, 0.75)


@dataclass(frozen=True)
class ImageList:
    """Image files and the positions of their classes in the sorted list of class names."""

    paths: tuple[Path, ...]
    classes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def first(self, count: int | None) -> "ImageList":
        """The first ones; all of them for None."""
        return ImageList(self.paths[:count], self.classes[:count])


@dataclass(frozen=True)
class ImageFolder:
    """A data set on disk.

    Attributes:
        classes: names of the class folders, sorted.
        train: shuffled, so that any first part of it has all classes.
        search: likewise.
        report: likewise.
    """

    classes: tuple[str, ...]
    train: ImageList
    search: ImageList
    report: ImageList


def list_image_folder(root: Path, seed: int = 0) -> ImageFolder:
    """List a folder of class folders (ROOT/CLASS/*.jpg), or of splits (ROOT/train/CLASS/*.jpg).

    With `train`, `val` and `test` below it these are the splits: calibration, search, report.
    Without one of `val` and `test` the other is cut in two. A folder of classes alone is cut
    class by class: half to calibrate, a quarter to search, a quarter to report. Which image
    goes where depends on the names of the files and the seed.

    Raises:
        TaskError: no folder, fewer than two classes, a class without an image, or splits whose
            classes differ.
    """
    if not root.is_dir():
        raise TaskError(f"data: there is no folder '{root}'")
    splits = {
        name: root / name
        for name in (_TRAIN, _VALIDATION, _TEST)
        if (root / name).is_dir() and _subfolders(root / name)
    }
    if splits:
        return _list_splits(root, splits, seed)
    by_class = _list_classes(root)
    train, search, report = _cut(by_class, _SHARES, seed)
    return _checked(root, tuple(by_class), train, search, report)


def _list_splits(root: Path, splits: Mapping[str, Path], seed: int) -> ImageFolder:
    held_out = [name for name in (_VALIDATION, _TEST) if name in splits]
    if _TRAIN not in splits or not held_out:
        there = ", ".join(f"'{name}'" for name in splits)
        raise TaskError(
            f"data: '{root}' holds {there} alone; calibration needs 'train', search and report "
            "need 'val' or 'test'"
        )
    listed = {name: _list_classes(folder) for name, folder in splits.items()}
    for name in held_out:
        _check_same_classes(splits[name], list(listed[name]), list(listed[_TRAIN]))
    (train,) = _cut(listed[_TRAIN], (), seed)
    if len(held_out) == 1:
        search, report = _cut(listed[held_out[0]], (0.5,), seed)
    else:
        (search,), (report,) = (_cut(listed[name], (), seed) for name in held_out)
    return _checked(root, tuple(listed[_TRAIN]), train, search, report)


def _checked(
    root: Path, classes: tuple[str, ...], train: ImageList, search: ImageList, report: ImageList
) -> ImageFolder:
    if not (len(train) and len(search) and len(report)):
        raise TaskError(f"data: '{root}' holds too few images to make three splits of them")
    return ImageFolder(classes, train, search, report)


def _check_same_classes(folder: Path, classes: list[str], wanted: list[str]) -> None:
    missing = sorted(set(wanted) - set(classes))
    extra = sorted(set(classes) - set(wanted))
    if missing:
        raise TaskError(f"data: '{folder}' has no class '{missing[0]}', which train has")
    if extra:
        raise TaskError(f"data: '{folder}' has a class '{extra[0]}', which train has not")


def _subfolders(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    return sorted(found, key=lambda path: path.name)


def _list_classes(folder: Path) -> dict[str, list[Path]]:
    """Image files by class, both in the order of their names."""
    found = {path.name: _list_images(path) for path in _subfolders(folder)}
    if len(found) < 2:
        few = f"the class folder '{next(iter(found))}' alone" if found else "no class folder"
        raise TaskError(f"data: '{folder}' holds {few}; at least two are needed, one a class")
    empty = [name for name, paths in found.items() if not paths]
    if empty:
        raise TaskError(f"data: the class folder '{folder / empty[0]}' holds no image")
    return found


def _list_images(folder: Path) -> list[Path]:
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    return sorted(path for path in paths if path.is_file() and path.name[0] != ".")


def _cut(by_class: Mapping[str, list[Path]], shares: Sequence[float], seed: int) -> list[ImageList]:
    """Parts of every class, each part shuffled as a whole."""
    random = np.random.default_rng(seed)
    parts: list[list[tuple[Path, int]]] = [[] for _ in range(len(shares) + 1)]
    for index, paths in enumerate(by_class.values()):
        order = [paths[position] for position in random.permutation(len(paths))]
        ends = [0, *(round(share * len(paths)) for share in shares), len(paths)]
        for part, start, stop in zip(parts, ends, ends[1:], strict=False):
            part += [(path, index) for path in order[start:stop]]
    return [_shuffled(part, random) for part in parts]


def _shuffled(pairs: list[tuple[Path, int]], random: np.random.Generator) -> ImageList:
    order = [pairs[position] for position in random.permutation(len(pairs))]
    return ImageList(tuple(path for path, _ in order), tuple(index for _, index in order))


def read_classes(path: Path) -> list[str] | dict[str, int]:
    """Class names in the order of a model's outputs, or outputs by class name.

    Args:
        path: JSON, a list or a mapping; or text, one name a line.

    Raises:
        TaskError: none of these.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"classes: cannot read '{path}': {error}") from error
    if path.suffix.lower() != ".json":
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise TaskError(f"classes: {path}, line {error.lineno}: {error.msg}") from error
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return content
    if isinstance(content, dict) and all(type(index) is int for index in content.values()):
        return content
    raise TaskError(f"classes: '{path}' is neither a list of names nor a mapping of names to ints")


def map_classes(
    classes: Sequence[str], outputs: int, names: list[str] | dict[str, int] | None
) -> list[int]:
    """The model's output for every class folder.

    Args:
        classes: names of the class folders, sorted.
        outputs: how many the model has.
        names: class names in the order of the outputs, or outputs by class name; without it
            the folders stand for the outputs in their order.

    Raises:
        TaskError: the numbers differ, or a folder is not among the names.
    """
    if names is None:
        if len(classes) != outputs:
            raise TaskError(
                f"the data have {len(classes)} class folders and the model {outputs} outputs; "
                "say which folder is which output: classes, a file or a mapping"
            )
        return list(range(outputs))
    if isinstance(names, list):
        if len(names) != outputs:
            raise TaskError(f"classes: {len(names)} names for the model's {outputs} outputs")
        names = {name: index for index, name in enumerate(names)}
    return [_find_output(name, names, outputs) for name in classes]


def _find_output(name: str, known: Mapping[str, int], outputs: int) -> int:
    if name not in known:
        close = difflib.get_close_matches(name, known, 3)
        hint = f"; there are {', '.join(close)}" if close else ""
        raise TaskError(f"classes: the folder '{name}' is not among the names{hint}")
    if not 0 <= known[name] < outputs:
        raise TaskError(
            f"classes: '{name}' is output {known[name]}; the model has 0 to {outputs - 1}"
        )
    return known[name]
