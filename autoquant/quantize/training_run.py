"""`TrainingRun`: one go at training, with one batch size, from the start or from a checkpoint."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import GraphModule

from autoquant.core.recipe import QatOptions
from autoquant.core.training import TrainingCurve, TrainingProgress, TrainingStep, TrainingWatch
from autoquant.errors import CheckpointError, TrainingError
from autoquant.quantize.checkpoint import Checkpoint
from autoquant.quantize.learnable import Learnable
from autoquant.quantize.lesson import Lesson, Loss
from autoquant.quantize.memory import estimate_step
from autoquant.quantize.sampling import as_tensors, call, first_output
from autoquant.quantize.selection import EpochSelection

__all__ = ["TrainingRun"]

_POINTS = 200  # of a curve
_MOMENTUM = 0.9
# A step that is too long for a deep network undoes what calibration made, and few steps do not
# bring it back: EfficientNet-Lite0 lost 36 points so. What happens early on tells.
_EARLY = 5  # steps
_RUNAWAY = 4.0  # times the first loss
# A loss, in nats or in variances of the outputs, that is near to chance. From below it a training
# comes back by itself: ResNet-8 and -20 rise to 1.5 and 0.7, and end at the float model's accuracy.
_HARM = 2.0
_SHORTER = 4.0  # times, the steps of another go
_MOST_TIMES = 3


class TrainingRun:
    """One go at it.

    Args:
        model: the student, with the learnable's layers and quantizers in place.
        learnable: what is trained.
        teacher: the float graph.
        lesson: the training data.
        loss: what is to become small.
        options: how long, how fast, by which optimizer.
        device: where.
        find_memory: bytes that may still be taken of the processor's memory.
        checkpoint: where to leave what to go on from; None leaves nothing.
        watch: told what happens.

    Attributes:
        seconds: that the steps took, those of earlier, killed runs included.
        seconds_here: that they took in this process.
    """

    def __init__(
        self,
        model: GraphModule,
        learnable: Learnable,
        teacher: GraphModule,
        lesson: Lesson,
        loss: Loss,
        options: QatOptions,
        device: torch.device,
        find_memory: Callable[[], int | None],
        checkpoint: Checkpoint | None,
        watch: TrainingWatch,
    ) -> None:
        self.teacher = _on_device(teacher, device)
        self.model = model.to(device).requires_grad_(False)
        self.learnable = learnable
        self.lesson = lesson
        self.loss = loss
        self.options = options
        self.device = device
        self.find_memory = find_memory
        self.checkpoint = checkpoint
        self.watch = watch
        self.steps = options.epochs * lesson.steps_per_epoch
        self.step = 0
        self.shortened = 0  # times
        self.seconds = self.seconds_here = 0.0
        self.selection = EpochSelection() if lesson.held_out else None
        self.start_loss: float | None = None  # of what is held out
        self.kept_step: int | None = None
        self._first_loss = math.inf
        self.points: list[TrainingStep] = []
        self._losses: list[float] = []

    def train(self) -> None:
        """To the end, from the start or from where an earlier run was.

        Raises:
            MemoryError: a step would take more than there is.
            TrainingError: the loss is not finite.
            TaskError: labels that do not fit.
        """
        first = self._place(self.lesson.batch(0)[0])
        self.learnable.begin(lambda: call(self.model, first))
        if not self.loss.is_classifier:
            with torch.no_grad():
                self.loss.take_variance(first_output(call(self.teacher, first)))
        self._start = self._copy_values()
        self.optimizer = self._build_optimizer()
        self._resume()
        if self.step == 0:
            self._check_memory(first)
            self.start_loss = self._look()
        while self.step < self.steps:
            self._take_step()
            if self.step == self.steps:
                self._choose()
            if self.step == self.steps or (self.checkpoint and self.checkpoint.is_due()):
                self._save()

    def _check_memory(self, inputs: Any) -> None:
        """Of a training that goes on it is known that memory suffices."""
        free = self.find_memory() if self.device.type == "cpu" else None
        samples = min(self.lesson.batch_size, self.lesson.images)
        if free is None or samples < 2:  # a single sample cannot be halved
            return
        needed = estimate_step(lambda part: call(self.model, part), inputs, samples)
        # gradients, two moments, and the best epoch with its units; the start is there
        needed += 5 * sum(leaf.nbytes for leaf in (*self.learnable.weights, *self.learnable.others))
        if needed > free:
            raise MemoryError(f"a step takes {needed / 1e9:.1f} GB, of {free / 1e9:.1f} free")

    def curve(self) -> TrainingCurve:
        """What came of it."""
        return TrainingCurve(
            steps=self.steps,
            batch_size=self.lesson.batch_size,
            device=self.device.type,
            points=tuple(self.points),
            images=self.lesson.images,
            held_out=len(self.lesson.held_out),
            start_loss=self.start_loss,
            kept_step=self.kept_step,
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
            promised = first_output(call(self.teacher, inputs))
        self.learnable.refresh()
        loss = self.loss(first_output(call(self.model, inputs)), promised, targets)
        value = float(loss.detach())
        if self._runs_away(value):
            self._begin_again(value)
            return
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
        self._spend(time.perf_counter() - start)
        self._tell(value, rate, self._look() if self._ends_epoch else None)

    def _spend(self, seconds: float) -> None:
        self.seconds, self.seconds_here = self.seconds + seconds, self.seconds_here + seconds

    @property
    def _ends_epoch(self) -> bool:
        return self.step % self.lesson.steps_per_epoch == 0

    def _runs_away(self, loss: float) -> bool:
        """Whether the first steps were too long, and shorter ones are left to try."""
        if self.step == 0:
            self._first_loss = loss
            return False
        allowed = max(_HARM, _RUNAWAY * self._first_loss)
        is_far = not loss <= allowed  # what is no number is as well
        return is_far and self.step <= _EARLY and self.shortened < _MOST_TIMES

    def _begin_again(self, loss: float) -> None:
        steps, self.step = self.step, 0
        self.shortened += 1
        self.watch.on_note(
            f"the loss rose from {self._first_loss:.3g} to {loss:.3g} in {steps} steps: beginning "
            f"again with a learning rate of {self._learning_rate():.2g}"
        )
        self.learnable.restore(self._start)
        self.optimizer = self._build_optimizer()
        self.points.clear()
        self._losses.clear()
        self._look()

    def _learning_rate(self) -> float:
        """Half a cosine (Loshchilov and Hutter 2017, arXiv 1608.03983), a function of the step."""
        return self._highest_rate * (1 + math.cos(math.pi * self.step / self.steps)) / 2

    @property
    def _highest_rate(self) -> float:
        return self.options.learning_rate / _SHORTER**self.shortened

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

    # What is held out

    def _look(self) -> float | None:
        """The mean loss of the model as it is; None where nothing is held out."""
        if self.selection is None:
            return None
        start = time.perf_counter()
        with self._frozen():
            losses = self._judge().cpu()
        copies = self._copy_values if self.step else lambda: self._start
        loss = self.selection.look(self.step, losses, copies)
        self._spend(time.perf_counter() - start)
        return loss

    def _copy_values(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.learnable.state().items()}

    def _judge(self) -> Tensor:
        losses = []
        for inputs, targets in self.lesson.exam():
            placed = self._place(inputs)
            promised = first_output(call(self.teacher, placed))
            outputs = first_output(call(self.model, placed))
            losses.append(self.loss.each(outputs, promised, targets))
        return torch.cat(losses)

    def _choose(self) -> None:
        """End with the last epoch, or with an earlier one that is better beyond chance."""
        self.kept_step = self.step
        better = None if self.selection is None else self.selection.find_better()
        if better is None:
            return
        self.kept_step = better.step
        self.learnable.restore(better.values)
        epoch = better.step // self.lesson.steps_per_epoch
        kept = f"the end of epoch {epoch}" if epoch else "what training began with"
        self.watch.on_note(
            f"the loss on {len(self.lesson.held_out)} training images held out rose from "
            f"{better.loss:.3g} to {self.points[-1].held_out_loss:.3g}: {kept} is kept. More "
            f"training images, or a learning_rate below {self._highest_rate:.2g}, may help"
        )

    # What others are told

    def _tell(self, loss: float, rate: float, held_out_loss: float | None) -> None:
        progress = self._progress(loss)
        self.watch.on_step(progress)
        every = max(1, self.steps // _POINTS)
        if not (self._ends_epoch or self.step % every == 0):
            return
        accuracy = None
        if self._ends_epoch and self.step < self.steps:
            with self._frozen():
                accuracy = self.watch.on_epoch(progress, self._predict)
        self.points.append(
            TrainingStep(
                step=self.step,
                epoch=progress.epoch,
                loss=float(np.mean(self._losses)),
                learning_rate=rate,
                accuracy=accuracy,
                held_out_loss=held_out_loss,
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
        outputs = [
            first_output(call(self.model, self._place(as_tensors(item)))) for item in batches
        ]
        joined: npt.NDArray[np.float32] = torch.cat(outputs).cpu().numpy()
        return joined

    # Checkpoints

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        is_done = self.step == self.steps
        self.checkpoint.save(
            {
                "step": self.step,
                "shortened": self.shortened,
                "first_loss": self._first_loss,
                "values": self.learnable.state(),
                "optimizer": None if is_done else self.optimizer.state_dict(),
                "points": [point.model_dump() for point in self.points],
                "losses": list(self._losses),
                "start_loss": self.start_loss,
                "kept_step": self.kept_step,
                "selection": None if is_done or not self.selection else self.selection.state(),
                "seconds": self.seconds,
            }
        )

    def _resume(self) -> None:
        try:
            state = None if self.checkpoint is None else self.checkpoint.load()
        except CheckpointError as error:
            self.watch.on_note(f"{error}: training starts anew")
            return
        if state is None:
            return
        self.learnable.restore(state["values"])
        if state["optimizer"] is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.shortened, self._first_loss = state["shortened"], state["first_loss"]
        self.start_loss, self.kept_step = state["start_loss"], state["kept_step"]
        if self.selection is not None and state["selection"] is not None:
            self.selection.restore(state["selection"])
        self.points = [TrainingStep.model_validate(point) for point in state["points"]]
        self._losses = list(state["losses"])


def _on_device(model: GraphModule, device: torch.device) -> GraphModule:
    """The model itself where it lies there already; moving it would move everybody's."""
    return model if device.type == "cpu" else copy.deepcopy(model).to(device)
