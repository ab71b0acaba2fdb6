"""Architectures that people use, as tasks: by name, seeded, at their own resolution."""

import copy
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoquant.core.task import Task
from tests.torchvision_import import import_torchvision

SEED = 0
_ESTIMATION_BATCHES = 4
# with real weights, as tasks of the product
REGISTERED = (
    "cifar10-resnet8",
    "cifar10-resnet20",
    "cifar10-resnet44",
    "imagenet-sample-efficientnet-lite0",
)


class Images:
    """Seeded smooth noise that looks like images to a network: (3, size, size), normalized."""

    def __init__(self, count: int, size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        total: Tensor | float = 0.0
        for cells in (4, 16, size):
            noise = torch.randn(count, 3, cells, cells, generator=generator)
            total = total + F.interpolate(noise, size=(size, size), mode="bilinear")
        assert isinstance(total, Tensor)
        self.x = total / total.std()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index], 0


class Waves(Images):
    """Seeded sums of sines with noise: (1, length)."""

    def __init__(self, count: int, length: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        time = torch.linspace(0, 1, length)
        pitch = 5 + 300 * torch.rand(count, 3, 1, generator=generator)
        waves = torch.sin(2 * torch.pi * pitch * time).mean(1, keepdim=True)
        self.x = waves + 0.1 * torch.randn(count, 1, length, generator=generator)


class Sequences(Images):
    """Seeded random walks: (steps, features)."""

    def __init__(self, count: int, steps: int, features: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, steps, features, generator=generator).cumsum(1) / 4


class UNet(nn.Module):
    """Encoder and decoder with a skip connection; transposed convolutions go up again."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = _block(3, 16)
        self.down = _block(16, 32)
        self.bottom = _block(32, 64)
        self.up2 = nn.ConvTranspose2d(64, 32, 2, stride=2)
        self.join2 = _block(64, 32)
        self.up1 = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.join1 = _block(32, 16)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.enter(x)
        second = self.down(F.max_pool2d(first, 2))
        third = self.bottom(F.max_pool2d(second, 2))
        second = self.join2(torch.cat([second, self.up2(third)], 1))
        first = self.join1(torch.cat([first, self.up1(second)], 1))
        return self.head(first)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
    )  # fmt: skip


class AudioNet(nn.Module):
    """One-dimensional, dilated convolutions over a wave form."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = [1, 16, 32, 64, 64]
        for step, (inputs, outputs) in enumerate(pairwise(channels), start=1):
            layers += [
                nn.Conv1d(inputs, outputs, 9, stride=4, padding=4 * step, dilation=step),
                nn.BatchNorm1d(outputs),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.fc = nn.Linear(64, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean(-1))


class LstmClassifier(nn.Module):
    """A recurrent network with a small perceptron behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(24, 64, batch_first=True)
        self.hidden = nn.Linear(64, 64)
        self.fc = nn.Linear(64, 6)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.lstm(x)
        return self.fc(F.relu(self.hidden(outputs[:, -1])))


def _timm(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import_torchvision()
        import timm

        model: nn.Module = timm.create_model(name, pretrained=False)
        return model

    return make


def _torchvision(name: str, **options: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import_torchvision()
        import torchvision

        model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
        return model

    return make


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": _torchvision("resnet18"),
    "resnet50": _torchvision("resnet50"),
    "mobilenet_v2": _torchvision("mobilenet_v2"),
    "mobilenet_v3_small": _torchvision("mobilenet_v3_small"),
    "efficientnet_b0": _torchvision("efficientnet_b0"),
    "shufflenet_v2_x1_0": _torchvision("shufflenet_v2_x1_0"),
    "densenet121": _torchvision("densenet121"),
    "squeezenet1_1": _torchvision("squeezenet1_1"),
    "regnet_y_400mf": _torchvision("regnet_y_400mf"),
    "mnasnet1_0": _torchvision("mnasnet1_0"),
    "googlenet": _torchvision("googlenet", aux_logits=False, init_weights=False),
    "convnext_tiny": _torchvision("convnext_tiny"),
    "swin_tiny": _torchvision("swin_t"),
    "vit_tiny": _timm("vit_tiny_patch16_224"),
    "deit_tiny": _timm("deit_tiny_patch16_224"),
    "mixer": _timm("mixer_s32_224"),
    "repvgg_a0": _timm("repvgg_a0"),
    "unet": UNet,
    "audio_cnn": AudioNet,
    "lstm": LstmClassifier,
}


@cache
def data_for(name: str, count: int, seed: int) -> Images:
    match name:
        case "unet":
            return Images(count, 128, seed)
        case "audio_cnn":
            return Waves(count, 8000, seed)
        case "lstm":
            return Sequences(count, 40, 24, seed)
        case _:
            return Images(count, 224, seed)


def build_network(name: str) -> nn.Module:
    """Seeded weights, batch-norm statistics of seeded data."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = NETWORKS[name]()
        for module in model.modules():
            if isinstance(module, nn.Linear) and not module.weight.any():
                nn.init.normal_(module.weight, std=0.02)  # a head that starts at zero says nothing
        _estimate_statistics(model, name)
    return model.eval()


def _estimate_statistics(model: nn.Module, name: str) -> None:
    norms = [item for item in model.modules() if isinstance(item, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    model.eval()
    for norm in norms:
        norm.momentum = None  # a plain average over the batches
        norm.reset_running_stats()
        norm.train()
    images = data_for(name, 8 * _ESTIMATION_BATCHES, seed=9).x
    with torch.no_grad():
        for batch in images.split(8):
            model(batch)


def zoo_task(name: str, calibration: int = 16, search: int = 32) -> Task:
    """A network with random data, judged by its agreement with the float model."""
    data = data_for(name, calibration, seed=1)
    return Task(
        model=copy.deepcopy(build_network(name)),
        example_input=data[0][0][None],
        calibration=data,
        search=data_for(name, search, seed=2),
        report=None,
        metric=similarity if name == "unet" else "agreement",
        name=name,
    )


def similarity(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Nothing to be right about: any metric that is finite."""
    del targets
    return float(-np.square(outputs).mean())
