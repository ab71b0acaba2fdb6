"""Folders of class folders: listing, splits, class names."""

import json
from pathlib import Path

import pytest

from autoquant.errors import TaskError
from autoquant.tasks.image_folder import (
    ImageList,
    list_image_folder,
    map_classes,
    read_classes,
)
from tests.picture_folders import CLASSES, write_class, write_folder


def names(images: ImageList) -> set[Path]:
    return set(images.paths)


def test_one_folder_is_cut_class_by_class(tmp_path: Path) -> None:
    folder = list_image_folder(write_folder(tmp_path, 16))
    assert folder.classes == CLASSES
    for images, count in ((folder.train, 8), (folder.search, 4), (folder.report, 4)):
        assert [images.classes.count(index) for index in range(3)] == [count] * 3
        assert all(
            path.parent.name == CLASSES[index]
            for path, index in zip(images.paths, images.classes, strict=True)
        )
    splits = [names(images) for images in (folder.train, folder.search, folder.report)]
    assert len(set().union(*splits)) == sum(map(len, splits)) == 48


def test_cut_depends_on_the_seed_alone(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    assert list_image_folder(root, 3) == list_image_folder(root, 3)
    assert names(list_image_folder(root, 3).search) != names(list_image_folder(root, 4).search)


def test_first_images_of_a_split_have_every_class(tmp_path: Path) -> None:
    folder = list_image_folder(write_folder(tmp_path, 40))
    assert set(folder.search.first(12).classes) == {0, 1, 2}


@pytest.mark.parametrize("held_out", [["val"], ["test"], ["val", "test"]])
def test_split_folders_are_the_splits(tmp_path: Path, held_out: list[str]) -> None:
    for index, name in enumerate(["train", *held_out]):
        write_folder(tmp_path / name, 8, seed=index)
    folder = list_image_folder(tmp_path)
    assert len(folder.train) == 24
    assert all(path.is_relative_to(tmp_path / "train") for path in folder.train.paths)
    if len(held_out) == 1:
        assert len(folder.search) == len(folder.report) == 12
        assert not names(folder.search) & names(folder.report)
    else:
        assert all(path.is_relative_to(tmp_path / "val") for path in folder.search.paths)
        assert all(path.is_relative_to(tmp_path / "test") for path in folder.report.paths)


def test_class_may_be_called_test(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write_class(tmp_path / "test", 0, 4)
    assert list_image_folder(tmp_path).classes == (*CLASSES, "test")


def test_hidden_and_foreign_files_are_left_out(tmp_path: Path) -> None:
    write_folder(tmp_path, 4)
    write_class(tmp_path / "red" / "more", 0, 4)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "red" / "notes.txt").write_text("no image")
    (tmp_path / "red" / "._000.png").write_text("no image")
    folder = list_image_folder(tmp_path)
    assert folder.classes == CLASSES
    assert len(folder.train) + len(folder.search) + len(folder.report) == 16


def _one_class(root: Path) -> None:
    write_class(root / "cat", 0, 4)


def _empty_class(root: Path) -> None:
    write_folder(root, 4)
    (root / "dog").mkdir()


def _train_alone(root: Path) -> None:
    write_folder(root / "train", 4)


def _no_train(root: Path) -> None:
    write_folder(root / "val", 4)


def _missing_class(root: Path) -> None:
    write_folder(root / "train", 4)
    write_class(root / "val" / "blue", 2, 4)
    write_class(root / "val" / "red", 0, 4)


def _extra_class(root: Path) -> None:
    for split in ("train", "val"):
        write_folder(root / split, 4)
    write_class(root / "val" / "zebra", 0, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "holds no class folder"),
        (lambda root: root.rmdir(), "there is no folder"),
        (_one_class, "the class folder 'cat' alone"),
        (_empty_class, "dog' holds no image"),
        (_train_alone, "holds 'train' alone; .* need 'val' or 'test'"),
        (_no_train, "holds 'val' alone; calibration needs 'train'"),
        (_missing_class, "val' has no class 'green', which train has"),
        (_extra_class, "val' has a class 'zebra', which train has not"),
        (lambda root: write_folder(root, 1), "too few images"),
    ],
)
def test_bad_folders_say_what_is_wrong(tmp_path: Path, make, message: str) -> None:
    root = tmp_path / "images"
    root.mkdir()
    make(root)
    with pytest.raises(TaskError, match=message) as caught:
        list_image_folder(root)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_class_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("blue\n\n green \nred\n")
    (tmp_path / "b.json").write_text(json.dumps(list(CLASSES)))
    (tmp_path / "c.json").write_text(json.dumps({"blue": 7}))
    assert read_classes(tmp_path / "a.txt") == read_classes(tmp_path / "b.json") == list(CLASSES)
    assert read_classes(tmp_path / "c.json") == {"blue": 7}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "[1, 2]", "neither a list of names nor a mapping"),
        ("a.json", '{"cat": true}', "neither a list of names nor a mapping"),
        ("a.json", '{\n"cat": }', "line 2"),
        ("missing.txt", None, "cannot read"),
    ],
)
def test_bad_class_files(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(TaskError, match=message):
        read_classes(tmp_path / name)


def test_folders_are_mapped_to_outputs() -> None:
    assert map_classes(["a", "b"], 2, None) == [0, 1]
    assert map_classes(["a", "b"], 3, ["b", "c", "a"]) == [2, 0]
    assert map_classes(["a", "b"], 1000, {"a": 281, "b": 281, "c": 5}) == [281, 281]


@pytest.mark.parametrize(
    ("outputs", "mapping", "message"),
    [
        (1000, None, "2 class folders and the model 1000 outputs; .*classes"),
        (3, ["cat", "dog"], "2 names for the model's 3 outputs"),
        (2, ["cat", "dogs"], "'dog' is not among the names; there are dogs"),
        (2, {"cat": 0, "dog": 2}, "'dog' is output 2; the model has 0 to 1"),
        (2, {"cat": 0, "dog": -1}, "'dog' is output -1"),
    ],
)
def test_class_mismatch_is_one_line(outputs: int, mapping, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        map_classes(["cat", "dog"], outputs, mapping)
