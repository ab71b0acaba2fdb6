"""Timings take turns on a machine, on cores of their own."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from autoquant.backends.quiet import QuietPlace

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
    other = run_beside(tmp_path, body)
    other.kill()
    other.wait()
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
    try:
        assert not place.make_room()
        assert sorted(os.sched_getaffinity(0)) == CORES
        other = run_beside(
            tmp_path,
            """
            place.make_room()
            print("ready", flush=True)
            sys.stdin.readline()
            """,
        )
        assert place.make_room()
        assert os.sched_getaffinity(0) == set(CORES[:-1])
        with place.turn():
            assert os.sched_getaffinity(0) == {CORES[-1]}
        assert os.sched_getaffinity(0) == set(CORES[:-1])
        finish(other)
        assert not place.make_room()
        assert sorted(os.sched_getaffinity(0)) == CORES
    finally:
        place.leave()
        os.sched_setaffinity(0, CORES)


def test_one_core_is_enough(tmp_path: Path) -> None:
    os.sched_setaffinity(0, {CORES[0]})
    try:
        place = QuietPlace(2, tmp_path)
        assert not place.make_room()
        with place.turn():
            assert os.sched_getaffinity(0) == {CORES[0]}
        place.leave()
    finally:
        os.sched_setaffinity(0, CORES)
