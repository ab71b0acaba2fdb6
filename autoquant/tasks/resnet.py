"""The CIFAR ResNets of He et al. 2016 (arXiv 1512.03385, section 4.2) and MLPerf Tiny's ResNet-8.

Attribute names follow the published checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CifarResNet", "TinyResNet8"]


class _BasicBlock(nn.Module):
    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride = stride
        self.padding = (planes - in_planes) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(n, in_planes, h, w) to (n, planes, h / stride, w / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride != 1:  # option A: subsample, pad the new channels with zeros
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(out + x)


class CifarResNet(nn.Module):
    """ResNet of 6n + 2 layers for 32x32 images.

    Args:
        n: blocks a stage: 3 for ResNet-20, 7 for ResNet-44.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, n, stride=1)
        self.layer2 = self._stage(16, 32, n, stride=2)
        self.layer3 = self._stage(32, 64, n, stride=2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(in_planes: int, planes: int, n: int, stride: int) -> nn.Sequential:
        first = _BasicBlock(in_planes, planes, stride)
        return nn.Sequential(first, *(_BasicBlock(planes, planes, 1) for _ in range(n - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, 32, 32) to logits (n, 10)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.avg_pool2d(x, x.shape[3])
        return self.linear(torch.flatten(x, 1))  # type: ignore[no-any-return]


class TinyResNet8(nn.Module):
    """ResNet-8 of MLPerf Tiny (Banbury et al. 2021, arXiv 2106.07597); raw 0..255 input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, 16, 3, stride=1, padding=1)
        self.conv1 = nn.Conv2d(16, 16, 3, stride=1, padding=1)
        self.conv2 = nn.Conv2d(16, 16, 3, stride=1, padding=1)
        self.conv3 = nn.Conv2d(16, 32, 3, stride=2, padding=0)
        self.conv4 = nn.Conv2d(32, 32, 3, stride=1, padding=1)
        self.conv5 = nn.Conv2d(16, 32, 1, stride=2, padding=0)
        self.conv6 = nn.Conv2d(32, 64, 3, stride=2, padding=0)
        self.conv7 = nn.Conv2d(64, 64, 3, stride=1, padding=1)
        self.conv8 = nn.Conv2d(32, 64, 1, stride=2, padding=0)
        self.bn0 = nn.BatchNorm2d(16, eps=1e-3)
        self.bn1 = nn.BatchNorm2d(16, eps=1e-3)
        self.bn2 = nn.BatchNorm2d(16, eps=1e-3)
        self.bn3 = nn.BatchNorm2d(32, eps=1e-3)
        self.bn4 = nn.BatchNorm2d(32, eps=1e-3)
        self.bn5 = nn.BatchNorm2d(64, eps=1e-3)
        self.bn6 = nn.BatchNorm2d(64, eps=1e-3)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, 32, 32) to logits (n, 10)."""
        x = F.relu(self.bn0(self.conv0(x)))
        y = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(y)) + x)
        y = F.relu(self.bn3(self.conv3(F.pad(x, (0, 1, 0, 1)))))
        x = F.relu(self.bn4(self.conv4(y)) + self.conv5(x))
        y = F.relu(self.bn5(self.conv6(F.pad(x, (0, 1, 0, 1)))))
        x = F.relu(self.bn6(self.conv7(y)) + self.conv8(x))
        x = F.avg_pool2d(x, 8)
        return self.fc(torch.flatten(x, 1))  # type: ignore[no-any-return]
