"""The task `imagefolder`: options, models by name and by file, what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoquant.errors import TaskError
from autoquant.tasks import load_task, resolve_options
from autoquant.tasks.imagefolder import ImageFolderOptions, choose_preprocessing
from tests.picture_folders import CLASSES, SIDE, STATISTICS, colour_net, save_program, write_folder
from tests.torchvision_import import import_torchvision

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in three classes, and a program that tells them."""
    root = tmp_path_factory.mktemp("imagefolder")
    write_folder(root / "images", 16)
    save_program(colour_net(), root / "net.pt2")
    return root


def options(folder: Path, **changes: Any) -> dict[str, Any]:
    given = {"data": str(folder / "images"), "model": str(folder / "net.pt2"), **STATISTICS}
    return {**given, **changes}


def accuracy(task) -> float:
    pairs = [task.search[index] for index in range(len(task.search))]
    outputs = task.model(torch.stack([image for image, _ in pairs]))
    return (outputs.argmax(1) == torch.tensor([label for _, label in pairs])).float().mean().item()


def test_task_of_a_program(folder: Path) -> None:
    task = load_task("imagefolder", options(folder, images={"calibration": 10}))
    assert [len(split) for split in (task.calibration, task.search, task.report)] == [10, 12, 12]
    assert len(task.train) == 24
    assert task.example_input.shape == (1, 3, SIDE, SIDE)
    assert not task.model.training
    assert accuracy(task) == 1.0


def test_classes_say_which_output_a_folder_is(folder: Path, tmp_path: Path) -> None:
    named = load_task("imagefolder", options(folder, classes=["blue", "green", "red"]))
    mapped = load_task("imagefolder", options(folder, classes={"blue": 0, "green": 1, "red": 2}))
    swapped = load_task("imagefolder", options(folder, classes=["green", "blue", "red"]))
    assert accuracy(named) == accuracy(mapped) == 1.0
    assert accuracy(swapped) == pytest.approx(1 / 3)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    assert accuracy(
        load_task("imagefolder", options(folder, classes=str(tmp_path / "classes.txt")))
    )


def test_options_make_the_same_task_again(folder: Path) -> None:
    task = load_task("imagefolder", options(folder, images={"search": 5}, seed=3))
    again = load_task("imagefolder", json.loads(json.dumps(dict(task.options))))
    assert again.options == task.options
    assert again.search.paths == task.search.paths
    assert len(again.search) == 5


def test_relative_paths_start_from_the_file_that_names_them(folder: Path, tmp_path: Path) -> None:
    merged = resolve_options(
        "imagefolder",
        ({"data": "images", "model": "timm:resnet18", "images": {"search": 3}}, folder),
        ({"weights": "w.pt", "images": {"report": 4}}, tmp_path),
    )
    assert merged == {
        "data": str(folder / "images"),
        "model": "timm:resnet18",
        "weights": str(tmp_path / "w.pt"),
        "images": {"search": 3, "report": 4},
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "option 'data'"),
        ({"colour": 1}, "unknown option 'colour'; there are data, model, weights"),
        ({"images": {"serch": 5}}, r"unknown option 'images\.serch'; there are calibration"),
        ({"images": {"search": 0}}, r"option 'images\.search'.*greater than or equal to 1"),
        ({"images": {"search": "some"}}, r"option 'images\.search'.*'all'"),
        ({"mean": [math.nan, 0.5, 0.5]}, "option 'mean'.*finite"),
        ({"std": [math.inf] * 3}, "option 'std'.*finite"),
        ({"std": [0.0] * 3}, "option 'std'.*greater than 0"),
        ({"mean": [0.5, 0.5]}, "one number for grey or three for colour"),
        ({"mean": [0.5]}, "one number for grey or three for colour"),
        ({"image_size": "big"}, "option 'image_size'.*integer, or .*list; not 'big'"),
        ({"image_size": 0}, "option 'image_size'"),
        ({"image_size": [16, 16, 16]}, "option 'image_size'"),
        ({"interpolation": "magic"}, "option 'interpolation'.*'bilinear'"),
        ({"metric": "auc"}, "option 'metric'.*'top1' or 'top5'"),
        ({"seed": -1}, "option 'seed'"),
        ({"resize": 8}, r"resize 8 is smaller than image_size \(16, 16\)"),
        ({"mean": None}, "does not say how its images are prepared: give mean"),
        ({"data": "no/such"}, "there is no folder 'no/such'"),
        ({"model": "resnet18"}, "cannot read 'resnet18'.*timm:resnet18"),
        ({"model": "keras:resnet18"}, "neither timm:NAME or torchvision:NAME nor a file"),
        ({"weights": "w.pt"}, "weights belong to a model by name"),
        ({"classes": ["a", "b"]}, "2 names for the model's 3 outputs"),
        ({"classes": ["a", "b", "red"]}, "the folder 'blue' is not among the names"),
        ({"classes": "no.txt"}, "cannot read 'no.txt'"),
    ],
)
def test_bad_options_are_one_line(folder: Path, changes: dict[str, Any], message: str) -> None:
    given = {key: value for key, value in options(folder, **changes).items() if value is not None}
    with pytest.raises(TaskError, match=message) as caught:
        load_task("imagefolder", given)
    assert "\n" not in str(caught.value)


def test_broken_image_stops_before_anything_is_built(folder: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "images", 8)
    (tmp_path / "images" / "red" / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    with pytest.raises(TaskError, match=r"red/broken\.jpg' is no image"):
        load_task("imagefolder", options(tmp_path, model=str(folder / "net.pt2")))


def test_class_mismatch_names_both_numbers(folder: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "images", 8)
    write_folder(tmp_path / "more", 8)
    (tmp_path / "more" / "red").rename(tmp_path / "images" / "scarlet")
    with pytest.raises(TaskError, match="4 class folders and the model 3 outputs"):
        load_task("imagefolder", options(tmp_path, model=str(folder / "net.pt2")))


def test_other_tasks_take_no_options() -> None:
    with pytest.raises(TaskError, match="task 'digits' takes no options, but is told 'data'"):
        load_task("digits", {"data": "x"})


# Models by name


@pytest.fixture
def libraries() -> None:
    import_torchvision()


def save_seeded(build, path: Path) -> nn.Module:
    torch.manual_seed(0)
    model = build().eval()
    torch.save(model.state_dict(), path)
    return model


def test_timm_model_with_weights(folder: Path, tmp_path: Path, libraries: None) -> None:
    import timm

    path = tmp_path / "w.pt"
    model = save_seeded(lambda: timm.create_model("test_resnet", num_classes=3), path)
    task = load_task("imagefolder", {"data": str(folder / "images"), "model": "timm:test_resnet",
                                     "weights": str(path)})  # fmt: skip
    inputs = torch.randn(2, 3, 160, 160)
    torch.testing.assert_close(task.model(inputs), model(inputs))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    from PIL import Image

    expected = transform(Image.open(task.search.paths[0]))
    torch.testing.assert_close(task.search[0][0], expected, atol=1e-5, rtol=0)


def test_torchvision_model_with_weights(folder: Path, tmp_path: Path, libraries: None) -> None:
    from PIL import Image
    from torchvision import models

    path = tmp_path / "w.pt"
    model = save_seeded(lambda: models.get_model("shufflenet_v2_x0_5", num_classes=3), path)
    task = load_task("imagefolder", {"data": str(folder / "images"), "weights": str(path),
                                     "model": "torchvision:shufflenet_v2_x0_5"})  # fmt: skip
    inputs = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(task.model(inputs), model(inputs))
    transform = models.get_model_weights("shufflenet_v2_x0_5").DEFAULT.transforms()
    expected = transform(Image.open(task.search.paths[0]))
    torch.testing.assert_close(task.search[0][0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("is_published", [True, False])
def test_inputs_of_published_googlenets_are_transformed(
    folder: Path, tmp_path: Path, libraries: None, *, is_published: bool
) -> None:
    """As torchvision does for its own weights, and for no others."""
    from torchvision import models

    name = models.GoogLeNet_Weights.DEFAULT.url.rpartition("/")[2] if is_published else "own.pth"
    model = save_seeded(
        lambda: models.googlenet(transform_input=is_published, init_weights=False), tmp_path / name
    )
    names = [f"class{index}" for index in range(997)]
    task = load_task("imagefolder", {"data": str(folder / "images"), "classes": [*CLASSES, *names],
                                     "weights": str(tmp_path / name),
                                     "model": "torchvision:googlenet"})  # fmt: skip
    inputs = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(task.model.eval()(inputs), model.eval()(inputs))
    assert task.model.transform_input == is_published, "weights drawn at random forget their input"


def test_published_densenets_have_the_names_of_before() -> None:
    from autoquant.tasks.named_models import _rename_dense

    known = "features.denseblock1.denselayer2.norm.1.weight"
    found = _rename_dense({known: torch.ones(1), "features.norm5.weight": torch.ones(1)})
    assert list(found) == [
        "features.denseblock1.denselayer2.norm1.weight", "features.norm5.weight"
    ]  # fmt: skip


def test_cached_weights_are_taken_and_nothing_is_downloaded(
    folder: Path, tmp_path: Path, libraries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm
    from huggingface_hub import constants
    from torchvision import models

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    names = [f"class{index}" for index in range(997)]
    given = {"data": str(folder / "images"), "classes": [*CLASSES, *names]}
    for model in ("torchvision:squeezenet1_1", "timm:test_resnet"):
        with pytest.raises(TaskError, match=f"weights of {model} are not on this machine"):
            load_task("imagefolder", {**given, "model": model})
    url = models.SqueezeNet1_1_Weights.DEFAULT.url
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    theirs = save_seeded(models.squeezenet1_1, checkpoints / url.rpartition("/")[2])
    task = load_task("imagefolder", {**given, "model": "torchvision:squeezenet1_1"})
    inputs = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(task.model(inputs), theirs(inputs))

    repository = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    theirs = save_seeded(lambda: timm.create_model("test_resnet"), snapshot / "pytorch_model.bin")
    task = load_task("imagefolder", {**given, "model": "timm:test_resnet"})
    torch.testing.assert_close(task.model(inputs), theirs(inputs))


def _without_a_tensor(state: dict[str, torch.Tensor]) -> None:
    del state["conv1.0.weight"]


def _with_another_tensor(state: dict[str, torch.Tensor]) -> None:
    state["extra.weight"] = torch.zeros(1)


def _with_another_shape(state: dict[str, torch.Tensor]) -> None:
    state["conv1.0.weight"] = torch.zeros(7, 2, 3, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_a_tensor, "does not fit: it has no 'conv1.0.weight'"),
        (_with_another_tensor, "does not fit: it has an unknown 'extra.weight'"),
        (_with_another_shape, r"does not fit: 'conv1.0.weight' is \(7, 2, 3, 3\) instead of"),
    ],
)
def test_weights_of_another_model_name_the_first_key(
    folder: Path, tmp_path: Path, libraries: None, change, message: str
) -> None:
    import timm

    state = timm.create_model("test_resnet", num_classes=3).state_dict()
    change(state)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(TaskError, match=message):
        load_task("imagefolder", {"data": str(folder / "images"), "model": "timm:test_resnet",
                                  "weights": str(tmp_path / "w.pt")})  # fmt: skip


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("timm:resnet_18", "timm has no model 'resnet_18'; there are .*resnet18"),
        ("torchvision:resnet19", "torchvision has no model 'resnet19'; there are .*resnet18"),
        ("timm:hf-hub:someone/something", "timm has no model 'hf-hub:someone/something'"),
        ("torchvision:fasterrcnn_resnet50_fpn", "has no model 'fasterrcnn"),
    ],
)
def test_unknown_names_suggest_close_ones(
    folder: Path, libraries: None, model: str, message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        load_task("imagefolder", {"data": str(folder / "images"), "model": model})


def test_missing_weights_file_is_named(folder: Path, libraries: None) -> None:
    with pytest.raises(TaskError, match=r"weights: there is no file 'no\.pt'"):
        load_task("imagefolder", {"data": str(folder / "images"), "model": "timm:test_resnet",
                                  "weights": "no.pt"})  # fmt: skip


KNOWN = {"image_size": (224, 224), "resize": 256, "interpolation": "bicubic", **IMAGENET}


@pytest.mark.parametrize(
    ("given", "known", "size", "resize"),
    [
        ({}, KNOWN, (224, 224), 256),
        ({"image_size": 112}, KNOWN, (112, 112), 128),
        ({"image_size": [112, 224]}, KNOWN, (112, 224), (128, 256)),
        ({"resize": 224}, KNOWN, (224, 224), 224),
        ({"resize": [300, 400]}, KNOWN, (224, 224), (300, 400)),
        ({"image_size": 16}, IMAGENET, (16, 16), 16),
        ({"image_size": 100}, {**KNOWN, "resize": (280, 280)}, (100, 100), 125),
    ],
)
def test_preprocessing_is_the_models_where_the_user_says_nothing(
    given, known, size, resize
) -> None:
    how = choose_preprocessing(ImageFolderOptions(data="d", model="m", **given), known)
    assert (how.image_size, how.resize) == (size, resize)
    assert how.interpolation == known.get("interpolation", "bilinear")
    assert how.mean == IMAGENET["mean"]
