"""The embedded default: scikit-learn's handwritten digits and a small residual network."""

from functools import cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoquant.core.task import Task
from autoquant.files import replacing
from autoquant.tasks.augment import shift_and_flip
from autoquant.tasks.data import ImageArray, cache_folder, load_state_dict
from autoquant.tasks.registry import register_task

__all__ = ["DigitsNet", "digits", "train_digits"]

_SEED = 0
_TRAIN, _SEARCH = 1000, 400  # the remaining 397 report
_CALIBRATION = 256
_EPOCHS = 30
_BATCH = 50


class DigitsNet(nn.Module):
    """Six convolutions with one residual connection, for 8x8 images; 140,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(1, 32)
        self.expand = _conv(32, 64)
        self.inner1 = _conv(64, 64)
        self.inner2 = _conv(64, 64)
        self.reduce = _conv(64, 64, stride=2)
        self.head = _conv(64, 32)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, 8, 8) to logits (n, 10)."""
        x = F.relu(self.expand(F.relu(self.stem(x))))
        x = F.relu(self.inner2(F.relu(self.inner1(x))) + x)
        x = F.relu(self.head(F.relu(self.reduce(x))))
        x = F.adaptive_avg_pool2d(x, 1)
        return self.fc(torch.flatten(x, 1))  # type: ignore[no-any-return]


def _conv(in_planes: int, planes: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_planes, planes, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(planes))


@register_task("digits")
def digits() -> Task:
    """Handwritten digits; the network is trained on first use and kept in the cache folder."""
    images, labels = _read_digits()
    data = ImageArray(images, labels, (0.0,), (16.0,))
    training = data.part(0, _TRAIN)
    model = DigitsNet()
    model.load_state_dict(_trained(training))
    return Task(
        model=model.eval(),
        example_input=torch.zeros(1, 1, 8, 8),
        calibration=training.part(0, _CALIBRATION),
        train=training,
        search=data.part(_TRAIN, _TRAIN + _SEARCH),
        report=data.part(_TRAIN + _SEARCH, len(images)),
        metric="top1",
        augment=shift_and_flip(1, (0.0,), flips=False),
    )


@cache
def _read_digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """All 1,797 images (n, 8, 8, 1) with values 0..16, shuffled once and for all."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(_SEED).permutation(len(bunch.target))
    return bunch.images[order].astype(np.uint8)[..., None], bunch.target[order]


def _trained(training: ImageArray) -> dict[str, Tensor]:
    path = cache_folder() / "digits-v1.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        state = train_digits(training)
        with replacing(path) as file:
            torch.save(state, file)
    return load_state_dict(path)


def train_digits(training: ImageArray) -> dict[str, Tensor]:
    """Train the network from scratch: about 15 seconds on two cores.

    Images are shifted by up to one pixel; AdamW with a one-cycle schedule (Smith and Topin
    2017, arXiv 1708.07120).
    """
    inputs = torch.stack([training[index][0] for index in range(len(training))])
    targets = torch.tensor([training[index][1] for index in range(len(training))])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = DigitsNet().train()
        steps = _EPOCHS * (len(inputs) // _BATCH)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        for _ in range(_EPOCHS):
            for chosen in torch.randperm(len(inputs)).view(-1, _BATCH):
                loss = F.cross_entropy(model(_shift(inputs[chosen])), targets[chosen])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    return model.eval().state_dict()


def _shift(images: Tensor) -> Tensor:
    """Move every image by -1, 0 or 1 pixels along each axis; (n, 1, 8, 8) in and out."""
    padded = F.pad(images, (1, 1, 1, 1))
    rows, columns = torch.randint(3, (2, len(images)))
    shifted = [
        image[:, row : row + 8, column : column + 8]
        for image, row, column in zip(padded, rows.tolist(), columns.tolist(), strict=True)
    ]
    return torch.stack(shifted)
