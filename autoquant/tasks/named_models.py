"""Models by name from timm and torchvision, with weights that are already on this machine."""

import difflib
import importlib
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoquant.errors import TaskError
from autoquant.tasks.data import load_state_dict
from autoquant.tasks.model_source import ModelSource

__all__ = ["open_named_model"]

# What torchvision's constructors do otherwise for its own weights: those were trained on images
# that are normalized otherwise than its presets do, and the model makes up for it.
_PUBLISHED: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True},
    "inception_v3": {"transform_input": True},
}
_OLD_DENSE = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])(?=\.)")

Build = Callable[[int | None], nn.Module]
State = dict[str, Tensor]


def open_named_model(name: str, weights: Path | None) -> ModelSource:
    """A model such as `timm:resnet18` or `torchvision:mobilenet_v2`.

    Nothing is downloaded. The pretrained weights are taken where the library has put them into
    its cache before; otherwise `weights` must name a state dict, whose number of outputs may
    differ from the pretrained model's.

    Args:
        name: library, colon, name.
        weights: a state dict (.pt, .pth, .safetensors), or None for the cached weights.

    Raises:
        TaskError: an unknown name, a library that is not installed, no weights, or weights of
            another model.
    """
    library, _, model = name.partition(":")
    if library not in _LIBRARIES:
        known = " or ".join(f"{key}:NAME" for key in _LIBRARIES)
        raise TaskError(f"model: '{name}' is neither {known} nor a file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on initializations that the weights replace
        return _LIBRARIES[library](model, weights)


def _open_timm(name: str, weights: Path | None) -> ModelSource:
    timm = _import("timm")
    if not timm.is_model(name):
        raise TaskError(_unknown("timm", name, timm.list_models()))

    def build(outputs: int | None) -> nn.Module:
        sized = {} if outputs is None else {"num_classes": outputs}
        model: nn.Module = timm.create_model(name, pretrained=False, **sized)
        return model

    if weights is not None:
        model = _fit(build, _read_state(weights), weights)
    else:
        state = _read_cached(f"timm:{name}", _cached_by_timm(timm.get_pretrained_cfg(name)))
        # timm's own conversion of old checkpoints applies to this one
        overlay = {"state_dict": state}
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    config = timm.data.resolve_model_data_config(model)
    return ModelSource(_read_timm_config(config), lambda example: model)


def _read_timm_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluation transforms of timm: the crop is `crop_pct` of the resized image."""
    known = {
        "image_size": tuple(config["input_size"][1:]),
        "interpolation": config["interpolation"],
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
    }
    height, width = (math.floor(side / config["crop_pct"]) for side in known["image_size"])
    if config["crop_mode"] == "center" and height == width:
        known["resize"] = height
    elif config["crop_mode"] in ("center", "squash"):
        known["resize"] = (height, width)
    return known


def _cached_by_timm(config: Any) -> Iterable[Path]:
    """Files that timm would read instead of downloading."""
    if config is None:
        return
    if config.hf_hub_id:
        from huggingface_hub import try_to_load_from_cache

        for file in ("model.safetensors", "pytorch_model.bin"):
            found = try_to_load_from_cache(config.hf_hub_id, file)
            if isinstance(found, str):
                yield Path(found)
    if config.url:
        yield _hub_file(config.url)


def _open_torchvision(name: str, weights: Path | None) -> ModelSource:
    models = _import("torchvision").models
    names = models.list_models(module=models)
    if name not in names:
        raise TaskError(_unknown("torchvision", name, names))

    releases = models.get_model_weights(name)
    published = {_hub_file(each.url).name for each in releases}

    def build(outputs: int | None) -> nn.Module:
        options = {} if outputs is None else {"num_classes": outputs}
        if weights is None or weights.name in published:
            options |= _PUBLISHED.get(name, {})
        model: nn.Module = models.get_model(name, weights=None, **options)
        return model

    ordered = sorted(releases, key=lambda release: release is not releases.DEFAULT)
    if weights is None:
        found = _read_cached(f"torchvision:{name}", (_hub_file(each.url) for each in ordered))
        file = next(path for each in ordered if (path := _hub_file(each.url)).is_file())
        model = _fit(build, _rename_dense(found), file)
    else:
        file = weights
        model = _fit(build, _rename_dense(_read_state(weights)), weights)
    # published releases of one model differ in how they prepare images: the file's name tells
    release = next((each for each in ordered if _hub_file(each.url).name == file.name), ordered[0])
    return ModelSource(_read_preset(release.transforms()), lambda example: model)


def _rename_dense(state: State) -> State:
    """Names of layers as they are today; published DenseNets have those of before."""
    return {_OLD_DENSE.sub(r"\1\2", name): value for name, value in state.items()}


def _read_preset(preset: Any) -> dict[str, Any]:
    """Evaluation transforms of torchvision, an `ImageClassification`."""
    (side,) = preset.crop_size
    return {
        "image_size": (side, side),
        "resize": preset.resize_size[0],
        "interpolation": preset.interpolation.value,
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
    }


_LIBRARIES: dict[str, Callable[[str, Path | None], ModelSource]] = {
    "timm": _open_timm,
    "torchvision": _open_torchvision,
}


def _import(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError:
        raise TaskError(
            f"models of {library} need the extra 'models': pip install 'autoquant[models]'"
        ) from None
    except RuntimeError as error:  # torchvision's operators are missing
        raise TaskError(
            f"{library} does not fit torch {torch.__version__} ({error}); install the "
            "torchvision that was built for this torch, from the same place"
        ) from error


def _unknown(library: str, name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 4, cutoff=0.5)
    hint = f"; there are {', '.join(close)}" if close else ""
    return f"model: {library} has no model '{name}'{hint}"


def _hub_file(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _read_cached(name: str, candidates: Iterable[Path]) -> State:
    for path in candidates:
        if path.is_file():
            return _read_state(path)
    raise TaskError(
        f"the pretrained weights of {name} are not on this machine, and nothing is downloaded: "
        "give weights, a file with the model's state dict"
    )


def _read_state(path: Path) -> State:
    if not path.is_file():
        raise TaskError(f"weights: there is no file '{path}'")
    if path.suffix != ".safetensors":
        return load_state_dict(path)
    safetensors = _import("safetensors.torch")
    try:
        state: State = safetensors.load_file(path)
    except Exception as error:  # its errors share no public base
        raise TaskError(f"weights: '{path}' is damaged: {error}") from error
    return state


def _fit(build: Build, state: State, source: Path) -> nn.Module:
    """The model with these weights, its number of outputs taken from them.

    Raises:
        TaskError: they are not this model's; names the first tensor that does not fit.
    """
    model = build(None)
    outputs = _find_outputs(model.state_dict(), state)
    if outputs is not None:
        model = build(outputs)
    own = model.state_dict()
    for name, value in own.items():
        if name in state and state[name].shape != value.shape:
            shapes = f"{tuple(state[name].shape)} instead of {tuple(value.shape)}"
            raise TaskError(f"weights: '{source}' does not fit: '{name}' is {shapes}")
    report = model.load_state_dict(state, strict=False)
    for kind, names in (("no", report.missing_keys), ("an unknown", report.unexpected_keys)):
        if names:
            raise TaskError(f"weights: '{source}' does not fit: it has {kind} '{names[0]}'")
    return model


def _find_outputs(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> int | None:
    """Number of outputs, if all that differs are first dimensions that become one number.

    A classifier's weight and bias have one row for each output, and nothing else of a model
    depends on how many there are.
    """
    pairs = [(own[name].shape, state[name].shape) for name in own if name in state]
    differing = [(ours, theirs) for ours, theirs in pairs if ours != theirs]
    rows = {(ours[0], theirs[0]) for ours, theirs in differing if ours and theirs}
    same_rest = all(ours[1:] == theirs[1:] for ours, theirs in differing)
    return rows.pop()[1] if len(rows) == 1 and same_rest else None
