"""The package as it is installed: all that the commands need is inside, nothing of a checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.browser import ROOT, free_port

_SOURCE = ("autoquant", "app", "search_spaces", "pyproject.toml", "README.md", "LICENSE")


@dataclass(frozen=True)
class Installed:
    """A wheel, and an environment that holds it beside everything that tests run with."""

    wheel: Path
    python: Path
    folder: Path

    @property
    def command(self) -> str:
        """The entry point."""
        return str(self.python.with_name("autoquant"))

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command], cwd=self.folder, env=environment(),
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip


def environment() -> dict[str, str]:
    """Nothing that leads back to the checkout."""
    return {key: value for key, value in os.environ.items()
            if not key.startswith(("PYTHON", "AUTOQUANT_", "COV_"))}  # fmt: skip


def build_wheel(folder: Path) -> Path:
    """As anybody would; the build environment comes from where packages come from."""
    source = folder / "source"  # a build leaves nothing in the checkout
    source.mkdir()
    for name in _SOURCE:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    command = ["pip", "wheel", "--no-deps", "--quiet", "--disable-pip-version-check",
               "-w", str(folder), str(source)]  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-m", *command], env=environment(), capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    if "hatchling" in result.stderr and "No matching distribution" in result.stderr:
        pytest.skip("hatchling can be had from nowhere here")
    assert result.returncode == 0, result.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build_wheel(folder)
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    pip = ["-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "-q"]
    subprocess.run([sys.executable, *pip, str(wheel)], env=environment(), check=True, timeout=120)
    # its own packages come first; an editable autoquant there is a path that nobody reads
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    outside = folder / "outside"
    outside.mkdir()
    return Installed(wheel, python, outside)


def test_a_wheel_holds_what_its_commands_need(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as archive:
        names = set(archive.namelist())
        (entries,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "autoquant = autoquant.__main__:main" in archive.read(entries).decode()
    pages = [path for path in ROOT.glob("app/**/*.*") if "__pycache__" not in path.parts]
    wanted = [*pages, *ROOT.glob("search_spaces/*.yaml")]
    assert {f"autoquant/{path.relative_to(ROOT)}" for path in wanted} <= names
    modules = {str(path.relative_to(ROOT)) for path in ROOT.glob("autoquant/**/*.py")}
    assert modules <= names
    assert "autoquant/py.typed" in names
    assert not [name for name in names if "tests" in name or "__pycache__" in name]


def test_nothing_is_imported_from_a_checkout(installed: Installed) -> None:
    code = "import autoquant, autoquant.cli, sys; print(*sys.path, autoquant.__file__, sep='\\n')"
    told = installed.run(str(installed.python), "-c", code).stdout.split()
    assert told[-1].startswith(str(installed.python.parents[1]))
    assert str(ROOT) not in told


def test_commands_find_their_spaces_and_pages(installed: Installed) -> None:
    spaces = installed.run(installed.command, "spaces")
    assert spaces.returncode == 0, spaces.stderr
    shipped = {path.stem for path in ROOT.glob("search_spaces/*.yaml")}
    assert shipped <= set(spaces.stdout.split())
    help_ = installed.run(installed.command, "app", "--help")
    assert "--storage" in help_.stdout
    unknown = installed.run(installed.command, "search", "digit")
    assert unknown.returncode == 2
    assert "digits" in unknown.stderr, "the names of those that there are"


def test_the_app_answers(installed: Installed) -> None:
    pytest.importorskip("streamlit", reason="the extra 'app' is not installed")
    port = free_port()
    command = [installed.command, "app", "--port", str(port)]
    with subprocess.Popen(
        command, cwd=installed.folder, env=environment(), start_new_session=True
    ) as app:
        try:
            assert ask(f"http://127.0.0.1:{port}/", app) == 200
        finally:
            os.killpg(app.pid, 15)


def ask(address: str, app: "subprocess.Popen[bytes]") -> int:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert app.poll() is None, "the app ended"
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                return int(answer.status)
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the app did not answer")
