"""Quantization-aware training: what post-training quantization made, taught by the float model.

Every value of the student lies on the grid that the file will have (Jacob et al. 2018, arXiv
1712.05877, section 3); gradients go straight through the rounding, the grids are learned too
(`learnable`). The student starts from the calibrated, bias-corrected model of the same recipe and
learns from the float model's outputs (Hinton et al. 2015, arXiv 1503.02531) and from labels. Batch
norms are folded before, as in the file.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.fx import GraphModule

from autoquant.core.recipe import Recipe
from autoquant.core.task import Task
from autoquant.core.training import TrainingCurve, TrainingWatch
from autoquant.errors import TaskError, TrainingError
from autoquant.quantize.checkpoint import Checkpoint
from autoquant.quantize.learnable import Learnable
from autoquant.quantize.lesson import Lesson, Loss
from autoquant.quantize.training_run import TrainingRun

__all__ = ["Trainer", "Training"]


@dataclass(frozen=True)
class Trainer:
    """Trains recipes of one task.

    Attributes:
        task: whose training data and augmentation are used.
        seed: of the order of the data and of the augmentation.
        checkpoints: folder for what a killed run goes on from; None keeps nothing.
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.
    """

    task: Task
    seed: int
    checkpoints: Path | None = None
    device: str = "auto"

    def begin(self, recipe: Recipe, teacher: GraphModule, watch: TrainingWatch) -> "Training":
        """A run for a recipe of mode `qat`.

        Raises:
            TaskError: the task has no training data.
        """
        if self.task.train is None or not len(self.task.train):
            raise TaskError(
                f"task '{self.task.name}' has no training data: drop 'qat' from the mode of the "
                "recipe or the space, or give the task `train`"
            )
        return Training(self, recipe, teacher, watch)

    def find_device(self) -> torch.device:
        """Where to train."""
        has_gpu = torch.cuda.is_available()
        return torch.device(
            ("cuda" if has_gpu else "cpu") if self.device == "auto" else self.device
        )


class Training:
    """The training of one recipe.

    Args:
        trainer: task, seed and places.
        recipe: what is trained, of mode `qat`.
        teacher: the float graph.
        watch: told what happens.

    Attributes:
        curve: what came of it.
        seconds: that it took, earlier runs that were killed included.
        seconds_here: that this process took.
    """

    def __init__(
        self, trainer: Trainer, recipe: Recipe, teacher: GraphModule, watch: TrainingWatch
    ) -> None:
        assert recipe.options is not None
        assert recipe.options.qat is not None
        self.trainer = trainer
        self.recipe = recipe
        self.options = recipe.options.qat
        self.teacher = teacher
        self.watch = watch
        self.curve: TrainingCurve | None = None
        self.seconds = 0.0
        self.seconds_here = 0.0

    def fit(self, prepare: Callable[[], tuple[GraphModule, Learnable]]) -> Learnable:
        """Train, with half the batch where memory does not suffice for the whole one.

        Args:
            prepare: a model with learnable quantizers, anew at every call.

        Returns:
            The quantizers, trained and settled.

        Raises:
            TrainingError: the loss is not finite, or memory does not suffice.
            TaskError: labels that do not fit.
        """
        size = self.options.batch_size
        half = max(1, size // 2)
        try:
            return self._fit(*prepare(), size)
        except Exception as error:  # torch raises several classes for want of memory
            if not _is_out_of_memory(error):
                raise
        self.watch.on_note(f"memory does not suffice for batches of {size}: training with {half}")
        try:
            return self._fit(*prepare(), half)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            raise TrainingError(
                f"memory does not suffice to train with batches of {size}, nor of {half}: choose "
                "a smaller batch_size"
            ) from error

    def _fit(self, model: GraphModule, learnable: Learnable, batch_size: int) -> Learnable:
        task, trainer = self.trainer.task, self.trainer
        assert task.train is not None
        run = TrainingRun(
            model,
            learnable,
            self.teacher,
            Lesson(task.train, task.augment, batch_size, trainer.seed),
            Loss(self.options.distillation, is_classifier=isinstance(task.metric, str),
                 task=task.name),
            self.options,
            trainer.find_device(),
            self._find_checkpoint(batch_size),
            self.watch,
        )  # fmt: skip
        try:
            run.train()
        finally:
            learnable.settle()
        self.curve, self.seconds, self.seconds_here = run.curve(), run.seconds, run.seconds_here
        return learnable

    def _find_checkpoint(self, batch_size: int) -> Checkpoint | None:
        folder = self.trainer.checkpoints
        if folder is None:
            return None
        return Checkpoint(folder / f"{self.recipe.digest}.pt", self._key(batch_size))

    def _key(self, batch_size: int) -> str:
        """Digest of everything that a run's weights depend on, but for machine and versions."""
        digest = hashlib.sha256()
        assert self.trainer.task.train is not None
        names = (self.recipe.digest, self.trainer.seed, batch_size, len(self.trainer.task.train))
        digest.update(repr(names).encode())
        for name, value in sorted(self.teacher.named_parameters()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text
    )
