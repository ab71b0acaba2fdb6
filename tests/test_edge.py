"""Timing where only ONNX Runtime and numpy are installed: a real interpreter with just those."""

import json
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import onnx
import pytest

from autoquant import bench, edge
from autoquant.build import build_evaluator
from autoquant.core.recipe import Recipe
from autoquant.errors import ArtifactError
from autoquant.evaluate import EvaluationOptions
from tests.networks import Residual, make_task

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def edge_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment without pip that holds onnxruntime, numpy and this package."""
    folder = tmp_path_factory.mktemp("edge")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = next((folder / "lib").glob("python*")) / "site-packages"
    (packages / "autoquant").symlink_to(ROOT / "autoquant")
    for name in ("onnxruntime", "numpy"):
        files = distribution(name).files or []
        for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "bin")}:
            (packages / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A float and a quantized file with figures in their passports."""
    folder = tmp_path_factory.mktemp("files")
    evaluator = build_evaluator(make_task(Residual), options=EvaluationOptions())
    names = [layer.name for layer in evaluator.layers]
    found = {}
    for name, recipe in (("float", Recipe(method="fp32")), ("w8a8", Recipe.uniform(names, 8))):
        found[name] = folder / f"{name}.onnx"
        found[name].write_bytes(evaluator.evaluate(recipe)[1].content)
    return found


def run(python: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", "autoquant", *map(str, arguments)], capture_output=True, text=True
    )


@pytest.mark.parametrize("package", ["torch", "typer", "pydantic", "onnx", "rich", "brevitas"])
def test_the_environment_lacks_everything_else(edge_python: Path, package: str) -> None:
    result = subprocess.run([edge_python, "-c", f"import {package}"], capture_output=True)
    assert result.returncode != 0


@pytest.mark.long
def test_bench_runs_there(edge_python: Path, files: dict[str, Path]) -> None:
    result = run(edge_python, "bench", files["w8a8"], "--vs", files["float"], "--format", "json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    low, high = document["ratio_ci"]
    assert low <= document["ratio"] <= high
    assert document["samples"] > 0
    kernels = {row["kernel"] for row in document["operators"]}
    assert {"QLinearConv", "Conv"} <= kernels | {"FusedConv", "Conv"}
    table = run(edge_python, "bench", files["w8a8"])
    assert "latency_ms" in table.stdout


@pytest.mark.long
def test_verify_latency_runs_there(edge_python: Path, files: dict[str, Path]) -> None:
    command = ("verify", files["w8a8"], "--latency", "--vs", files["float"], "--format", "json")
    result = run(edge_python, *command)
    assert result.returncode in (0, 1), result.stderr
    document = json.loads(result.stdout)
    checks = {check["name"]: check for check in document["checks"]}
    assert checks["machine"]["agrees"] is True
    assert checks["latency (ms)"]["agrees"] is None
    assert "latency ratio" in checks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "missing.onnx"], "cannot read 'missing.onnx'"),
        (["bench", __file__], "ONNX Runtime cannot load"),
        (["bench", "{w8a8}", "--backend", "openvino"], "pip install 'autoquant[openvino]'"),
        (["bench", "{w8a8}", "--backend", "magic"], "invalid choice: 'magic'"),
        (["verify", "{w8a8}", "--latency", "--vs", "{w8a8}"], "is not a float file"),
        (["search", "digits"], "invalid choice: 'search'"),
    ],
)
def test_bad_input_is_one_line_there(edge_python, files, arguments, message) -> None:
    result = run(edge_python, *(text.format(**files) for text in arguments))
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_file_against_itself_has_a_ratio(files: dict[str, Path], capsys) -> None:
    path = str(files["w8a8"])
    assert edge.main(["bench", path, "--vs", path, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    low, high = document["ratio_ci"]
    assert low <= document["ratio"] <= high
    assert document["files"] == {"model": path, "vs": path}
    assert set(document["peak_memory_bytes"]) == {"model", "vs"}


@pytest.mark.parametrize("option", ["--threads", "--batch"])
@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_threads_and_batch_are_positive_numbers(option: str, value: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        edge.main(["bench", "any.onnx", option, value])
    assert caught.value.code == 2
    assert option in capsys.readouterr().err


def test_more_threads_than_cores_are_warned_of(files, capsys, monkeypatch) -> None:
    done = {"backends": {"model": "onnxruntime"}}
    monkeypatch.setattr(edge, "bench_files", lambda *given: {**done, "threads": given[2]})
    assert edge.main(["bench", str(files["w8a8"]), "--threads", "64", "--format", "json"]) == 0
    captured = capsys.readouterr()
    assert "warning: 64 threads are to be timed" in captured.err
    assert json.loads(captured.out) == {**done, "threads": 64}


def test_threads_of_a_passport_are_warned_of(files, tmp_path, capsys, monkeypatch) -> None:
    def enough(*given):
        raise ArtifactError("far enough")

    monkeypatch.setattr(bench, "_compare", enough)
    many = rewrite(files["w8a8"], tmp_path, {"conditions": {"threads": 64, "batch": 1}})
    assert edge.main(["verify", many, "--latency"]) == 2
    assert "warning: 64 threads are to be timed" in capsys.readouterr().err


def test_an_error_of_the_system_is_one_line(files, capsys, monkeypatch) -> None:
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(edge, "bench_files", full)
    assert edge.main(["bench", str(files["w8a8"])]) == 2
    assert capsys.readouterr().err.endswith("No space left on device\n")


def rewrite(path: Path, folder: Path, changes: dict) -> str:
    """A copy whose passport says something else; a dotted name reaches inside."""
    model = onnx.load(path)
    entry = next(item for item in model.metadata_props if item.key == "autoquant.passport")
    passport = json.loads(entry.value)
    for name, value in changes.items():
        *outer, last = name.split(".")
        target = passport
        for part in outer:
            target = target[part]
        target[last] = value
    entry.value = json.dumps(passport)
    onnx.save(model, folder / "changed.onnx")
    return str(folder / "changed.onnx")


@pytest.mark.parametrize(
    "changes",
    [
        {"conditions": {}},
        {"conditions": []},
        {"conditions.threads": "two"},
        {"conditions.threads": 0},
        {"machine": "a fast one"},
        {"versions": ["1"]},
        {"measurement": [1]},
        {"measurement.latency_ratio": -0.5},
        {"measurement.latency_ratio": "half"},
        {"measurement.latency_ratio_ci": [0.5]},
        {"measurement.latency_ratio_ci": [-1, 1]},
        {"measurement.latency_ms": None},
        {"measurement.timing": {}},
    ],
)
def test_a_damaged_passport_is_one_line(files, tmp_path, capsys, changes) -> None:
    path = rewrite(files["w8a8"], tmp_path, changes)
    assert edge.main(["verify", path, "--latency", "--vs", str(files["float"])]) == 2
    assert "the passport in this file is damaged" in capsys.readouterr().err


@pytest.mark.long
def test_a_ratio_that_disagrees_is_timed_once_more(files, tmp_path, monkeypatch) -> None:
    compared = []
    compare = bench._compare
    monkeypatch.setattr(bench, "_compare", lambda *a: compared.append(a) or compare(*a))
    changes = {"measurement.latency_ratio": 9.0, "measurement.latency_ratio_ci": [8.9, 9.1]}
    path = Path(rewrite(files["w8a8"], tmp_path, changes))
    reference = str(files["float"]), files["float"].read_bytes()
    monkeypatch.setattr("autoquant.core.check._DRIFT", 99.0)
    found = bench.verify_latency("file", path.read_bytes(), reference)
    assert not found.ok
    assert len(compared) == 2
