"""Tiny folders of images and a tiny network for them, made on the spot."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

CLASSES = ("blue", "green", "red")
SIDE = 16
STATISTICS = {"image_size": SIDE, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


def write_class(folder: Path, channel: int, count: int, seed: int = 0) -> None:
    """PNG files in which one channel is brighter than the others; sides of 18 to 25."""
    random = np.random.default_rng([seed, channel])
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        height, width = random.integers(18, 26, 2)
        pixels = random.integers(0, 120, (height, width, 3))
        pixels[..., channel] += 100
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:03}.png")


def write_folder(root: Path, count: int = 16, seed: int = 0) -> Path:
    """A folder of three class folders."""
    for channel, name in zip((2, 1, 0), CLASSES, strict=True):
        write_class(root / name, channel, count, seed)
    return root


class ColourNet(nn.Module):
    """Tells the brightest channel; a convolution, a batch norm and two linear layers."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8))
        self.hidden = nn.Linear(8, 8)
        self.head = nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.body(x)).mean((2, 3))
        return self.head(torch.relu(self.hidden(x)))


def colour_net() -> ColourNet:
    """A network that is right about `write_folder`, without training."""
    model = ColourNet().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.body[1].weight.fill_(1.0)
        for output, channel in enumerate((2, 1, 0)):
            model.body[0].weight[output, channel] = 1 / 9
            model.body[0].weight[output + 3, channel] = -1 / 18
            for weight in (model.hidden.weight, model.head.weight):
                weight[output, output] = 1.0
        model.hidden.bias.fill_(0.1)
    return model


def save_program(model: nn.Module, path: Path, batch: int | None = None, **options) -> Path:
    """Write an ExportedProgram; a dynamic batch dimension unless one is given."""
    example = torch.zeros(batch or 2, 3, SIDE, SIDE)
    shapes = None if batch else ({0: torch.export.Dim("batch", min=1)},)
    torch.export.save(torch.export.export(model, (example,), dynamic_shapes=shapes), path)
    return path
