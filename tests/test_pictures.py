"""Image files as input: against torchvision's transforms, within memory, broken ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autoquant.errors import TaskError
from autoquant.tasks.pictures import PictureCache, Pictures, Preprocessing, read_picture
from tests.torchvision_import import import_torchvision

COLOUR = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(0)
    paths = []
    for index, (height, width) in enumerate([(40, 61), (61, 40), (33, 33), (200, 64)]):
        path = tmp_path / f"{index}.png"
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        paths.append(path)
    return paths


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize(("size", "resize"), [(32, 36), (32, 32), (33, 37), ((24, 32), (30, 40))])
def test_steps_are_those_of_torchvision(pictures, interpolation, size, resize) -> None:
    import_torchvision()
    from torchvision import transforms

    side = (size, size) if isinstance(size, int) else size
    how = Preprocessing(side, resize, interpolation, **COLOUR)
    theirs = transforms.Compose([
        transforms.Resize(resize, transforms.InterpolationMode(interpolation)),
        transforms.CenterCrop(side),
        transforms.ToTensor(),
        transforms.Normalize(how.mean, how.std),
    ])  # fmt: skip
    data = Pictures(pictures, [0] * len(pictures), PictureCache(how))
    for index, path in enumerate(pictures):
        expected = theirs(Image.open(path).convert("RGB"))
        torch.testing.assert_close(data[index][0], expected, atol=2e-6, rtol=0)


def test_grey_images_have_one_channel(pictures: list[Path]) -> None:
    how = Preprocessing((20, 20), 20, "bilinear", (0.5,), (0.5,))
    (image, label) = Pictures(pictures, [3] * 4, PictureCache(how))[0]
    assert (image.shape, label) == ((1, 20, 20), 3)


def test_cache_holds_no_more_than_it_may(pictures: list[Path]) -> None:
    how = Preprocessing((32, 32), 32, "bilinear", **COLOUR)
    one = 32 * 32 * 3
    cache = PictureCache(how, max_bytes=2 * one + 1)
    for _ in range(2):
        for path in pictures:
            assert (cache.read(path) == read_picture(path, how)).all()
    assert cache.used_bytes == 2 * one
    assert cache.read(pictures[0]) is cache.read(pictures[0])
    assert cache.read(pictures[3]) is not cache.read(pictures[3])


@pytest.mark.parametrize("kind", ["text", "empty", "truncated"])
def test_broken_image_names_the_file(pictures: list[Path], kind: str) -> None:
    whole = pictures[0].read_bytes()
    content = {"text": b"not an image", "empty": b"", "truncated": whole[: len(whole) // 2]}[kind]
    pictures[2].write_bytes(content)
    how = Preprocessing((32, 32), 32, "bilinear", **COLOUR)
    data = Pictures(pictures, [0] * 4, PictureCache(how))
    with pytest.raises(TaskError, match="is no image that can be read") as caught:
        data.check()
    assert str(pictures[2]) in str(caught.value)
