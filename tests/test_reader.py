"""A study read while it grows: the same as Optuna's own replay, and kind to damage."""

import json
from pathlib import Path

import pytest

from autoquant.errors import StorageError, StudyError
from autoquant.search.reader import StudyReader
from autoquant.search.storage import Location, load_record
from autoquant.search.study import Budget
from tests.fakes import fake_record, fake_study
from tests.journals import failed, measured_trials, rejected, write_study

GOLDEN = Path(__file__).parent / "golden" / "study-v1.journal"


def location_of(results: Path, text: bytes, name: str = "s") -> Location:
    location = Location(results, name)
    location.create_folder()
    location.journal.write_bytes(text)
    return location


def test_a_journal_reads_as_optuna_replays_it(tmp_path: Path) -> None:
    fake_study(tmp_path).run(Budget(12), "random")
    location = Location(tmp_path, "fake")
    snapshot, record = StudyReader(location).read(), load_record(location)
    assert list(snapshot.trials) == record.trials()
    assert [t.evidence for t in snapshot.trials] == [t.evidence for t in record.trials()]
    assert snapshot.header == record.header
    assert snapshot.notes == record.notes
    assert not snapshot.damaged


def test_an_old_study_reads_as_optuna_replays_it(tmp_path: Path) -> None:
    lines = GOLDEN.read_bytes()
    name = json.loads(lines.splitlines()[0])["study_name"]
    location = location_of(tmp_path, lines, name)
    assert list(StudyReader(location).read().trials) == load_record(location).trials()


def test_made_up_studies_are_what_optuna_reads(tmp_path: Path) -> None:
    trials = measured_trials(9)
    trials = [*trials[:7], rejected(trials[7]), failed(trials[8])]
    write_study(tmp_path, "s", trials, running=[trials[6].recipe])
    location = Location(tmp_path, "s")
    snapshot = StudyReader(location).read()
    assert load_record(location).trials() == trials == list(snapshot.trials)
    assert [item.number for item in snapshot.underway] == [9]


def test_a_growing_journal_is_read_from_where_it_was_left(tmp_path: Path) -> None:
    journal = write_study(tmp_path, "s", measured_trials(8))
    whole = journal.read_bytes()
    cut = len(whole) // 2  # in the middle of a line
    journal.write_bytes(whole[:cut])
    reader = StudyReader(Location(tmp_path, "s"))
    first = reader.read()
    assert len(first.trials) < 8
    assert not first.damaged
    assert reader.read() is first
    with journal.open("ab") as file:
        file.write(whole[cut:])
    assert list(reader.read().trials) == measured_trials(8)


def test_a_journal_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    journal = write_study(tmp_path, "s", measured_trials(8))
    reader = StudyReader(Location(tmp_path, "s"))
    assert len(reader.read().trials) == 8
    journal.unlink()
    with pytest.raises(StorageError, match=r"journal\.log"):
        reader.read()
    write_study(tmp_path, "s", measured_trials(6))
    assert len(reader.read().trials) == 6


def test_a_damaged_record_is_left_out_and_named(tmp_path: Path) -> None:
    journal = write_study(tmp_path, "s", measured_trials(8))
    journal.write_text(journal.read_text().replace('"accuracy":0.9', '"accuracy":"0.x', 1))
    snapshot = StudyReader(Location(tmp_path, "s")).read()
    assert snapshot.damaged


def test_a_damaged_line_ends_the_reading(tmp_path: Path) -> None:
    journal = write_study(tmp_path, "s", measured_trials(8))
    with journal.open("ab") as file:
        file.write(b"\0\0\0\n" + b'{"op_code":4}\n')
    snapshot = StudyReader(Location(tmp_path, "s")).read()
    assert len(snapshot.trials) == 8
    assert "autoquant resume" in snapshot.damaged[0]


def test_a_newer_study_is_shown_as_far_as_it_is_known(tmp_path: Path) -> None:
    journal = write_study(tmp_path, "s", measured_trials(8), version=2)
    text = journal.read_text().replace('"seed":0', '"seed":0,"aura":1')
    journal.write_text(text)
    snapshot = StudyReader(Location(tmp_path, "s")).read()
    assert snapshot.is_newer
    assert len(snapshot.trials) == 8


@pytest.mark.parametrize("text", [b"", b'{"op_code":0}\n', b"junk\n"])
def test_what_is_no_study_is_refused(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(StudyError, match="not written by autoquant"):
        StudyReader(location_of(tmp_path, text)).read()


def test_running_studies_show_what_is_under_way(tmp_path: Path) -> None:
    record = fake_record(Location(tmp_path, "fake"))
    from tests.fakes import fake_space

    asked = record.ask(fake_space())
    underway = StudyReader(Location(tmp_path, "fake")).read().underway
    assert [item.recipe for item in underway] == [asked.recipe]
    assert underway[0].began is not None
