import os
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Find the shared data beside the checkout; keep the cache out of the user's home."""
    if DATA.is_dir():
        os.environ.setdefault("AUTOQUANT_DATA", str(DATA))


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole run: the digits network is trained once."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["AUTOQUANT_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data, or a skip."""
    folder = os.environ.get("AUTOQUANT_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("AUTOQUANT_DATA is not set: the real data are not on this machine")
    return Path(folder)
