"""Small networks for tests, each with one thing that goes wrong easily."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoquant.core.task import Task


class Residual(nn.Module):
    """Convolutions, batch norm, a residual add, ReLU6, pooling and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.body(x) + x)
        x = F.relu6(self.down(x))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class OwnConv(nn.Conv2d):
    """A subclass, which replacing modules by exact class would miss."""


class Subclassed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = OwnConv(3, 4, 3, groups=1)
        self.fc = nn.Linear(4 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.max_pool2d(F.relu(self.conv(x)), 1).flatten(1))


class ZeroChannel(Residual):
    """One channel of a layer is all zeros, with a bias."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.body.weight[0].zero_()
            self.body.bias[0] = 1.5


class Branching(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.fc(x)
        return self.fc(-x)


class Data:
    """Seeded noise with labels."""

    def __init__(self, count: int, shape: tuple[int, ...] = (3, 8, 8), seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, *shape, generator=generator)
        self.y = torch.randint(5, (count,), generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index], int(self.y[index])


def seeded(kind: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
                module.weight.data.normal_(1.0, 0.2)
        return model.eval()


def make_task(kind: type[nn.Module] = Residual, **changes) -> Task:
    values = {
        "model": seeded(kind),
        "example_input": torch.zeros(1, 3, 8, 8),
        "calibration": Data(64),
        "search": Data(128, seed=1),
        "report": Data(32, seed=2),
        "metric": "agreement",
        "name": "test",
    }
    return Task(**(values | changes))


class ConvHead(nn.Module):
    """Ends in a convolution, so the graph's output itself is quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.first(x)))


class Builtin(nn.Sequential):
    """Its input is called `input`, a name that torch.fx dodges."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))


class Shared(nn.Module):
    """One layer runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.body = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.body(F.relu(self.body(x))))
        return self.fc(x.flatten(1))


class TwoHeads(Residual):
    """Two outputs."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = F.relu(self.body(F.relu(self.stem(x))))
        return self.fc(self.down(features).mean((2, 3))), features


class Gated(nn.Module):
    """Hard-swish, a hard sigmoid as a gate, and a product with a number."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.squeeze = nn.Conv2d(16, 8, 1)
        self.excite = nn.Conv2d(8, 16, 1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.scaled = nn.Conv2d(16, 16, 1)
        self.fc = nn.Linear(16, 5)
        with torch.no_grad():  # reach both ends of the gates
            for layer in (self.stem, self.body, self.excite):
                layer.weight.mul_(6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.stem(x))
        gate = F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))
        x = F.hardswish(self.body(x * F.hardsigmoid(self.excite(gate))))
        x = F.relu(self.scaled(x) * 2.5)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Named(nn.Module):
    """Its modules have the names that a quantized graph might want for itself."""

    def __init__(self) -> None:
        super().__init__()
        sizes = range(3, 9)
        self.layers = nn.ModuleList([nn.Conv2d(n, n + 1, 3, padding=1) for n in sizes])
        self.activations = nn.ModuleList([nn.PReLU(n + 1) for n in sizes])
        self.fc = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer, activation in zip(self.layers, self.activations, strict=True):
            x = activation(layer(x))
        return self.fc(x.mean((2, 3)))


class Pair(nn.Module):
    """Two named inputs, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, padding="same")
        self.right = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.mix = nn.Conv2d(8, 5, 3, stride=2, groups=1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = torch.cat([F.relu(self.left(a)), F.relu(self.right(b))], dim=1)
        return F.adaptive_avg_pool2d(self.mix(x), 1).flatten(1)


class PairData(Data):
    """As `Data`, two named inputs."""

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], int]:
        return {"a": self.x[index], "b": self.x[index].flip(0)}, int(self.y[index])
