"""How good the line "about M:SS left" is: real searches on the clock, and what it said of them.

    python tests/benchmarks/forecast.py record digits 40 results/published/search-benchmark/forecast
    python tests/benchmarks/forecast.py table results/published/search-benchmark/forecast

`record` runs a search as the command does and writes when each trial ended and what the closing
took; `table` replays the recordings through the forecast.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from autoquant.progress import SearchProgress
from autoquant.search.study import Event


def record(space: str, trials: int, folder: Path) -> None:
    """Run a search, and write its clock to FOLDER/SPACE.json."""
    from autoquant.cli import app

    begin = time.monotonic()
    events: list[dict[str, Any]] = []
    show = SearchProgress.show

    def note(self: SearchProgress, event: Event) -> None:
        found = {"at": round(time.monotonic() - begin, 2), "kind": event.kind,
                 "front": len(event.front)}  # fmt: skip
        if event.trial is not None:
            trial = event.trial
            found |= {"number": trial.number, "state": trial.state, "name": trial.name,
                      "is_trained": trial.recipe.is_trained, "seconds": trial.seconds}  # fmt: skip
        events.append(found)
        show(self, event)

    SearchProgress.show = note  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as results:
        arguments = ["search", space, "--trials", str(trials), "--timeout", "3h"]
        try:
            app([*arguments, "--results", results], standalone_mode=False)
        finally:
            document = {"space": space, "target": trials, "events": events,
                        "ended": round(time.monotonic() - begin, 2)}  # fmt: skip
            folder.mkdir(parents=True, exist_ok=True)
            lines = ",\n".join(json.dumps(event) for event in events)
            head = json.dumps({key: value for key, value in document.items() if key != "events"})
            text = f'{head[:-1]}, "events": [\n{lines}\n]}}\n'
            (folder / f"{space}.json").write_text(text)


if __name__ == "__main__":
    if sys.argv[1] == "record":
        record(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
