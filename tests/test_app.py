"""Every page of the app in every state that a study can be in."""

import json
import os
import shutil
import signal
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("streamlit", reason="the extra 'app' is not installed")

from streamlit.testing.v1 import AppTest

from autoquant.browse import process
from autoquant.errors import StudyError
from autoquant.search.storage import Location, hold_driver_lock
from tests.journals import append_trial, failed, measured_trials, rejected, write_study
from tests.test_browse import wait_for
from tests.trials import seen_on

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("studies", "new", "live", "front", "compare", "layers", "qat", "export")
OF_A_STUDY = ("live", "front", "compare", "layers", "qat", "export")
SLEEP = (  # ends as a search does, also where a shell's background job ignores Ctrl-C
    "import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "print('ready', flush=True); time.sleep(60)"
)
EVIL = "<script>alert(1)</script> **bold** $x$ :red[x]"
Open = Callable[..., AppTest]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "results"
    monkeypatch.setenv("AUTOQUANT_RESULTS", str(folder))
    monkeypatch.delenv("AUTOQUANT_TASKS_FROM", raising=False)
    return folder


@pytest.fixture
def open_page(results: Path) -> Open:
    def open_it(page: str, **query: str) -> AppTest:
        app = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=30)
        for name, value in query.items():
            app.query_params[name] = value
        if page != "studies":
            app.switch_page(f"views/{page}.py")
        return app.run()

    return open_it


def words(app: AppTest) -> str:
    """Everything that a page says."""
    kinds = (app.title, app.markdown, app.caption, app.info, app.warning, app.error, app.success)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def is_fine(app: AppTest) -> bool:
    assert not app.exception, app.exception[0].message
    return True


@pytest.mark.parametrize("page", PAGES)
def test_without_results_every_page_says_how_to_begin(open_page: Open, page: str) -> None:
    app = open_page(page)
    assert is_fine(app)
    if page != "new":
        assert "There are no studies here yet" in words(app)


@pytest.mark.parametrize("page", PAGES)
def test_one_trial(results: Path, open_page: Open, page: str) -> None:
    write_study(results, "one", measured_trials(1), target=20)
    app = open_page(page, study="one")
    assert is_fine(app)
    assert not app.error


@pytest.mark.parametrize("page", OF_A_STUDY)
def test_no_trial_yet_says_where_to_look(results: Path, open_page: Open, page: str) -> None:
    write_study(results, "young", [], target=20)
    app = open_page(page, study="young")
    assert is_fine(app)
    assert page == "live" or "No trial is finished yet" in words(app)


@pytest.mark.parametrize("page", PAGES)
def test_a_normal_study(results: Path, open_page: Open, page: str) -> None:
    write_study(results, "normal", measured_trials(24))
    app = open_page(page, study="normal")
    assert is_fine(app)
    assert not app.error
    assert not app.warning


@pytest.mark.parametrize("page", PAGES)
def test_a_study_of_several_targets_is_seen_from_each(
    results: Path, open_page: Open, page: str
) -> None:
    trials = [
        seen_on(trial, {"edge": trial.latency_ratio, "server": 2.0 - trial.latency_ratio})
        for trial in measured_trials(24)
    ]
    write_study(results, "both", trials, targets=["edge", "server"])
    app = open_page(page, study="both")
    assert is_fine(app)
    if page not in ("front", "compare", "layers", "qat"):
        return
    assert "is on edge" in words(app)
    choice = app.sidebar.selectbox(key="target_both")
    assert choice.options == ["every target", "edge", "server"]
    assert is_fine(choice.select("server").run())
    assert "is on edge" not in words(app)
    if page == "front":
        shown = app.dataframe[0].value
        fastest = {trial.number for trial in trials if trial.name == "fp32"}
        assert fastest <= set(shown["trial"] if "trial" in shown else shown.iloc[:, 0])


@pytest.mark.parametrize("page", PAGES)
def test_failed_and_rejected_trials(results: Path, open_page: Open, page: str) -> None:
    trials = measured_trials(12)
    mixed = [*trials[:6], *map(rejected, trials[6:9]), *(failed(t, EVIL) for t in trials[9:])]
    write_study(results, "mixed", mixed)
    assert is_fine(open_page(page, study="mixed"))


@pytest.mark.parametrize("page", OF_A_STUDY)
def test_only_failures(results: Path, open_page: Open, page: str) -> None:
    write_study(results, "bad", [failed(trial) for trial in measured_trials(4)])
    app = open_page(page, study="bad")
    assert is_fine(app)
    if page == "live":
        assert "the file disagrees" in str(app.dataframe[0].value)


@pytest.mark.parametrize("page", PAGES)
def test_a_damaged_record_is_named_and_the_rest_is_shown(
    results: Path, open_page: Open, page: str
) -> None:
    journal = write_study(results, "damaged", measured_trials(12))
    lines = journal.read_text().splitlines()
    index = next(i for i, line in enumerate(lines) if '"record"' in line and '"number":7' in line)
    lines[index] = lines[index].replace('"state":"complete"', '"state":"purple"')
    journal.write_text("\n".join(lines) + "\n")
    app = open_page(page, study="damaged")
    assert is_fine(app)
    if page != "new":
        assert "trial 7 is damaged" in words(app)


@pytest.mark.parametrize("page", OF_A_STUDY)
def test_what_is_no_study_says_so(results: Path, open_page: Open, page: str) -> None:
    (results / "junk").mkdir(parents=True)
    (results / "junk" / "journal.log").write_text("junk\n")
    app = open_page(page, study="junk")
    assert is_fine(app)
    assert "not written by autoquant" in words(app)


@pytest.fixture
def running(results: Path) -> Iterator[None]:
    trials = measured_trials(9)
    write_study(results, "running", trials[:8], target=20, running=[trials[8].recipe])
    with hold_driver_lock(Location(results, "running")):
        yield


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("page", PAGES)
def test_a_running_study(open_page: Open, page: str) -> None:
    app = open_page(page, study="running")
    assert is_fine(app)
    if page in ("studies", "live"):
        assert "running" in words(app)
    if page == "live":
        assert "Trial 8" in words(app)
        assert not [button for button in app.button if button.label == "Stop"]


@pytest.mark.parametrize("page", PAGES)
def test_a_newer_study_is_only_read(results: Path, open_page: Open, page: str) -> None:
    write_study(results, "newer", measured_trials(8), version=2)
    app = open_page(page, study="newer")
    assert is_fine(app)
    if page != "new":
        assert "newer version" in words(app)
    assert not [button for button in app.button if button.label == "Go on"]


@pytest.mark.parametrize("page", OF_A_STUDY)
def test_a_task_whose_code_is_gone(results: Path, open_page: Open, page: str) -> None:
    write_study(results, "gone", measured_trials(8), task="was-here-once")
    app = open_page(page, study="gone")
    assert is_fine(app)
    if page == "export":
        app.button(key="build").click().run()
        assert is_fine(app)
        assert "unknown task" in app.get("status")[0].label


@pytest.mark.parametrize("page", PAGES)
def test_a_results_folder_that_vanishes(results: Path, open_page: Open, page: str) -> None:
    write_study(results, "s", measured_trials(8))
    app = open_page(page, study="s")
    shutil.rmtree(results)
    app.run()
    assert is_fine(app)
    assert page == "new" or "There are no studies here yet" in words(app)


@pytest.mark.parametrize("page", PAGES)
def test_a_file_where_the_folder_should_be(results: Path, open_page: Open, page: str) -> None:
    results.write_text("in the way")
    app = open_page(page)
    assert is_fine(app)
    assert page == "new" or "is a file" in words(app)


@pytest.mark.parametrize("name", ["../../etc", "/etc/passwd", "a/b", "..", EVIL, "x" * 9999, "\0"])
@pytest.mark.parametrize("page", OF_A_STUDY)
def test_names_in_the_address_cannot_leave_the_folder(
    results: Path, open_page: Open, page: str, name: str
) -> None:
    write_study(results, "s", measured_trials(8))
    write_study(results.parent, "etc", measured_trials(8))
    app = open_page(page, study=name, trial="../../x")
    assert is_fine(app)
    assert app.sidebar.selectbox(key="study").options == ["s"]
    assert "<script>" not in words(app)


def test_text_of_records_is_shown_as_text(results: Path, open_page: Open) -> None:
    trials = measured_trials(8)
    notes = {"notes": {"front": EVIL}}
    write_study(results, "s", trials, attributes=notes)
    said = words(open_page("front", study="s"))
    assert "<script>" not in said
    assert "**bold**" not in said
    assert "\\<script\\>" in said


def test_filters_hide_what_they_are_to_hide(results: Path, open_page: Open) -> None:
    write_study(results, "s", measured_trials(40))
    app = open_page("front", study="s")
    before = points(app)
    slider = app.slider(key="max_size_s")
    slider.set_value((slider.min + slider.max) / 3).run()
    assert 0 < points(app) < before
    app.selectbox(key="x").select("size").run()
    app.selectbox(key="size_by").select("latency").run()
    app.selectbox(key="color_by").select("calibration").run()
    assert is_fine(app)


def figures(app: AppTest) -> list[dict]:
    """What is drawn on a page."""
    told = [json.loads(part.proto.json or "null") for part in app.get("bidi_component")]
    return [json.loads(data["figure"]) for data in told if data]


def points(app: AppTest) -> int:
    """Dominated trials that are drawn."""
    figure = figures(app)[-1]
    traces = [trace for trace in figure["data"] if trace["name"] == "dominated"]
    return sum(len(b64decode(trace["x"]["bdata"])) // 8 for trace in traces)


def test_the_address_restores_what_was_chosen(results: Path, open_page: Open) -> None:
    write_study(results, "a", measured_trials(12))
    write_study(results, "b", measured_trials(12, seed=1))
    app = open_page("compare", study="b", trial=["3", "5"])
    assert app.sidebar.selectbox(key="study").value == "b"
    assert app.multiselect(key="picks_b").value == [3, 5]
    assert app.query_params["trial"] == ["3", "5"]


def test_studies_of_one_task_lie_over_each_other(results: Path, open_page: Open) -> None:
    write_study(results, "a", measured_trials(12))
    write_study(results, "b", measured_trials(12, seed=1))
    app = open_page("front", study="a")
    before = points(app)
    app.multiselect(key="over").select("b").run()
    assert points(app) > before


def test_a_recommended_trial_can_be_chosen(results: Path, open_page: Open) -> None:
    write_study(results, "s", measured_trials(24))
    app = open_page("front", study="s")
    taken = next(button for button in app.button if button.label == "Choose")
    number = taken.key.rpartition("_")[2]
    taken.click().run()
    assert f"Chosen: {number}" in words(app)
    assert app.query_params["trial"] in (number, [number])


def test_two_browsers_on_one_study_see_the_same_and_begin_it_once(
    results: Path, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_ENTRY", SLEEP)
    write_study(results, "s", measured_trials(8), target=20)
    first, second = open_page("studies"), open_page("studies")
    first.button(key="resume_s").click().run()
    assert is_fine(first)
    number = process.find_process(Location(results, "s"))
    try:
        second.button(key="resume_s").click().run()  # it does not know yet
        assert is_fine(second)
        assert "running" in words(second)
        assert process.find_process(Location(results, "s")) == number
        with pytest.raises(StudyError, match="is running"):
            process.resume_search(Location(results, "s"))
        wait_for(lambda: "ready" in " ".join(process.read_log(Location(results, "s"), 5)))
        second.button(key="stop_s").click().run()
        assert is_fine(second)
        wait_for(lambda: process.find_process(Location(results, "s")) is None)
        assert is_fine(first.run())
        assert not [button for button in first.button if button.key == "stop_s"]
    finally:
        if process.find_process(Location(results, "s")) == number:
            os.killpg(number, signal.SIGKILL)


def test_what_is_picked_stays_when_a_running_study_grows(results: Path, open_page: Open) -> None:
    trials = measured_trials(9)
    write_study(results, "s", trials[:8], target=20)
    with hold_driver_lock(Location(results, "s")):
        app = open_page("front", study="s")
        app.session_state["picked_s"] = [("s", 6)]  # as a click leaves it
        slider = app.slider(key="max_size_s")
        slider.set_value(slider.max).run()
        append_trial(results, "s", trials[8])
        app.run()
        assert is_fine(app)
        assert "1 selected" in words(app)
        figure = figures(app)[-1]
        assert sum(len(trace.get("selectedpoints", ())) for trace in figure["data"]) == 1
        assert sum(len(decode(trace)) for trace in figure["data"] if trace["name"] != "chosen") > 8


def decode(trace: dict) -> bytes:
    return b64decode(trace["x"]["bdata"])[::8]


def test_compare_says_why_a_model_has_its_bits(results: Path, open_page: Open) -> None:
    trials = measured_trials(24)
    write_study(results, "s", trials)
    number = next(
        t.number for t in trials
        if t.name is None and not t.recipe.is_trained
        and t.recipe.options.weight_granularity == "per_channel"
    )  # fmt: skip
    app = open_page("compare", study="s", trial=[str(number), "3"])
    assert is_fine(app)
    assert f"Why these bits: trial {number}" in [item.value for item in app.subheader]
    table = next(item.value for item in app.dataframe if "choice" in item.value.columns)
    assert list(table["layer"]) == [f"conv{index}" for index in range(8)]
    assert "the trials alone teach" in words(app)
    assert "autoquant trials lists all" in words(open_page("compare", study="s", trial="3"))
