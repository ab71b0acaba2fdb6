"""Timing where only ONNX Runtime and numpy are installed: a real interpreter with just those."""

import json
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from autoquant.build import build_evaluator
from autoquant.core.recipe import Recipe
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


def test_verify_latency_runs_there(edge_python: Path, files: dict[str, Path]) -> None:
    command = ("verify", files["w8a8"], "--latency", "--vs", files["float"], "--format", "json")
    result = run(edge_python, *command)
    assert result.returncode in (0, 1), result.stderr
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
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
