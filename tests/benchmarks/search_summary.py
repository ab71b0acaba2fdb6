"""Table and figures of the search benchmark.

    python tests/benchmarks/search_summary.py results/published/search-benchmark

Reads every `runs-*.json` of the folder; writes `table.md`, which its README repeats, and
`search-LANDSCAPE.png` there. The minutes to the target are those of the proposals, and for each
trial what a full one of that network takes: `trial-cost.json` in the folder beside this one.
"""

import json
import sys
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from autoquant.report.style import lay_out
from tests.benchmarks.landscape import TASKS
from tests.benchmarks.search_benchmark import COUNTS

SHOWN = (10, 20, 40, 60, 100)
TARGET = 0.8
COLORS = {
    "auto": "#0b6bcb", "auto+s": "#1a7f37", "tpe": "#b4540a", "nsga2": "#7a4bb5", "gp": "#c2185b",
    "random": "#6e7781", "greedy": "#8a6d00", "ilp": "#00838f", "auto/8": "#5aa9f0",
    "auto+s/8": "#7fc79a", "tpe/8": "#e0a875",
}  # fmt: skip


def main(folder: str) -> None:
    parts = []
    for path in sorted(Path(folder).glob("runs-*.json")):
        document = json.loads(path.read_text())
        shares = by_sampler(document)
        parts.append(to_table(document, shares, trial_seconds(folder, document["landscape"])))
        draw(document, shares).write_image(
            path.parent / f"search-{document['landscape']}.png", width=1000, height=560, scale=2
        )
    (Path(folder) / "table.md").write_text("\n".join(parts))


def by_sampler(document: dict) -> dict[str, np.ndarray]:
    """(seeds, counts) by sampler, cut to the shortest run."""
    found: dict[str, list[list[float]]] = {}
    for run, shares in zip(document["runs"], document["closed"], strict=True):
        found.setdefault(run["sampler"], []).append(shares)
    return {
        name: np.array([item[: min(map(len, rows))] for item in rows])
        for name, rows in found.items()
    }


def trial_seconds(folder: str, landscape: str) -> float | None:
    """What a full trial of a landscape's network takes; None of one that is made up."""
    path = Path(folder).parent / "trial-cost" / "trial-cost.json"
    costs = json.loads(path.read_text())
    found = costs.get(TASKS.get(landscape, ""))
    return None if found is None else float(found["mean_trial_s"])


def to_table(document: dict, shares: dict[str, np.ndarray], trial_s: float | None) -> str:
    seconds = {
        name: np.median([r["sampler_s"] for r in document["runs"] if r["sampler"] == name])
        for name in shares
    }
    heads = [f"after {count}" for count in SHOWN]
    lines = [
        f"### {document['landscape']}",
        "",
        f"| sampler | seeds | {' | '.join(heads)} | trials to 80 % | minutes to 80 % | "
        "ms a proposal |",
        "|---" * (len(heads) + 5) + "|",
    ]
    for name in sorted(shares, key=lambda n: -np.median(shares[n][:, -1])):
        cells = [cell(shares[name], count) for count in SHOWN]
        place = find_target(shares[name])
        lines.append(
            f"| {name} | {len(shares[name])} | {' | '.join(cells)} | "
            f"{tell_trials(place, shares[name])} | {tell_minutes(place, trial_s, seconds[name])} | "
            f"{1000 * seconds[name]:.0f} |"
        )
    return "\n".join([*lines, ""])


def cell(shares: np.ndarray, count: int) -> str:
    """Median and quartiles, percent."""
    place = COUNTS.index(count)
    if place >= shares.shape[1]:
        return "-"
    low, middle, high = 100 * np.percentile(shares[:, place], [25, 50, 75])
    return f"{middle:.0f} % ({low:.0f} to {high:.0f})"


def find_target(shares: np.ndarray) -> int | None:
    """Which of the counts is the first at which the median is there."""
    reached = np.flatnonzero(np.median(shares, axis=0) >= TARGET)
    return int(reached[0]) if len(reached) else None


def tell_trials(place: int | None, shares: np.ndarray) -> str:
    return f"more than {COUNTS[shares.shape[1] - 1]}" if place is None else str(COUNTS[place])


def tell_minutes(place: int | None, trial_s: float | None, proposal_s: float) -> str:
    """Of trials one after the other, with what proposing them takes."""
    if place is None or trial_s is None:
        return "-"
    return f"{COUNTS[place] * (trial_s + proposal_s) / 60:.1f}"


def draw(document: dict, shares: dict[str, np.ndarray]) -> go.Figure:
    figure = go.Figure()
    for name, rows in shares.items():
        counts, color = list(COUNTS[: rows.shape[1]]), COLORS.get(name, "#1b1f24")
        low, middle, high = 100 * np.percentile(rows, [25, 50, 75], axis=0)
        band = go.Scatter(
            x=[*counts, *reversed(counts)], y=[*high, *reversed(low)], fill="toself", mode="none",
            fillcolor=color, opacity=0.12, showlegend=False, hoverinfo="skip",
        )  # fmt: skip
        line = go.Scatter(
            x=counts, y=middle, name=name, mode="lines+markers", line={"color": color, "width": 2}
        )
        figure.add_traces([band, line])
    lay_out(figure, f"Share of the gap closed: {document['landscape']}, median and quartiles")
    figure.update_xaxes(title="trials, baselines not counted")
    figure.update_yaxes(title="gap closed, %", range=[0, 102])
    return figure


if __name__ == "__main__":
    main(*sys.argv[1:])
