"""Quantization-aware training: gradients, grids, checkpoints, and what can go wrong."""

import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from autoquant.build import TaskBuilder, build_evaluator
from autoquant.core.recipe import PtqOptions, QatOptions, Recipe
from autoquant.core.rehearsal import Rehearsal
from autoquant.core.training import TrainingWatch
from autoquant.errors import CheckpointError, TaskError, TrainingError
from autoquant.evaluate import EvaluationOptions
from autoquant.progress import TrainingShow
from autoquant.quantize import checkpoint
from autoquant.quantize.learnable import Learnable
from autoquant.quantize.lesson import Lesson, Loss
from autoquant.quantize.selection import EpochSelection, count_held_out
from autoquant.quantize.steps import _LearnedStep
from autoquant.quantize.training_run import TrainingRun
from autoquant.tasks.augment import shift_and_flip
from tests.networks import Data, Residual, make_task

LAYERS = ["stem", "body", "down", "fc"]


def trained(bits: int = 4, layers: list[str] | None = None, **changes) -> Recipe:
    values = {
        "epochs": 3,
        "batch_size": 32,
        "learning_rate": 5e-4,
        "distillation": 1.0,
    } | changes
    options = PtqOptions(mode="qat", qat=QatOptions(**values), calibration_images=32)
    return Recipe.uniform(layers or LAYERS, bits, options)


def task_with_data(kind: type[nn.Module] = Residual, count: int = 160, **changes):
    return make_task(kind, train=Data(count, seed=3), **changes)


class Notes(TrainingWatch):
    def __init__(self) -> None:
        self.texts: list[str] = []
        self.losses: list[float] = []

    def on_step(self, progress) -> None:
        self.losses.append(progress.loss)

    def on_note(self, text: str) -> None:
        self.texts.append(text)


class Death(BaseException):
    """Stands for the end of the process."""


class Dying(Notes):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_step(self, progress) -> None:
        super().on_step(progress)
        if progress.step == self.step:
            raise Death


def straight_through(x: Tensor, scale: Tensor, shift: Tensor, low: float, high: float) -> Tensor:
    """The same fake quantization by its definition, differentiated by torch."""

    def pass_through(value: Tensor) -> Tensor:
        return value + (value.round() - value).detach()

    inside = torch.minimum(torch.maximum(x / scale, low - shift), high - shift)
    return pass_through(inside) * scale


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("low", "high", "shift"), [(0, 255, 37.0), (-7, 7, 0.0), (-128, 127, 0.0)])
def test_gradients_are_those_of_the_definition(low, high, shift, per_channel: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, 4, 4, generator=generator)
    scale = torch.rand(6, 1, 1, 1, generator=generator) + 0.5 if per_channel else torch.tensor(0.7)
    scale = scale * 2.5 / (high - low)  # some values lie beyond either end
    outer = torch.randn(x.shape, generator=generator)
    gradients, values = [], []
    for function in (straight_through, lambda *all_: _LearnedStep.apply(*all_, 1.0)):
        inputs = [item.clone().requires_grad_(True) for item in (x, scale, torch.tensor(shift))]
        values.append(function(*inputs, low, high))
        values[-1].backward(outer)
        gradients.append([item.grad for item in inputs])
    assert torch.allclose(values[0], values[1], atol=1e-6)
    for theirs, ours in zip(*gradients, strict=True):
        assert torch.allclose(theirs, ours, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("symmetry", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("scale", ["max", "mse"])
@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_without_a_step_the_grids_come_back_as_they_were(granularity, scale, symmetry) -> None:
    quantizer = TaskBuilder(task_with_data()).quantizer
    options = PtqOptions(
        weight_granularity=granularity, weight_scale=scale, activation_symmetry=symmetry
    )
    recipe = Recipe.uniform(LAYERS, 4, options)

    def fit(prepare) -> Learnable:
        module, learnable = prepare()
        learnable.begin(lambda: module(Data(16).x))
        learnable.settle()
        return learnable

    before, after = quantizer.quantize(recipe).encodings, quantizer.quantize(recipe, fit).encodings
    assert before.activations == after.activations
    for name, known in before.weights.items():
        found = after.weights[name]
        assert np.array_equal(known.values, found.values)
        assert np.allclose(known.scale, found.scale, rtol=1e-6)
        assert np.array_equal(known.bias, found.bias)


def test_training_learns_and_spares_what_others_share() -> None:
    builder = TaskBuilder(task_with_data(count=256))
    untrained = trained(epochs=12).trained(None)
    before = builder.build(untrained).artifact.sha256
    notes = Notes()
    candidate = builder.build(trained(epochs=12), notes)
    assert np.mean(notes.losses[-8:]) < 0.7 * np.mean(notes.losses[:8])
    assert builder.build(untrained).artifact.sha256 == before
    assert candidate.artifact.sha256 != before
    assert candidate.seconds["train"] > 0
    curve = candidate.training
    assert curve.steps == 12 * 7 == curve.points[-1].step
    assert curve.held_out == 32, "of 256 images"
    assert [point.step for point in curve.points] == sorted(point.step for point in curve.points)
    assert curve.points[-1].learning_rate < 1e-4 < curve.points[0].learning_rate


@pytest.mark.parametrize("bits", [8, 4])
def test_trained_file_agrees_with_its_model_and_its_figures_tell_the_curve(bits: int) -> None:
    evaluator = build_evaluator(task_with_data(), options=EvaluationOptions(latency=None))
    measurement, artifact = evaluator.evaluate(trained(bits))
    assert measurement.parity.top1_agreement >= 0.99
    assert measurement.integer_coverage == 1.0
    assert measurement.training.points[3].accuracy is not None, "between epochs"
    assert "training" not in artifact.passport["measurement"]
    plain, other = evaluator.evaluate(trained(bits).trained(None))
    assert plain.training is None
    assert set(other.passport["measurement"]) == set(artifact.passport["measurement"])


class Saturated(nn.Module):
    """Most values reach the ceilings of its activations, and want to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.body = nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 5)
        with torch.no_grad():
            self.stem.weight *= 20
            self.body.weight *= 10

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x))
        x = F.hardtanh(self.body(x), 0.0, 4.0)
        return self.fc(x.mean((2, 3)))


def test_a_trained_grid_does_not_outgrow_the_ceiling_of_the_activation_before_it() -> None:
    """If it did, the clamp would stay in the file, and the runtime compute in float before it."""
    task = task_with_data(Saturated)
    evaluator = build_evaluator(task, options=EvaluationOptions(latency=None))
    recipe = trained(8, ["stem", "body", "fc"], learning_rate=0.1)
    untrained, _ = evaluator.evaluate(recipe.trained(None))
    measurement, _ = evaluator.evaluate(recipe)
    assert measurement.integer_coverage == untrained.integer_coverage == 1.0


def test_a_recipe_that_was_used_before_lends_its_grids_and_not_its_caches() -> None:
    evaluator = build_evaluator(task_with_data(), options=EvaluationOptions(latency=None))
    recipe = trained(learning_rate=0.1)
    evaluator.evaluate(recipe.trained(None))
    measurement, _ = evaluator.evaluate(recipe)
    assert measurement.parity.sqnr_db > 40


def test_one_seed_gives_one_file_and_another_seed_another() -> None:
    task = task_with_data(augment=shift_and_flip(2, (0.0, 0.0, 0.0), flips=True))
    digests = [TaskBuilder(task, seed).build(trained()).artifact.sha256 for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_killed_training_ends_as_an_undisturbed_one(tmp_path, monkeypatch, optimizer) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    task = task_with_data(augment=shift_and_flip(2, (0.0, 0.0, 0.0), flips=True))
    recipe = trained(optimizer=optimizer)
    whole = TaskBuilder(task).build(recipe)
    assert whole.training.kept_step == 12, "or nothing is shown here"
    for step in (3, 6):
        with pytest.raises(Death):
            TaskBuilder(task, checkpoints=tmp_path).build(recipe, Dying(step))
    notes = Notes()
    resumed = TaskBuilder(task, checkpoints=tmp_path).build(recipe, notes)
    assert len(notes.losses) == 12 - 5, "it goes on after the last checkpoint"
    assert resumed.artifact.sha256 == whole.artifact.sha256
    assert resumed.training == whole.training
    again = Notes()
    assert TaskBuilder(task, checkpoints=tmp_path).build(recipe, again).artifact.sha256 == (
        whole.artifact.sha256
    )
    assert not again.losses, "what is trained is not trained again"


def test_what_training_would_make_worse_stays_as_it_was(tmp_path: Path) -> None:
    builder = TaskBuilder(task_with_data(), checkpoints=tmp_path)
    recipe, notes = trained(8, learning_rate=2e-2), Notes()
    candidate = builder.build(recipe, notes)
    curve = candidate.training
    assert curve.kept_step == 0 < curve.steps
    assert curve.points[-1].held_out_loss > 2 * curve.start_loss, "so it is right"
    assert "held out rose from" in notes.texts[0]
    assert "what training began with is kept" in notes.texts[0]
    batches = [Data(64).x]
    untrained = builder.build(recipe.trained(None)).predict(batches)
    assert np.allclose(candidate.predict(batches), untrained, atol=1e-5)
    assert builder.build(recipe).artifact.sha256 == candidate.artifact.sha256, "from the folder"


def test_a_killed_training_remembers_the_epoch_that_was_best(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    losses = iter([3.0, 1.0, 2.0, 2.0])  # the start, and three epochs

    def judge(run: TrainingRun) -> Tensor:
        return next(losses) + torch.linspace(0, 0.1, 32)

    monkeypatch.setattr(TrainingRun, "_judge", judge)
    task, recipe = task_with_data(), trained()
    with pytest.raises(Death):
        TaskBuilder(task, checkpoints=tmp_path).build(recipe, Dying(step=10))
    resumed = TaskBuilder(task, checkpoints=tmp_path).build(recipe)
    assert resumed.training.kept_step == 4, "the end of the first epoch"
    losses = iter([3.0, 1.0, 2.0, 2.0])
    assert TaskBuilder(task).build(recipe).artifact.sha256 == resumed.artifact.sha256
    losses = iter([3.0, 2.0, 2.0, 1.0])
    assert TaskBuilder(task).build(recipe).artifact.sha256 != resumed.artifact.sha256


def test_an_earlier_epoch_has_to_be_better_beyond_chance() -> None:
    noise = torch.randn(100, generator=torch.Generator().manual_seed(0))
    nothing = float("nan")
    for start, end, is_kept in (
        (1.0 + noise, 1.01 + noise.flip(0), False),
        (1.0 + noise, 2.0 + noise.flip(0), True),
        (1.0 + 0.01 * noise, 1.005 + 0.01 * noise, False),  # surely, but by how little
        (1.0 + noise, nothing + noise, True),
        (nothing + noise, 1.0 + noise, False),
        (nothing + noise, nothing + noise, False),
    ):
        selection = EpochSelection()
        selection.look(0, start, lambda: {"step": torch.zeros(1)})
        selection.look(5, end, lambda: {"step": torch.ones(1)})
        better = selection.find_better()
        assert (better is not None) == is_kept
        assert better is None or better.values["step"] == 0


@pytest.mark.parametrize(("images", "held_out"), [
    (3, 0), (7, 0), (8, 2), (100, 25), (200, 32), (5000, 500), (20_000, 1000)
])  # fmt: skip
def test_few_images_are_held_out_and_nothing_is_learned_from_them(images, held_out) -> None:
    assert count_held_out(images) == held_out
    lesson = Lesson(range_of(images), None, 7, seed=0, held_out=held_out)
    taught = [label for step in range(lesson.steps_per_epoch) for label in lesson.batch(step)[1]]
    examined = [label for _, targets in lesson.exam() for label in targets]
    assert len(examined) == held_out
    assert sorted(taught + examined) == list(range(images))


def range_of(count: int) -> list[tuple[Tensor, int]]:
    return [(torch.zeros(1), index) for index in range(count)]


def test_a_checkpoint_of_another_seed_or_model_is_refused_and_says_so(tmp_path) -> None:
    task = task_with_data()
    first = TaskBuilder(task, checkpoints=tmp_path).build(trained())
    assert first.artifact.sha256
    notes = Notes()
    other = TaskBuilder(task, 1, checkpoints=tmp_path).build(trained(), notes)
    assert notes.texts[0].endswith("is of another training (seed): training starts anew")
    assert other.artifact.sha256 == TaskBuilder(task, 1).build(trained()).artifact.sha256
    path = next(tmp_path.glob("*.pt"))
    path.write_bytes(path.read_bytes()[:1000])
    notes = Notes()
    TaskBuilder(task, 1, checkpoints=tmp_path).build(trained(), notes)
    assert "damaged" in notes.texts[0]
    assert len(notes.losses) == 12


def test_a_checkpoint_never_runs_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"key": {}, "evil": Evil()}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"'x\.pt' is damaged"):
        checkpoint.Checkpoint(tmp_path / "x.pt", {}).load()
    assert not (tmp_path / "ran").exists()


def test_divergence_names_the_step_and_the_learning_rate() -> None:
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) at step \d+ of 12 .*than 1e\+30"):
        TaskBuilder(task_with_data()).build(trained(learning_rate=1e30))


def test_steps_that_are_too_long_are_made_shorter_before_they_do_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    recipe, task, notes = trained(8, learning_rate=3.0), task_with_data(), Notes()
    whole = TaskBuilder(task).build(recipe, notes)
    assert "beginning again with a learning rate of 0.75" in notes.texts[0]
    assert whole.training.points[0].learning_rate < 3.0
    assert whole.training.points[-1].step == 12
    with pytest.raises(Death):
        TaskBuilder(task, checkpoints=tmp_path).build(recipe, Dying(step=3))
    resumed = TaskBuilder(task, checkpoints=tmp_path).build(recipe, Notes())
    assert resumed.artifact.sha256 == whole.artifact.sha256


@pytest.mark.parametrize("limit", [16, 4])
def test_short_memory_halves_the_batch_once(monkeypatch, limit: int) -> None:
    take = TrainingRun._take_step

    def take_if_it_fits(run: TrainingRun) -> None:
        if run.lesson.batch_size > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        take(run)

    monkeypatch.setattr(TrainingRun, "_take_step", take_if_it_fits)
    notes = Notes()
    builder = TaskBuilder(task_with_data())
    if limit == 4:
        with pytest.raises(TrainingError, match=r"batches of 32, nor of 16.*smaller batch_size"):
            builder.build(trained(), notes)
    else:
        assert builder.build(trained(), notes).training.batch_size == 16
    # what it says of the loss is the processor's: it is a few millionths
    told = [text for text in notes.texts if "memory" in text]
    assert told == ["memory does not suffice for batches of 32: training with 16"]


def test_a_step_that_memory_does_not_suffice_for_is_not_begun() -> None:
    """On Linux the process would be killed for it."""
    builder = TaskBuilder(task_with_data())
    notes, left = Notes(), iter([5e5, 1e9])
    builder._trainer = dataclasses.replace(builder._trainer, find_memory=lambda: next(left))
    assert builder.build(trained(), notes).training.batch_size == 16
    assert re.fullmatch(
        r"memory does not suffice for batches of 32 \(a step takes 0\.0 GB, of 0\.0 free\): "
        "training with 16", notes.texts[0],
    )  # fmt: skip
    left = iter([5e5, 2e5])
    with pytest.raises(TrainingError, match=r"nor of 16 \(a step takes .* free\): choose a small"):
        builder.build(trained(), Notes())


@pytest.mark.parametrize("is_short_first", [True, False])
def test_a_killed_training_goes_on_with_the_batch_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_short_first: bool
) -> None:
    """Whatever memory there is now: what was learned is worth more."""
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    task, plenty, short = task_with_data(), lambda: 10**9, lambda: 5 * 10**5

    def begin(find_memory, watch: Notes):
        builder = TaskBuilder(task, checkpoints=tmp_path)
        builder._trainer = dataclasses.replace(builder._trainer, find_memory=find_memory)
        return builder.build(trained(), watch)

    first, then = (short, plenty) if is_short_first else (plenty, short)
    with pytest.raises(Death):
        begin(first, Dying(step=6))
    notes = Notes()
    candidate = begin(then, notes)
    assert candidate.training.batch_size == (16 if is_short_first else 32)
    assert len(notes.losses) == candidate.training.steps - 5


def test_what_an_earlier_version_trained_is_still_verified(tmp_path: Path) -> None:
    builder = TaskBuilder(task_with_data(), checkpoints=tmp_path)
    candidate = builder.build(trained())
    path = next(tmp_path.glob("*.pt"))
    state = torch.load(path, weights_only=True)
    del state["key"]["images held out"]
    torch.save(state, path)
    assert builder.restore(trained()).artifact.sha256 == candidate.artifact.sha256


def test_other_errors_are_not_taken_for_a_want_of_memory(monkeypatch) -> None:
    def fail(run: TrainingRun) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(TrainingRun, "_take_step", fail)
    with pytest.raises(Exception, match="something else"):
        TaskBuilder(task_with_data()).build(trained())


def test_the_notebook_trains_and_goes_on_from_a_folder(tmp_path: Path) -> None:
    import autoquant as aq

    task = task_with_data()
    artifact, measurement = aq.quantize(
        task, trained(epochs=1), checkpoints=tmp_path, progress=False
    )
    assert measurement.training.steps == 4
    assert measurement.report_accuracy is not None
    assert artifact.passport["recipe"]["options"]["mode"] == "qat"
    assert len(list(tmp_path.glob("*.pt"))) == 1


def test_progress_is_a_line_an_epoch_where_no_bar_can_be() -> None:
    console = Console(file=io.StringIO(), soft_wrap=True)
    with TrainingShow(console, "quantizing") as watch:
        TaskBuilder(task_with_data()).build(
            trained(),
            Rehearsal([], None, lambda outputs: None, 1, None, watch, lambda: None),
        )
        watch.on_note("a note")
    lines = console.file.getvalue().splitlines()
    assert [line[:27] for line in lines[:2]] == [
        "training: epoch 1 of 3, los", "training: epoch 2 of 3, los"
    ]  # fmt: skip
    assert lines[2:] == ["a note"]


class Odd(Data):
    """Labels that the model has no output for."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index], 17


def test_labels_count_only_where_they_are_asked_for() -> None:
    builder = TaskBuilder(make_task(Residual, train=Odd(40)))
    builder.build(trained(epochs=1))
    with pytest.raises(TaskError, match="training label 17 is out of range: the model has 5"):
        builder.build(trained(epochs=1, distillation=0.5))


def test_labels_teach_too() -> None:
    notes = Notes()
    TaskBuilder(task_with_data()).build(trained(distillation=0.0, epochs=20), notes)
    assert np.mean(notes.losses[-4:]) < np.mean(notes.losses[:4])


def test_without_training_data_both_ways_out_are_named() -> None:
    with pytest.raises(TaskError, match=r"task 'test' has no training data: drop 'qat'.*`train`"):
        TaskBuilder(make_task(Residual)).build(trained())


class KeptNorm(nn.Module):
    """A batch norm that no layer can absorb, and a layer that feeds two others."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(self.norm(x))).mean((2, 3)))


def test_a_last_batch_of_one_meets_a_batch_norm() -> None:
    task = task_with_data(KeptNorm, count=44)  # of which 11 are held out

    state = {name: value.clone() for name, value in task.model.state_dict().items()}
    candidate = TaskBuilder(task).build(trained(layers=["conv", "fc"]))
    assert candidate.training.steps == 6
    assert all(torch.equal(state[name], value) for name, value in task.model.state_dict().items())


class TwoLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.second = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


class Rows(Data):
    def __init__(self, count: int, seed: int = 0) -> None:
        super().__init__(count, (64,), seed)


@pytest.mark.parametrize(("activation", "scale"), [("dynamic", "max"), ("float", "mse")])
def test_layers_off_the_calibrated_grid_are_trained_too(activation: str, scale: str) -> None:
    task = make_task(
        TwoLinear, example_input=torch.zeros(1, 64), calibration=Rows(32), search=Rows(128, 1),
        report=None, train=Rows(128, 2),
    )  # fmt: skip
    options = PtqOptions(mode="qat", weight_scale=scale, qat=QatOptions(epochs=6, batch_size=32))
    kinds = {"first": activation, "second": activation}
    recipe = Recipe.quantized({"first": 4, "second": 4}, options, kinds)
    notes = Notes()
    evaluator = build_evaluator(task, options=EvaluationOptions(latency=None))
    measurement, _ = evaluator.evaluate(recipe, watch=notes)
    assert measurement.parity.top1_agreement >= 0.98
    assert np.mean(notes.losses[-4:]) < np.mean(notes.losses[:4])


def test_other_outputs_than_logits_are_learned_by_their_squared_error() -> None:
    loss = Loss(1.0, is_classifier=False, task="t")
    promised = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    loss.take_variance(promised * 1000)
    assert loss(promised, promised, []) == 0
    assert float(loss(promised * 1000 + 10, promised * 1000, [])) < 1e-3
    loss.take_variance(promised[:1, 0])
    assert loss.variance > 0, "a single number has none"


def test_logits_at_every_place_are_one_loss_a_sample() -> None:
    loss = Loss(1.0, is_classifier=True, task="t")
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(4, 5, 6, 4, generator=generator) for _ in range(2))
    assert loss.each(ours, theirs, []).shape == (4,)
    expected = F.kl_div(
        ours.log_softmax(1), theirs.log_softmax(1), reduction="batchmean", log_target=True
    )
    assert torch.allclose(loss(ours, theirs, []), expected)


class OneNumber(TwoLinear):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(64, 1)


def test_a_last_batch_of_one_number_is_judged_as_the_others() -> None:
    """Its own variance would be none, and every epoch's loss with it."""
    task = make_task(
        OneNumber, example_input=torch.zeros(1, 64), calibration=Rows(32), search=Rows(64, 1),
        report=None, train=Rows(330, 2), metric=lambda outputs, targets: 1.0,
    )  # fmt: skip
    curve = TaskBuilder(task).build(trained(layers=["first", "second"], epochs=6)).training
    assert curve.held_out == 33
    judged = [point.held_out_loss for point in curve.points if point.held_out_loss is not None]
    assert len(judged) == 6
    assert np.isfinite([curve.start_loss, *judged]).all()


def test_every_epoch_sees_every_sample_once() -> None:
    lesson = Lesson(Data(50), None, 8, seed=0)
    seen = [label for step in range(lesson.steps_per_epoch) for label in lesson.batch(step)[1]]
    assert sorted(seen) == sorted(int(label) for label in Data(50).y)
    first, _ = lesson.batch(0)
    assert torch.equal(first, Lesson(Data(50), None, 8, seed=0).batch(0)[0])
    assert not torch.equal(first, lesson.batch(lesson.steps_per_epoch)[0])


def test_shifts_bring_in_black_and_mirrors_keep_values() -> None:
    images = torch.arange(1.0, 3 * 2 * 16 + 1).view(3, 2, 4, 4)
    change = shift_and_flip(1, (-5.0, 0.5), flips=True)
    found = change(images, torch.Generator().manual_seed(2))
    assert found.shape == images.shape
    assert torch.equal(found, change(images, torch.Generator().manual_seed(2)))
    new = ~torch.isin(found, images)
    assert set(found[:, 0][new[:, 0]].tolist()) <= {-5.0}
    assert set(found[:, 1][new[:, 1]].tolist()) <= {0.5}
    still = shift_and_flip(0, (0.0, 0.0), flips=False)
    assert torch.equal(still(images, torch.Generator()), images)
