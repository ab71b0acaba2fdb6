"""What importing loads: checked in fresh processes, since linters do not see it."""

import subprocess
import sys

import pytest

HEAVY = (
    "torch", "brevitas", "onnx", "onnxruntime", "openvino", "optuna", "ray", "streamlit", "pandas"
)  # fmt: skip


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
        ("import autoquant.cli.why", {"optuna"}),
        ("import autoquant.browse.reasons", {"optuna", "pandas"}),
        ("import autoquant.cli", {"optuna"}),
        ("import autoquant.browse.library, autoquant.browse.estimate", {"optuna", "pandas"}),
        ("import autoquant.notebook", {"optuna", "pandas"}),
        ("import autoquant; autoquant.search; autoquant.quantize", set()),
    ],
)
def test_imports_stay_light(statement: str, allowed: set[str]) -> None:
    assert loaded_by(statement) <= allowed


def test_public_names_exist() -> None:
    import autoquant

    for name in autoquant.__all__:
        assert getattr(autoquant, name) is not None
    assert set(autoquant._HOMES) | set(autoquant._VERBS) == set(autoquant.__all__)


@pytest.mark.parametrize(
    ("verb", "first", "module"),
    [("search", "task", "storage"), ("quantize", "task", "layers")],
)
@pytest.mark.parametrize("before", ["pass", "import autoquant.{0}.{1}"])
@pytest.mark.long
def test_packages_that_are_verbs_are_both_whatever_was_imported(
    verb: str, first: str, module: str, before: str
) -> None:
    """Python sets a subpackage on its parent when it is imported: that must not hide the verb."""
    statement = f"""
{before.format(verb, module)}
import inspect, autoquant
from autoquant import {verb}
assert list(inspect.signature({verb}).parameters)[0] == '{first}'
assert 'Args:' in {verb}.__doc__
import autoquant.{verb}.{module} as module
assert autoquant.{verb} is {verb} and {verb}.{module} is module
try:
    {verb}(3)
except autoquant.errors.TaskError as error:
    assert 'not int' in str(error)
"""
    loaded_by(statement)


def test_openvino_tells_nobody_that_it_is_imported() -> None:
    """By itself it forks a process that sends an event to Google Analytics."""
    pytest.importorskip("openvino_telemetry")
    code = (
        "import sys, autoquant.backends.openvino\n"
        "stub = 'openvino.tools.ovc.telemetry_stub'\n"
        "sent = [name for name in sys.modules if name.startswith('openvino_telemetry')]\n"
        "print(stub in sys.modules, sent)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split("\n")[0] == "True []"
