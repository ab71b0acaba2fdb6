"""Quantization-aware training: what post-training quantization made, taught by the float model.

Every value of the student lies on the grid that the file will have (Jacob et al. 2018, arXiv
1712.05877, section 3); gradients go straight through the rounding, the grids are learned too
(`learnable`). The student starts from the calibrated, bias-corrected model of the same recipe and
learns the float model's outputs (Hinton et al. 2015, arXiv 1503.02531), so it needs no labels and
cannot learn more than the float model knows. Batch norms are folded before, as in the file.
"""

import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.fx import GraphModule

from autoquant.core.recipe import Recipe
from autoquant.core.task import Task
from autoquant.core.training import TrainingCurve, TrainingProgress, TrainingStep, TrainingWatch
from autoquant.errors import TaskError, TrainingError
from autoquant.quantize.checkpoint import Checkpoint
from autoquant.quantize.learnable import Learnable
from autoquant.quantize.lesson import Lesson, Loss
from autoquant.quantize.sampling import call

__all__ = ["Trainer", "Training"]

_POINTS = 200  # of a curve
_MOMENTUM = 0.9


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
        run = _Run(self, model, learnable, batch_size)
        try:
            run.train()
        finally:
            learnable.settle()
        self.curve, self.seconds = run.curve(), run.seconds
        self.seconds_here = run.seconds - run.seconds_before
        return learnable

    def key(self, batch_size: int) -> str:
        """Digest of everything that a run's weights depend on, but for machine and versions."""
        digest = hashlib.sha256()
        assert self.trainer.task.train is not None
        names = (self.recipe.digest, self.trainer.seed, batch_size, len(self.trainer.task.train))
        digest.update(repr(names).encode())
        for name, value in sorted(self.teacher.named_parameters()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


class _Run:
    """One go at it, with one batch size."""

    def __init__(
        self, training: Training, model: GraphModule, learnable: Learnable, batch_size: int
    ) -> None:
        trainer, options, task = training.trainer, training.options, training.trainer.task
        assert task.train is not None
        self.options = options
        self.watch = training.watch
        self.learnable = learnable
        self.batch_size = batch_size
        self.device = trainer.find_device()
        self.teacher = _on_device(training.teacher, self.device)
        self.model = model.to(self.device).requires_grad_(False)
        self.lesson = Lesson(task.train, task.augment, batch_size, trainer.seed)
        is_classifier = isinstance(task.metric, str)
        self.loss = Loss(options.distillation, is_classifier=is_classifier, task=task.name)
        self.steps = options.epochs * self.lesson.steps_per_epoch
        self.step = 0
        self.seconds = self.seconds_before = 0.0
        self.points: list[TrainingStep] = []
        self._losses: list[float] = []
        self.checkpoint = self._find_checkpoint(training)

    def train(self) -> None:
        """To the end, from the start or from where an earlier run was."""
        first, _ = self.lesson.batch(0)
        self.learnable.begin(lambda: call(self.model, self._place(first)))
        self.optimizer = self._build_optimizer()
        self._resume()
        while self.step < self.steps:
            self._take_step()
            if self.step == self.steps or (self.checkpoint and self.checkpoint.is_due()):
                self._save()

    def curve(self) -> TrainingCurve:
        return TrainingCurve(
            steps=self.steps,
            batch_size=self.batch_size,
            device=self.device.type,
            points=tuple(self.points),
        )

    # One step

    def _take_step(self) -> None:
        start = time.perf_counter()
        rate = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        inputs, targets = self.lesson.batch(self.step)
        inputs = self._place(inputs)
        with torch.no_grad():
            promised = _first(call(self.teacher, inputs))
        self.learnable.refresh()
        loss = self.loss(_first(call(self.model, inputs)), promised, targets)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"training diverged: the loss is {value} at step {self.step} of {self.steps} "
                f"(learning rate {rate:.2g}); choose a smaller learning_rate than "
                f"{self.options.learning_rate:g}"
            )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.step += 1
        self._losses.append(value)
        self.seconds += time.perf_counter() - start
        self._tell(value, rate)

    def _learning_rate(self) -> float:
        """Half a cosine (Loshchilov and Hutter 2017, arXiv 1608.03983), a function of the step."""
        return self.options.learning_rate * (1 + math.cos(math.pi * self.step / self.steps)) / 2

    def _build_optimizer(self) -> torch.optim.Optimizer:
        groups = [
            {"params": self.learnable.weights, "weight_decay": self.options.weight_decay},
            {"params": self.learnable.others, "weight_decay": 0.0},
        ]
        if self.options.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=self.options.learning_rate)
        return torch.optim.SGD(groups, lr=self.options.learning_rate, momentum=_MOMENTUM)

    def _place(self, inputs: Any) -> Any:
        """A batch on the device; images with their channels last, which convolutions prefer."""
        if isinstance(inputs, Mapping):
            return {name: self._place(value) for name, value in inputs.items()}
        layout = torch.channels_last if inputs.dim() == 4 else torch.preserve_format
        return inputs.to(self.device).contiguous(memory_format=layout)

    # What others are told

    def _tell(self, loss: float, rate: float) -> None:
        progress = self._progress(loss)
        self.watch.on_step(progress)
        per_epoch = self.lesson.steps_per_epoch
        ends_epoch = self.step % per_epoch == 0
        every = max(1, self.steps // _POINTS)
        if not (ends_epoch or self.step % every == 0):
            return
        accuracy = None
        if ends_epoch and self.step < self.steps:
            with self._frozen():
                accuracy = self.watch.on_epoch(progress, self._predict)
        self.points.append(
            TrainingStep(
                step=self.step,
                epoch=progress.epoch,
                loss=float(np.mean(self._losses)),
                learning_rate=rate,
                accuracy=accuracy,
            )
        )
        self._losses.clear()

    def _progress(self, loss: float) -> TrainingProgress:
        epoch = (self.step - 1) // self.lesson.steps_per_epoch + 1
        left = self.seconds / self.step * (self.steps - self.step)
        return TrainingProgress(self.step, self.steps, epoch, self.options.epochs, loss, left)

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        with torch.no_grad():
            self.learnable.refresh()
            yield

    def _predict(self, batches: Sequence[Any]) -> npt.NDArray[np.float32]:
        outputs = [_first(call(self.model, self._place(_as_tensors(item)))) for item in batches]
        joined: npt.NDArray[np.float32] = torch.cat(outputs).cpu().numpy()
        return joined

    # Checkpoints

    def _find_checkpoint(self, training: Training) -> Checkpoint | None:
        folder = training.trainer.checkpoints
        if folder is None:
            return None
        return Checkpoint(folder / f"{training.recipe.digest}.pt", training.key(self.batch_size))

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        is_done = self.step == self.steps
        self.checkpoint.save(
            {
                "step": self.step,
                "values": self.learnable.state(),
                "optimizer": None if is_done else self.optimizer.state_dict(),
                "points": [point.model_dump() for point in self.points],
                "losses": list(self._losses),
                "seconds": self.seconds,
            }
        )

    def _resume(self) -> None:
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        state = self.checkpoint.load()
        if state is None:
            self.watch.on_note(
                f"the checkpoint '{self.checkpoint.path.name}' is damaged, or of another recipe, "
                "seed, model or batch size: training starts anew"
            )
            return
        self.learnable.restore(state["values"])
        if state["optimizer"] is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.seconds_before = self.seconds
        self.points = [TrainingStep.model_validate(point) for point in state["points"]]
        self._losses = list(state["losses"])


def _on_device(model: GraphModule, device: torch.device) -> GraphModule:
    """The model itself where it lies there already; moving it would move everybody's."""
    return model if device.type == "cpu" else copy.deepcopy(model).to(device)


def _first(outputs: Any) -> torch.Tensor:
    first = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    assert isinstance(first, torch.Tensor)
    return first


def _as_tensors(inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {name: _as_tensors(value) for name, value in inputs.items()}
    return torch.as_tensor(inputs)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text
    )
