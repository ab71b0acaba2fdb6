"""Recipes as numbers: a code is one index a parameter, features are what models are linear in."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from autoquant.core.space import SearchSpace
from autoquant.search.prior import LAYER_PREFIX, Knowledge

__all__ = ["Features"]

Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_BASE = "8"
_OPTION_WEIGHT = 0.25  # of all options together, of all layers, in how alike recipes are


class Features:
    """Codes and features of one space.

    A layer has a column for each choice but its reference (8 bits, where it may have them); an
    option has one for each value, and one more for each value in proportion to how much of the
    loss of four bits is at stake: granularity matters more the more layers are narrow.
    """

    def __init__(self, space: SearchSpace, knowledge: Knowledge) -> None:
        self.space = space
        self.knowledge = knowledge
        self.names = list(space.parameters)
        self.choices = [list(choices) for choices in space.parameters.values()]
        self.counts = np.array([len(choices) for choices in self.choices], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]]).astype(np.int64)
        self.is_layer = np.array([space.is_layer(name) for name in self.names], dtype=bool)
        self.references = np.array(
            [c.index(_BASE) if _BASE in c else 0 for c in self.choices], dtype=np.int64
        )

    def encode(self, parameters: Mapping[str, str]) -> tuple[int, ...] | None:
        """A code; None if the parameters are not those of this space."""
        try:
            return tuple(
                choices.index(str(parameters[name]))
                for name, choices in zip(self.names, self.choices, strict=True)
            )
        except (KeyError, ValueError):
            return None

    def decode(self, code: Sequence[int]) -> dict[str, str]:
        """The parameters of a code."""
        return {
            name: choices[int(index)]
            for name, choices, index in zip(self.names, self.choices, code, strict=True)
        }

    def one_hot(self, codes: Codes) -> Floats:
        """(n, choices of all parameters)."""
        found = np.zeros((len(codes), int(self.counts.sum())))
        np.put_along_axis(found, codes + self.starts, 1.0, axis=1)
        return found

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Parameter and choice of every column of layers."""
        return [
            (place, index)
            for place, choices in enumerate(self.choices)
            for index in range(len(choices))
            if self.is_layer[place] and index != self.references[place]
        ]

    @cached_property
    def layer_columns(self) -> Codes:
        """Of `one_hot`, those of layers' choices that are not references."""
        return np.array([self.starts[place] + index for place, index in self.pairs], dtype=np.int64)

    @cached_property
    def option_columns(self) -> Codes:
        """Of `one_hot`, those of options."""
        return np.array([
            self.starts[place] + index
            for place, choices in enumerate(self.choices)
            for index in range(len(choices))
            if not self.is_layer[place]
        ], dtype=np.int64)  # fmt: skip

    def expand(self, codes: Codes) -> tuple[Floats, Floats]:
        """Features of layers (n, l) and of options (n, o)."""
        hot = self.one_hot(codes)
        layers = hot[:, self.layer_columns]
        options = hot[:, self.option_columns]
        return layers, np.hstack([options, options * self._stake(layers)])

    def describe(self, place: int, index: int) -> tuple[str, str]:
        """Layer and choice of a pair."""
        return self.names[place].removeprefix(LAYER_PREFIX), self.choices[place][index]

    @cached_property
    def drops(self) -> Floats:
        """(l,) what each column of a layer is expected to cost; NaN where nothing is known."""
        found = [self.knowledge.expected_drop(*self.describe(*pair)) for pair in self.pairs]
        return np.array([np.nan if drop is None else drop for drop in found])

    @cached_property
    def bytes(self) -> Floats:
        """(l,) what each column of a layer is expected to add to the file."""
        return np.array([self.knowledge.expected_bytes(*self.describe(*p)) for p in self.pairs])

    @cached_property
    def latencies(self) -> Floats:
        """(l,) what each column of a layer is expected to add to the latency ratio."""
        return np.array([self.knowledge.expected_latency(*self.describe(*p)) for p in self.pairs])

    @cached_property
    def is_narrow(self) -> npt.NDArray[np.bool_]:
        """(l,) columns of choices below 8 bits."""
        return np.array([self.describe(*pair)[1].startswith("4") for pair in self.pairs], bool)

    def _stake(self, layers: Floats) -> Floats:
        """(n, 1) share of what four bits everywhere would cost, 0..1."""
        costs = np.where(np.isnan(self.drops), 0.0, np.maximum(self.drops, 0.0)) * self.is_narrow
        weights = costs if costs.any() else self.is_narrow.astype(float)
        shares = layers @ weights / max(float(weights.sum()), 1e-12)
        return np.asarray(shares[:, None])

    @cached_property
    def weights(self) -> Floats:
        """(p,) how much each parameter counts in the distance of two recipes; sums to 1."""
        layers, options = int(self.is_layer.sum()), int((~self.is_layer).sum())
        share = _OPTION_WEIGHT if layers and options else float(bool(options))
        return np.where(self.is_layer, (1 - share) / max(layers, 1), share / max(options, 1))

    def distances(self, one: Codes, other: Codes) -> Floats:
        """(n, m) weighted share of the parameters in which recipes differ, 0..1."""
        scale = np.repeat(np.sqrt(self.weights), self.counts)
        return np.asarray(1.0 - (self.one_hot(one) * scale) @ (self.one_hot(other) * scale).T)
