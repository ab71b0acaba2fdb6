"""What a study keeps of its layers, made up."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoquant.browse.layers import sensitivity_path
from autoquant.core.distribution import (
    Distributions,
    InputRange,
    InputValues,
    LayerDistribution,
    WeightGrid,
    count_values,
    find_clipped,
)
from autoquant.core.sensitivity import ChoiceCost, Sensitivity, SensitivityBase
from autoquant.distribution import keep_record, layer_folder
from autoquant.search.storage import Location

METHODS = {"minmax": 1.0, "percentile:99.9": 0.5, "mse": 0.8}
SYMMETRIES = ("asymmetric", "symmetric")
GRIDS = [(g, s) for g in ("per_channel", "per_tensor") for s in ("max", "mse")]


def layer_names(count: int = 8) -> list[str]:
    return [f"conv{index}" for index in range(count)]


def made_up_distributions(names: Sequence[str]) -> Distributions:
    """Normal weights and rectified inputs; the last layer's input is on no grid."""
    generator = np.random.default_rng(0)
    layers = []
    for name in names:
        weights, values = generator.normal(size=500), np.abs(generator.normal(size=1000))
        end, top = float(np.abs(weights).max()), float(values.max())
        grids = tuple(
            WeightGrid(bits=bits, granularity=granularity, scale=scale, narrowest=end / 2,
                       widest=end, clipped=0.01 if scale == "mse" else 0.0, sqnr_db=6.0 * bits)
            for bits in (8, 4) for granularity, scale in GRIDS
        )  # fmt: skip
        ranges = tuple(
            InputRange(method=method, symmetry=symmetry, low=0.0, high=top * part,
                       step=top * part / 255, sqnr_db=40.0 * part,
                       clipped=find_clipped(values, 0.0, top * part, top * part / 255))
            for symmetry in SYMMETRIES for method, part in METHODS.items()
        )  # fmt: skip
        inputs = InputValues(value=f"relu_{name}", histogram=count_values(values), of_values=1000,
                             extremes=0, ranges=ranges)  # fmt: skip
        layers.append(
            LayerDistribution(layer=name, kind="conv", weights=count_values(weights), grids=grids,
                              inputs=inputs)
        )  # fmt: skip
    last = layers[-1].model_copy(update={"inputs": None, "note": "it has no integer kernel"})
    return Distributions(task="digits", key={}, images=64, layers=(*layers[:-1], last))


def made_up_sensitivity(names: Sequence[str]) -> Sensitivity:
    base = SensitivityBase(accuracy=0.9, accuracy_drop=0.01, proxy=0.1, size_bytes=9000,
                           latency_ratio=0.5)  # fmt: skip
    costs = [
        ChoiceCost(layer=name, choice=choice, extra_drop=0.01, extra_drop_ci=(0.0, 0.02),
                   proxy=0.2, bytes_saved=100, latency_change=0.0)
        for name in names for choice in ("4", "float")
    ]  # fmt: skip
    return Sensitivity(task="digits", key={}, samples=100, reduce_range=False, proxy="kl",
                       base=base, costs=tuple(costs))  # fmt: skip


def write_layers(results: Path, study: str, names: Sequence[str]) -> Path:
    """Both, beside a study; the folder."""
    location = Location(results, study)
    keep_record(made_up_distributions(names), layer_folder(location) / "distributions.json")
    keep_record(made_up_sensitivity(names), sensitivity_path(location))
    return layer_folder(location)
