"""What every storage of a study must do: a journal file, SQLite, a real PostgreSQL server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoquant.errors import StorageError, StudyError
from autoquant.launch import Launch, run_launch
from autoquant.search.record import StudyHeader
from autoquant.search.storage import Location, is_running, list_studies, load_record
from autoquant.search.study import Event
from tests.fakes import DEFINITION, fake_evaluator
from tests.postgres import Server, find_binaries


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    server = Server(binaries)
    server.start()
    yield server
    server.stop()
    server.remove()


@pytest.fixture(params=["journal", "sqlite", "postgresql"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    urls = {"journal": lambda: None, "sqlite": lambda: f"sqlite:///{tmp_path / 'studies.db'}"}
    if request.param == "postgresql":
        urls["postgresql"] = request.getfixturevalue("server").url
    return Location(tmp_path / "results", f"fake-{os.urandom(3).hex()}", urls[request.param]())


def begin(location: Location, trials: int) -> Launch:
    definition = {
        **DEFINITION,
        "layers": {"*": {"weight_bits": [8, 4], "exclude": [False, True]}},
    }
    return Launch(location, StudyHeader(definition, 0, "random", trials=trials))


def search(location: Location, trials: int) -> None:
    run_launch(begin(location, trials), fake_evaluator(), None, print)


def test_trials_are_kept_and_a_search_goes_on(location: Location) -> None:
    search(location, 8)
    first = load_record(location).trials()
    assert len(first) == 8
    search(location, 12)
    trials = load_record(location).trials()
    assert len(trials) == len({trial.digest for trial in trials}) == 12
    assert [trial.digest for trial in trials[:8]] == [trial.digest for trial in first]
    assert location.name in list_studies(location.results, location.url)


def test_what_was_running_is_tried_again(location: Location) -> None:
    search(location, 8)
    record = load_record(location, is_driver=True)
    from tests.fakes import fake_space

    lost = record.ask(fake_space()).recipe.digest
    search(location, 9)
    assert lost in {trial.digest for trial in load_record(location).trials()}


def test_viewers_read_while_it_is_written(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def look(self: object, event: Event) -> None:
        if event.kind == "end":
            counts.append(len(load_record(location).trials()))
            assert is_running(location)

    monkeypatch.setattr("autoquant.progress.SearchProgress.show", look)
    from rich.console import Console

    run_launch(begin(location, 6), fake_evaluator(), Console(quiet=True), print)
    assert counts == [1, 2, 3, 4, 5, 6]
    assert not is_running(location)


def test_second_driver_is_refused(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with another results folder, as on another machine."""
    elsewhere = location.results if location.url is None else location.results.parent / "elsewhere"
    refusals: list[str] = []

    def intrude(self: object, event: Event) -> None:
        if event.kind == "end" and not refusals:
            with pytest.raises(StudyError) as caught:
                search(Location(elsewhere, location.name, location.url), 6)
            refusals.append(str(caught.value))

    monkeypatch.setattr("autoquant.progress.SearchProgress.show", intrude)
    from rich.console import Console

    run_launch(begin(location, 6), fake_evaluator(), Console(quiet=True), print)
    assert "is being run" in refusals[0]
    assert len(load_record(location).trials()) == 6


def test_dead_driver_does_not_keep_others_out(location: Location) -> None:
    search(location, 6)
    if location.url is not None:
        script = f"""
from tests.test_storage import *
from autoquant.search.lease import hold_lease
import os
location = Location(Path({str(location.results)!r}), {location.name!r}, {location.url!r})
with hold_lease(load_record(location).study):
    os._exit(0)
"""
        subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    search(location, 7)
    assert len(load_record(location).trials()) == 7


def test_wrong_password_is_told_and_never_shown(server: Server, tmp_path: Path) -> None:
    wrong = "wr@ng/sesame"
    with pytest.raises(StorageError) as caught:
        load_record(Location(tmp_path, "fake", server.url(wrong)))
    text = str(caught.value)
    assert "password authentication failed" in text
    assert "sesame" not in text
    assert "aq:***@127.0.0.1" in text


def test_server_that_goes_away_leaves_a_study_that_goes_on(server: Server, tmp_path: Path) -> None:
    location = Location(tmp_path, "lost", server.url())
    evaluator = fake_evaluator()
    evaluate, seen = evaluator.evaluate, []

    def lose(*arguments: object) -> object:
        seen.append(arguments)
        if len(seen) == 4:
            server.stop()
        return evaluate(*arguments)

    evaluator.evaluate = lose
    try:
        with pytest.raises(StorageError, match=r"does not answer any more .* resume lost goes on"):
            run_launch(begin(location, 10), evaluator, None, print)
    finally:
        server.start()
    assert len(load_record(location).trials()) == 3
    search(location, 10)
    trials = load_record(location).trials()
    assert len(trials) == len({trial.digest for trial in trials}) == 10
