"""A trained file beside the end of its training: nothing is trained again, all is compared."""

import copy
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from autoquant import verify
from autoquant.agreement import check_same_model
from autoquant.build import TaskBuilder, build_evaluator
from autoquant.cli import app
from autoquant.core.artifact import Artifact
from autoquant.core.recipe import PtqOptions, QatOptions, Recipe
from autoquant.core.task import Task
from autoquant.core.training import TrainingWatch
from autoquant.errors import CheckpointError, StudyError, TaskError
from autoquant.evaluate import EvaluationOptions, Evaluator
from autoquant.quantize import training
from autoquant.quantize.training import Trainer
from autoquant.quantize.training_run import TrainingRun
from autoquant.search.storage import Location
from autoquant.tasks.augment import shift_and_flip
from tests.networks import Data, Residual, make_task

OPTIONS = EvaluationOptions(latency=None)
QAT = PtqOptions(mode="qat", qat=QatOptions(epochs=1, batch_size=32), calibration_images=32)
RECIPE = Recipe.uniform(["stem", "body", "down", "fc"], 4, QAT)
DATA = Data(64, seed=3)


def task_of(train: Data | None = DATA, **changes) -> Task:
    return make_task(Residual, train=train, name="test", **changes)


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory) -> Evaluator:
    """One network, captured once; it keeps its checkpoints."""
    folder = tmp_path_factory.mktemp("kept")
    return build_evaluator(task_of(), 0, OPTIONS, checkpoints=folder)


@pytest.fixture(scope="module")
def kept(evaluator: Evaluator) -> Path:
    """A folder with a file and a checkpoint of its training's end."""
    folder = evaluator.builder._trainer.checkpoints
    evaluator.evaluate(RECIPE)[1].save(folder / "model.onnx")
    return folder


def changed(builder: TaskBuilder, **changes) -> TaskBuilder:
    """The same network, trained otherwise."""
    twin = copy.copy(builder)
    trainer = builder._trainer
    twin._trainer = Trainer(
        changes.get("task", trainer.task),
        changes.get("seed", trainer.seed),
        changes.get("checkpoints", trainer.checkpoints),
    )
    twin.task = twin._trainer.task
    return twin


@pytest.fixture
def file(kept: Path) -> Artifact:
    return verify.read_verifiable((kept / "model.onnx").read_bytes(), "model.onnx")


@pytest.fixture
def replay(monkeypatch, evaluator: Evaluator, file: Artifact):
    """Verify the file with a task that stands for the passport's."""
    monkeypatch.setattr(TrainingRun, "_take_step", None)  # nothing may be trained
    monkeypatch.setattr(verify, "resolve_options", lambda *_: {})

    def build_again(task: Task, seed: int, options, backend: str, folder) -> Evaluator:
        assert (seed, backend) == (0, "onnxruntime")
        twin = copy.copy(evaluator)
        twin.builder = changed(evaluator.builder, task=task, checkpoints=folder)
        return twin

    def run(task: Task, *arguments, **options) -> verify.Verification:
        monkeypatch.setattr(verify, "load_task", lambda *_: task)
        monkeypatch.setattr(verify, "build_evaluator", build_again)
        return verify.verify_artifact(file, None, *arguments, **options)

    return run


def find(verification: verify.Verification, name: str):
    (check,) = [item for item in verification.checks if item.name.startswith(name)]
    return check


def test_with_its_checkpoint_parity_layers_and_the_file_itself_are_compared(replay, kept) -> None:
    found = replay(task_of(), kept, with_layers=True)
    assert found.ok
    assert find(found, "rebuild").agrees is True
    parity = find(found, "parity (top-1")
    assert parity.agrees is True
    assert parity.stored == parity.measured
    assert find(found, "train data").agrees is True
    assert [row["name"] for row in found.layers] == ["stem", "body", "down", "fc"]
    assert min(row["sqnr_db"] for row in found.layers) > 40


def test_without_it_the_line_says_what_was_not_compared_and_the_way_out(replay) -> None:
    found = replay(task_of(), with_layers=True)
    assert found.ok
    check = find(found, "parity (top-1")
    assert (check.agrees, check.measured) == (None, "-")
    assert "neither parity nor layers were compared" in check.verdict
    assert "--checkpoints FOLDER" in check.verdict
    assert "results/STUDY/checkpoints" in check.verdict
    assert not any(row.get("sqnr_db") for row in found.layers)


def test_a_file_of_other_weights_than_the_checkpoints_is_found_out(replay, kept, tmp_path) -> None:
    (path,) = kept.glob("*.pt")
    state = torch.load(path, weights_only=True)
    state["values"]["fc.weight"] *= 2
    torch.save(state, tmp_path / path.name)
    found = replay(task_of(), tmp_path)
    assert find(found, "rebuild").agrees is False
    assert "another run of this training" in find(found, "rebuild").verdict
    assert find(found, "parity").agrees is False


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (None, "holds no checkpoint of this recipe"),
        (lambda content: content[: len(content) // 2], "is damaged"),
        (lambda content: b"junk", "is damaged"),
        (lambda content: content[:5000] + bytes(64) + content[5064:], "is damaged"),
    ],
)
def test_a_checkpoint_that_is_missing_or_damaged_is_named(
    evaluator, kept, tmp_path, damage, words
) -> None:
    (path,) = kept.glob("*.pt")
    if damage is not None:
        (tmp_path / path.name).write_bytes(damage(path.read_bytes()))
    builder = changed(evaluator.builder, checkpoints=tmp_path)
    with pytest.raises(CheckpointError, match=words) as caught:
        builder.restore(RECIPE)
    assert path.name in str(caught.value)


def test_a_training_that_did_not_end_is_no_end(evaluator, kept, tmp_path) -> None:
    (path,) = kept.glob("*.pt")
    state = torch.load(path, weights_only=True)
    torch.save({**state, "step": 1, "optimizer": {}}, tmp_path / path.name)
    with pytest.raises(CheckpointError, match=r"did not come to its end \(step 1\)"):
        changed(evaluator.builder, checkpoints=tmp_path).restore(RECIPE)


def test_an_end_with_half_the_batch_is_found(monkeypatch, evaluator, tmp_path) -> None:
    builder = changed(evaluator.builder, checkpoints=tmp_path)
    take = TrainingRun._take_step

    def take_if_it_fits(run: TrainingRun) -> None:
        if run.lesson.batch_size == 32:
            raise torch.OutOfMemoryError("CUDA out of memory")
        take(run)

    monkeypatch.setattr(TrainingRun, "_take_step", take_if_it_fits)
    built = builder.build(RECIPE)
    assert built.training.batch_size == 16
    assert builder.restore(RECIPE).artifact.sha256 == built.artifact.sha256


OTHERS = {
    "seed": {"seed": 1},
    "training data": {"task": task_of(Data(64, seed=4))},
    "augmentation": {"task": task_of(augment=shift_and_flip(1, (0.0,) * 3, flips=False))},
}


@pytest.mark.parametrize("what", list(OTHERS))
def test_a_checkpoint_of_another_training_is_refused_and_says_what_is_another(
    evaluator, kept, tmp_path, what
) -> None:
    (path,) = kept.glob("*.pt")
    (tmp_path / path.name).write_bytes(path.read_bytes())
    builder = changed(evaluator.builder, checkpoints=tmp_path, **OTHERS[what])
    with pytest.raises(CheckpointError, match=rf"is of another training \({what}\)$"):
        builder.restore(RECIPE)
    notes: list[str] = []
    watch = TrainingWatch()
    watch.on_note = notes.append
    builder.build(RECIPE, watch)
    assert notes == [
        f"the checkpoint '{path.name}' is of another training ({what}): training starts anew"
    ]


def test_other_training_data_and_another_augmentation_are_listed(replay) -> None:
    other = replay(OTHERS["training data"]["task"])
    assert find(other, "train data").agrees is False
    augmented = replay(OTHERS["augmentation"]["task"])
    check = find(augmented, "augmentation")
    assert (check.stored, check.measured) == ("None", "shift_and_flip.<locals>.change")
    assert check.agrees is None
    assert augmented.ok


def test_training_data_are_read_once_and_for_trained_files_alone(monkeypatch, evaluator) -> None:
    read: list[str] = []
    digest = training.digest_dataset
    monkeypatch.setattr(
        training, "digest_dataset", lambda *given: read.append(given[1]) or digest(*given)
    )
    builder = changed(evaluator.builder, checkpoints=None)
    plain = builder.build(RECIPE.trained(None)).artifact.passport
    assert not read
    assert "train" not in plain["data_sha256"]
    assert "augment" not in plain["conditions"]
    assert set(plain["data_sha256"]) == {"calibration", "search", "report"}
    for _ in range(2):
        trained = builder.build(RECIPE).artifact.passport
    assert read == ["training"]
    assert set(trained["data_sha256"]) == {*plain["data_sha256"], "train"}
    assert trained["conditions"]["augment"] is None


def test_training_data_are_looked_at_before_anything_is_trained(monkeypatch, evaluator) -> None:
    monkeypatch.setattr(TrainingRun, "_take_step", None)
    data = Data(40)
    data.x[7, 0, 0, 0] = float("nan")
    with pytest.raises(TaskError, match="sample 7 of the training data holds NaN"):
        changed(evaluator.builder, task=task_of(data), checkpoints=None).build(RECIPE)


def test_a_study_with_trained_files_knows_its_training_data(evaluator, kept, tmp_path) -> None:
    location = Location(tmp_path, "s")
    location.artifacts.mkdir(parents=True)
    (location.artifacts / "x.onnx").write_bytes((kept / "model.onnx").read_bytes())
    check_same_model(location, evaluator)
    other = copy.copy(evaluator)
    other.builder = changed(evaluator.builder, **OTHERS["training data"])
    with pytest.raises(StudyError, match="was made with other data"):
        check_same_model(location, other)


TASKS = """
from autoquant import register_task
from tests.test_restore import task_of
register_task("test")(task_of)
"""


def test_the_command_takes_the_folder_and_refuses_one_without_it(kept, tmp_path) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    command = ["verify", str(kept / "model.onnx"), "--tasks-from", str(tmp_path / "tasks.py"),
               "--format", "json", "--checkpoints"]  # fmt: skip
    runner = CliRunner()
    found = runner.invoke(app, [*command, str(kept)], catch_exceptions=False)
    assert found.exit_code == 0
    checks = {check["name"]: check["agrees"] for check in json.loads(found.stdout)["checks"]}
    assert checks["rebuild from recipe"] is checks["parity (top-1 agreement)"] is True
    refused = runner.invoke(app, [*command, str(tmp_path)])
    assert isinstance(refused.exception, CheckpointError)
    assert str(tmp_path) in str(refused.exception)


def test_without_training_restoring_is_building(evaluator: Evaluator) -> None:
    builder = changed(evaluator.builder, checkpoints=None)
    plain = RECIPE.trained(None)
    assert builder.restore(plain).artifact.sha256 == builder.build(plain).artifact.sha256
    with pytest.raises(CheckpointError, match="from a folder of checkpoints alone"):
        builder.restore(RECIPE)
