"""Table and figures of the search benchmark.

    python tests/benchmarks/search_summary.py results/published/search-benchmark

Reads every `runs-*.json` of the folder; writes `table.md`, which its README repeats, and
`search-LANDSCAPE.png` there: the share closed against trials, and, of a network, against seconds:
those of the proposals, and for each trial what a full one of that network takes, from
`trial-cost.json` in the folder beside this one. Where that has none, the median of making and
judging a file of the landscape's table stands for it.
"""

import json
import sys
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autoquant.report.style import lay_out_panels
from tests.benchmarks.landscape import TASKS, find_table
from tests.benchmarks.search_benchmark import COUNTS, WORKERS

SHOWN = (10, 20, 40, 60, 100)
COMPARED = (10, 15, 20, 30, 40, 50, 60)
TARGET = 0.8
DRAWS = 2000
COLORS = {
    "auto": "#0b6bcb", "auto+s": "#1a7f37", "tpe": "#b4540a", "nsga2": "#7a4bb5", "gp": "#c2185b",
    "random": "#6e7781", "greedy": "#8a6d00", "ilp": "#00838f",
}  # fmt: skip


def main(folder: str) -> None:
    parts, losses = [], []
    for path in sorted(Path(folder).glob("runs-*.json")):
        document = json.loads(path.read_text())
        shares, spent = by_sampler(document, "closed"), by_sampler(document, "sampler_s")
        trial_s = trial_seconds(Path(folder), document["landscape"])
        parts.append(to_table(document["landscape"], shares, spent, trial_s))
        losses += to_losses(document)
        draw(document["landscape"], shares, spent, trial_s).write_image(
            path.parent / f"search-{document['landscape']}.png", width=1200, height=620, scale=2
        )
    parts += [tell_losses(losses)]
    (Path(folder) / "table.md").write_text("\n".join(parts))


def by_sampler(document: dict, what: str) -> dict[str, np.ndarray]:
    """(seeds, counts) by sampler, cut to the shortest run: shares closed, or seconds spent."""
    rows = [run["sampler_s"] for run in document["runs"]] if what == "sampler_s" else document[what]
    found: dict[str, list[list[float]]] = {}
    for run, row in zip(document["runs"], rows, strict=True):
        found.setdefault(run["sampler"], []).append(row)
    return {
        name: np.array([item[: min(map(len, rows))] for item in rows])
        for name, rows in found.items()
    }


def trial_seconds(folder: Path, landscape: str) -> float | None:
    """What a full trial of a landscape's network takes; None of one that is made up."""
    if landscape not in TASKS:
        return None
    path = folder.parent / "trial-cost" / "trial-cost.json"
    costs = json.loads(path.read_text()) if path.exists() else {}
    if TASKS[landscape] in costs:
        return float(costs[TASKS[landscape]]["mean_trial_s"])
    rows = json.loads(find_table(folder, landscape).read_text())["rows"]
    return float(np.median([row["seconds"] for row in rows]))


def to_table(
    landscape: str,
    shares: dict[str, np.ndarray],
    spent: dict[str, np.ndarray],
    trial_s: float | None,
) -> str:
    heads = [f"after {count}" for count in SHOWN]
    lines = [
        f"### {landscape}",
        "",
        f"| sampler | seeds | {' | '.join(heads)} | trials to 80 % | minutes to 80 % | "
        "ms a proposal |",
        "|---" * (len(heads) + 5) + "|",
    ]
    for name in sort_names(shares):
        cells = [cell(shares[name], count) for count in SHOWN]
        place = find_target(shares[name])
        seconds = np.median(spent[name], axis=0)
        lines.append(
            f"| {name} | {len(shares[name])} | {' | '.join(cells)} | "
            f"{tell_trials(place, shares[name])} | {tell_minutes(place, trial_s, seconds)} | "
            f"{1000 * seconds[-1] / COUNTS[len(seconds) - 1]:.0f} |"
        )
    return "\n".join([*lines, ""])


def sort_names(shares: dict[str, np.ndarray]) -> list[str]:
    """The best after as many trials as all have, first."""
    width = min(rows.shape[1] for rows in shares.values())
    return sorted(shares, key=lambda name: -np.median(shares[name][:, width - 1]))


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


def to_losses(document: dict) -> list[str]:
    """What a sampler loses with eight workers, and what it had not yet as many trials earlier."""
    shares, before = by_sampler(document, "closed"), by_sampler(document, "closed_before")
    return [
        f"| {document['landscape']} | {name} | {what} | {len(shares[name])} | "
        + " | ".join(tell_loss(shares[name], other, COUNTS.index(count)) for count in COMPARED)
        + " |"
        for name in ("auto", "auto+s")
        if f"{name}/{WORKERS}" in shares
        for what, other in (
            (f"{WORKERS} workers", shares[f"{name}/{WORKERS}"]),
            (f"{WORKERS - 1} trials earlier", before[name]),
        )
    ]


def tell_loss(own: np.ndarray, other: np.ndarray, place: int) -> str:
    """Of the median, with its 95 % interval over seeds by bootstrap, percent."""
    random = np.random.default_rng(0)
    drawn = [
        np.median(random.choice(rows[:, place], (DRAWS, len(rows))), axis=1)
        for rows in (own, other)
    ]
    low, high = 100 * np.percentile(1 - drawn[1] / drawn[0], [2.5, 97.5])
    middle = 100 * (1 - np.median(other[:, place]) / np.median(own[:, place]))
    low, middle, high = np.round([low, middle, high]) + 0.0  # no minus before a zero
    return f"{middle:.0f} % ({low:.0f} to {high:.0f})"


def tell_losses(rows: list[str]) -> str:
    heads = [f"at {count}" for count in COMPARED]
    return "\n".join([
        "### Eight workers",
        "",
        f"| landscape | sampler | loses with | seeds | {' | '.join(heads)} |",
        "|---" * (len(heads) + 4) + "|",
        *rows,
        "",
    ])  # fmt: skip


def tell_trials(place: int | None, shares: np.ndarray) -> str:
    return f"more than {COUNTS[shares.shape[1] - 1]}" if place is None else str(COUNTS[place])


def tell_minutes(place: int | None, trial_s: float | None, seconds: np.ndarray) -> str:
    """Of trials one after the other, with what proposing them takes."""
    if place is None or trial_s is None:
        return "-"
    return f"{(COUNTS[place] * trial_s + seconds[place]) / 60:.1f}"


def draw(
    landscape: str,
    shares: dict[str, np.ndarray],
    spent: dict[str, np.ndarray],
    trial_s: float | None,
) -> go.Figure:
    """Against trials, and beside it against minutes where a trial has a length."""
    columns = 1 if trial_s is None else 2
    figure = make_subplots(1, columns, shared_yaxes=True, horizontal_spacing=0.04)
    for name in sort_names(shares):
        counts = np.array(COUNTS[: shares[name].shape[1]])
        add_curve(figure, name, counts, shares[name], 1)
        if trial_s is not None:
            minutes = (counts * trial_s + np.median(spent[name], axis=0)) / 60
            add_curve(figure, name, minutes, shares[name], 2)
    seeds = sorted({len(rows) for rows in shares.values()})
    many = " or ".join(map(str, seeds))
    title = f"{landscape}: share of the gap closed, median and quartiles of {many} seeds"
    lay_out_panels(figure, title, height=620)
    figure.update_layout(margin={"t": 96})
    figure.update_xaxes(title="trials, baselines not counted", rangemode="tozero", col=1)
    figure.update_yaxes(range=[-2, 102], ticksuffix=" %")
    figure.update_yaxes(title="gap closed", col=1)
    if trial_s is not None:
        clock = f"minutes, {trial_s:.1f} s a trial and what proposing takes"
        figure.update_xaxes(title=clock, rangemode="tozero", col=2)
    return figure


def add_curve(figure: go.Figure, name: str, x: np.ndarray, rows: np.ndarray, column: int) -> None:
    color, is_wide = COLORS[name.partition("/")[0]], "/" in name
    low, middle, high = 100 * np.percentile(rows, [25, 50, 75], axis=0)
    band = go.Scatter(
        x=[*x, *reversed(x)], y=[*high, *reversed(low)], fill="toself", mode="none",
        fillcolor=color, opacity=0.1, showlegend=False, hoverinfo="skip",
    )  # fmt: skip
    line = go.Scatter(
        x=x, y=middle, name=name, legendgroup=name, showlegend=column == 1, mode="lines+markers",
        line={"color": color, "width": 2, "dash": "dot" if is_wide else "solid"},
        marker={"size": 5},
    )  # fmt: skip
    for trace in (line,) if is_wide else (band, line):
        figure.add_trace(trace, row=1, col=column)


if __name__ == "__main__":
    main(*sys.argv[1:])
