"""Quantization-aware training: what post-training quantization made, taught by the float model.

Every value of the student lies on the grid that the file will have (Jacob et al. 2018, arXiv
1712.05877, section 3); gradients go straight through the rounding, the grids are learned too
(`learnable`). The student starts from the calibrated, bias-corrected model of the same recipe and
learns from the float model's outputs (Hinton et al. 2015, arXiv 1503.02531) and from labels. Batch
norms are folded before, as in the file.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from autoquant.core.dataset import digest_dataset
from autoquant.core.recipe import Recipe
from autoquant.core.task import Task
from autoquant.core.training import TrainingCurve, TrainingWatch
from autoquant.errors import CheckpointError, TaskError, TrainingError
from autoquant.quantize.checkpoint import Checkpoint
from autoquant.quantize.learnable import Learnable
from autoquant.quantize.lesson import Lesson, Loss
from autoquant.quantize.memory import keeping_memory
from autoquant.quantize.sampling import call
from autoquant.quantize.selection import count_held_out
from autoquant.quantize.training_run import TrainingRun

__all__ = ["Trainer", "Training"]

_HELD_OUT = "images held out"


@dataclass(frozen=True)
class Trainer:
    """Trains recipes of one task.

    Attributes:
        task: whose training data and augmentation are used.
        seed: of the order of the data and of the augmentation.
        checkpoints: folder for what a killed run goes on from; None keeps nothing.
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.
        find_memory: bytes that may still be taken of the processor's memory, where that is known.
    """

    task: Task
    seed: int
    checkpoints: Path | None = None
    device: str = "auto"
    find_memory: Callable[[], int | None] = lambda: None

    def begin(self, recipe: Recipe, teacher: GraphModule, watch: TrainingWatch) -> "Training":
        """A run for a recipe of mode `qat`.

        Raises:
            TaskError: the task has no training data, or some that do not fit its model.
        """
        _ = self.data_digest  # before anything is trained, every sample is looked at
        return Training(self, recipe, teacher, watch)

    @cached_property
    def data_digest(self) -> str:
        """Digest of the training data; read when first asked for, since few trials train.

        Raises:
            TaskError: the task has no training data, or some that do not fit its model.
        """
        if self.task.train is None or not len(self.task.train):
            raise TaskError(
                f"task '{self.task.name}' has no training data: drop 'qat' from the mode of the "
                "recipe or the space, or give the task `train`"
            )
        return digest_dataset(self.task.train, "training", self.task.example_input)

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
        size, half = self._batch_sizes()
        if not self._is_begun(half):  # else memory did not suffice for whole batches
            try:
                return self._fit(*prepare(), size)
            except Exception as error:  # torch raises several classes for want of memory
                if not _is_out_of_memory(error):
                    raise
                why = _explain_want(error)
            self.watch.on_note(
                f"memory does not suffice for batches of {size}{why}: training with {half}"
            )
        try:
            return self._fit(*prepare(), half)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            raise TrainingError(
                f"memory does not suffice to train with batches of {size}, nor of {half}"
                f"{_explain_want(error)}: choose a smaller batch_size"
            ) from error

    def _is_begun(self, batch_size: int) -> bool:
        """Whether an earlier run left something to go on from."""
        checkpoint = self._find_checkpoint(batch_size)
        with suppress(CheckpointError):
            return checkpoint is not None and checkpoint.load() is not None
        return False

    def restore(self, prepare: Callable[[], tuple[GraphModule, Learnable]]) -> Learnable:
        """What an earlier run of the same training ended with, in place of `fit`.

        Args:
            prepare: a model with learnable quantizers.

        Raises:
            CheckpointError: the trainer's folder holds no such end, or it is damaged.
        """
        state = self._load_end()
        model, learnable = prepare()
        # any batch will do: the units that it gives are replaced as well
        learnable.begin(lambda: call(model, self.trainer.task.example_input))
        learnable.restore(state["values"])
        learnable.settle()
        return learnable

    def _load_end(self) -> dict[str, Any]:
        whole, half = self._batch_sizes()
        try:
            return self._load_end_of(whole)
        except CheckpointError:
            with suppress(CheckpointError):  # memory may not have sufficed for whole batches
                return self._load_end_of(half)
            raise

    def _load_end_of(self, batch_size: int) -> dict[str, Any]:
        # nothing is trained any more, so it does not matter what earlier versions held out
        checkpoint = self._find_checkpoint(batch_size, but=_HELD_OUT)
        if checkpoint is None:
            raise CheckpointError("a training can be restored from a folder of checkpoints alone")
        state = checkpoint.load()
        if state is None:
            raise CheckpointError(
                f"'{checkpoint.path.parent}' holds no checkpoint of this recipe: there is no "
                f"'{checkpoint.path.name}'"
            )
        if state["optimizer"] is not None:
            raise CheckpointError(
                f"the checkpoint '{checkpoint.path.name}' is of a training that did not come to "
                f"its end (step {state['step']}): go on with it first"
            )
        return state

    def _batch_sizes(self) -> tuple[int, int]:
        """What is wanted, and what is tried where memory does not suffice for it."""
        return self.options.batch_size, max(1, self.options.batch_size // 2)

    def _fit(self, model: GraphModule, learnable: Learnable, batch_size: int) -> Learnable:
        task, trainer = self.trainer.task, self.trainer
        assert task.train is not None
        run = TrainingRun(
            model,
            learnable,
            self.teacher,
            Lesson(task.train, task.augment, batch_size, trainer.seed,
                   count_held_out(len(task.train))),
            Loss(self.options.distillation, is_classifier=isinstance(task.metric, str),
                 task=task.name),
            self.options,
            trainer.find_device(),
            trainer.find_memory,
            self._find_checkpoint(batch_size),
            self.watch,
        )  # fmt: skip
        try:
            with keeping_memory():
                run.train()
        finally:
            learnable.settle()
        self.curve, self.seconds, self.seconds_here = run.curve(), run.seconds, run.seconds_here
        return learnable

    def _find_checkpoint(self, batch_size: int, but: str = "") -> Checkpoint | None:
        folder = self.trainer.checkpoints
        if folder is None:
            return None
        key = {name: value for name, value in self._key(batch_size).items() if name != but}
        return Checkpoint(folder / f"{self.recipe.digest}.pt", key)

    def _key(self, batch_size: int) -> dict[str, Any]:
        """Everything that a run's weights depend on, but for machine and versions."""
        return {
            "recipe": self.recipe.digest,
            "seed": self.trainer.seed,
            "model": _digest_parameters(self.teacher),
            "training data": self.trainer.data_digest,
            "augmentation": self.trainer.task.augment_name,
            "batch size": batch_size,
            _HELD_OUT: count_held_out(len(self.trainer.task.train or ())),
        }


def _digest_parameters(model: GraphModule) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _explain_want(error: Exception) -> str:
    """How much is wanted, where that is known."""
    return f" ({error})" if isinstance(error, MemoryError) and str(error) else ""


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text
    )
