"""Trials of the accuracy-loss grid, made by hand."""

import numpy as np

from autoquant.core.analysis import Cell
from autoquant.core.evidence import Evidence
from autoquant.core.metric import drop_interval
from autoquant.core.recipe import QatOptions, Recipe
from autoquant.core.training import TrainingCurve, TrainingStep
from autoquant.core.trial import Trial

LAYERS = ["conv1", "conv2", "fc"]
SAMPLES = 1000
TRAINING = QatOptions(epochs=2)
FLOAT_HITS = np.arange(SAMPLES) < 900


def hits_with(lost: int, gained: int = 0) -> np.ndarray:
    """The float model's hits but for so many lost and so many gained."""
    hits = FLOAT_HITS.copy()
    hits[:lost] = False
    hits[SAMPLES - gained :] |= gained > 0
    return hits


def float_trial(number: int = 0) -> Trial:
    return Trial(
        number=number, state="complete", digest="f" * 16, recipe=Recipe(method="fp32"),
        name="fp32", accuracy=0.9, accuracy_drop=0.0, accuracy_drop_ci=(-0.002, 0.002),
        latency_ratio=1.0, latency_ms=1.0, size_bytes=4000,
        evidence=Evidence.from_hits(FLOAT_HITS),
    )  # fmt: skip


def cell_trial(number: int, cell: Cell, hits: np.ndarray, kept_step: int = 200, **changes) -> Trial:
    """A measured cell; training took a minute, quantizing two seconds."""
    recipe = cell.to_recipe(LAYERS)
    evidence = Evidence.from_hits(hits)
    drop = 0.9 - float(hits.mean())
    interval = drop_interval(Evidence.from_hits(FLOAT_HITS), evidence, drop)
    curve = None
    if cell.training is not None:
        steps = tuple(
            TrainingStep(step=100 * epoch, epoch=epoch, loss=1.0, learning_rate=1e-3,
                         accuracy=float(hits[:500].mean()) - 0.01 * (2 - epoch),
                         held_out_loss=1.0 + epoch)
            for epoch in (1, 2)
        )  # fmt: skip
        curve = TrainingCurve(
            steps=200, batch_size=10, device="cpu", points=steps, images=1000, held_out=100,
            start_loss=1.0, kept_step=kept_step,
        )  # fmt: skip
    figures = {
        "accuracy": float(hits.mean()), "accuracy_drop": drop, "accuracy_drop_ci": interval,
        "report_accuracy": 0.9 - drop, "report_accuracy_drop": drop,
        "report_accuracy_drop_ci": interval, "latency_ratio": 0.5, "latency_ms": 0.5,
        "size_bytes": 1000 if cell.weight_bits == 8 else 600,
        "seconds": {"quantize": 2.0, **({"train": 60.0} if curve else {})},
        "training": curve, "evidence": evidence,
    }  # fmt: skip
    return Trial(
        number=number, state="complete", digest=recipe.digest, recipe=recipe,
        **{**figures, **changes},
    )  # fmt: skip


def grid_trials() -> list[Trial]:
    """8 bits lose nothing; at 4 learned rounding wins back most, and training the rest."""
    losses = {
        (8, "nearest"): 1, (8, "bias-corrected"): 1, (8, "qat"): 1,
        (4, "nearest"): 400, (4, "bias-corrected"): 90, (4, "learned"): 30, (4, "qat"): 2,
    }  # fmt: skip
    trials = [float_trial()]
    for granularity in ("per_channel", "per_tensor"):
        for (bits, method), lost in losses.items():
            cell = Cell(bits, granularity, method, training=TRAINING if method == "qat" else None)
            trials.append(cell_trial(len(trials), cell, hits_with(lost)))
    for count, lost in ((10, 200), (32, 92), (100, 91)):
        cell = Cell(4, "per_channel", "bias-corrected", count)
        trials.append(cell_trial(len(trials), cell, hits_with(lost)))
    return trials
