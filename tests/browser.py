"""The app in a real browser: Debian's chromium, driven by Playwright."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
_START_S = 60


def find_chromium() -> str | None:
    """Where a chromium lies; None if there is none, or nothing to drive it with."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return None
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def require_chromium() -> str:
    """The same, or a skip that says why."""
    path = find_chromium()
    if path is None:
        pytest.skip("no chromium and playwright on this machine: apt-get install chromium")
    return path


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_app(results: Path, *options: str, folder: Path = ROOT) -> Iterator[str]:
    """The app as `autoquant app` starts it in a folder; its address."""
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "autoquant", "app", "--port", str(port),
               "--results", str(results), *options]  # fmt: skip
    with subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(f"{address}/_stcore/health", process)
            yield address
        finally:
            os.killpg(process.pid, 15)
            process.wait(20)


def _wait_for(address: str, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        assert process.poll() is None, "the app ended"
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the app did not answer")


@contextmanager
def open_page(chromium: str, *, dark: bool = False, **options: Any) -> Iterator[Any]:
    """A page of a fresh browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--force-device-scale-factor=1"]
        )
        scheme = "dark" if dark else "light"
        size = options.pop("viewport", {"width": 1440, "height": 1000})
        context = browser.new_context(
            viewport=size, color_scheme=scheme, accept_downloads=True, **options
        )
        page = context.new_page()
        page.set_default_timeout(60_000)
        try:
            yield page
        finally:
            browser.close()


def wait_until_still(page: Any) -> None:
    """Until the app has run and what it drew stands still."""
    page.wait_for_selector("[data-testid='stAppViewContainer']")
    page.wait_for_selector("h1")
    page.wait_for_function(
        "() => !document.querySelector(\"[data-testid='stStatusWidget']\")"
        " && !document.querySelector(\"[data-testid='stSkeleton']\")"
    )
    page.wait_for_timeout(700)
