"""Small networks with layers that a runtime may compute in float: ups and tables."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.networks import Data


class Up(nn.Module):
    """Transposed convolutions: one with a batch norm and a ReLU, one that is read in float."""

    groups = 1

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 12, 3, 2, padding=1, output_padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.last = nn.ConvTranspose2d(12, 8, (2, 3), (2, 1), groups=self.groups)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.up(F.relu(self.stem(x)))))
        return self.fc(self.last(x).sin().mean((2, 3)))


class UpInGroups(Up):
    """The same in groups, which ONNX Runtime's own quantizer cannot do channel by channel."""

    groups = 4


class UpBetween(nn.Module):
    """A square transposed convolution between convolutions, its channels of unlike ranges."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.mix = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)
        with torch.no_grad():
            for layer in (self.stem, self.mix):
                layer.weight *= 8
            self.up.weight *= 4.0 ** -torch.arange(8)[:, None, None]
            self.mix.weight *= 4.0 ** torch.arange(8)[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.mix(self.up(F.relu(self.stem(x)))))
        return self.fc(x.mean((2, 3)))


class Tokens(nn.Module):
    """A table with a padding row that is the head's weight too, one of positions, one of bits."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 32, padding_idx=0)
        self.places = nn.Embedding(6, 32)
        self.register_buffer("bits", torch.arange(80).reshape(40, 2) % 2)
        self.mix = nn.Linear(32, 32)
        self.head = nn.Linear(32, 40, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places(torch.arange(6) * torch.ones_like(ids))
        x = x + F.embedding(ids, self.bits).sum(-1, keepdim=True)
        return self.head(F.relu(self.mix(x)).mean(1))


class Ids(Data):
    """Seeded indices of rows: (6,)."""

    def __init__(self, count: int, seed: int = 0) -> None:
        super().__init__(count, (6,), seed)
        self.x = torch.randint(40, (count, 6), generator=torch.Generator().manual_seed(seed))
