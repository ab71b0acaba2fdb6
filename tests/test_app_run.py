"""How the app runs searches: workers, a cluster, a record in a database."""

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("streamlit", reason="the extra 'app' is not installed")

from streamlit.testing.v1 import AppTest

from autoquant.browse import crew_draft, database, process
from autoquant.browse.crew_draft import CrewDraft
from autoquant.browse.estimate import describe_budget, estimate_minutes
from autoquant.browse.library import Library
from autoquant.browse.process import known_crew, read_log, start_search
from autoquant.cluster.address import parse_address
from autoquant.errors import ClusterError, InputError, StudyError
from autoquant.search.storage import Location
from tests.databases import write_database_study
from tests.journals import measured_trials, write_study
from tests.test_app import is_fine, words
from tests.test_browse import blank, wait_for

ROOT = Path(__file__).resolve().parents[1]
TELLER = "import sys; print(*sys.argv[1:])"
OPTIONS = ("--workers", "--ray", "--gpus-per-qat-trial", "--trial-timeout")
Open = Callable[..., AppTest]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("AUTOQUANT_TASKS_FROM", "AUTOQUANT_STORAGE", "AUTOQUANT_APP_IS_OPEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AUTOQUANT_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(process, "_ENTRY", TELLER)
    return tmp_path / "results"


@pytest.fixture
def with_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is loaded: whether it is there is all that a form asks."""
    monkeypatch.setattr("autoquant.cluster.find_spec", lambda name: object())


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(database, "_PATIENCE_S", 60.0)  # however busy the machine is
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    monkeypatch.setenv("AUTOQUANT_STORAGE", url)
    return url


def open_page(page: str, **query: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=60)
    for name, value in query.items():
        app.query_params[name] = value
    if page != "studies":
        app.switch_page(f"views/{page}.py")
    return app.run()


def told(location: Location) -> str:
    """The command line of the search that was begun."""
    wait_for(lambda: read_log(location, 1))
    return read_log(location, 1)[0]


# Workers


@pytest.mark.usefixtures("with_ray")
def test_workers_of_the_form_reach_the_command(results: Path) -> None:
    app = open_page("new")
    app.number_input(key="workers").set_value(3).run()
    app.number_input(key="gpus").set_value(0.5).run()
    app.text_input(key="trial_timeout").set_value("2m").run()
    assert is_fine(app)
    app.button(key="launch").click().run()
    said = told(Location(results, "digits"))
    assert "--workers=3 --gpus-per-qat-trial=0.500000 --trial-timeout=120.000s" in said
    assert "--ray" not in said
    known = known_crew(Location(results, "digits"))
    assert known == CrewDraft(3, "", 0.5, "2m")


def test_one_worker_is_the_search_itself(results: Path) -> None:
    app = open_page("new")
    app.button(key="launch").click().run()
    said = told(Location(results, "digits"))
    assert not any(option in said for option in OPTIONS)


@pytest.mark.usefixtures("results")
def test_without_ray_the_fields_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoquant.cluster.find_spec", lambda name: None)
    app = open_page("new")
    assert is_fine(app)
    fields = [*(app.number_input(key=key) for key in ("workers", "gpus")),
              *(app.text_input(key=key) for key in ("ray", "trial_timeout"))]  # fmt: skip
    assert all(field.disabled for field in fields)
    assert "autoquant\\[ray\\]" in words(app)
    app.session_state["workers"] = 9  # as a browser of one's own may send it
    app.run()
    assert not app.error


@pytest.mark.usefixtures("with_ray")
def test_an_app_that_others_reach_joins_no_cluster(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster hands its driver code to run, so that its address is not for visitors."""
    monkeypatch.setenv("AUTOQUANT_APP_IS_OPEN", "1")
    app = open_page("new")
    assert app.text_input(key="ray").disabled
    app.session_state["ray"] = "127.0.0.1:1"  # as a browser of one's own may send it
    app.run()
    app.button(key="launch").click().run()
    assert "--ray" not in told(Location(results, "digits"))


@pytest.mark.usefixtures("with_ray", "results")
@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("ray", "--storage=x", "HOST:PORT"),
        ("ray", "-x:1", "HOST:PORT"),
        ("ray", "host:99999", "HOST:PORT"),
        ("ray", "host:1\n--results=/", "HOST:PORT"),
        ("ray", "ray://host;touch x:1", "HOST:PORT"),
        ("trial_timeout", "--full", "no duration"),
        ("trial_timeout", "2m", "need workers"),
    ],
)
def test_what_is_no_address_and_no_time_is_refused_in_the_form(
    key: str, value: str, word: str
) -> None:
    app = open_page("new")
    app.text_input(key=key).set_value(value).run()
    assert is_fine(app)
    assert word in words(app).replace("\\", "")
    assert not [button for button in app.button if button.key == "launch"]


@pytest.mark.usefixtures("with_ray")
def test_nobody_at_an_address_is_told_before_anything_begins(results: Path) -> None:
    app = open_page("new")
    app.text_input(key="ray").set_value("127.0.0.1:1").run()
    assert not app.error
    app.button(key="launch").click().run()
    assert "nobody answers there" in words(app)
    assert not (results / "digits").exists()


@pytest.mark.usefixtures("with_ray")
def test_a_study_goes_on_with_the_workers_that_it_had(results: Path) -> None:
    write_study(results, "s", measured_trials(6), target=9)
    process.resume_search(Location(results, "s"), 9, crew=CrewDraft(4))
    told(Location(results, "s"))
    wait_for(lambda: process.find_process(Location(results, "s")) is None)
    app = open_page("studies")
    assert app.number_input(key="workers_s").value == 4
    app.number_input(key="workers_s").set_value(2).run()
    app.button(key="resume_s").click().run()
    assert is_fine(app)
    wait_for(lambda: len(read_log(Location(results, "s"), 9)) == 2)
    assert "--workers=2" in read_log(Location(results, "s"), 1)[0]


@pytest.mark.usefixtures("with_ray")
@pytest.mark.parametrize(
    "values",
    [None, [], {"workers": "9"}, {"workers": 10**9}, {"address": "--x"}, {"trial_timeout": [1]},
     {"gpus_per_qat_trial": float("nan"), "workers": 2}],
)  # fmt: skip
def test_a_note_on_workers_that_is_damaged_is_none(values: object) -> None:
    assert CrewDraft.from_dict(values) == CrewDraft()


@pytest.mark.usefixtures("with_ray")
def test_no_option_can_be_smuggled_in() -> None:
    with pytest.raises(InputError):
        CrewDraft(2, "", 0.0, "1m --full").to_options()
    with pytest.raises(ClusterError):
        CrewDraft(2, "a:1 --full").to_options()
    assert CrewDraft(None, "head:6379").to_options() == ["--ray=head:6379"]
    assert all(word.startswith("--") and "=" in word
               for word in CrewDraft(2, "auto", 1.0, "9").to_options())  # fmt: skip


@pytest.mark.parametrize("address", ["", ":1", "a:", "a:0", "a:65536", "a:²", "[x]:1", "a b:1"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ClusterError, match="HOST:PORT"):
        parse_address(address)


def test_addresses_of_every_kind() -> None:
    assert parse_address("auto") is None
    assert parse_address("10.0.0.5:6379") == ("10.0.0.5", 6379)
    assert parse_address("[::1]:6379") == ("::1", 6379)


# How long it takes


def test_workers_build_at_once_and_time_one_after_the_other(tmp_path: Path) -> None:
    plain = [trial for trial in measured_trials(12) if not trial.recipe.is_trained]
    write_study(tmp_path, "s", plain)  # of 0.8 s, 0.4 of them timing
    views = [Library(tmp_path).view("s")]
    config = blank(trials=600).to_config()
    alone = estimate_minutes(config, views)
    assert 2.0 < alone < 10.0, "8 minutes, less what is turned away"
    assert estimate_minutes(config, views, 2) == pytest.approx(alone / 2)
    assert estimate_minutes(config, views, 64) == pytest.approx(alone / 2)
    assert f"about {alone / 2:.0f} min" in describe_budget(config, views, [], 64)
    assert "2 workers at once" in describe_budget(config, views, [], 2)
    assert "is not counted in" in describe_budget(config, views, [], None)
    assert "workers" not in describe_budget(config, views, [])


def test_more_workers_than_cores_are_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew_draft, "available_cores", lambda: 2)
    assert CrewDraft(9).at_once == 2
    assert CrewDraft(9, "head:1").at_once == 9
    assert CrewDraft(None, "head:1").at_once is None


# Databases


@pytest.mark.parametrize("page", ["studies", "new", "live", "front", "compare", "qat", "export"])
def test_every_page_shows_a_study_of_a_database(results: Path, storage: str, page: str) -> None:
    write_study(results, "local", measured_trials(6))
    write_database_study(storage, "night", measured_trials(12))
    app = open_page(page, study="night@database")
    assert is_fine(app)
    assert not app.error
    assert not app.warning
    if page == "export":
        code = "\n".join(element.value for element in app.code)
        assert "autoquant export night --trial" in code
        assert f"--storage {storage}" in code
    elif page == "studies":
        assert "night@database" in words(app)
    elif page != "new":
        assert app.sidebar.selectbox(key="study").options == ["local", "night@database"]


@pytest.mark.usefixtures("storage")
def test_a_database_that_does_not_answer_is_named_and_others_work(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOQUANT_STORAGE", "sqlite:////no/such/folder/studies.db?password=sesame")
    app = open_page("studies")
    assert "cannot open storage" in words(app)
    write_study(results, "local", measured_trials(12))
    app = open_page("studies")
    assert is_fine(app)
    assert "cannot open storage" in words(app)
    assert "done" in words(app)
    assert "sesame" not in words(app)
    app = open_page("front", study="night@database")
    assert is_fine(app)
    assert "cannot open storage" in words(app)
    assert app.sidebar.selectbox(key="study").value == "local"


def test_a_search_can_be_begun_in_the_database(results: Path, storage: str) -> None:
    app = open_page("new")
    app.radio(key="record").set_value(app.radio(key="record").options[1]).run()
    app.text_input(key="name").set_value("../x").run()
    app.button(key="launch").click().run()
    assert "no study name" in words(app)
    app.text_input(key="name").set_value("night").run()
    app.button(key="launch").click().run()
    location = Location(results, "night", storage)
    assert "--study night" in told(location)
    assert not Location(results, "night").journal.exists()
    with pytest.raises(StudyError, match="already"):
        start_search(Location(results, "night"), "version: 1\n")


def test_a_study_of_a_database_goes_on(results: Path, storage: str) -> None:
    write_database_study(storage, "night", measured_trials(6), target=9)
    app = open_page("studies")
    app.button(key="resume_night@database").click().run()
    assert is_fine(app)
    assert not app.error
    assert told(Location(results, "night", storage)).startswith("resume night --trials 9")
