import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Find the shared data beside the checkout; give each worker of xdist a core of its own."""
    if DATA.is_dir():
        os.environ.setdefault("AUTOQUANT_DATA", str(DATA))
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and hasattr(os, "sched_setaffinity"):
        # before anything counts the cores: torch and the runtimes then take one thread each
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole run: the digits network is trained once."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["AUTOQUANT_CACHE"] = str(folder)
    if "PYTEST_XDIST_WORKER" in os.environ:
        # each worker has its core, so that their timings need not wait for each other
        os.environ["AUTOQUANT_LOCKS"] = str(tmp_path_factory.mktemp("locks"))
    return folder


@pytest.fixture(scope="session", autouse=True)
def captures() -> Iterator[None]:
    """Networks of the tests are captured once; see `tests.captures`."""
    if "autoquant.build" not in sys.modules:  # nothing that was collected builds any
        yield
        return
    from tests.captures import remember_captures

    with pytest.MonkeyPatch.context() as patch:
        remember_captures(patch)
        yield


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data, or a skip."""
    folder = os.environ.get("AUTOQUANT_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("AUTOQUANT_DATA is not set: the real data are not on this machine")
    return Path(folder)
