"""CIFAR-10 classifiers with published weights, from the data folder.

Images are arrays or CIFAR-10's official archives (`cifar10_archive`). The first 5,000 test images
search and the other 5,000 report; calibration takes training images alone.
"""

import torch
from torch import nn

from autoquant.core.task import Task
from autoquant.errors import TaskError
from autoquant.tasks.augment import shift_and_flip
from autoquant.tasks.cifar10_archive import read_cifar10
from autoquant.tasks.data import ImageArray, data_file, load_state_dict
from autoquant.tasks.registry import register_task
from autoquant.tasks.resnet import CifarResNet, TinyResNet8

__all__ = ["cifar10_resnet8", "cifar10_resnet20", "cifar10_resnet44"]

# ImageNet's statistics, on the 0..255 scale: what these checkpoints were trained with.
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)
_CALIBRATION = 2048
_SHIFT = 4


def _build(model: nn.Module, weights: str, mean: tuple[float, ...], std: tuple[float, ...]) -> Task:
    path = data_file(weights)
    try:
        model.load_state_dict(load_state_dict(path))
    except RuntimeError as error:
        raise TaskError(f"{path} holds the weights of another network") from error
    held_out = ImageArray(*read_cifar10("test"), mean, std)
    training = ImageArray(*read_cifar10("train"), mean, std)
    black = [-middle / spread for middle, spread in zip(mean, std, strict=True)]
    return Task(
        model=model.eval(),
        example_input=torch.zeros(1, 3, 32, 32),
        calibration=training.part(0, _CALIBRATION),
        train=training,
        search=held_out.part(0, 5000),
        report=held_out.part(5000, 10000),
        metric="top1",
        augment=shift_and_flip(_SHIFT, black, flips=True),
    )


@register_task("cifar10-resnet20")
def cifar10_resnet20() -> Task:
    """ResNet-20, 91.73 % on the 10,000 test images."""
    return _build(CifarResNet(3), "cifar10_resnet20.pt", _MEAN, _STD)


@register_task("cifar10-resnet44")
def cifar10_resnet44() -> Task:
    """ResNet-44, 93.10 % on the 10,000 test images."""
    return _build(CifarResNet(7), "cifar10_resnet44.pt", _MEAN, _STD)


@register_task("cifar10-resnet8")
def cifar10_resnet8() -> Task:
    """MLPerf Tiny's ResNet-8, 87.19 % on the 10,000 test images."""
    raw = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return _build(TinyResNet8(), "mlperf_tiny_resnet8_cifar10.pt", *raw)
