"""A search by a process of its own, to be killed: `python -m tests.ray_driver ADDRESS ...`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from autoquant.cluster import Crew
from autoquant.launch import Launch, run_launch
from autoquant.search.header import StudyHeader
from autoquant.search.storage import Location
from tests.crews import FakeSource
from tests.fakes import DEFINITION

LAYERS = {
    "constraints": {"max_accuracy_drop": 0.04},
    "layers": {"*": {"weight_bits": [8, 4], "exclude": [False, True]}},
}


def fake_launch(
    folder: Path,
    trials: int,
    crew: Crew | None,
    sampler: str = "random",
    targets: Sequence[str] = (),
) -> Launch:
    header = StudyHeader({**DEFINITION, **LAYERS}, 0, sampler, trials=trials, targets=targets)
    return Launch(Location(folder, "fake"), header, crew=crew)


def main(address: str, results: str, trials: str, seconds: str, workers: str) -> None:
    folder = Path(results)
    source = FakeSource(seconds=float(seconds), notes=folder)
    crew = Crew(int(workers), None if address == "local" else address, trial_timeout_s=60)
    run_launch(fake_launch(folder, int(trials), crew), source(), Console(), print, source)


if __name__ == "__main__":
    main(*sys.argv[1:])
