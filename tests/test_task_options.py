"""Options of tasks: from the command line and files, through studies and passports."""

import json
from pathlib import Path

import pytest

from autoquant.cli.options import collect_task_options, parse_task_options
from autoquant.config import load_space, parse_space
from autoquant.core.task import Task
from autoquant.errors import InputError, TaskError
from autoquant.tasks import TaskOptions, load_task, register_task
from tests.command import autoquant
from tests.picture_folders import STATISTICS, colour_net, save_program, write_folder
from tests.test_cli import refused

pytestmark = pytest.mark.long


@pytest.mark.parametrize(
    ("pairs", "options"),
    [
        (None, {}),
        (["data=my/images"], {"data": "my/images"}),
        (["model=timm:resnet18"], {"model": "timm:resnet18"}),
        (["image_size=224", "mean=[0.5, 0.5, 0.5]"], {"image_size": 224, "mean": [0.5] * 3}),
        (["images.search=5", "images.report=all"], {"images": {"search": 5, "report": "all"}}),
        (["data=a=b"], {"data": "a=b"}),
        (["data=no", "model=a: [b"], {"data": "no", "model": "a: [b"}),
    ],
)
def test_pairs_are_json_or_text(pairs, options) -> None:
    assert parse_task_options(pairs) == options


@pytest.mark.parametrize("pair", ["data", "=x", "data=", " = "])
def test_bad_pairs_say_what_to_write(pair: str) -> None:
    with pytest.raises(InputError, match="write KEY=VALUE"):
        parse_task_options([pair])


def test_definition_of_a_space_without_options_is_as_it_was() -> None:
    plain = parse_space({"version": 1, "task": "digits"}, "a").definition()
    assert "task_options" not in plain
    told = parse_space({"version": 1, "task": "t", "task_options": {"size": 3}}, "a")
    assert told.definition()["task_options"] == {"size": 3}


class SizeOptions(TaskOptions):
    size: int = 4


def test_own_task_may_take_options() -> None:
    import torch

    @register_task("sized", options=SizeOptions)
    def sized(options: SizeOptions) -> Task:
        data = [(torch.zeros(options.size), 0)]
        model = torch.nn.Linear(options.size, 2)
        return Task(model, torch.zeros(1, options.size), calibration=data, search=data)

    assert load_task("sized").options == {"size": 4}
    assert load_task("sized", {"size": 7}).example_input.shape == (1, 7)
    with pytest.raises(TaskError, match="task 'sized': unknown option 'side'; there are size"):
        load_task("sized", {"side": 7})


SPACE = """
version: 1
task: imagefolder
task_options:
  data: images
  model: net.pt2
  image_size: 16
  mean: [0.5, 0.5, 0.5]
  std: [0.25, 0.25, 0.25]
budget: {trials: 6}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a model and a space that names them."""
    root = tmp_path_factory.mktemp("project")
    write_folder(root / "images", 16)
    save_program(colour_net(), root / "net.pt2")
    (root / "mine.yaml").write_text(SPACE)
    return root


def test_study_holds_the_options_wherever_it_is_gone_on_with(project: Path) -> None:
    elsewhere = project / "elsewhere"
    elsewhere.mkdir()
    found = autoquant("search", "../mine.yaml", "--task-option", "images.search=10",
                      "--format", "json", cwd=elsewhere)  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["reference"]["accuracy"] == 1.0
    results = ["--results", "elsewhere/results"]
    assert autoquant("resume", "mine", "--trials", "7", *results, cwd=project).returncode == 0
    for path in (elsewhere / "results" / "mine" / "artifacts").iterdir():
        path.unlink()
    exported = autoquant("export", "mine", "--trial", "1", "-o", "m.onnx", *results, cwd=project)
    assert exported.returncode == 0, exported.stderr
    other = autoquant("search", "../mine.yaml", cwd=elsewhere)
    refused(other, "exists with another search space")


def test_passport_holds_the_options_and_data_may_move(project: Path, tmp_path: Path) -> None:
    pairs = {"data": project / "images", "model": project / "net.pt2", **STATISTICS}
    told = [text for key, value in pairs.items() for text in ("--task-option", f"{key}={value}")]
    made = autoquant("quantize", "imagefolder", *told, "-o", "m.onnx", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    result = autoquant("verify", tmp_path / "m.onnx", "--format", "json", cwd=project)
    checks = {check["name"]: check["agrees"] for check in json.loads(result.stdout)["checks"]}
    assert all(checks[name] for name in ("graph", "weights", "search data", "accuracy"))
    (project / "images").rename(project / "moved")
    try:
        refused(autoquant("verify", tmp_path / "m.onnx", cwd=project), "no folder", "images")
        moved = ("verify", tmp_path / "m.onnx", "--task-option", "data=moved", "--format", "json")
        result = autoquant(*moved, cwd=project)
        found = {check["name"]: check["agrees"] for check in json.loads(result.stdout)["checks"]}
        assert found["search data"]
    finally:
        (project / "moved").rename(project / "images")


@pytest.mark.parametrize(
    ("task", "pairs", "message"),
    [
        ("imagefolder", ["data=x"], "option 'model' is missing: .*--task-option model=VALUE"),
        ("imagefolder", ["data=x", "model=timm:x", "mean=[NaN, 0, 0]"], "finite"),
        ("imagefolder", ["data=3", "model=timm:x"], "option 'data'.*string; not 3"),
        ("digits", ["data=x"], "'digits' takes no options"),
        ("nonsense", ["data=x"], "unknown task 'nonsense'"),
    ],
)
def test_wrong_options_are_one_line(task: str, pairs: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        collect_task_options(task, pairs)
    assert "\n" not in str(caught.value)


def test_unknown_option_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(SPACE.replace("image_size", "imagesize"))
    written = load_space(tmp_path / "bad.yaml").task_options
    with pytest.raises(InputError, match="unknown option 'imagesize'"):
        collect_task_options("imagefolder", None, written, tmp_path)
    with pytest.raises(InputError, match=r"task_options.*not 3"):
        parse_space({"version": 1, "task": "imagefolder", "task_options": 3}, "bad.yaml")


def test_bad_options_end_with_status_2(tmp_path: Path) -> None:
    refused(autoquant("search", "imagefolder", cwd=tmp_path), "option 'data' is missing")
    pairs = ("--task-option", "data=no", "--task-option", "model=net.pt2")
    refused(autoquant("search", "imagefolder", *pairs, cwd=tmp_path), "there is no folder", "no'")
    assert not any(tmp_path.iterdir())
