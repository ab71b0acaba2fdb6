"""What a model in training learns from and is judged by: seeded batches, and the loss on them."""

import hashlib
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autoquant.core.batching import batches
from autoquant.core.task import Augment, Dataset
from autoquant.errors import TaskError

__all__ = ["Lesson", "Loss"]


class Lesson:
    """The training data as one series of batches, the same for the same seed.

    Every draw has a generator of its own, seeded by what it is for and the step, so a run that
    goes on from a step needs nothing but the step.

    Args:
        dataset: of `(x, y)`.
        augment: changes a batch at random, or None.
        batch_size: samples a step; the last batch of an epoch holds what is left.
        seed: of every draw.
        held_out: how many samples to learn nothing from.
    """

    def __init__(
        self,
        dataset: Dataset,
        augment: Augment | None,
        batch_size: int,
        seed: int,
        held_out: int = 0,
    ) -> None:
        self.dataset = dataset
        self.augment = augment
        self.batch_size = batch_size
        self.seed = seed
        drawn: list[int] = torch.randperm(
            len(dataset), generator=self._generator("held out", 0)
        ).tolist()
        self.held_out = sorted(drawn[:held_out])
        self._taught = sorted(drawn[held_out:])
        self.steps_per_epoch = math.ceil(len(self._taught) / batch_size)
        self._order = lru_cache(maxsize=1)(self._draw_order)

    @property
    def images(self) -> int:
        """How many samples there are to learn from."""
        return len(self._taught)

    def batch(self, step: int) -> tuple[Any, list[Any]]:
        """Inputs and targets of a step, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self.batch_size
        chosen = self._order(epoch)[start : start + self.batch_size]
        inputs, targets = next(batches(self.dataset, chosen, self.batch_size, torch.stack))
        if self.augment is not None:
            inputs = self.augment(inputs, self._generator("augment", step))
        return inputs, targets

    def exam(self) -> Iterator[tuple[Any, list[Any]]]:
        """Inputs and targets of what is held out, in batches, as they are."""
        return batches(self.dataset, self.held_out, self.batch_size, torch.stack)

    def _draw_order(self, epoch: int) -> list[int]:
        order = torch.randperm(len(self._taught), generator=self._generator("order", epoch))
        return [self._taught[place] for place in order.tolist()]

    def _generator(self, purpose: str, number: int) -> torch.Generator:
        text = f"{self.seed} {purpose} {number}".encode()
        seed = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
        return torch.Generator().manual_seed(seed)


class Loss:
    """How far a model is from the float model, and from the labels.

    Args:
        distillation: share of the distance from the float model's outputs, in 0..1.
        is_classifier: outputs are logits, (n, classes, ...), and targets are classes. Of others
            the distance is the squared error, from the float model's outputs over their
            variance, which makes it comparable from model to model.
        task: name of the task, for messages.

    Attributes:
        variance: of the float model's outputs; see `take_variance`.
    """

    def __init__(self, distillation: float, *, is_classifier: bool, task: str) -> None:
        self.distillation = distillation
        self.is_classifier = is_classifier
        self.task = task
        self.variance = 1.0

    def take_variance(self, promised: Tensor) -> None:
        """Take it of some outputs of the float model, once for all batches.

        The last batch of an epoch may be a single number, which has none.
        """
        spread = promised.var() if promised.numel() > 1 else promised.square().mean()
        self.variance = max(float(spread), 1e-12)

    def __call__(self, outputs: Tensor, promised: Tensor, targets: list[Any]) -> Tensor:
        """A number from outputs, the float model's on the same inputs, and the targets.

        Raises:
            TaskError: labels that do not fit the outputs; only where labels count.
        """
        return self.each(outputs, promised, targets).mean()

    def each(self, outputs: Tensor, promised: Tensor, targets: list[Any]) -> Tensor:
        """The same of each sample, (n,).

        Raises:
            TaskError: likewise.
        """
        loss = outputs.new_zeros(len(outputs))
        if self.distillation > 0:
            loss = loss + self.distillation * self._distance(outputs, promised)
        if self.distillation < 1:
            loss = loss + (1 - self.distillation) * self._error(outputs, targets)
        return loss

    def _distance(self, outputs: Tensor, promised: Tensor) -> Tensor:
        if not self.is_classifier:
            return _squared_errors(outputs, promised) / self.variance
        ours, theirs = F.log_softmax(outputs, 1), F.log_softmax(promised, 1)
        return F.kl_div(ours, theirs, reduction="none", log_target=True).flatten(1).sum(1)

    def _error(self, outputs: Tensor, targets: list[Any]) -> Tensor:
        values = torch.stack([torch.as_tensor(target) for target in targets])
        values = values.to(outputs.device)
        if self.is_classifier:
            labels = self._checked(values, outputs.shape[1])
            return F.cross_entropy(outputs, labels, reduction="none")
        if values.shape != outputs.shape:
            raise TaskError(
                f"task '{self.task}': targets of shape {tuple(values.shape[1:])} for outputs of "
                f"shape {tuple(outputs.shape[1:])}: train with distillation 1, which needs none"
            )
        return _squared_errors(outputs, values.to(outputs.dtype))

    def _checked(self, labels: Tensor, classes: int) -> Tensor:
        if labels.dim() != 1 or labels.is_floating_point():
            raise TaskError(
                f"task '{self.task}': a training label is no class number: train with "
                "distillation 1, which needs no labels"
            )
        odd = labels[(labels < 0) | (labels >= classes)]
        if len(odd):
            raise TaskError(
                f"task '{self.task}': training label {int(odd[0])} is out of range: the model "
                f"has {classes} outputs; repair the labels, or train with distillation 1"
            )
        return labels.long()


def _squared_errors(outputs: Tensor, wanted: Tensor) -> Tensor:
    """Mean over each sample, (n,)."""
    return F.mse_loss(outputs, wanted, reduction="none").reshape(len(outputs), -1).mean(1)
