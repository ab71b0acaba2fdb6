"""How fast the app opens and filters a study of 5,000 trials, measured in the browser.

`python tests/benchmarks/app_speed.py results/published/app`
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from autoquant.backends.machine import available_cores, describe_machine
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    chromium = find_chromium()
    assert chromium, "no chromium"
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        write_study(results, "big", measured_trials(TRIALS, LAYERS))
        write_study(results, "small", measured_trials(20, LAYERS), task="other")
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
    found = {
        "trials": TRIALS, "open_small_s": small, "open_first_s": first, "open_again_s": again,
        "filter_s": filters, "filter_median_s": statistics.median(filters),
        "cores": available_cores(), "machine": describe_machine(),
    }  # fmt: skip
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "speed.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({k: v for k, v in found.items() if k != "machine"}, indent=1))


if __name__ == "__main__":
    main()
