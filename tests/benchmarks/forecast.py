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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autoquant.core.forecast import Cost, Forecast, forecast_rest
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


def replay(recording: dict[str, Any]) -> Iterator[tuple[int, Forecast | None, float, float]]:
    """After each trial: how many, the forecast, the mean over all so far, and what was left."""
    costs: list[Cost] = []
    before = 0.0
    for event in recording["events"]:
        if "number" not in event:
            continue
        is_full = event["state"] != "rejected"
        wall = event["at"] - before if costs else None
        costs.append(Cost(event["seconds"], wall, event["name"], event["is_trained"], is_full))
        before = event["at"]
        found = forecast_rest(costs, recording["target"], front=event["front"])
        naive = event["at"] / len(costs) * (recording["target"] - len(costs))
        yield len(costs), found, naive, recording["ended"] - event["at"]


def checkpoints(target: int) -> dict[str, int]:
    """Where a forecast is judged."""
    return {"5 trials": 5, "a quarter": max(6, round(target / 4)), "half": target // 2}


def table(folder: Path) -> str:
    """How far off the forecasts were, in Markdown."""
    lines = ["| search | trials | after | said | was left | off by | mean of all trials, off by |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for path in sorted(folder.glob("*.json")):
        recording = json.loads(path.read_text())
        steps = {done: rest for done, *rest in replay(recording)}
        for name, done in checkpoints(recording["target"]).items():
            found, naive, left = steps[done]
            told = "-" if found is None else f"about {found.describe()} left"
            off = "-" if found is None else f"{found.seconds / left - 1:+.0%}"
            minutes = f"{left // 60:.0f}:{left % 60:02.0f}"
            cells = [path.stem, str(recording["target"]), name, told, minutes, off,
                     f"{naive / left - 1:+.0%}"]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1] == "record":
        record(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    else:
        print(table(Path(sys.argv[2])))
