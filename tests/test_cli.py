"""The command line as a process: output, exit status, bad input."""

import csv
import io
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from autoquant.config import find_space, load_space
from autoquant.export.formats import read_artifact
from autoquant.search.header import StudyHeader
from autoquant.search.storage import Location, create_record
from autoquant.search.study import Budget
from tests.command import autoquant
from tests.fakes import fake_study

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[1]
TRIAL_KEYS = {
    "number", "state", "digest", "recipe", "accuracy", "accuracy_drop", "accuracy_ci",
    "report_accuracy", "report_accuracy_drop", "latency_ms", "latency_ratio",
    "latency_ratio_ci", "size_bytes", "integer_coverage", "float_layers", "parity", "seconds",
    "seed",
}  # fmt: skip


def refused(result, *words: str, status: int = 2) -> None:
    """One line on standard error that holds these words; nothing on standard output."""
    assert result.returncode == status, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert all(word in lines[0] for word in words), lines[0]
    assert "Traceback" not in result.stderr


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """A folder in which a short search on the digits has run."""
    folder = tmp_path_factory.mktemp("digits")
    result = autoquant("search", "digits", "--trials", "9", "--format", "json", cwd=folder)
    assert result.returncode == 0, result.stderr
    (folder / "search.json").write_text(result.stdout)
    (folder / "search.err").write_text(result.stderr)
    exported = autoquant("export", "digits", "--knee", "-o", "model.onnx", cwd=folder)
    assert exported.returncode == 0, exported.stderr
    return folder


def test_search_prints_one_json_document_alone(digits: Path) -> None:
    document = json.loads((digits / "search.json").read_text())
    assert set(document) == {
        "study",
        "task",
        "objectives",
        "reference",
        "recommendations",
        "nearest_miss",
        "notes",
        "report_gap",
        "saturation",
        "drift",
        "seconds_by_mode",
        "trials",
    }
    assert document["nearest_miss"] is None
    assert "float reference" in document["drift"]  # fmt: skip
    kinds = [choice["kind"] for choice in document["recommendations"]]
    assert kinds[0] == "knee"
    assert all(choice["reason"].endswith(".") for choice in document["recommendations"])
    assert document["reference"]["name"] == "fp32"
    assert sum(trial.get("knee", False) for trial in document["trials"]) == 1
    for trial in document["trials"]:
        assert set(trial) >= TRIAL_KEYS
        assert trial["report_accuracy"] is not None
        assert 0 <= trial["front_probability"] <= 1
        assert trial["timing"]["session"] == document["trials"][0]["timing"]["session"]
        assert trial["peak_memory_bytes"] > 0
    assert "[9/9]" in (digits / "search.err").read_text()
    assert "Warning" not in (digits / "search.err").read_text()


def test_trials_in_every_format(digits: Path) -> None:
    loaded = json.loads(autoquant("trials", "digits", "--format", "json", cwd=digits).stdout)
    assert len(loaded["trials"]) == 9
    rows = list(csv.DictReader(io.StringIO(
        autoquant("trials", "digits", "--format", "csv", cwd=digits).stdout
    )))  # fmt: skip
    assert [row["digest"] for row in rows] == [trial["digest"] for trial in loaded["trials"]]
    table = autoquant("trials", "digits", cwd=digits).stdout
    assert "ort-dynamic" in table
    assert len(table.splitlines()) == 10


def test_front_filters_and_says_no_when_nothing_is_left(digits: Path) -> None:
    found = autoquant("front", "digits", "--objectives", "size", "--format", "json", cwd=digits)
    sizes = {trial["size_bytes"] for trial in json.loads(found.stdout)["trials"]}
    assert len(sizes) == 1, "more than one trial only where they are equal"
    none = autoquant("front", "digits", "--max-size-mb", "0.000001", cwd=digits)
    assert none.returncode == 1
    assert "nearest" in none.stderr
    refused(autoquant("front", "digits", "--objectives", "speed", cwd=digits), "accuracy, latency")


def test_exported_file_predicts_as_its_record_says(digits: Path) -> None:
    """The file alone, in plain ONNX Runtime, on data read by other code than ours."""
    from sklearn.datasets import load_digits

    document = json.loads((digits / "search.json").read_text())
    knee = next(trial for trial in document["trials"] if trial.get("knee"))
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(1797)[1000:1400]
    session = ort.InferenceSession(digits / "model.onnx", providers=["CPUExecutionProvider"])
    inputs = (bunch.images[order][:, None] / 16).astype(np.float32)
    outputs = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    assert (outputs.argmax(1) == bunch.target[order]).mean() == pytest.approx(knee["accuracy"])
    assert (digits / "model.onnx").stat().st_size == knee["size_bytes"]


def test_verify_replays_the_passport(digits: Path) -> None:
    result = autoquant("verify", "model.onnx", "--format", "json", cwd=digits)
    loaded = json.loads(result.stdout)
    wrong = [check for check in loaded["checks"] if check["agrees"] is False]
    # a busy machine may move the ratio; nothing else may differ
    assert {check["name"] for check in wrong} <= {"latency ratio"}
    assert loaded["ok"] == (not wrong)
    assert result.returncode == (1 if wrong else 0)
    assert {"graph", "weights", "accuracy", "report accuracy", "size (bytes)",
            "integer coverage"} <= {check["name"] for check in loaded["checks"]}  # fmt: skip
    assert len(loaded["layers"]) == 7


def test_verify_latency_needs_no_task(digits: Path) -> None:
    autoquant("quantize", "digits", "--recipe", "fp32", "-o", "float.onnx", cwd=digits)
    command = ("verify", "model.onnx", "--latency", "--vs", "float.onnx", "--format", "json")
    result = autoquant(*command, cwd=digits)
    names = [check["name"] for check in json.loads(result.stdout)["checks"]]
    assert names == ["machine", "latency (ms)", "latency ratio"]
    refused(autoquant("verify", "model.onnx", "--vs", "float.onnx", cwd=digits), "--latency")
    swapped = autoquant("verify", "float.onnx", "--latency", "--vs", "model.onnx", cwd=digits)
    refused(swapped, "model.onnx is not a float file", "--recipe fp32")


def test_more_threads_than_cores_are_warned_of_with_both_numbers(digits: Path) -> None:
    result = autoquant("bench", "model.onnx", "--threads", "64", "--format", "json", cwd=digits)
    assert result.returncode == 0
    assert "warning: 64 threads are to be timed, but this process may use" in result.stderr
    assert json.loads(result.stdout)["operators"]


def test_verify_of_a_changed_file_says_what_differs(digits: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(digits / "model.onnx")
    target = next(item for item in model.graph.initializer if "weight_quantized" in item.name)
    target.raw_data = bytes(len(target.raw_data))
    onnx.save(model, tmp_path / "changed.onnx")
    result = autoquant("verify", tmp_path / "changed.onnx", cwd=digits)
    assert result.returncode == 1
    assert "graph" in result.stderr.splitlines()[-1]


def test_export_by_number_and_by_constraint(digits: Path, tmp_path: Path) -> None:
    for choice in (["--trial", "4"], ["--smallest", "--max-drop", "0.05"], ["--fastest"]):
        path = tmp_path / "out.onnx"
        result = autoquant("export", "digits", *choice, "-o", path, cwd=digits)
        assert result.returncode == 0, result.stderr
        assert path.stat().st_size > 10_000
        path.unlink()
    trials = json.loads(autoquant("trials", "digits", "--format", "json", cwd=digits).stdout)
    off = next(trial["number"] for trial in trials["trials"] if trial["name"] == "ort-dynamic")
    rebuilt = autoquant("export", "digits", "--trial", str(off), "-o", path, cwd=digits)
    assert rebuilt.returncode == 0, rebuilt.stderr
    none = autoquant("export", "digits", "--fastest", "--max-drop", "-1", "-o", path, cwd=digits)
    refused(none, "no trial on the front is within the constraint", status=1)


def test_resume_grows_a_study(digits: Path) -> None:
    result = autoquant("resume", "digits", "--trials", "11", cwd=digits)
    assert result.returncode == 0, result.stderr
    listed = json.loads(autoquant("studies", "--format", "json", cwd=digits).stdout)["studies"]
    assert [(row["study"], row["trials"], row["state"]) for row in listed] == [
        ("digits", 11, "done")
    ]


def test_quantize_measures_both_splits(tmp_path: Path) -> None:
    result = autoquant("quantize", "digits", "--recipe", "w8a8", "-o", "m.onnx",
                       "--format", "json", cwd=tmp_path)  # fmt: skip
    trial = json.loads(result.stdout)
    assert set(trial) >= TRIAL_KEYS
    assert trial["report_accuracy"] >= 0.98
    assert trial["integer_coverage"] == 1.0
    assert (tmp_path / "m.onnx").stat().st_size == trial["size_bytes"]
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(trial["recipe"]))
    again = autoquant("quantize", "digits", "--recipe", recipe, "-o", "n.onnx",
                      "--format", "json", cwd=tmp_path)  # fmt: skip
    repeated = json.loads(again.stdout)
    assert (repeated["digest"], repeated["accuracy"]) == (trial["digest"], trial["accuracy"])


def test_bench_of_a_file_against_itself(digits: Path) -> None:
    loaded = json.loads(
        autoquant(
            "bench", "model.onnx", "--vs", "model.onnx", "--format", "json", cwd=digits
        ).stdout
    )
    assert set(loaded) >= {"latency_ms", "latency_ms_ci", "vs_latency_ms", "vs_latency_ms_ci",
                           "ratio", "ratio_ci", "samples", "stable"}  # fmt: skip
    table = autoquant("bench", "model.onnx", "--vs", "model.onnx", "--format", "csv", cwd=digits)
    first, second = csv.DictReader(table.stdout.splitlines())
    assert float(first["ratio_low"]) <= float(first["ratio"]) <= float(first["ratio_high"])
    assert second["ratio"] == ""
    alone = json.loads(autoquant("bench", "model.onnx", "--format", "json", cwd=digits).stdout)
    assert alone["ratio"] is None
    assert alone["latency_ms"] > 0


def test_every_command_has_help_with_an_example(tmp_path: Path) -> None:
    from autoquant.cli import app

    names = [command.callback.__name__ for command in app.registered_commands]
    assert len(names) == 14
    for name in names:
        text = autoquant(name, "--help", cwd=tmp_path).stdout
        assert "Example" in text
        assert f"autoquant {name}" in text


SPACE = "version: 1\ntask: digits\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SPACE + "colour: red\n", ["unknown key 'colour'"]),
        (SPACE + "budget: {trials: many}\n", ["budget.trials"]),
        ("version: 1\ntask: nonsense\n", ["unknown task 'nonsense'", "digits"]),
        (SPACE + 'layers: {"fc9": {weight_bits: [8]}}\n', ["'fc9' matches no layer", "stem.0"]),
        (SPACE + "quantizer: {calibration: []}\n", ["'calibration' has no allowed value"]),
        ("version: [1\n", ["not YAML"]),
        ("- 1\n", ["mapping"]),
    ],
)
def test_bad_spaces_are_refused_and_nothing_is_written(tmp_path, text, words) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    refused(autoquant("search", "bad.yaml", cwd=tmp_path), *words)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search", "nonsense"], ["no search space 'nonsense'", "digits"]),
        (["search", "digits", "--trials", "0"], ["--trials"]),
        (["search", "digits", "--trials", "x"], ["--trials"]),
        (["search", "digits", "--timeout", "soon"], ["write 90s"]),
        (["search", "digits", "--sampler", "magic"], ["tpe"]),
        (["search", "digits", "--backend", "magic"], ["onnxruntime", "openvino"]),
        (["search", "digits", "--study", "../x"], ["no study name"]),
        (["search", "digits", "--tasks-from", "no.py"], ["no file 'no.py'"]),
        (["resume", "nothing"], ["no study 'nothing'", "none yet"]),
        (["front", "nothing"], ["no study 'nothing'"]),
        (["export", "nothing", "--knee", "-o", "m.onnx"], ["no study 'nothing'"]),
        (["export", "nothing", "-o", "m.onnx"], ["name one of --trial"]),
        (["quantize", "digits", "--recipe", "w9", "-o", "m.onnx"], ["'w9'", "w8a8"]),
        (["quantize", "nothing", "-o", "m.onnx"], ["unknown task 'nothing'"]),
        (["quantize", "digits", "-o", "no/such/m.onnx"], ["no folder"]),
        (["quantize", "digits", "-o", "."], ["is a folder"]),
        (["verify", "no.onnx"], ["cannot read 'no.onnx'"]),
        (["bench", "no.onnx"], ["cannot read 'no.onnx'"]),
        (["nonsense"], ["nonsense"]),
        (["trials"], ["study"]),
        (["bench", "a.onnx", "--threads", "0"], ["--threads"]),
        (["app", "--port", "0"], ["--port"]),
        (["app", "--tasks-from", "no.py"], ["no file 'no.py'"]),
        (["app", "--host", "nowhere.invalid"], ["cannot listen on nowhere.invalid"]),
        (["app", "--storage", "postgresql://a:sesame@b:c/d"], ["a:***@b", "no database's URL"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value[0], str) else "",
)
def test_bad_usage_is_one_line_and_status_2(tmp_path, arguments, words) -> None:
    refused(autoquant(*arguments, cwd=tmp_path), *words)
    assert not any(tmp_path.iterdir())


def test_truncated_and_foreign_files(digits: Path, tmp_path: Path) -> None:
    import onnx

    content = (digits / "model.onnx").read_bytes()
    (tmp_path / "short.onnx").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.onnx").write_text("this is no model")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("short.onnx", "text.onnx", "empty.onnx"):
        refused(autoquant("verify", name, cwd=tmp_path), name, "not a whole ONNX file")
        refused(autoquant("bench", name, cwd=tmp_path), name)
    model = onnx.load_from_string(content)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    refused(autoquant("verify", "foreign.onnx", cwd=tmp_path), "no passport", "bench")
    assert autoquant("bench", "foreign.onnx", cwd=tmp_path).returncode == 0


def test_missing_data_names_the_variable(tmp_path: Path) -> None:
    command = ["quantize", "cifar10-resnet20", "-o", "m.onnx"]
    unset = autoquant(*command, cwd=tmp_path, AUTOQUANT_DATA="")
    refused(unset, "set AUTOQUANT_DATA", "cifar10_resnet20.pt")
    empty = autoquant(*command, cwd=tmp_path, AUTOQUANT_DATA=str(tmp_path))
    refused(empty, str(tmp_path), "cifar10_resnet20.pt")


def test_weights_that_are_no_state_dict_are_never_unpickled(tmp_path: Path) -> None:
    import pickle

    class Bomb:
        def __reduce__(self):
            return (Path(tmp_path / "exploded").touch, ())

    path = tmp_path / "cifar10_resnet20.pt"
    for content in (pickle.dumps(Bomb()), b"junk", b""):
        path.write_bytes(content)
        result = autoquant("quantize", "cifar10-resnet20", "-o", "m.onnx", cwd=tmp_path,
                           AUTOQUANT_DATA=str(tmp_path))  # fmt: skip
        refused(result, "cifar10_resnet20.pt", "state_dict()")
    assert not (tmp_path / "exploded").exists()


def test_study_that_exists_with_another_space(tmp_path: Path) -> None:
    fake_study(tmp_path / "results").run(Budget(6), "random")
    result = autoquant("search", "digits", "--study", "fake", cwd=tmp_path)
    refused(result, "exists with another search space", "resume fake", "--study")


def openvino_study(folder: Path) -> None:
    """A study on the digits that was begun on OpenVINO."""
    location = Location(folder / "results", "digits")
    location.create_folder()
    definition = load_space(find_space("digits")).definition()
    create_record(location, StudyHeader(definition, 0, "tpe", trials=1, backend="openvino"))


def test_a_study_keeps_its_backend(tmp_path: Path) -> None:
    openvino_study(tmp_path)
    refused(autoquant("search", "digits", cwd=tmp_path), "backend openvino", "--study")
    found = autoquant("resume", "digits", "--format", "json", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    digest = next(item["digest"] for item in json.loads(found.stdout)["trials"])
    exported = autoquant("export", "digits", "--smallest", "-o", "m.onnx", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    content = (tmp_path / "results" / "digits" / "artifacts" / f"{digest}.onnx").read_bytes()
    for file in (content, (tmp_path / "m.onnx").read_bytes()):
        assert read_artifact(file).passport["conditions"]["backend"] == "openvino"


def test_files_of_openvino_are_verified_and_timed_there(tmp_path: Path) -> None:
    for recipe in ("w8a8", "fp32"):
        made = autoquant("quantize", "digits", "--recipe", recipe, "--backend", "openvino",
                         "-o", f"{recipe}.onnx", "--format", "json", cwd=tmp_path)  # fmt: skip
        assert made.returncode == 0, made.stderr
        trial = json.loads(made.stdout)
        assert trial["integer_coverage"] == (1.0 if recipe == "w8a8" else 0.0)
        assert trial["peak_memory_bytes"] > 0
    for more in ([], ["--latency", "--vs", "fp32.onnx"]):
        result = autoquant("verify", "w8a8.onnx", *more, "--format", "json", cwd=tmp_path)
        wrong = [check for check in json.loads(result.stdout)["checks"] if check["agrees"] is False]
        assert {check["name"] for check in wrong} <= {"latency ratio"}
    timed = autoquant("bench", "w8a8.onnx", "--vs", "fp32.onnx", "--backend", "openvino",
                      "--format", "json", cwd=tmp_path)  # fmt: skip
    document = json.loads(timed.stdout)
    assert document["backend"] == "openvino"
    assert document["ratio"] < 1
    assert any("Convolution" in row["kernel"] for row in document["operators"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "digits", "--study", "new", "--backend", "openvino"],
        ["resume", "digits"],
        ["quantize", "digits", "--backend", "openvino", "-o", "m.onnx"],
        ["bench", "openvino.py", "--backend", "openvino"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_missing_openvino_says_what_to_install(tmp_path: Path, arguments: list[str]) -> None:
    openvino_study(tmp_path)
    # found before the installed one: a process begins its search in its own folder
    (tmp_path / "openvino.py").write_text("raise ImportError('not here')\n")
    refused(autoquant(*arguments, cwd=tmp_path), "'openvino'", "pip install 'autoquant[openvino]'")
    assert {path.name for path in tmp_path.iterdir()} <= {"results", "openvino.py", "__pycache__"}
    assert not (tmp_path / "results" / "new").exists()


def test_results_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("in the way")
    refused(autoquant("search", "digits", cwd=tmp_path), "cannot write to", "--results")


TASK_FILE = """
import torch
from autoquant import Task, register_task

class Data:
    def __len__(self): return 40
    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(i)
        return torch.randn(3, 6, 6, generator=generator), i % 4

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3)
        self.fc = torch.nn.Linear(128, 4)
    def forward(self, x):
        BODY
        return self.fc(self.conv(x).relu().flatten(1))

@register_task("mine")
def mine():
    torch.manual_seed(0)
    data = Data()
    return Task(model=Net(), example_input=torch.zeros(1, 3, 6, 6), calibration=data,
                search=data, report=REPORT, metric="agreement")
"""


def write_task(folder: Path, body: str = "pass", report: str = "None") -> None:
    text = TASK_FILE.replace("BODY", body).replace("REPORT", report)
    (folder / "mine.py").write_text(text)


def test_own_task_from_a_file(tmp_path: Path) -> None:
    write_task(tmp_path)
    (tmp_path / "mine.yaml").write_text("version: 1\ntask: mine\nbudget: {trials: 8}\n")
    found = autoquant("search", "mine.yaml", "--tasks-from", "mine.py", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "mine" in autoquant("tasks", "--tasks-from", "mine.py", cwd=tmp_path).stdout
    export = autoquant("export", "mine", "--knee", "-o", "m.onnx", cwd=tmp_path)
    assert export.returncode == 0, export.stderr
    refused(autoquant("verify", "m.onnx", cwd=tmp_path), "unknown task 'mine'", "--tasks-from")
    verified = autoquant("verify", "m.onnx", "--tasks-from", "mine.py", cwd=tmp_path)
    assert "NO" not in verified.stdout.replace("latency ratio", "").split("latency")[0]


def test_model_that_cannot_be_traced_names_the_line(tmp_path: Path) -> None:
    write_task(tmp_path, "if x.sum() > 0: x = -x")
    result = autoquant("quantize", "mine", "--tasks-from", "mine.py", "-o", "m.onnx", cwd=tmp_path)
    refused(result, "cannot be traced", "mine.py, line")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nonexistent_module\n", ["line 1", "ModuleNotFoundError"]),
        ("x = = 1\n", ["SyntaxError"]),
        ("from autoquant import register_task\n@register_task('digits')\ndef f(): ...\n",
         ["'digits' is built in"]),
    ],
)  # fmt: skip
def test_broken_task_files_name_the_line(tmp_path, text, words) -> None:
    (tmp_path / "broken.py").write_text(text)
    refused(autoquant("tasks", "--tasks-from", "broken.py", cwd=tmp_path), "broken.py"
            if "built in" not in words[0] else "digits", *words)  # fmt: skip


@pytest.mark.parametrize(
    ("body", "words", "status"),
    [
        ("raise KeyError('weights')", ["task 'mine' failed", "KeyError"], 2),
        ("return 3", ["returned no autoquant.Task"], 2),
        ("return Task(**common | {'calibration': []})", ["must not be empty"], 2),
        ("return Task(**common | {'model': torch.nn.ReLU()})", ["no layer that can"], 2),
        ("return Task(**common | {'metric': 'top3'})", ["top1, top5, agreement"], 1),
        ("return Task(**common | {'model': torch.nn.Conv2d(3, 4, 3)})", ["(n, classes)"], 1),
        ("return Task(**common | {'metric': lambda o, t: 1 / 0})", ["ZeroDivisionError"], 1),
    ],
)
def test_tasks_that_do_not_hold_together(tmp_path, body, words, status) -> None:
    write_task(tmp_path)
    text = (tmp_path / "mine.py").read_text()
    text = text.replace("    return Task(", "    common = dict(").replace('"agreement"', '"top1"')
    (tmp_path / "mine.py").write_text(f"{text}    {body}\n")
    result = autoquant("quantize", "mine", "--tasks-from", "mine.py", "-o", "m.onnx", cwd=tmp_path)
    refused(result, *words, status=status)
    assert not (tmp_path / "m.onnx").exists()


def test_interrupt_keeps_what_is_finished(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "autoquant", "search", "digits", "--trials", "5000"]
    # a parent that ignores the signal would hand that on
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
            next(line for line in process.stderr if line.startswith("[7/5000]"))
            process.send_signal(signal.SIGINT)
            rest = list(process.stderr)
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.returncode == 130
    assert "kept" in rest[-1]
    listed = json.loads(autoquant("studies", "--format", "json", cwd=tmp_path).stdout)["studies"]
    assert listed[0]["state"] == "stopped"
    assert listed[0]["trials"] >= 7


def test_two_searches_on_one_study_exclude_each_other(tmp_path: Path) -> None:
    from autoquant.search.storage import Location, hold_driver_lock

    fake_study(tmp_path / "results").run(Budget(6), "random")
    location = Location(tmp_path / "results", "fake")
    with hold_driver_lock(location):
        listed = autoquant("studies", "--format", "json", cwd=tmp_path)
        assert json.loads(listed.stdout)["studies"][0]["state"] == "running"


def test_every_command_is_documented_in_the_readme() -> None:
    from autoquant.cli import app

    readme = (ROOT / "README.md").read_text()
    for command in app.registered_commands:
        assert f"autoquant {command.callback.__name__}" in readme


def test_a_port_that_is_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(autoquant("app", "--port", port, cwd=tmp_path), port, "in use", "--port N")


def test_the_app_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from autoquant.cli import browser
    from autoquant.errors import InputError

    monkeypatch.setattr(browser, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'autoquant\[app\]'"):
        browser.app()


def test_the_app_finds_its_pages_and_asks_no_one() -> None:
    from autoquant.cli.browser import _command

    command = _command("127.0.0.1", 8501)
    assert Path(command[4]).is_file()
    assert "--browser.gatherUsageStats=false" in command
    assert "--server.address=127.0.0.1" in command
