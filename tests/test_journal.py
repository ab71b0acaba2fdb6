import json
import random
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from autoquant.errors import StorageError, StudyError
from autoquant.search.journal import BatchedStorage, find_damage, repair
from autoquant.search.storage import Location, hold_driver_lock, load_record
from autoquant.search.study import Budget
from tests.fakes import fake_evaluator, fake_record, fake_study


@given(st.lists(st.dictionaries(st.text(), st.integers()), max_size=8), st.data())
def test_any_cut_is_found_and_what_is_before_it_stays(tmp_path_factory, logs, data) -> None:
    journal = tmp_path_factory.mktemp("journal") / "journal.log"
    content = b"".join(json.dumps(log).encode() + b"\n" for log in logs)
    cut = data.draw(st.integers(0, len(content)))
    journal.write_bytes(content[:cut])
    damage = find_damage(journal)
    whole = content[:cut].count(b"\n")
    if damage is None:
        assert content[:cut].endswith(b"\n") or not content[:cut]
    else:
        assert repair(journal, damage).read_bytes() == content[:cut]
        assert journal.read_bytes().count(b"\n") == whole
        assert find_damage(journal) is None


def damaged_study(tmp_path: Path, tail: bytes) -> Location:
    fake_study(tmp_path).run(Budget(8), "random")
    location = Location(tmp_path, "fake")
    with location.journal.open("ab") as file:
        file.write(tail)
    return location


@pytest.mark.parametrize(
    "tail", [b'{"op_code": 5, "half', b"\x00\xff\xfe garbage\n", b"not json\n{}\n", b"\n\n"]
)
def test_damaged_tail_is_dropped_with_a_word_and_the_study_goes_on(tmp_path, tail) -> None:
    location = damaged_study(tmp_path, tail)
    said: list[str] = []
    viewer = load_record(location, warn=said.append)
    assert len(viewer.trials()) == 8
    assert "damaged and dropped" in said[0]
    assert location.journal.read_bytes().endswith(tail), "a viewer changes nothing"

    said.clear()
    record = load_record(location, warn=said.append, is_driver=True)
    assert "journal.damaged" in said[0]
    fake_study(tmp_path, record).run(Budget(12), "random")
    trials = load_record(location).trials()
    assert len(trials) == 12
    assert len({trial.digest for trial in trials}) == 12


def test_damage_in_the_middle_keeps_what_came_before(tmp_path: Path) -> None:
    location = damaged_study(tmp_path, b"")
    lines = location.journal.read_bytes().splitlines(keepends=True)
    lines[len(lines) // 2] = b'{"torn": \n'
    location.journal.write_bytes(b"".join(lines))
    record = load_record(location, is_driver=True)
    kept = len(record.trials())
    assert 0 < kept < 8
    fake_study(tmp_path, record).run(Budget(10), "random")
    assert len(load_record(location).trials()) == 10


def test_two_drivers_exclude_each_other(tmp_path: Path) -> None:
    location = Location(tmp_path, "fake")
    location.create_folder()
    with (
        hold_driver_lock(location),
        pytest.raises(StudyError, match="being run by another process"),
        hold_driver_lock(location),
    ):
        pass
    with hold_driver_lock(location):
        pass


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x" * 65, "a b", "con\n"])
def test_study_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(StudyError, match="no study name"):
        Location(tmp_path, name)


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose another --results"):
        Location(tmp_path / "file", "fake").create_folder()


def test_password_in_a_url_is_never_shown(tmp_path: Path) -> None:
    url = "postgresql://user:hunter2@localhost:1/none"
    with pytest.raises(StorageError) as caught:
        load_record(Location(tmp_path, "fake", url))
    assert "hunter2" not in str(caught.value)
    assert "user:***@localhost" in str(caught.value)


def test_sqlite_holds_a_study_as_the_journal_does(tmp_path: Path) -> None:
    location = Location(tmp_path, "fake", f"sqlite:///{tmp_path}/studies.db")
    study = fake_study(tmp_path, fake_record(location), evaluator=fake_evaluator())
    study.run(Budget(9), "nsga2")
    assert len(load_record(location).trials()) == 9
    assert location.exists()


def test_batches_read_like_single_operations_and_the_next_one_begins_at_their_end(
    tmp_path: Path,
) -> None:
    study = fake_study(tmp_path)
    study.run(Budget(9), "random")
    journal = Location(tmp_path, "fake").journal
    plain = JournalStorage(JournalFileBackend(str(journal)))
    expected = optuna.load_study(study_name="fake", storage=plain).trials
    assert study.record.study.trials == expected
    storage = study.record.study._storage
    assert isinstance(storage, BatchedStorage)
    read = storage._replay_result.log_number_read
    assert storage._file._log_number_offset[read] == journal.stat().st_size


def test_batch_that_breaks_off_keeps_what_was_in_it(tmp_path: Path) -> None:
    study = fake_study(tmp_path)
    storage = study.record.study._storage

    def break_off() -> None:
        with storage.together(is_durable=False):
            study.record.study.set_user_attr("one", 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert load_record(Location(tmp_path, "fake")).study.user_attrs["one"] == 1
    study.record.study.set_user_attr("two", 2)
    assert set(study.record.study.user_attrs) >= {"one", "two"}


def test_unfinished_trials_are_those_that_optuna_finds(tmp_path: Path) -> None:
    """In every state that a study goes through, also where another process has written."""
    dice = random.Random(0)
    storage = BatchedStorage(tmp_path / "journal.log")
    study = optuna.create_study(storage=storage)
    path = tmp_path / "journal.log"
    other = optuna.load_study(study_name=study.study_name, storage=BatchedStorage(path))
    running: list[int] = []
    for _ in range(60):
        writer = dice.choice([study, other])
        match dice.choice(["ask", "tell", "enqueue"]):
            case "ask":
                running.append(writer.ask().number)
            case "tell" if running:
                writer.tell(running.pop(dice.randrange(len(running))), 1.0)
            case "enqueue":
                writer.enqueue_trial({})
        for states in ((TrialState.WAITING,), (TrialState.RUNNING, TrialState.WAITING)):
            expected = JournalStorage.get_all_trials(storage, study._study_id, False, states)
            assert storage.get_all_trials(study._study_id, False, states) == expected
