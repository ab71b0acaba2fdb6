"""A landscape to search in: a table of real evaluations, and a surrogate between its rows."""

import json
import warnings
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

from autoquant.core.pareto import is_nondominated
from autoquant.core.space import FLOAT, SearchSpace

CAP = 0.15  # a drop beyond it is as bad as it: the region is of no interest


def read_table(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def to_features(space: SearchSpace, codes) -> np.ndarray:
    """(n, choices of all parameters) of zeros and ones."""
    counts = [len(choices) for choices in space.parameters.values()]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    indices = np.array([[int(digit) for digit in code] for code in codes])
    found = np.zeros((len(indices), sum(counts)))
    np.put_along_axis(found, indices + starts, 1.0, axis=1)
    return found


class Surrogate:
    """The drop by a Gaussian process (linear and smooth), the size by least squares."""

    def __init__(self, space: SearchSpace, rows: list[dict]) -> None:
        self.space = space
        features = to_features(space, [row["code"] for row in rows])
        drops = np.minimum([row["drop"] for row in rows], CAP)
        kernel = (
            ConstantKernel(1e-4, (1e-8, 1)) * DotProduct(1.0, "fixed")
            + ConstantKernel(1e-4, (1e-7, 1)) * RBF(3.0, (0.5, 50))
            + WhiteKernel(1e-6, (1e-7, 1e-3))
        )
        self.process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.process.fit(features, drops)
        sizes = np.array([row["size"] for row in rows], dtype=float)
        self.bytes, *_ = np.linalg.lstsq(features, sizes, rcond=None)

    def predict(self, codes) -> tuple[np.ndarray, np.ndarray]:
        features = to_features(self.space, codes)
        return self.process.predict(features), features @ self.bytes


def find_promising(space, rows, surrogate, count, generator):
    """Recipes on the predicted front, by evolution from the rows; none that is known.

    Of the front (drop above zero, bytes, float layers, which stand for the latency) a part is
    drawn at random; a fifth are neighbours of members.
    """
    known = {row["code"] for row in rows}
    population = list(known)
    choices = [list(c) for c in space.parameters.values()]
    for _ in range(25):
        children = {mutate(population, choices, generator) for _ in range(600)}
        population = list({*population, *children})
        drops, sizes = surrogate.predict(population)
        losses = to_losses(space, population, drops, sizes)
        population = [population[i] for i in np.flatnonzero(is_nondominated(losses))]
    fresh = [code for code in population if code not in known]
    generator.shuffle(fresh)
    fresh = fresh[: count * 4 // 5]
    while len(fresh) < count:
        child = mutate(population, choices, generator)
        if child not in known:
            fresh.append(child)
    drops, _ = surrogate.predict(fresh)
    return [
        (to_parameters(space, code), round(float(drop), 6))
        for code, drop in zip(fresh, drops, strict=True)
    ]


def to_losses(space, codes, drops, sizes) -> np.ndarray:
    floats = [
        index for index, (name, choices) in enumerate(space.parameters.items())
        if space.is_layer(name) and FLOAT in choices
    ]  # fmt: skip
    digits = np.array([[int(digit) for digit in code] for code in codes])
    counts = (digits[:, floats] == 2).sum(1)
    clipped = np.where(drops > 0.025, 1.0, np.round(np.maximum(drops, 0.0), 4))
    return np.column_stack([clipped, sizes, counts]).astype(float)


def mutate(population, choices, generator) -> str:
    mother, father = (population[i] for i in generator.integers(len(population), size=2))
    crossed = generator.random() < 0.5
    digits = [
        f if crossed and generator.random() < 0.5 else m
        for m, f in zip(mother, father, strict=True)
    ]
    for place in generator.integers(len(digits), size=1 + generator.integers(3)):
        digits[place] = str(generator.integers(len(choices[place])))
    return "".join(digits)


def to_parameters(space: SearchSpace, code: str) -> dict[str, str]:
    return {
        name: choices[int(digit)]
        for digit, (name, choices) in zip(code, space.parameters.items(), strict=True)
    }
