"""What importing loads: checked in fresh processes, since linters do not see it."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "brevitas", "onnx", "onnxruntime", "openvino", "optuna", "ray", "streamlit")


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*[n for n in {HEAVY!r} if n in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import autoquant", set()),
        ("import autoquant.report", set()),
        ("import autoquant.config", set()),
        ("import autoquant.core.task", set()),
        ("import autoquant.tasks", set()),
        ("import autoquant.backends.latency", set()),
        ("import autoquant.bench", set()),
        ("import autoquant.search.study", {"optuna"}),
        ("import autoquant.cli", {"optuna"}),
    ],
)
def test_imports_stay_light(statement: str, allowed: set[str]) -> None:
    assert loaded_by(statement) <= allowed


def test_public_names_exist() -> None:
    import autoquant

    for name in autoquant.__all__:
        assert getattr(autoquant, name) is not None
