"""`greedy` and `ilp`: what others do with sensitivities, to measure the search against.

Both take losses for additive and learn nothing from the trials. Without sensitivities every layer
is taken to lose as much as every other.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from autoquant.core.recipe import PtqOptions
from autoquant.core.space import SearchSpace, option_text
from autoquant.search.delegate import DelegatingSampler
from autoquant.search.features import Features
from autoquant.search.prior import Knowledge

__all__ = ["GreedySampler", "IlpSampler"]

Floats = npt.NDArray[np.float64]
Code = tuple[int, ...]

_LEAST_LOSS = 1e-6  # of narrow weights of which nothing is known
_BUDGETS = 256  # that `ilp` tries, halving the gaps between those before


class _WalkSampler(DelegatingSampler):
    """Proposes the recipes of a walk that does not depend on the trials.

    Args:
        space: where to look.
        knowledge: what is known beside the trials.
        seen: digests of the recipes that are decided already.
        fallback: what proposes when the walk has ended.
    """

    def __init__(
        self,
        space: SearchSpace,
        knowledge: Knowledge,
        seen: Callable[[], frozenset[str]],
        fallback: BaseSampler,
    ) -> None:
        super().__init__(fallback)
        self.space = space
        self.seen = seen
        self.features = Features(space, knowledge)
        self.walk = self.build_walk()
        self.proposed: set[str] = set()

    def build_walk(self) -> Iterator[Code]:
        """The recipes, in order."""
        raise NotImplementedError  # each strategy has its own

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next recipe of the walk that is new."""
        known = self.seen() | self.proposed
        for code in self.walk:
            parameters = self.features.decode(code)
            digest = self.space.decode(parameters).digest
            if digest not in known:
                self.proposed.add(digest)
                return parameters
        return self.inner.sample_relative(study, trial, search_space)

    @property
    def losses(self) -> Floats:
        """(l,) expected drop of each column of a layer; of one not measured, as of the others."""
        drops, is_narrow = self.features.drops, self.features.is_narrow
        known = drops[is_narrow & ~np.isnan(drops)]
        typical = max(float(known.mean()), _LEAST_LOSS) if len(known) else 1.0
        return np.where(np.isnan(drops), typical * is_narrow, drops)

    @property
    def start(self) -> list[int]:
        """Every layer at 8 bits where it may be, options at their defaults."""
        code = self.features.references.tolist()
        for place, name in enumerate(self.features.names):
            choices = self.features.choices[place]
            if not self.space.is_layer(name) and name in PtqOptions.model_fields:
                default = option_text(getattr(PtqOptions(), name))
                code[place] = choices.index(default) if default in choices else 0
        return [int(index) for index in code]


class GreedySampler(_WalkSampler):
    """Lowers one layer after the other, the least sensitive first.

    Layers are in the order of what they are expected to lose for each byte that they save, and
    stay low: the walk of AIMET's mixed precision (Qualcomm), here without its stop at an allowed
    drop, since a front is wanted.
    """

    def build_walk(self) -> Iterator[Code]:
        """From 8 bits down to the narrowest choice of every layer."""
        code = self.start
        saved = -self.features.bytes
        useful = [index for index in range(len(saved)) if saved[index] > 0]
        yield tuple(code)
        for index in sorted(useful, key=lambda i: float(self.losses[i] / saved[i])):
            place, choice = self.features.pairs[index]
            code[place] = choice
            yield tuple(code)


class IlpSampler(_WalkSampler):
    """The least expected loss under budgets of bytes, by integer linear programming.

    HAWQ-V3 (Yao et al. 2021, arXiv 2011.10680, section 3.3) does so with sensitivities from the
    Hessian. The budgets lie between the smallest network and that of 8 bits, first far apart.
    """

    def build_walk(self) -> Iterator[Code]:
        """One recipe a budget."""
        most = self._most(-self.features.bytes)
        for share in itertools.islice(_van_der_corput(), _BUDGETS):
            yield self._solve(share, most)

    def _most(self, saved: Floats) -> float:
        best: dict[int, float] = {}
        for (place, _), value in zip(self.features.pairs, saved, strict=True):
            best[place] = max(best.get(place, 0.0), float(value))
        return sum(best.values())

    def _solve(self, share: float, most: float) -> Code:
        """The choices of least loss that save a share of the most bytes that can be saved."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        pairs, code = self.features.pairs, self.start
        if not pairs:
            return tuple(code)
        places = sorted({place for place, _ in pairs})
        owners = np.array([[float(p == place) for p, _ in pairs] for place in places])
        # in shares: the solver complains on standard output where coefficients are large
        saved = -self.features.bytes / max(most, 1e-9)
        result = milp(
            self.losses / max(float(np.abs(self.losses).max()), 1e-12),
            constraints=[
                LinearConstraint(owners, ub=1.0),
                LinearConstraint(saved[None, :], lb=share - 1e-9),
            ],
            integrality=np.ones(len(pairs)),
            bounds=Bounds(0, 1),
        )
        if result.x is not None:
            for (place, choice), chosen in zip(pairs, result.x, strict=True):
                code[place] = choice if chosen > 0.5 else code[place]
        return tuple(code)


def _van_der_corput() -> Iterator[float]:
    """1, 1/2, 1/4, 3/4, 1/8, ...: every new number halves a gap."""
    yield 1.0
    for number in itertools.count(1):
        digits: Sequence[str] = bin(number)[2:]
        yield sum(int(digit) / 2 ** (index + 1) for index, digit in enumerate(reversed(digits)))
