"""Timings take turns on a machine, on cores of their own."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from autoquant.backends import machine
from autoquant.backends.quiet import QuietPlace
from autoquant.errors import StorageError

pytestmark = pytest.mark.alone
CORES = sorted(os.sched_getaffinity(0))
several = pytest.mark.skipif(len(CORES) < 2, reason="this machine has one core")


def run_beside(folder: Path, body: str) -> subprocess.Popen[str]:
    """Another process that uses the same lock folder as `place`."""
    code = f"""
        import sys, time
        from pathlib import Path
        from autoquant.backends.quiet import QuietPlace
        place = QuietPlace(1, Path({str(folder)!r}))
    """
    code = textwrap.dedent(code) + textwrap.dedent(body)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate("go\n", timeout=20)
    return output


def test_two_timings_never_overlap(tmp_path: Path) -> None:
    other = run_beside(
        tmp_path,
        """
        with place.turn():
            print("ready", flush=True)
            sys.stdin.readline()
            time.sleep(0.3)
            print(time.monotonic())
        """,
    )
    assert other.stdin is not None
    other.stdin.write("go\n")
    other.stdin.flush()
    with QuietPlace(1, tmp_path).turn():
        entered = time.monotonic()
    ended = float(other.communicate(timeout=20)[0])
    assert entered >= ended - 0.01


def test_a_killed_process_holds_up_nobody(tmp_path: Path) -> None:
    body = """
        with place.turn():
            print("ready", flush=True)
            time.sleep(60)
        """
    with run_beside(tmp_path, body) as other:
        other.kill()
    with QuietPlace(1, tmp_path).turn():
        pass


def test_a_turn_is_on_the_last_cores_and_gives_them_back(tmp_path: Path) -> None:
    place = QuietPlace(1, tmp_path)
    with place.turn():
        assert os.sched_getaffinity(0) == {CORES[-1]}
    assert sorted(os.sched_getaffinity(0)) == CORES


def test_an_exception_in_a_turn_gives_cores_and_lock_back(tmp_path: Path) -> None:
    place = QuietPlace(1, tmp_path)
    with pytest.raises(RuntimeError), place.turn():
        raise RuntimeError
    assert sorted(os.sched_getaffinity(0)) == CORES
    with place.turn():
        pass


@several
def test_work_keeps_off_the_timing_cores_only_while_others_work(tmp_path: Path) -> None:
    place = QuietPlace(1, tmp_path)
    with place.work() as is_shared:
        assert not is_shared
        assert sorted(os.sched_getaffinity(0)) == CORES
    other = run_beside(
        tmp_path,
        """
        with place.work():
            print("ready", flush=True)
            sys.stdin.readline()
        """,
    )
    with place.work() as is_shared:
        assert is_shared
        assert os.sched_getaffinity(0) == set(CORES[:-1])
        with place.turn():
            assert os.sched_getaffinity(0) == {CORES[-1]}
        assert os.sched_getaffinity(0) == set(CORES[:-1])
    assert sorted(os.sched_getaffinity(0)) == CORES
    finish(other)
    with place.work() as is_shared:
        assert not is_shared


def test_threads_that_begin_in_a_turn_are_free_after_it(tmp_path: Path) -> None:
    found: list[set[int]] = []
    stop = threading.Event()

    def live() -> None:
        stop.wait()
        found.append(os.sched_getaffinity(0))

    with QuietPlace(1, tmp_path).turn():
        thread = threading.Thread(target=live)
        thread.start()
    stop.set()
    thread.join()
    assert [sorted(cores) for cores in found] == [CORES]


def test_one_core_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: frozenset({CORES[0]}))
    place = QuietPlace(2, tmp_path)
    with place.work() as is_shared, place.turn():
        assert not is_shared
        assert os.sched_getaffinity(0) == {CORES[0]}
    assert sorted(os.sched_getaffinity(0)) == CORES


@several
@pytest.mark.parametrize("stage", ["turn", "look"])
def test_who_comes_later_is_noticed_at_the_next_stage(tmp_path: Path, stage: str) -> None:
    place = QuietPlace(1, tmp_path)

    def go_on() -> None:
        if stage == "look":
            place.look_around()
        else:
            with place.turn():
                pass

    with place.work() as is_shared:
        assert not is_shared
        other = run_beside(
            tmp_path,
            """
            with place.work():
                print("ready", flush=True)
                sys.stdin.readline()
            """,
        )
        go_on()
        assert os.sched_getaffinity(0) == set(CORES[:-1])
        finish(other)
        go_on()
        assert sorted(os.sched_getaffinity(0)) == CORES


@several
def test_work_within_work_is_not_company(tmp_path: Path) -> None:
    place = QuietPlace(1, tmp_path)
    with place.work(), place.work() as is_shared:
        assert not is_shared
    assert place.look_around() is False


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    victim.chmod(0o600)
    (tmp_path / "autoquant-timing.lock").symlink_to(victim)
    refused = pytest.raises(StorageError, match=r"cannot open the lock .*AUTOQUANT_LOCKS")
    with refused, QuietPlace(1, tmp_path).turn():
        pass
    assert victim.stat().st_mode & 0o777 == 0o600


def test_processes_with_other_temporary_folders_share_the_locks(monkeypatch) -> None:
    monkeypatch.delenv("AUTOQUANT_LOCKS", raising=False)
    found = set()
    for folder in ("/var/tmp", "/tmp"):
        monkeypatch.setattr("tempfile.tempdir", folder)
        found.add(QuietPlace(1)._timing)
    assert len(found) == 1
    monkeypatch.setenv("AUTOQUANT_LOCKS", "/somewhere")
    assert QuietPlace(1)._timing == Path("/somewhere/autoquant-timing.lock")


@several
def test_workers_of_a_search_keep_off_the_timing_cores_for_each_turn_alone(tmp_path: Path) -> None:
    worker = run_beside(tmp_path, 'print("ready", flush=True)\nsys.stdin.readline()')
    place = QuietPlace(1, tmp_path)
    with place.keeping_away([worker.pid, 2**30]):
        assert os.sched_getaffinity(worker.pid) == set(CORES)
        with place.turn():
            assert os.sched_getaffinity(worker.pid) == set(place.other_cores)
        assert os.sched_getaffinity(worker.pid) == set(CORES)
    with place.turn():
        assert os.sched_getaffinity(worker.pid) == set(CORES), "it works for another search now"
    finish(worker)


@several
def test_worker_that_is_guided_is_seen_and_stays_where_it_was_put(tmp_path: Path) -> None:
    other = run_beside(
        tmp_path,
        """
        from autoquant.backends.quiet import GuidedPlace
        import os
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        place = GuidedPlace(1, place._timing.parent)
        with place.work(), place.work():
            print("ready", flush=True)
            sys.stdin.readline()
            print(len(os.sched_getaffinity(0)))
        """,
    )
    place = QuietPlace(1, tmp_path)
    with place.work() as is_shared:
        assert is_shared
    assert finish(other) == "1\n"
