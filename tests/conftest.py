import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.postgres import Server, find_binaries

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
# Minutes each, the longest first: whoever begins with them is not waited for in the end.
LONG = ["test_cli", "test_cifar", "test_kill", "test_zoo", "test_cluster", "test_task_options"]


def pytest_configure(config: pytest.Config) -> None:
    """Find the shared data beside the checkout; give each worker of xdist a core of its own."""
    # no wall time is asserted: a busy machine is no error
    settings.register_profile("unhurried", deadline=None)
    settings.load_profile("unhurried")
    if DATA.is_dir():
        os.environ.setdefault("AUTOQUANT_DATA", str(DATA))
    # a study that ends hands crashes of native code back to this stream: not into a capture
    sys.__stderr__ = os.fdopen(os.dup(2), "w")  # type: ignore[misc]
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and hasattr(os, "sched_setaffinity"):
        # before anything counts the cores: torch and the runtimes then take one thread each
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; workers of xdist take them in this order (`--no-loadscope-reorder`)."""
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


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


@pytest.fixture(scope="session", autouse=True)
def exact_sums() -> Iterator[None]:
    """Where the processor's sums of 8-bit products saturate, let the runtime add them exactly.

    Most tests ask whether a file is what was promised, not what this processor makes of it.
    With this option of the session ONNX Runtime is exact on any x86-64 processor (and slower
    than float); what happens without it is for the tests that run the command itself.
    """
    from autoquant.backends import machine

    if machine.has_integer_dot_product():
        yield
        return
    import onnxruntime
    from onnxruntime import InferenceSession, SessionOptions

    class ExactOptions(SessionOptions):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.add_session_config_entry("session.x64quantprecision", "1")

    class ExactSession(InferenceSession):  # type: ignore[misc]
        def __init__(self, model: Any, sess_options: Any = None, *rest: Any, **more: Any) -> None:
            options = sess_options or ExactOptions()
            try:
                super().__init__(model, options, *rest, **more)
            except Exception:  # weights that two layers share: 1.32 cannot be exact with them
                options.add_session_config_entry("session.x64quantprecision", "0")
                super().__init__(model, options, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "SessionOptions", ExactOptions)
        patch.setattr(onnxruntime, "InferenceSession", ExactSession)
        patch.setattr(machine, "_DOT_PRODUCT", {*machine._DOT_PRODUCT, "avx2"})
        yield


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data, or a skip."""
    folder = os.environ.get("AUTOQUANT_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("AUTOQUANT_DATA is not set: the real data are not on this machine")
    return Path(folder)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A PostgreSQL server of its own."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    server = Server(binaries)
    server.start()
    yield server
    server.stop()
    server.remove()
