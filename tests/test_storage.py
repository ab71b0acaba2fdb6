"""What every storage of a study must do: a journal file, SQLite, a real PostgreSQL server."""

import errno
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from typer.testing import CliRunner

from autoquant.agreement import build_header
from autoquant.backends.fake import fake_artifact
from autoquant.cli import app
from autoquant.config import load_space, shipped_spaces
from autoquant.errors import StorageError, StudyError
from autoquant.evaluate import Evaluator
from autoquant.launch import Launch, run_launch
from autoquant.search.header import StudyHeader
from autoquant.search.journal import find_damage
from autoquant.search.shelf import Shelf
from autoquant.search.storage import (
    Location,
    create_record,
    is_running,
    list_studies,
    load_record,
    open_storage,
)
from autoquant.search.study import Event
from tests.databases import STORAGES, hold_lease, place_study
from tests.fakes import DEFINITION, fake_evaluator
from tests.postgres import PASSWORD, Server


@pytest.fixture(params=STORAGES)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return place_study(request, tmp_path)


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


def test_a_search_that_was_killed_as_it_began_begins_again(location: Location) -> None:
    if location.url is not None:
        location.create_folder()
        optuna.create_study(
            storage=open_storage(location), study_name=location.name,
            directions=["maximize", "minimize", "minimize"],
        )  # fmt: skip
    assert not location.exists()
    search(location, 6)
    assert len(load_record(location).trials()) == 6


def test_a_search_again_goes_as_far_as_it_was_told_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_space(shipped_spaces()["digits"])
    header = build_header(
        config, sampler="auto", seed=0, threads=1, batch=1, trials=None, timeout=None
    )
    location = Location(tmp_path, "digits")
    location.create_folder()
    create_record(location, header).set_goal(200)
    begun: list[Launch] = []
    monkeypatch.setattr("autoquant.cli.searches.run_study", lambda launch, _: begun.append(launch))
    for more, trials in ((), 200), (("--trials", "60"), 60):
        words = ["search", "digits", "--results", str(tmp_path), *more]
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0
        assert begun.pop().header.trials == trials


def test_a_study_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    location = Location(tmp_path, "theirs", f"sqlite:///{tmp_path / 'studies.db'}")
    location.create_folder()
    storage = open_storage(location)
    theirs = optuna.create_study(storage=storage, study_name=location.name)
    for _ in range(2):
        with pytest.raises(StudyError, match="not written by autoquant"):
            search(location, 6)
        theirs.add_trial(optuna.trial.create_trial(value=1.0))


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
    assert f"autoquant resume {location.name} --join" in refusals[0]
    assert len(load_record(location).trials()) == 6


def test_dead_driver_does_not_keep_others_out(location: Location) -> None:
    search(location, 6)
    if location.url is not None:
        script = f"""
from tests.test_storage import *
from tests.databases import hold_lease
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


def interrupting(event: Callable[[], None]) -> Evaluator:
    """Something happens while the fourth trial is evaluated."""
    evaluator = fake_evaluator()
    evaluate, seen = evaluator.evaluate, []

    def interrupt(*arguments: object) -> object:
        seen.append(arguments)
        if len(seen) == 4:
            event()
        return evaluate(*arguments)

    evaluator.evaluate = interrupt
    return evaluator


def test_server_that_comes_back_is_waited_for(server: Server, tmp_path: Path) -> None:
    location = Location(tmp_path, "patient", server.url())
    returning = threading.Timer(2.0, server.start)

    def restart() -> None:
        server.stop()
        returning.start()

    notes: list[str] = []
    try:
        run_launch(begin(location, 10), interrupting(restart), None, notes.append)
    finally:
        returning.join()
    trials = load_record(location).trials()
    assert len(trials) == len({trial.digest for trial in trials}) == 10
    assert {trial.state for trial in trials} <= {"complete", "rejected"}
    lost, back = notes
    assert "waiting for it, 10 minutes at most" in lost
    assert PASSWORD not in lost
    assert back.endswith("answers again: the search goes on")


def test_study_that_another_took_over_in_the_silence_is_left_to_it(tmp_path: Path) -> None:
    location = Location(tmp_path, "taken", f"sqlite:///{tmp_path / 'studies.db'}")
    search(location, 6)
    study = load_record(location).study
    with hold_lease(study) as lease:
        lease.renew()
        other = {"token": "other", "host": "elsewhere", "pid": 1, "beat": time.time()}
        study.set_user_attr("driver", other)
        with pytest.raises(StudyError, match=r"taken over by elsewhere \(process 1\)"):
            lease.renew()
    assert study.user_attrs["driver"] == other, "it is the other's to end"


def test_server_that_stays_away_ends_a_search_that_goes_on_later(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoquant.search.patience.PATIENCE_S", 0.6)
    location = Location(tmp_path, "lost", server.url())
    try:
        with pytest.raises(StorageError, match=r"does not answer any more .* resume lost goes on"):
            run_launch(begin(location, 10), interrupting(server.stop), None, print)
    finally:
        server.start()
    assert len(load_record(location).trials()) == 3
    search(location, 10)
    trials = load_record(location).trials()
    assert len(trials) == len({trial.digest for trial in trials}) == 10


def test_full_disk_ends_a_search_in_one_line_that_goes_on_later(tmp_path: Path) -> None:
    """The limit of this process's files stands for the disk: half of a write gets through."""
    location = Location(tmp_path, "full")
    search(location, 6)
    _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        limit = location.journal.stat().st_size + 9_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        with pytest.raises(StorageError, match=r"any more \(File too large\).* resume full goes"):
            search(location, 30)
        reached = location.journal.stat().st_size
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert reached <= limit
    assert find_damage(location.journal) is None, "no half of a line is left behind"
    kept = [trial.digest for trial in load_record(location).trials()]
    assert 6 < len(kept) < 30
    search(location, 30)
    trials = load_record(location).trials()
    assert len(trials) == len({trial.digest for trial in trials}) == 30
    assert [trial.digest for trial in trials if trial.digest in kept] == kept


def test_file_that_does_not_fit_leaves_no_half_of_it(tmp_path: Path) -> None:
    artifact = fake_artifact({"conv0": "int8"})
    _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (artifact.size_bytes - 1, hard))
        with pytest.raises(OSError, match="too large") as caught:
            Shelf(tmp_path).put("digest", artifact)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("first", ["journal", "database"])
def test_two_studies_of_one_name_do_not_sweep_each_others_files(tmp_path: Path, first: str) -> None:
    places = {
        "journal": Location(tmp_path, "twin"),
        "database": Location(tmp_path, "twin", f"sqlite:///{tmp_path / 'studies.db'}"),
    }
    own, (_, other) = places.pop(first), places.popitem()
    search(own, 6)
    search(own, 8)  # goes on
    kept = sorted(own.artifacts.iterdir())
    with pytest.raises(StudyError, match=r"holds the files of another study 'twin'.*--results"):
        search(other, 6)
    assert sorted(own.artifacts.iterdir()) == kept
