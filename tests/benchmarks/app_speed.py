"""How fast the app opens and filters a study of 5,000 trials, measured in the browser.

`python tests/benchmarks/app_speed.py results/published/app`

`--no-browser` gives the processor seconds of the steps below the pages alone: those hold on a
machine that is busy with other work too.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from autoquant.backends.machine import available_cores, describe_machine
from autoquant.browse.library import Library
from autoquant.browse.table import Filter
from autoquant.core.trial import Trial
from autoquant.report.explore_figure import explore_figure
from autoquant.search.storage import Location, hold_driver_lock
from tests.browser import find_chromium, open_page, running_app, wait_until_still
from tests.journals import append_trial, measured_trials, write_study

TRIALS, LAYERS, REPEATS = 5000, 20, 9
# Points of dominated trials in the plot; -1 while there is none, or while it is being drawn.
_DRAWN = """() => {
  const plot = document.querySelector('.st-key-plot .js-plotly-plot');
  if (!plot || !plot._fullData || plot._redrawing) return -1;
  return plot._fullData.filter(trace => trace.name === 'dominated')
    .reduce((sum, trace) => sum + trace._length, 0);
}"""
# Two frames later the browser has painted what it holds.
_PAINTED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


def drawn(page: Any) -> int:
    """Dominated trials in the plot as it stands."""
    return int(page.evaluate(_DRAWN))


def wait_for_points(page: Any, accept: str) -> None:
    """Until the plot holds points that are accepted, and they are on the screen."""
    page.wait_for_function(f"() => {{ const n = ({_DRAWN})(); return {accept}; }}", polling=20)
    page.evaluate(_PAINTED)


def measure_open(page: Any, address: str, study: str, least: int) -> float:
    """Seconds from asking for the page until the points are in the plot."""
    page.goto("about:blank")
    begin = time.perf_counter()
    page.goto(f"{address}/front?study={study}", wait_until="commit")
    wait_for_points(page, f"n >= {least}")
    return time.perf_counter() - begin


def measure_click_through(page: Any, address: str, study: str, least: int) -> float:
    """Seconds from the button in the list of studies until the points are in the plot."""
    page.goto(address)
    wait_until_still(page)
    button = page.locator(f".st-key-open_{study} button")
    begin = time.perf_counter()
    button.click()
    wait_for_points(page, f"n >= {least}")
    return time.perf_counter() - begin


def measure_change(page: Any, change: Callable[[], Any]) -> float:
    """Seconds from something that a user does until the plot shows other points."""
    before = drawn(page)
    begin = time.perf_counter()
    change()
    wait_for_points(page, f"n >= 0 && n !== {before}")
    taken = time.perf_counter() - begin
    page.wait_for_timeout(500)
    return taken


def measure_filters(page: Any) -> dict[str, list[float]]:
    """A mode that is left out and let in again; a slider that is moved to and fro."""
    mode = page.get_by_role("button", name="qat", exact=True)
    modes = [measure_change(page, mode.click) for _ in range(REPEATS)]
    places = [0.3 if turn % 2 == 0 else 0.45 for turn in range(REPEATS)]
    sliders = [measure_change(page, lambda at=at: _slide(page, at)) for at in places]
    return {"filter_mode_s": modes, "filter_slider_s": sliders}


def _slide(page: Any, share: float) -> None:
    """Click on the track of the slider of sizes, at a share of its length."""
    box = page.locator(".st-key-max_size_big [data-testid='stSlider']").bounding_box()
    thumb = page.get_by_role("slider", name="Size (MB)").bounding_box()
    page.mouse.click(box["x"] + share * box["width"], thumb["y"] + thumb["height"] / 2)


def measure_refresh(page: Any, results: Path, extra: Trial) -> dict[str, Any]:
    """Seconds from a trial that ends until the plot shows it by itself, and what is picked then."""
    with hold_driver_lock(Location(results, "big")):
        page.reload()
        wait_for_points(page, "n >= 1")
        wait_until_still(page)
        page.mouse.click(*_place_of_a_member(page))
        page.get_by_text("1 selected").wait_for()
        page.wait_for_timeout(1000)
        taken = measure_change(page, lambda: append_trial(results, "big", extra))
        wait_until_still(page)
        return {
            "refresh_s": taken,
            "is_selection_kept": page.get_by_text("1 selected").is_visible(),
        }


def _place_of_a_member(page: Any) -> tuple[float, float]:
    box = page.locator(".scatterlayer .trace path.point").first.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def measure_steps(results: Path) -> dict[str, float]:
    """Processor seconds of what a first opening and a filter cost, without Streamlit."""
    view = Library(results).view("small")  # what is loaded on first use
    explore_figure(view.table)
    library = Library(results)
    steps: dict[str, Callable[[], Any]] = {
        "read_journal": lambda: library.view("big"),
        "find_front": lambda: library.view("big").front,
        "build_table": lambda: library.view("big").table,
        "read_again_unchanged": lambda: library.view("big"),
        "filter": lambda: _filtered(library),
        "draw_figure": lambda: explore_figure(_filtered(library)).to_json(),
    }
    found = {}
    for name, step in steps.items():
        begin = time.process_time()
        step()
        found[f"{name}_cpu_s"] = time.process_time() - begin
    return found


def _filtered(library: Library) -> Any:
    table = library.view("big").table
    return table[Filter(max_drop=3.0, max_size=0.2).mask(table)]


def measure_browser(results: Path, chromium: str, trials: Sequence[Trial]) -> dict[str, Any]:
    """Seconds by the clock, in a browser on the same machine."""
    hidden = results.parent / "big"
    shutil.move(results / "big", hidden)  # what nobody has opened has not been read either
    least = len(trials) // 2
    with running_app(results) as address, open_page(chromium) as page:
        measure_open(page, address, "small", 1)  # what every first page costs
        wait_until_still(page)
        small = measure_open(page, address, "small", 1)
        wait_until_still(page)
        shutil.move(hidden, results / "big")
        first = measure_open(page, address, "big", least)
        wait_until_still(page)
        again = [measure_open(page, address, "big", least) for _ in range(5)]
        clicked = [measure_click_through(page, address, "big", least) for _ in range(3)]
        wait_until_still(page)
        filters = measure_filters(page)
        refreshed = measure_refresh(page, results, trials[-1])
    medians = {f"{name}_median": statistics.median(taken) for name, taken in filters.items()}
    return {
        "open_small_s": small, "open_first_s": first, "open_again_s": again,
        "open_from_list_s": clicked, **filters, **medians, **refreshed,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--no-browser", action="store_true")
    parser.add_argument("--trials", type=int, default=TRIALS)
    arguments = parser.parse_args()
    found: dict[str, Any] = {
        "trials": arguments.trials,
        "layers": LAYERS,
        "cores": available_cores(),
    }
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        trials = measured_trials(arguments.trials + 1, LAYERS)
        journal = write_study(results, "big", trials[:-1])
        write_study(results, "small", measured_trials(20, LAYERS), task="other")
        found["journal_bytes"] = journal.stat().st_size
        found |= measure_steps(results)
        if not arguments.no_browser:
            chromium = find_chromium()
            assert chromium, "no chromium"
            found |= measure_browser(results, chromium, trials)
    found |= {"load_average": os.getloadavg(), "machine": describe_machine()}
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "speed.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({key: value for key, value in found.items() if key != "machine"}, indent=1))


if __name__ == "__main__":
    main()
