"""The way of a user through the app, in a real browser: from a form to a file that runs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession

pytest.importorskip("streamlit", reason="the extra 'app' is not installed")

from autoquant.browse.process import find_process, stop_search
from autoquant.search.reader import StudyReader
from autoquant.search.storage import Location
from tests.browser import open_page, require_chromium, running_app, wait_until_still
from tests.journals import measured_trials, write_study

pytestmark = pytest.mark.alone  # searches are timed, and a browser wants a core of its own
_SEARCH_MS = 480_000


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("app") / "results"
    yield folder
    end_searches(folder)


@pytest.fixture
def other_results(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "results"
    end_searches(tmp_path / "results")


def end_searches(folder: Path) -> None:
    """Those of a test that failed half way."""
    for study in folder.glob("*"):
        process = find_process(Location(folder, study.name))
        if process is not None:
            os.killpg(process, signal.SIGKILL)


@pytest.fixture(scope="module")
def page(results: Path) -> Iterator[Any]:
    chromium = require_chromium()
    with running_app(results) as address, open_page(chromium) as page:
        page.address = address
        yield page


def see(page: Any, text: str, timeout_ms: int = 60_000) -> None:
    page.get_by_text(text).first.wait_for(timeout=timeout_ms)


def test_a_search_outlives_the_app_and_can_be_stopped(other_results: Path) -> None:
    """Started by one app, stopped without it; what is finished stays.

    It comes first: Playwright drives one browser at a time, and the others share theirs.
    """
    chromium = require_chromium()
    with running_app(other_results) as address, open_page(chromium) as page:
        page.address = address
        page.goto(f"{address}/new")
        wait_until_still(page)
        page.get_by_label("Name of the study").fill("long")
        page.get_by_label("Name of the study").press("Enter")
        page.get_by_label("Trials", exact=True).fill("5000")
        page.get_by_label("Trials", exact=True).press("Enter")
        see(page, "5000 trials")
        page.get_by_role("button", name="Start the search").click()
        see(page, "of 5000 trials", _SEARCH_MS)
    location = Location(other_results, "long")
    process = find_process(location)
    assert process is not None
    stop_search(location)
    for _ in range(600):
        if find_process(location) is None:
            break
        time.sleep(0.1)
    else:
        os.killpg(process, signal.SIGKILL)
        pytest.fail("the search did not stop")
    assert "interrupted" in (location.folder / "search.log").read_text()


def test_from_a_form_to_a_file_that_runs(page: Any, results: Path, tmp_path: Path) -> None:
    launch(page)
    watch(page, results)
    number = choose(page)
    compare(page)
    accuracy = export(page, tmp_path, number)
    assert measure(tmp_path / "model.onnx") == pytest.approx(accuracy, abs=5e-5)
    run_snippet(page, tmp_path)


def launch(page: Any) -> None:
    page.goto(page.address)
    see(page, "There are no studies here yet")
    page.get_by_role("link", name="New search").first.click()
    page.get_by_label("Name of the study").fill("first")
    page.get_by_label("Name of the study").press("Enter")
    page.get_by_label("Trials", exact=True).fill("6")
    page.get_by_label("Trials", exact=True).press("Enter")
    see(page, "6 trials")
    page.get_by_role("button", name="Start the search").click()


def watch(page: Any, results: Path) -> None:
    page.get_by_role("heading", name="first").wait_for()
    see(page, "6 of 6 trials", _SEARCH_MS)
    see(page, "done", _SEARCH_MS)
    assert len(StudyReader(Location(results, "first")).read().trials) == 6


def choose(page: Any) -> int:
    """Filter, then click a member of the front."""
    page.goto(f"{page.address}/front?study=first")
    see(page, "The front:")
    wait_until_still(page)
    slider = page.get_by_role("slider", name="Size (MB)")
    slider.focus()
    slider.press("ArrowLeft")
    wait_until_still(page)
    marker = page.locator(".scatterlayer .trace path.point").first
    box = marker.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    see(page, "1 selected")
    page.wait_for_url("**trial=*")
    return int(page.url.partition("trial=")[2].partition("&")[0])


def compare(page: Any) -> None:
    page.get_by_role("link", name="Compare").last.click()
    page.get_by_role("heading", name="Compare").wait_for()
    see(page, "Bits by layer")
    picks = page.get_by_role("combobox", name="Models, up to four")
    picks.click()
    page.get_by_role("option").first.click()
    page.keyboard.press("Escape")
    wait_until_still(page)
    assert page.locator(".heatmaplayer").count() == 1


def export(page: Any, folder: Path, number: int) -> float:
    """Verify and download; the accuracy as it is shown."""
    page.goto(f"{page.address}/export?study=first&trial={number}")
    wait_until_still(page)
    page.get_by_role("button", name="Verify on this machine").click()
    page.get_by_text("what its passport says").first.wait_for(timeout=_SEARCH_MS)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download first").click()
    assert download.value.suggested_filename == f"first-{number}.onnx"
    download.value.save_as(folder / "model.onnx")
    with page.expect_download() as recipe:
        page.get_by_role("button", name="Recipe (JSON)").click()
    recipe.value.save_as(folder / "recipe.json")
    assert json.loads((folder / "recipe.json").read_text())["version"] == 1
    shown = page.get_by_test_id("stMetricValue").first.inner_text()
    return float(shown.rstrip("%")) / 100


def measure(path: Path) -> float:
    """Accuracy of the file in plain ONNX Runtime, on data read by other code than ours."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(1797)[1000:1400]
    # the very class: where sums saturate, the tests' own is exact, and the app's is not
    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = (bunch.images[order][:, None] / 16).astype(np.float32)
    outputs = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    return float((outputs.argmax(1) == bunch.target[order]).mean())


def run_snippet(page: Any, folder: Path) -> None:
    """It runs as it is shown, beside the file as it was downloaded."""
    code = page.locator("code", has_text="import onnxruntime").inner_text()
    name = code.partition('InferenceSession("')[2].partition('"')[0]
    (folder / "model.onnx").rename(folder / name)
    (folder / "snippet.py").write_text(code)
    result = subprocess.run(
        [sys.executable, "snippet.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[(1, 10)]"


def test_an_upload_that_is_too_large_or_no_space_is_refused(page: Any, tmp_path: Path) -> None:
    page.goto(f"{page.address}/new")
    wait_until_still(page)
    upload = page.locator("input[type=file]")
    large, bad = tmp_path / "large.yaml", tmp_path / "bad.yaml"
    large.write_text("# " + "x" * 100_000)
    upload.set_input_files(large)
    see(page, "larger than 64 kB")
    page.goto(f"{page.address}/new")
    wait_until_still(page)
    trace = tmp_path / "was-here"
    bad.write_text(f"!!python/object/apply:os.system ['touch {trace}']\n")
    page.locator("input[type=file]").set_input_files(bad)
    see(page, "not YAML")
    assert not trace.exists()


def test_scripts_in_records_and_addresses_do_not_run(page: Any, results: Path) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    write_study(results, "evil", measured_trials(9), attributes={"notes": {"front": evil}})
    page.goto(f"{page.address}/front?study=evil")
    see(page, "onerror")
    page.goto(f"{page.address}/front?study=%3Cscript%3Edocument.title%3D%27owned%27%3C/script%3E")
    wait_until_still(page)
    assert page.title() != "owned"


_POINTS = """() => document.querySelector('.st-key-plot .js-plotly-plot')._fullData
  .filter(trace => trace.name !== 'chosen').reduce((sum, trace) => sum + trace._length, 0)"""


def test_a_plot_is_changed_in_place_and_keeps_what_is_picked(page: Any, results: Path) -> None:
    write_study(results, "plot", measured_trials(60))
    page.goto(f"{page.address}/front?study=plot")
    wait_until_still(page)
    before = page.evaluate(_POINTS)
    page.evaluate("() => { window.first = document.querySelector('.st-key-plot .js-plotly-plot') }")
    draw_box(page)
    selected = page.get_by_text(" selected")
    selected.wait_for()
    count = int(selected.inner_text().split()[0])
    assert 1 < count < before
    assert count == page.evaluate(_PICKED)
    page.get_by_role("button", name="qat", exact=True).click()
    page.wait_for_function(f"() => ({_POINTS})() < {before}")
    wait_until_still(page)
    # those of the other mode are gone; of the rest the same ones stand out, counted anew
    left = int(selected.inner_text().split()[0])
    assert left == page.evaluate(_PICKED)
    assert page.evaluate(
        "() => window.first === document.querySelector('.st-key-plot .js-plotly-plot')"
    )
    page.mouse.dblclick(*corner_of(page))
    see(page, "The front:")
    assert page.evaluate(_PICKED) == 0


_PICKED = """() => document.querySelector('.st-key-plot .js-plotly-plot')._fullData
  .reduce((sum, trace) => sum + (trace.selectedpoints || []).length, 0)"""


def corner_of(page: Any) -> tuple[float, float]:
    """A place inside the plot without points."""
    box = page.locator(".st-key-plot .draglayer .nsewdrag").bounding_box()
    return box["x"] + box["width"] - 12, box["y"] + box["height"] - 12


def draw_box(page: Any) -> None:
    """Around the left half of the plot, by its own tool."""
    plot = page.locator(".st-key-plot")
    plot.hover()
    plot.locator("[data-val=select]").click()
    box = plot.locator(".draglayer .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 3, steps=5)
    page.mouse.up()


def test_pages_ask_no_other_server_for_anything(page: Any, results: Path) -> None:
    write_study(results, "quiet", measured_trials(12))
    asked: list[str] = []

    def note(request: Any) -> None:
        asked.append(request.url)

    page.on("request", note)
    for name in ("", "new", "live", "front", "compare", "layers", "qat", "export"):
        page.goto(f"{page.address}/{name}?study=quiet")
        wait_until_still(page)
    page.remove_listener("request", note)
    elsewhere = [url for url in asked if not url.startswith((page.address, "data:", "blob:"))]
    assert asked
    assert not elsewhere
