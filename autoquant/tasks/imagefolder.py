"""The task `imagefolder`: anyone's images, in class folders, and anyone's model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator

from autoquant.core.task import Task
from autoquant.errors import TaskError
from autoquant.tasks.image_folder import (
    ImageFolder,
    ImageList,
    list_image_folder,
    map_classes,
    read_classes,
)
from autoquant.tasks.model_file import open_model_file
from autoquant.tasks.model_source import ModelSource, count_outputs
from autoquant.tasks.named_models import open_named_model
from autoquant.tasks.options import TaskOptions, is_name
from autoquant.tasks.pictures import PictureCache, Pictures, Preprocessing
from autoquant.tasks.registry import register_task

__all__ = ["ImageFolderOptions", "ImageLimits", "imagefolder"]

Length = Annotated[int, Field(ge=1, le=8192)]
Size = Length | Annotated[list[Length], Field(min_length=2, max_length=2)]
Limit = Annotated[int, Field(ge=1)] | Literal["all"]
Channels = Annotated[list[float], Field(min_length=1, max_length=3)]
Deviations = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1, max_length=3)]


class ImageLimits(TaskOptions):
    """How many images each split takes at most; the first of a seeded shuffle.

    Images that figures come from are held in memory, as bytes and as numbers: a thousand of
    224 x 224 are 0.15 and 0.6 GB.
    """

    calibration: Limit = 512
    search: Limit = 1000
    report: Limit = 1000


class ImageFolderOptions(TaskOptions):
    """What `imagefolder` is told; `data` and `model` are needed.

    Attributes:
        data: folder of class folders, or of `train`, `val` and `test` with class folders in
            each; see `list_image_folder`.
        model: `timm:NAME`, `torchvision:NAME`, or a TorchScript or ExportedProgram file.
        weights: state dict of a model by name; without it the library's cached one.
        image_size: of the model's input: one side, or height and width.
        resize: shorter side before the centre is cut out, or height and width.
        interpolation: how images are resized.
        mean: by channel, of values in 0..1; one number makes images grey.
        std: likewise.
        classes: names of the model's outputs in their order, or output by class name; inline or
            a file of either (JSON, or text with a name a line).
        images: how many images each split takes.
        metric: `top1` or `top5`.
        seed: of the shuffle and of the cut into splits.

    What is left out is taken from the model, where it says so: timm's and torchvision's do, a
    program file knows its image size.
    """

    paths: ClassVar[tuple[str, ...]] = ("data", "model", "weights", "classes")

    data: Annotated[str, Field(min_length=1)]
    model: Annotated[str, Field(min_length=1)]
    weights: str | None = None
    image_size: Size | None = None
    resize: Size | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] | None = (
        None
    )
    mean: Channels | None = None
    std: Deviations | None = None
    classes: str | list[str] | dict[str, int] | None = None
    images: ImageLimits = ImageLimits()
    metric: Literal["top1", "top5"] = "top1"
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        lengths = {len(values) for values in (self.mean, self.std) if values is not None}
        if not lengths <= {1} and not lengths <= {3}:
            raise ValueError("mean and std need one number for grey or three for colour, both")
        return self


@register_task("imagefolder", options=ImageFolderOptions)
def imagefolder(options: ImageFolderOptions) -> Task:
    """Images in class folders, and a model by name or from a file."""
    folder = list_image_folder(Path(options.data), options.seed)
    source = _open_model(options)
    how = choose_preprocessing(options, source.known)
    example = torch.zeros(1, how.channels, *how.image_size)
    model = source.build(example).float().eval()
    outputs = count_outputs(model, example, Path(options.model).name)
    labels = map_classes(folder.classes, outputs, _read_names(options.classes))
    return _assemble(options, folder, labels, PictureCache(how), model)


def _assemble(
    options: ImageFolderOptions,
    folder: ImageFolder,
    labels: list[int],
    cache: PictureCache,
    model: torch.nn.Module,
) -> Task:
    def pictures(images: ImageList, limit: Limit | None) -> Pictures:
        chosen = images.first(limit if isinstance(limit, int) else None)
        return Pictures(chosen.paths, [labels[index] for index in chosen.classes], cache)

    limits = options.images
    calibration = pictures(folder.train, limits.calibration)
    search = pictures(folder.search, limits.search)
    report = pictures(folder.report, limits.report)
    # every image that figures come from, so that a broken one stops here and not trial by trial
    for split in (calibration, search, report):
        split.check()
    how = cache.how
    return Task(
        model=model,
        example_input=torch.zeros(1, how.channels, *how.image_size),
        calibration=calibration,
        train=pictures(folder.train, None),
        search=search,
        report=report,
        metric=options.metric,
    )


def _open_model(options: ImageFolderOptions) -> ModelSource:
    weights = None if options.weights is None else Path(options.weights)
    if is_name(options.model):
        return open_named_model(options.model, weights)
    if weights is not None:
        raise TaskError(
            f"weights belong to a model by name (timm:NAME, torchvision:NAME); the file "
            f"'{options.model}' has its own"
        )
    return open_model_file(Path(options.model))


def _read_names(
    classes: str | list[str] | dict[str, int] | None,
) -> list[str] | dict[str, int] | None:
    return read_classes(Path(classes)) if isinstance(classes, str) else classes


def choose_preprocessing(options: ImageFolderOptions, known: Mapping[str, Any]) -> Preprocessing:
    """What the user says, and for the rest what the model says.

    Another image size than the model's keeps the model's ratio of resizing to cropping.

    Args:
        options: of the task.
        known: fields of `Preprocessing` that the model says.

    Raises:
        TaskError: neither says it, or the crop is larger than what it is cut from.
    """
    given = {
        name: _as_tuple(value)
        for name in ("image_size", "resize", "interpolation", "mean", "std")
        if (value := getattr(options, name)) is not None
    }
    if isinstance(given.get("image_size"), int):
        given["image_size"] = (given["image_size"],) * 2
    values = {"interpolation": "bilinear", **known, **given}
    missing = [name for name in ("image_size", "mean", "std") if name not in values]
    if missing:
        raise TaskError(
            f"the model does not say how its images are prepared: give {' and '.join(missing)}"
        )
    if "resize" not in given:
        values["resize"] = _scale(known, values["image_size"])
    how = Preprocessing(**values)
    _check(how)
    return how


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _scale(known: Mapping[str, Any], size: tuple[int, int]) -> int | tuple[int, int]:
    """What to resize to before cutting out the centre, as the model does at its own size."""
    own, resize = known.get("image_size"), known.get("resize")
    if own == size and resize is not None:
        return resize  # type: ignore[no-any-return]
    if own is None or resize is None:
        ratio = 1.0
    else:
        ratio = (resize if isinstance(resize, int) else resize[0]) / own[0]
    height, width = (round(side * ratio) for side in size)
    return height if height == width else (height, width)


def _check(how: Preprocessing) -> None:
    resized = (how.resize,) * 2 if isinstance(how.resize, int) else how.resize
    if any(after < side for after, side in zip(resized, how.image_size, strict=True)):
        raise TaskError(f"resize {how.resize} is smaller than image_size {how.image_size}")
    if len(how.mean) != len(how.std):
        raise TaskError(f"mean has {len(how.mean)} numbers and std {len(how.std)}")
