"""Noise-aware against plain fronts, on simulated measurements of a known front.

    python tests/benchmarks/front_simulation.py results/published/measurements

Six models are truly on the front, one point of accuracy or more, and 8 % of latency or more,
apart. Fifty-four more are variants of them, as a search makes them: as fast, as accurate and as
large as a member, or worse in one or two of these by a little (up to one point, 4 %, 10 %).
Every one is measured with noise: on a finite number of images, the same for all, and by a
timing with a known standard error. The figure needs the extra `figures`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autoquant.core.evidence import Evidence
from autoquant.core.front import find_front, find_plain_front
from autoquant.core.noise import Z95
from autoquant.core.recipe import Recipe
from autoquant.core.trial import Trial

# images of the split, standard error of the logarithm of a latency ratio
LEVELS = {"low": (5000, 0.005), "medium": (2000, 0.01), "high": (1000, 0.02)}
OBJECTIVES = ["accuracy", "latency", "size"]
_SEEDS = 60
_MEMBERS, _VARIANTS = 6, 54
_FLIPS = 0.01  # images on which a model errs or not for reasons of its own


def main(target: str) -> None:
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [_run_level(name, *level) for name, level in LEVELS.items()]
    document = {"seeds": _SEEDS, "true_members": _MEMBERS, "trials": _MEMBERS + _VARIANTS}
    text = json.dumps({**document, "levels": rows}, indent=1)
    (folder / "fronts.json").write_text(text + "\n")
    _figure(rows).write_image(folder / "fronts.png", width=1000, height=460, scale=2)
    print(text)


def _run_level(name: str, images: int, latency_sd: float) -> dict[str, object]:
    results = [_run(np.random.default_rng(seed), images, latency_sd) for seed in range(_SEEDS)]
    means = {key: float(np.mean([result[key] for result in results])) for key in results[0]}
    return {"level": name, "images": images, "latency_sd": latency_sd, **means}


def _run(generator: np.random.Generator, images: int, latency_sd: float) -> dict[str, float]:
    trials, is_member = simulate(generator, images, latency_sd)
    found = {}
    for kind, find in (("plain", find_plain_front), ("aware", find_front)):
        chosen = {trial.number for trial in find(trials, OBJECTIVES)}
        true = sum(is_member[number] for number in chosen)
        found[f"{kind}_false_members"] = float(len(chosen) - true)
        found[f"{kind}_recall"] = true / _MEMBERS
    return found


def simulate(
    generator: np.random.Generator, images: int, latency_sd: float
) -> tuple[list[Trial], list[bool]]:
    """Measured trials of a known front, and which are truly members."""
    accuracy = np.linspace(0.93, 0.86, _MEMBERS) + generator.uniform(-0.001, 0.001, _MEMBERS)
    ratio = np.geomspace(0.95, 0.40, _MEMBERS)
    size = np.linspace(1000, 200, _MEMBERS).round()
    parents = generator.integers(_MEMBERS, size=_VARIANTS)
    worse = generator.random((_VARIANTS, 3)) < 0.5
    worse[~worse.any(axis=1), 0] = True
    losses = worse * generator.random((_VARIANTS, 3)) * [0.01, 0.04, 0.10]
    accuracy = np.append(accuracy, accuracy[parents] - losses[:, 0])
    ratio = np.append(ratio, ratio[parents] * (1 + losses[:, 1]))
    size = np.append(size, np.ceil(size[parents] * (1 + losses[:, 2])))
    difficulty = generator.random(images)
    trials = []
    for number, values in enumerate(zip(accuracy, ratio, size, strict=True)):
        own = generator.random(images) < _FLIPS
        hits = (difficulty < values[0]) ^ (own & (generator.random(images) < 0.5))
        trials.append(_trial(number, hits, values[1], latency_sd, int(values[2]), generator))
    return trials, [number < _MEMBERS for number in range(_MEMBERS + _VARIANTS)]


def _trial(
    number: int,
    hits: np.ndarray,
    ratio: float,
    latency_sd: float,
    size: int,
    generator: np.random.Generator,
) -> Trial:
    measured = ratio * np.exp(latency_sd * generator.standard_normal())
    half = np.exp(Z95 * latency_sd)
    recipe = Recipe.uniform([f"layer{number}"], 8)
    return Trial(
        number=number,
        state="complete",
        digest=recipe.digest,
        recipe=recipe,
        accuracy=float(hits.mean()),
        latency_ratio=measured,
        latency_ratio_ci=(measured / half, measured * half),
        size_bytes=size,
        evidence=Evidence.from_hits(hits),
    )


def _figure(rows: list[dict[str, object]]) -> go.Figure:
    figure = make_subplots(
        cols=2, subplot_titles=("False members of the front", "Share of the true members found")
    )
    names = [
        f"{row['level']} noise<br>{row['images']} images<br>{row['latency_sd']:.1%} of latency"
        for row in rows
    ]
    for kind, label, color in (
        ("plain", "point estimates", "#b4540a"),
        ("aware", "with the noise", "#0b6bcb"),
    ):
        for column, key in ((1, f"{kind}_false_members"), (2, f"{kind}_recall")):
            values = [row[key] for row in rows]
            text = [f"{value:.2f}" for value in values]
            bar = go.Bar(
                x=names, y=values, name=label, marker_color=color, text=text,
                textposition="outside", showlegend=column == 1, cliponaxis=False,
            )  # fmt: skip
            figure.add_trace(bar, row=1, col=column)
    figure.update_layout(
        template="plotly_white",
        font={"family": "DejaVu Sans, Arial, sans-serif", "size": 14},
        legend={"orientation": "h", "y": -0.28, "x": 0.5, "xanchor": "center"},
        margin={"l": 50, "r": 30, "t": 50, "b": 130},
    )
    figure.update_xaxes(tickangle=0)
    figure.update_yaxes(rangemode="tozero")
    return figure


if __name__ == "__main__":
    main(*sys.argv[1:])
