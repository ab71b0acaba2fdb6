"""Studies of a database in the app: read, listed, begun, and what holds when it is gone."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest

from autoquant.browse import database, process
from autoquant.browse.library import Library
from autoquant.browse.process import find_process, read_log, start_search, stop_search
from autoquant.errors import StorageError, StudyError
from autoquant.search.database import check_url, describe_loss, explain_failure, hide_password
from autoquant.search.database_reader import DatabaseReader
from autoquant.search.patience import PatientStorage
from autoquant.search.storage import Location, load_record
from tests.databases import add_trials, hold_lease, write_database_study
from tests.journals import failed, measured_trials, rejected, write_study
from tests.postgres import Server

TRIALS = measured_trials(12)
MIXED = [*TRIALS[:8], rejected(TRIALS[8]), failed(TRIALS[9])]


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(database, "_REST_S", 0.0)  # asked anew each time
    monkeypatch.setattr(database, "_PATIENCE_S", 60.0)  # however busy the machine is
    return f"sqlite:///{tmp_path / 'studies.db'}"


# Reading


def test_a_database_reads_as_optuna_does(tmp_path: Path, url: str) -> None:
    write_database_study(url, "s", MIXED, running=[TRIALS[10].recipe])
    location = Location(tmp_path, "s", url)
    snapshot = DatabaseReader(location).read()
    assert list(snapshot.trials) == load_record(location).trials() == MIXED
    assert [t.evidence for t in snapshot.trials] == [t.evidence for t in MIXED]
    assert [item.recipe for item in snapshot.underway] == [TRIALS[10].recipe]


def test_only_what_is_new_is_asked_for(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_database_study(url, "s", TRIALS[:6])
    reader = DatabaseReader(Location(tmp_path, "s", url))
    first = reader.read()
    assert reader.read() is first
    fetched: list[int] = []
    get = PatientStorage._get_trials

    def count(*arguments: object, **options: object) -> list[object]:
        found = get(*arguments, **options)
        fetched.append(len(found))
        return found

    monkeypatch.setattr(PatientStorage, "_get_trials", count)
    add_trials(study, TRIALS[6:8])
    fetched.clear()
    second = reader.read()
    assert list(second.trials) == TRIALS[:8]
    assert second.trials[0] is first.trials[0]
    assert fetched == [2]


def test_a_driver_that_is_heard_of_changes_nothing_but_the_state(tmp_path: Path, url: str) -> None:
    study = write_database_study(url, "s", TRIALS[:6], target=20)
    reader = DatabaseReader(Location(tmp_path, "s", url))
    first = reader.read()
    assert not reader.is_running
    with hold_lease(study):
        assert reader.read() is first
        assert reader.is_running
    reader.read()
    assert not reader.is_running


def test_a_newer_study_of_a_database_is_shown_as_far_as_it_is_known(
    tmp_path: Path, url: str
) -> None:
    write_database_study(url, "s", TRIALS[:6], version=9)
    snapshot = DatabaseReader(Location(tmp_path, "s", url)).read()
    assert snapshot.is_newer
    assert len(snapshot.trials) == 6


def test_a_study_that_is_deleted_is_missed(tmp_path: Path, url: str) -> None:
    write_database_study(url, "s", TRIALS[:6])
    reader = DatabaseReader(Location(tmp_path, "s", url))
    reader.read()
    optuna.delete_study(study_name="s", storage=url)
    with pytest.raises(StudyError, match="no study 's' any more"):
        reader.read()


# The list


def test_a_folder_and_a_database_are_listed_together(tmp_path: Path, url: str) -> None:
    results = tmp_path / "results"
    write_study(results, "s", TRIALS[:6])
    write_database_study(url, "s", TRIALS[:9], target=20)
    optuna.create_study(storage=url, study_name="of others")  # no name of ours
    optuna.create_study(storage=url, study_name="other")
    library = Library(results, url)
    cards = {card.name: card for card in library.cards()}
    assert set(cards) == {"s", "s@database", "other@database"}
    assert len(cards["s"].view.snapshot.trials) == 6
    assert len(cards["s@database"].view.snapshot.trials) == 9
    assert cards["s@database"].state == "stopped"
    assert cards["s@database"].age == "now"
    assert "not written by autoquant" in cards["other@database"].problem
    assert cards["s@database"].view.table["study"].unique().tolist() == ["s@database"]
    assert library.view("s@database") is cards["s@database"].view


@pytest.mark.parametrize("key", ["../x@database", "@database", "a@b@database", "x@other"])
def test_keys_cannot_leave_the_folder(tmp_path: Path, url: str, key: str) -> None:
    with pytest.raises(StudyError, match="no study name"):
        Library(tmp_path, url).location(key)
    with pytest.raises(StudyError):
        Library(tmp_path).location("s@database")


def test_a_database_that_is_gone_leaves_what_was_read(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    write_study(results, "local", TRIALS[:6])
    write_database_study(url, "s", TRIALS[:6])
    library = Library(results, url)
    assert {card.state for card in library.cards()} == {"done"}

    def refuse(*arguments: object, **options: object) -> None:
        raise optuna.exceptions.StorageInternalError("gone")

    for name in ("get_study_user_attrs", "get_all_studies"):
        monkeypatch.setattr(PatientStorage, name, refuse)
    cards = {card.name: card for card in library.cards()}
    assert cards["local"].state == "done"
    assert cards["s@database"].state == "unreadable"
    assert "does not answer" in cards["s@database"].problem
    assert len(cards["s@database"].view.snapshot.trials) == 6
    assert "does not answer" in library.database_problem


def test_a_database_that_is_silent_holds_nobody_up(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study(tmp_path / "results", "local", TRIALS[:6])
    monkeypatch.setattr(database, "_PATIENCE_S", 0.05)
    let_go = threading.Event()
    monkeypatch.setattr(database, "name_database_studies", lambda _: let_go.wait(60) and ["late"])
    library = Library(tmp_path / "results", url)
    assert [card.name for card in library.cards()] == ["local"]
    assert "is being read" in library.database_problem
    monkeypatch.setattr(database, "_LONG_S", 0.0)
    assert "has not answered for" in library.database_problem
    let_go.set()
    for _ in range(200):
        if library.database_problem is None:
            break
        time.sleep(0.02)
    assert "late@database" in library.names()


def test_the_app_loads_no_torch_for_a_database(tmp_path: Path, url: str) -> None:
    write_database_study(url, "s", TRIALS[:6])
    code = f"""
import sys
from pathlib import Path
from autoquant.browse import database
from autoquant.browse.library import Library
database._PATIENCE_S = 60
(card,) = Library(Path({str(tmp_path)!r}), {url!r}).cards()
assert card.view.front.members and len(card.view.table)
print(*[n for n in ("torch", "brevitas", "onnx", "onnxruntime", "ray") if n in sys.modules])
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []


# Searches

_TELLER = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
print(sys.argv[1:], os.environ["AUTOQUANT_STORAGE"] == {url!r}, flush=True)
time.sleep(60)
"""


def wait_for_log(location: Location) -> str:
    for _ in range(600):
        if log := read_log(location, 1):
            return log[0]
        time.sleep(0.05)
    raise AssertionError("it said nothing")


def test_the_url_reaches_a_search_by_its_environment(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody on a machine sees arguments, and a URL may hold a password."""
    monkeypatch.setattr(process, "_ENTRY", _TELLER.format(url=url))
    location = Location(tmp_path, "s", url)
    start_search(location, "version: 1\n")
    try:
        said = wait_for_log(location)
        assert said.endswith("True")
        assert "studies.db" not in said
        command = Path(f"/proc/{find_process(location)}/cmdline").read_bytes()
        assert b"studies.db" not in command.partition(_TELLER[:20].encode())[0]
        assert [item.name for item in Library(tmp_path, url).cards()] == ["s@database"]
        with pytest.raises(StudyError, match="already"):
            start_search(Location(tmp_path, "s"), "version: 1\n")
    finally:
        stop_search(location)


def test_a_search_of_the_folder_does_not_go_into_the_database(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The app itself has the URL in its environment."""
    monkeypatch.setenv("AUTOQUANT_STORAGE", url)
    monkeypatch.setattr(
        process, "_ENTRY", "import os; print(repr(os.environ['AUTOQUANT_STORAGE']))"
    )
    location = Location(tmp_path, "s")
    start_search(location, "version: 1\n")
    assert wait_for_log(location) == "''"


# What is said of a database


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("nonsense", "no database's URL"),
        ("nothing://host/x", "no database's URL|needs"),
        ("postgresql://a:sesame@h:port/x", "no database's URL"),
        ("--results", "no database's URL"),
    ],
)
def test_what_is_no_url_is_refused_before_anybody_is_asked(url: str, word: str) -> None:
    with pytest.raises(StorageError, match=word) as caught:
        check_url(url)
    assert "sesame" not in str(caught.value)


def test_passwords_are_never_shown() -> None:
    url = "postgresql://aq:se%2Fsa%40me@host/db?password=sesame"
    assert hide_password(url) == "postgresql://aq:***@host/db"
    assert hide_password("postgresql://aq:pa?ss@host/db") == "postgresql://aq:***@host/db"
    for password in ("1234?x", "12/3?x", "a?b?c"):
        assert hide_password(f"postgresql://aq:{password}@h/db") == "postgresql://aq:***@h/db"
    assert hide_password("postgresql://host:5432/db?user=a@b") == "postgresql://host:5432/db"
    error = RuntimeError("line\nfailed for aq:se%2Fsa%40me and se/sa@me")
    assert "sa" not in explain_failure(url, error).partition("failed")[2]
    assert "***@host" in describe_loss(url, error)


def test_a_real_server_that_comes_and_goes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_REST_S", 0.0)
    monkeypatch.setattr(database, "_PATIENCE_S", 30.0)
    name = f"s-{os.urandom(3).hex()}"
    write_database_study(server.url().replace("postgresql", "postgresql+psycopg"), name, TRIALS[:6])
    library = Library(tmp_path, server.url())
    assert len(library.view(f"{name}@database").snapshot.trials) == 6
    server.stop()
    try:
        card = library.card(f"{name}@database")
        assert card.state == "unreadable"
        assert "does not answer" in card.problem
        assert "se/cr" not in card.problem
        assert "se%2Fcr" not in card.problem
        assert len(card.view.snapshot.trials) == 6
    finally:
        server.start()
    assert library.card(f"{name}@database").state == "done"
