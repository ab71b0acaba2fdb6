"""Pictures of every page of the app, light and dark.

`python tests/benchmarks/app_screenshots.py results/published/app [--pages front qat]`
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from autoquant.browse.errand import follow_errand
from autoquant.browse.layers import layer_arguments
from autoquant.search.storage import Location
from tests.browser import find_chromium, open_page, running_app, wait_until_still
from tests.journals import failed, measured_trials, rejected, write_study

PUBLISHED = Path("results/published/resnet20-search/journal.log")
PAGES = {
    "studies": "", "new": "new", "live": "live", "front": "front", "compare": "compare",
    "layers": "layers", "qat": "qat", "export": "export",
}  # fmt: skip
STUDY = "cifar10-resnet20"
MORE = {"layers": "&layer=layer2.0.conv1&bits=4"}


def prepare(results: Path) -> None:
    """The published search on ResNet-20, a rehearsal on the digits, and one that is damaged."""
    folder = results / STUDY
    folder.mkdir(parents=True)
    shutil.copy(PUBLISHED, folder / "journal.log")
    trials = measured_trials(30)
    mixed = [*trials[:25], *map(rejected, trials[25:29]), failed(trials[29])]
    write_study(results, "digits-night", mixed, target=60)
    broken = write_study(results, "digits-broken", trials[:9], target=20)
    with broken.open("ab") as file:
        file.write(b"\0\0\n")


def shoot(address: str, page: Any, output: Path, theme: str, names: list[str]) -> None:
    for name in names:
        path = PAGES[name]
        study = "digits-night" if name == "live" else STUDY
        query = "" if name in ("studies", "new") else f"?study={study}{MORE.get(name, '')}"
        page.goto(f"{address}/{path}{query}")
        wait_until_still(page)
        if name == "front":
            wait_until_still(page)
        height = page.evaluate(
            "() => document.querySelector(\"[data-testid='stMainBlockContainer']\").scrollHeight"
        )
        page.set_viewport_size({"width": 1440, "height": min(max(760, height + 20), 1700)})
        page.wait_for_timeout(900)
        page.screenshot(path=output / f"{name}-{theme}.png")
        page.set_viewport_size({"width": 1440, "height": 1000})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--pages", nargs="+", choices=PAGES, default=list(PAGES))
    parser.add_argument("--themes", nargs="+", choices=("light", "dark"), default=["light", "dark"])
    arguments = parser.parse_args()
    chromium = find_chromium()
    assert chromium, "no chromium"
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        prepare(results)
        if "layers" in arguments.pages:  # with the task's own weights and images
            follow_errand("look", layer_arguments(Location(results, STUDY), None))
        # by a relative name, so that no picture shows where this ran
        with running_app(Path("results"), folder=Path(folder)) as address:
            for theme in arguments.themes:
                with open_page(chromium, dark=theme == "dark") as page:
                    shoot(address, page, arguments.output, theme, arguments.pages)


if __name__ == "__main__":
    main()
