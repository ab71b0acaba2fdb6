"""Landscapes to search in: real evaluations with a surrogate between them, and made-up ones."""

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

from autoquant.core.layer import Layer
from autoquant.core.pareto import is_nondominated
from autoquant.core.sensitivity import ChoiceCost, Sensitivity, SensitivityBase
from autoquant.core.space import FLOAT, SearchSpace
from autoquant.search.prior import LAYER_PREFIX

CAP = 0.15  # a drop beyond it is as bad as it: the region is of no interest
TASKS = {
    "resnet8": "cifar10-resnet8",
    "resnet20": "cifar10-resnet20",
    "efficientnet-lite0": "imagenet-sample-efficientnet-lite0",
}


def find_table(folder: Path, name: str) -> Path:
    """Where the published table of a landscape lies."""
    return folder / f"landscape-{name}.json"


def read_table(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def to_code(space: SearchSpace, parameters: dict[str, str]) -> str:
    """Indices of the choices, a digit a parameter."""
    return "".join(str(c.index(parameters[name])) for name, c in space.parameters.items())


def to_parameters(space: SearchSpace, code: str) -> dict[str, str]:
    return {
        name: choices[int(digit)]
        for digit, (name, choices) in zip(code, space.parameters.items(), strict=True)
    }


def to_features(space: SearchSpace, codes) -> np.ndarray:
    """(n, choices of all parameters) of zeros and ones."""
    counts = [len(choices) for choices in space.parameters.values()]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    indices = np.array([[int(digit) for digit in code] for code in codes])
    found = np.zeros((len(indices), sum(counts)))
    np.put_along_axis(found, indices + starts, 1.0, axis=1)
    return found


def find_exact(space: SearchSpace, codes) -> np.ndarray:
    """(n, layers) which layers are float by choice, in network order."""
    places = {name: place for place, name in enumerate(space.parameters)}
    found = np.zeros((len(codes), len(space.layers)), dtype=bool)
    for column, (layer, choices) in enumerate(space.layers.items()):
        place = places.get(LAYER_PREFIX + layer)
        if place is not None and FLOAT in choices:
            digit = str(choices.index(FLOAT))
            found[:, column] = [code[place] == digit for code in codes]
    return found


def choose(choices: Sequence[str], wanted: str) -> str:
    """The one that is wanted, where it is a choice; the first, where it is not."""
    return wanted if wanted in choices else choices[0]


class Surrogate:
    """The drop by a Gaussian process (linear and smooth), the size by least squares."""

    def __init__(self, space: SearchSpace, rows: list[dict]) -> None:
        self.space = space
        features = to_features(space, [row["code"] for row in rows])
        drops = np.minimum([row["drop"] for row in rows], CAP)
        kernel = (
            ConstantKernel(1.0, (1e-4, 1e2)) * DotProduct(1.0, "fixed")
            + ConstantKernel(1.0, (1e-3, 1e2)) * RBF(3.0, (0.5, 50))
            + WhiteKernel(0.1, (1e-4, 1.0))
        )
        self.process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.process.fit(features, drops)
        spread = float(np.std(drops))  # of the process, which is fitted to normalized drops
        self.noise = spread * float(np.sqrt(self.process.kernel_.k2.noise_level))
        sizes = np.array([row["size"] for row in rows], dtype=float)
        self.bytes, *_ = np.linalg.lstsq(features, sizes, rcond=None)

    def predict(self, codes) -> tuple[np.ndarray, np.ndarray]:
        features = to_features(self.space, codes)
        return self.process.predict(features), features @ self.bytes

    def validate(self, rows: list[dict], folds: int = 10) -> dict:
        """What it says of mixtures that it was not fitted to, hyperparameters kept.

        A recipe that stands in several rows is left out with all of them.
        """
        mixed = [index for index, row in enumerate(rows) if row["origin"] != "single"]
        codes = np.array([row["code"] for row in rows])
        different = list(dict.fromkeys(codes[mixed]))
        features = to_features(self.space, [row["code"] for row in rows])
        drops = np.minimum([row["drop"] for row in rows], CAP)
        found = np.zeros(len(rows))
        for fold in range(folds):
            held = np.flatnonzero(np.isin(codes, different[fold::folds]))
            kept = np.setdiff1d(np.arange(len(rows)), held)
            process = GaussianProcessRegressor(
                self.process.kernel_, normalize_y=True, optimizer=None
            )
            found[held] = process.fit(features[kept], drops[kept]).predict(features[held])
        near = [index for index in mixed if drops[index] <= 0.03]
        aimed = [index for index in mixed if "predicted" in rows[index]]
        errors = found - drops
        return {
            "mixtures": len(mixed),
            "mixtures_different": len(different),
            "mixtures_near": len(near),
            "noise": self.noise,
            "rmse": float(np.sqrt(np.mean(errors[mixed] ** 2))),
            "rmse_near": float(np.sqrt(np.mean(errors[near] ** 2))),
            "aimed": len(aimed),
            "rmse_aimed": float(np.sqrt(np.mean(errors[aimed] ** 2))) if aimed else None,
            "bias_aimed": float(np.mean(errors[aimed])) if aimed else None,
            "ahead": tell_ahead(rows),
            "rank_correlation": float(
                np.corrcoef(*(np.argsort(np.argsort(v[mixed])) for v in (found, drops)))[0, 1]
            ),
        }


def tell_ahead(rows: list[dict]) -> dict[str, dict[str, float]]:
    """By round, how far off it was what had been predicted of recipes before they were made."""
    found = {}
    for origin in dict.fromkeys(row["origin"] for row in rows if "predicted" in row):
        own = [row for row in rows if row["origin"] == origin]
        errors = np.array([row["predicted"] - min(row["drop"], CAP) for row in own])
        rmse, bias = np.sqrt(np.mean(errors**2)), errors.mean()
        found[origin] = {"files": len(own), "rmse": float(rmse), "bias": float(bias)}
    return found


def find_roughness(rows: list[dict], base: str) -> float:
    """What recipes that differ in one choice from 8 bits lose of their own.

    Of those whose outputs diverge at most twice as much from the float model's as with 8 bits
    everywhere. They hardly differ, so what their drops differ by is what no smooth model can know.
    """
    singles = [row for row in rows if row["origin"] == "single"]
    limit = 2 * next(row["subset_kl"] for row in singles if row["code"] == base)
    differing = [sum(a != b for a, b in zip(row["code"], base, strict=True)) for row in singles]
    near = [
        row["drop"]
        for row, count in zip(singles, differing, strict=True)
        if count == 1 and row["subset_kl"] <= limit
    ]
    return float(np.std(near))


class Landscape:
    """Drop, latency ratio and size of every recipe of a space, known at once.

    Args:
        space: the recipes.
        layers: parameters and multiply-accumulates.
        roughness: standard deviation of what a recipe has of its own, by its digest.
        seed: of those.
    """

    def __init__(
        self, space: SearchSpace, layers: Sequence[Layer], roughness: float, seed: int = 0
    ) -> None:
        self.space = space
        self.layers = list(layers)
        self.roughness = roughness
        self.seed = seed
        self.known: dict[str, np.ndarray] = {}

    def measure(self, code: str) -> np.ndarray:
        """(3,) drop, latency ratio, bytes."""
        if code not in self.known:
            self.measure_all([code])
        return self.known[code]

    def measure_all(self, codes: Sequence[str]) -> np.ndarray:
        """(n, 3)."""
        fresh = list(dict.fromkeys(code for code in codes if code not in self.known))
        if fresh:
            drops, ratios, sizes = self.model(fresh)
            drops = drops + self.roughness * np.array([self._own(code) for code in fresh])
            self.known.update(zip(fresh, np.column_stack([drops, ratios, sizes]), strict=True))
        return np.array([self.known[code] for code in codes])

    def model(self, codes: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        raise NotImplementedError  # each landscape has its own

    def sensitivity(self) -> Sensitivity | None:
        """What measuring single layers would have found."""
        return None

    def _own(self, code: str) -> float:
        digest = hashlib.sha256(f"{self.seed}{code}".encode()).digest()
        return float(np.random.default_rng(int.from_bytes(digest[:8])).normal())

    def uniform(self, choice: str) -> str:
        """The code of every layer at one choice, options at their defaults."""
        return self.uniform_of(self.space, choice)

    @staticmethod
    def uniform_of(space: SearchSpace, choice: str) -> str:
        """The same for any space."""
        wanted = {"weight_scale": "mse", "calibration_images": "512"}
        return to_code(space, {
            name: choose(choices, choice if space.is_layer(name) else wanted.get(name, ""))
            for name, choices in space.parameters.items()
        })  # fmt: skip


class MeasuredLandscape(Landscape):
    """The surrogate of a table; latency of layers and of neighbours, by the runtime's profiler."""

    def __init__(self, space, layers, table: dict, seed: int = 0) -> None:
        self.rows = table["rows"]
        self.surrogate = Surrogate(space, self.rows)
        self.error = self.surrogate.validate(self.rows)
        self.latency = table["latency"]
        # part of the error near the front, so never more than it
        error = self.error["rmse_aimed"] or self.error["rmse_near"]
        roughness = min(find_roughness(self.rows, self.uniform_of(space, "8")), error)
        self.error["roughness"] = roughness
        super().__init__(space, layers, roughness, seed)

    def model(self, codes):
        drops, sizes = self.surrogate.predict(codes)
        return drops, self._ratios(codes), sizes

    def _ratios(self, codes) -> np.ndarray:
        """(n,) what float layers add, less what neighbours that are float both save."""
        adds = np.array([self.latency["float_adds"][name] for name in self.space.layers])
        saved = np.array(self.latency.get("shared", np.zeros(len(adds) - 1)))
        exact = find_exact(self.space, codes)
        both = exact[:, 1:] & exact[:, :-1]
        return np.asarray(self.latency["eight"] + exact @ adds + both @ saved)

    def sensitivity(self) -> Sensitivity:
        """From the same files and samples that `autoquant sensitivity` looks at."""
        by_code = {row["code"]: row for row in self.rows if row["origin"] == "single"}
        base = by_code[self.uniform("8")]
        costs = []
        for place, (name, choices) in enumerate(self.space.parameters.items()):
            layer = name.removeprefix(LAYER_PREFIX)
            others = [item for item in choices if item != "8"] if self.space.is_layer(name) else []
            for choice in others:
                digit = str(choices.index(choice))
                row = by_code[base["code"][:place] + digit + base["code"][place + 1 :]]
                drop = row["subset_drop"] - base["subset_drop"]
                adds = self.latency["float_adds"][layer] if choice == FLOAT else 0.0
                costs.append(ChoiceCost(
                    layer=layer, choice=choice, extra_drop=drop,
                    extra_drop_ci=(drop - 0.004, drop + 0.004),
                    proxy=row["subset_kl"] - base["subset_kl"],
                    bytes_saved=base["size"] - row["size"], latency_change=adds,
                ))  # fmt: skip
        figures = SensitivityBase(
            accuracy=0.9, accuracy_drop=base["subset_drop"], proxy=base["subset_kl"],
            size_bytes=base["size"],
        )  # fmt: skip
        return Sensitivity(
            task="landscape", key={}, samples=1000, reduce_range=True, proxy="kl", base=figures,
            costs=tuple(costs),
        )  # fmt: skip


class MadeUpLandscape(Landscape):
    """Losses that add up, but for pairs of layers at 4 bits which lose or make up for each other.

    Args:
        count: layers.
        interaction: how much pairs lose in all, as a share of what single layers lose.
        seed: of everything.
    """

    def __init__(self, count: int, interaction: float, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        names = [f"layer{index}" for index in range(count)]
        options = {
            "calibration": ("minmax", "mse", "entropy"),
            "activation_symmetry": ("asymmetric", "symmetric"),
        }
        space = SearchSpace(dict.fromkeys(names, ("8", "4", FLOAT)), options)
        self.parameters = (1000 * np.exp(generator.normal(0, 1.2, count))).astype(int)
        self.macs = generator.integers(1, 10, count)
        single = np.exp(generator.normal(0, 1.3, count))
        self.single = 0.08 * single / single.sum()
        pairs = np.triu(generator.normal(0.3, 1.0, (count, count)), 1)
        pairs *= generator.random((count, count)) < 0.3
        self.pairs = interaction * 0.08 * pairs / max(np.abs(pairs).sum(), 1e-9) * 3
        self.options = [generator.normal(0, 0.002, 3), generator.normal(0, 0.002, 2)]
        layers = [
            Layer(name, "conv", int(weights), int(macs), order)
            for order, (name, weights, macs) in enumerate(
                zip(names, self.parameters, self.macs, strict=True)
            )
        ]
        super().__init__(space, layers, 0.0005, seed)

    def model(self, codes):
        digits = np.array([[int(digit) for digit in code] for code in codes])
        width = len(self.layers)
        narrow, exact = digits[:, :width] == 1, digits[:, :width] == 2
        four = narrow.astype(float)
        drops = four @ self.single + np.einsum("ni,ij,nj->n", four, self.pairs, four)
        drops = np.maximum(drops, 0.0) + 0.001
        for place, effects in enumerate(self.options):
            drops = drops + (effects - effects.min())[digits[:, width + place]]
        sizes = np.where(narrow, 0.5, np.where(exact, 4.0, 1.0)) @ self.parameters + 2000
        ratios = 0.45 + 0.5 * exact @ (self.macs / self.macs.sum())
        return drops, ratios, sizes

    def sensitivity(self) -> Sensitivity:
        base = self.measure(self.uniform("8"))
        code = self.uniform("8")
        costs = []
        for place, layer in enumerate(self.layers):
            for digit, choice in (("1", "4"), ("2", FLOAT)):
                found = self.measure(code[:place] + digit + code[place + 1 :])
                drop = float(found[0] - base[0])
                costs.append(ChoiceCost(
                    layer=layer.name, choice=choice, extra_drop=drop,
                    extra_drop_ci=(drop - 0.004, drop + 0.004), proxy=drop,
                    bytes_saved=int(base[2] - found[2]),
                    latency_change=float(found[1] - base[1]),
                ))  # fmt: skip
        figures = SensitivityBase(
            accuracy=0.9, accuracy_drop=float(base[0]), proxy=0.0, size_bytes=int(base[2])
        )
        return Sensitivity(
            task="landscape", key={}, samples=1000, reduce_range=False, proxy="kl", base=figures,
            costs=tuple(costs),
        )  # fmt: skip


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
