"""How fast the app opens and filters a study of 5,000 trials, measured in the browser.

`python tests/benchmarks/app_speed.py results/published/app`

`--no-browser` gives the processor seconds of the steps below the pages alone: those hold on a
machine that is busy with other work too.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from autoquant.backends.machine import available_cores, describe_machine
from autoquant.browse.library import Library
from autoquant.browse.table import Filter
from autoquant.report.explore_figure import explore_figure
from tests.browser import find_chromium, open_page, running_app, wait_until_still
from tests.journals import measured_trials, write_study

TRIALS, LAYERS = 5000, 20
_DRAWN = """() => {
  const plot = document.querySelector('.js-plotly-plot');
  if (!plot || !plot._fullData) return -1;
  return plot._fullData.filter(trace => trace.name === 'dominated')
    .reduce((sum, trace) => sum + trace._length, 0);
}"""


def drawn(page: Any) -> int:
    """Dominated trials in the plot as it stands."""
    return int(page.evaluate(_DRAWN))


def wait_for_points(page: Any, accept: str) -> None:
    page.wait_for_function(f"() => {{ const n = ({_DRAWN})(); return {accept}; }}", polling=10)


def measure_open(page: Any, address: str, study: str, least: int) -> float:
    """Seconds from asking for the page until the points are in the plot."""
    page.goto("about:blank")
    begin = time.perf_counter()
    page.goto(f"{address}/front?study={study}", wait_until="commit")
    wait_for_points(page, f"n >= {least}")
    return time.perf_counter() - begin


def measure_filter(page: Any) -> float:
    """Seconds from a key on a slider until the plot shows fewer or more points."""
    slider = page.get_by_role("slider", name="Size (MB)")
    slider.focus()
    before = drawn(page)
    begin = time.perf_counter()
    for _ in range(30):  # the ends of a slider may hold no trial
        slider.press("ArrowLeft")
    wait_for_points(page, f"n >= 0 && n !== {before}")
    return time.perf_counter() - begin


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


def measure_browser(results: Path, chromium: str) -> dict[str, Any]:
    """Seconds by the clock, in a browser on the same machine."""
    with running_app(results) as address, open_page(chromium) as page:
        measure_open(page, address, "small", 1)  # what every first page costs
        wait_until_still(page)
        small = measure_open(page, address, "small", 1)
        wait_until_still(page)
        first = measure_open(page, address, "big", TRIALS // 2)
        wait_until_still(page)
        again = measure_open(page, address, "big", TRIALS // 2)
        wait_until_still(page)
        filters = []
        for _ in range(9):
            filters.append(measure_filter(page))
            page.wait_for_timeout(400)
    return {
        "open_small_s": small, "open_first_s": first, "open_again_s": again,
        "filter_s": filters, "filter_median_s": statistics.median(filters),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--no-browser", action="store_true")
    arguments = parser.parse_args()
    found: dict[str, Any] = {"trials": TRIALS, "layers": LAYERS, "cores": available_cores()}
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        journal = write_study(results, "big", measured_trials(TRIALS, LAYERS))
        write_study(results, "small", measured_trials(20, LAYERS), task="other")
        found["journal_bytes"] = journal.stat().st_size
        found |= measure_steps(results)
        if not arguments.no_browser:
            chromium = find_chromium()
            assert chromium, "no chromium"
            found |= measure_browser(results, chromium)
    found |= {"load_average": os.getloadavg(), "machine": describe_machine()}
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "speed.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({key: value for key, value in found.items() if key != "machine"}, indent=1))


if __name__ == "__main__":
    main()
