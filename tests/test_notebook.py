"""The library as a notebook uses it: on the fake backend, and once on real digits."""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pandas as pd
import pytest
from typer.testing import CliRunner

import autoquant as aq
from autoquant import build
from autoquant.backends.fake import FakeData
from autoquant.cli import app
from autoquant.core.front import find_front
from autoquant.core.space import SearchSpace
from autoquant.errors import (
    InputError,
    NegativeAnswer,
    RecipeError,
    SpaceError,
    StudyError,
    TaskError,
)
from autoquant.evaluate import Evaluator
from autoquant.export.formats import read_artifact
from autoquant.notebook.space import read_space
from autoquant.search.storage import load_record
from tests.fakes import fake_evaluator, fake_space
from tests.networks import make_task

LAYERS = [f"conv{index}" for index in range(8)]
QUICK = {"objectives": ["accuracy", "size"]}


@pytest.fixture
def task(monkeypatch) -> aq.Task:
    """A task without a name whose network is the fake one."""
    monkeypatch.setattr(build, "build_evaluator", lambda *_: fake_evaluator())
    return aq.Task(model=None, example_input=None, calibration=FakeData(8), search=FakeData(8))


@pytest.fixture
def study(task: aq.Task, tmp_path: Path) -> aq.NotebookStudy:
    return aq.search(
        task, fake_space(), trials=20, sampler="random", results=tmp_path, progress=False
    )


def command(study: aq.NotebookStudy, *arguments: str) -> dict:
    """What the command line says of this study, as JSON."""
    name, results = study.name, str(study.location.results)
    words = [arguments[0], name, *arguments[1:], "--results", results, "--format", "json"]
    return json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)


def test_search_returns_a_study_that_tells_what_it_is(study, tmp_path: Path) -> None:
    members = len(study.front())
    assert repr(study) == f"<study 'notebook' of task notebook: 20 trials, {members} on the front>"
    assert (tmp_path / "notebook" / "journal.log").is_file()


def test_trials_have_the_columns_of_the_json(study) -> None:
    listed = command(study, "trials")["trials"]
    assert len(study.trials) == len(listed) == 20
    assert set(study.trials.columns) == {name for trial in listed for name in trial}
    for name in ("number", "state", "digest", "accuracy", "latency_ratio"):
        values = [None if pd.isna(value) else value for value in study.trials[name]]
        assert values == [trial[name] for trial in listed]


def test_columns_keep_their_kind_whatever_was_measured(study) -> None:
    frame = study.trials
    for name in ("accuracy", "accuracy_drop", "report_accuracy", "latency_ratio"):
        assert frame[name].dtype == "float64"
    assert frame["number"].dtype == "int64"
    assert frame["size_bytes"].dtype == "Int64"
    first = frame.iloc[0]
    assert first["recipe"]["method"] == "fp32"
    assert isinstance(first["accuracy_ci"], tuple)
    assert isinstance(first["timing"], dict)
    empty = study.front(max_size_mb=1e-9)
    assert empty.empty
    for frame in (empty, study.front()):
        kinds = [str(frame[name].dtype) for name in ("number", "accuracy", "size_bytes", "knee")]
        assert kinds == ["int64", "float64", "Int64", "bool"]


def test_front_is_that_of_the_command_line(study) -> None:
    for words, bounds in (
        ([], {}),
        (["--max-drop", "0.01"], {"max_drop": 0.01}),
        (["--objectives", "accuracy,size"], {"objectives": "accuracy, size"}),
        (["--max-size-mb", "0.03"], {"objectives": None, "max_size_mb": 0.03}),
    ):
        told = command(study, "front", *words)["trials"]
        frame = study.front(**bounds)
        assert list(frame["number"]) == [trial["number"] for trial in told]
        assert list(frame["knee"]) == [trial.get("knee", False) for trial in told]
        assert set(frame.columns) == {name for trial in told for name in trial}
        assert frame["knee"].sum() == 1
    record = load_record(study.location)
    assert list(study.front()["digest"]) == [
        trial.digest for trial in find_front(record.trials(), record.header.objectives)
    ]


def test_reference_is_the_float_model(study) -> None:
    assert study.reference.name == "fp32"
    assert study.reference.to_dict() == command(study, "front")["reference"]


def test_recommendations_are_those_of_the_command_line_and_print_well(study) -> None:
    found = study.recommend()
    told = command(study, "front")["recommendations"]
    assert {advice.trial.number for advice in found} == {choice["trial"] for choice in told}
    assert found[0].kinds[0] == "knee"
    assert found.trial.number == told[0]["trial"]
    assert found.reason == found[0].reason
    assert repr(found).splitlines() == [advice.reason for advice in found]
    assert found._repr_html_().count("<li>") == len(found)
    nothing = study.recommend(max_size_mb=1e-9)
    assert "nothing is recommended" in repr(nothing)
    assert "nothing is recommended" in nothing._repr_html_()
    with pytest.raises(NegativeAnswer, match="nothing is recommended"):
        _ = nothing.trial


def test_plot_shows_every_complete_trial_on_the_axes_asked_for(study) -> None:
    complete = study.trials[study.trials["state"] == "complete"]
    for x, y, color in (("size", "accuracy", "latency"), ("latency", "accuracy", "size")):
        figure = study.plot(x, y, color)
        assert len(figure.data[0].x) == len(complete)
        assert len(figure.data[1].x) == len(study.front())
        assert x in figure.layout.xaxis.title.text.lower()
    with pytest.raises(InputError, match="'speed' is no objective; there are accuracy"):
        study.plot(x="speed")


def test_export_writes_the_trial_that_is_asked_for(study, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    sizes = study.trials.set_index("number")["size_bytes"]
    assert study.export(path, knee=True) == path
    assert path.stat().st_size == sizes[study.recommend().trial.number]
    study.resume(trials=24, full=True, progress=False)
    complete = study.trials[study.trials["state"] == "complete"].set_index("number")
    off = (set(complete.index) - set(study.front()["number"])).pop()
    study.export(str(path), trial=off)
    assert path.stat().st_size == complete["size_bytes"][off], "rebuilt from its recipe"
    study.export(path, smallest=True, max_drop=0.05)
    assert path.stat().st_size == study.front(max_drop=0.05)["size_bytes"].min()


def test_export_refuses_what_the_command_line_refuses(study, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for words in ({}, {"knee": True, "fastest": True}, {"trial": 3, "smallest": True}):
        with pytest.raises(InputError, match="name one of trial=N, knee=True"):
            study.export(path, **words)
    with pytest.raises(InputError, match="trial 999 is not among the complete trials"):
        study.export(path, trial=999)
    with pytest.raises(NegativeAnswer, match="within the constraint; the nearest miss is trial"):
        study.export(path, fastest=True, max_drop=-1)
    with pytest.raises(InputError, match="is a folder; name a file"):
        study.export(tmp_path, knee=True)
    with pytest.raises(InputError, match="there is no folder"):
        study.export(tmp_path / "no" / "model.onnx", knee=True)
    assert not path.exists()


def test_searching_again_goes_on_and_another_space_is_refused(study, task, tmp_path) -> None:
    again = aq.search(task, fake_space(), trials=22, results=tmp_path, progress=False)
    assert len(again.trials) == 22
    with pytest.raises(StudyError, match=r"another search space.*resume\(\).*study=\"NAME\""):
        aq.search(task, results=tmp_path, progress=False)
    with pytest.raises(StudyError, match="exists with seed 0"):
        aq.search(task, fake_space(), seed=1, results=tmp_path, progress=False)
    other = aq.search(task, trials=6, study="other", results=tmp_path, progress=False)
    assert other.name == "other"


def test_loaded_study_goes_on_with_its_task_alone(study, task, tmp_path: Path) -> None:
    loaded = aq.load_study(tmp_path / "notebook")
    assert repr(loaded) == repr(study)
    with pytest.raises(TaskError, match=r"known here as 'notebook', only .*digits.*task=\.\.\."):
        loaded.resume(trials=22)
    grown = loaded.resume(trials=22, task=task, progress=False)
    assert grown is loaded
    assert len(loaded.trials) == 22
    kept = aq.load_study(tmp_path / "notebook", task=task).resume(trials=23, progress=False)
    assert len(kept.trials) == 23


def test_studies_that_are_not_there_are_named_with_the_way_out(study, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"no study 'nothing' in .*; there are notebook"):
        aq.load_study(tmp_path / "nothing")
    with pytest.raises(StudyError, match=r"holds studies: name one, .*notebook for instance"):
        aq.load_study(tmp_path)
    with pytest.raises(StudyError, match="there is none yet"):
        aq.load_study(tmp_path / "void" / "study")


def test_study_in_a_database_is_found_there(task, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    place = {"results": tmp_path, "storage": url}
    begun = aq.search(task, fake_space(), trials=6, progress=False, **place)
    assert len(aq.load_study(tmp_path / "notebook", storage=url).trials) == 6
    assert not begun.location.journal.exists()


class Interrupting(Evaluator):
    """Is interrupted in its n-th evaluation."""

    def evaluate(self, recipe, gate=None, watch=None):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().evaluate(recipe, gate, watch)


def test_interrupt_returns_the_study_so_far(task, tmp_path: Path, monkeypatch) -> None:
    evaluator = fake_evaluator()
    evaluator.__class__, evaluator.left = Interrupting, 8
    monkeypatch.setattr(build, "build_evaluator", lambda *_: evaluator)
    with pytest.warns(UserWarning, match="everything finished so far is kept"):
        study = aq.search(task, fake_space(), trials=20, results=tmp_path, progress=False)
    assert len(study.trials) == 7
    assert len(study.resume(progress=False).trials) == 20


def test_interrupt_before_there_is_a_study_is_not_hidden(task, tmp_path, monkeypatch) -> None:
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "build_evaluator", interrupt)
    with pytest.raises(KeyboardInterrupt):
        aq.search(task, fake_space(), results=tmp_path, progress=False)
    assert not any(tmp_path.iterdir())


def test_progress_goes_to_standard_error_or_nowhere(task, tmp_path: Path, capsys) -> None:
    aq.search(task, fake_space(), trials=6, results=tmp_path)
    shown = capsys.readouterr()
    assert "[6/6]" in shown.err
    assert not shown.out
    aq.search(task, fake_space(), trials=7, results=tmp_path, progress=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"trials": 0}, InputError, "trials=0: at least 1"),
        ({"batch": 0}, InputError, "batch=0"),
        ({"sampler": "magic"}, InputError, "sampler='magic': there are auto"),
        ({"keep": "none"}, InputError, "keep='none': there are front, all"),
        ({"timeout": "soon"}, InputError, "write 90s"),
        ({"study": "../x"}, StudyError, "no study name"),
        ({"task": 3}, TaskError, "the name of one, not int"),
        ({"task": "nonsense"}, TaskError, "known here as 'nonsense', only .*digits"),
        ({"space": 3}, SpaceError, "not int"),
        ({"space": "nonsense"}, SpaceError, "no search space 'nonsense'.*digits"),
        ({"space": {"colour": "red"}}, SpaceError, "unknown key 'colour'"),
        ({"space": {"layers": {"fc9": {}}}}, SpaceError, "'fc9' matches no layer"),
        ({"space": SearchSpace({"conv0": ("8",)})}, SpaceError, "nothing about layer 'conv1'"),
        ({"space": SearchSpace({"conv0": ("2",)})}, SpaceError, "weight_bits"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_written(
    task, tmp_path, arguments, kind, words
) -> None:
    given = {"task": task, "results": tmp_path, "progress": False, **arguments}
    with pytest.raises(kind, match=words):
        aq.search(**given)
    assert not any(tmp_path.iterdir())


def test_task_without_data_is_refused(task, tmp_path: Path) -> None:
    empty = aq.Task(model=None, example_input=None, calibration=[], search=[])
    with pytest.raises(TaskError, match="'notebook': calibration and search data"):
        aq.search(empty, results=tmp_path, progress=False)


def test_resolved_space_is_recorded_whole() -> None:
    names = ["conv0", "blocks[0].conv*", "head?", "fc"]
    space = SearchSpace(
        dict(zip(names, [("8", "4", "float"), ("4",), ("float",), ("8",)], strict=True)),
        {
            "calibration": ("mse", *read_space(None, "t").quantizer.calibration[1:3]),
            "bias_correction": (False, True),
        },
    )
    config = read_space(space, "mine")
    assert config.to_space(names) == space
    assert json.loads(json.dumps(config.definition())) == config.definition()
    assert config.task == "mine"


def test_spaces_of_every_form_are_for_the_task_that_is_given(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("version: 1\ntask: other\nobjectives: [size]\n")
    for space, objectives in (
        (file, ["size"]),
        (str(file), ["size"]),
        ({"objectives": ["accuracy"]}, ["accuracy"]),
        ("digits", ["accuracy", "latency", "size"]),
        (None, ["accuracy", "latency", "size"]),
    ):
        config = read_space(space, "mine")
        assert (config.task, config.objectives) == ("mine", objectives)
    choices = read_space(None, "mine").to_space(LAYERS)
    assert set(choices.layers.values()) == {("8", "4", "float")}
    assert len(choices.options["calibration"]) == 5


def test_quantize_returns_the_file_and_both_splits(task, tmp_path: Path) -> None:
    recipe = aq.Recipe.uniform(LAYERS, 4)
    artifact, measurement = aq.quantize(task, recipe)
    assert measurement.size_bytes == artifact.size_bytes
    assert measurement.accuracy is not None
    assert measurement.report_accuracy is not None
    assert artifact.save(tmp_path / "m.onnx").read_bytes() == artifact.content
    file = tmp_path / "recipe.json"
    file.write_text(recipe.to_json())
    for same in (recipe.to_dict(), "w4a8", file):
        assert aq.quantize(task, same)[0].precisions == artifact.precisions
    for wrong, words in (
        ("w9", "neither a file nor a named recipe: fp32, w8a8"),
        ({"method": "fp32", "colour": "red"}, "not a recipe: colour"),
        (3, "not int"),
    ):
        with pytest.raises(RecipeError, match=words):
            aq.quantize(task, wrong)
    with pytest.raises(InputError, match="backend='tflite': there are onnxruntime, openvino, lit"):
        aq.quantize(task, backend="tflite")
    with pytest.raises(InputError, match='take backend="litert"'):
        aq.quantize(task, full_integer=True)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> aq.NotebookStudy:
    """A short search on the real digits."""
    folder = tmp_path_factory.mktemp("digits")
    return aq.search("digits", QUICK, trials=8, results=folder, progress=False)


@pytest.mark.long
def test_real_study_agrees_with_the_command_line_and_exports(digits, tmp_path: Path) -> None:
    assert len(digits.trials) == 8
    told = command(digits, "front")
    assert list(digits.front()["digest"]) == [trial["digest"] for trial in told["trials"]]
    assert (digits.front()["report_accuracy"] > 0.9).all()
    path = digits.export(tmp_path / "model.onnx", smallest=True)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: np.zeros((1, 1, 8, 8), "float32")})
    assert outputs[0].shape == (1, 10)
    passport = read_artifact(path.read_bytes()).passport
    assert passport["digest"] in set(digits.front()["digest"])


@pytest.mark.long
def test_real_study_is_loaded_by_folder_and_resumed_by_name(digits) -> None:
    loaded = aq.load_study(digits.location.folder)
    assert len(loaded.resume(trials=9, progress=False).trials) == 9
    assert len(digits.trials) == 9, "the other object follows"


@pytest.mark.long
def test_another_model_under_the_same_name_is_refused(tmp_path: Path) -> None:
    """Tasks without a name are all called the same; their trials must not be mixed."""
    first = make_task(name="")
    aq.search(first, QUICK, trials=1, results=tmp_path, progress=False)
    second = make_task(name="")
    second.model.fc.weight.data.neg_()
    with pytest.raises(StudyError, match=r"other weights than this task's.*study="):
        aq.search(second, QUICK, trials=2, results=tmp_path, progress=False)
    other = make_task(name="", search=make_task().report)
    with pytest.raises(StudyError, match="other data than"):
        aq.search(other, QUICK, trials=2, results=tmp_path, progress=False)
