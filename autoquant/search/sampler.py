"""Samplers by name, and the wrapper that never proposes a recipe twice."""

import random
from collections.abc import Callable
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial

from autoquant.core.space import SearchSpace
from autoquant.search.auto import AutoSampler
from autoquant.search.delegate import DelegatingSampler
from autoquant.search.mirror import MirrorSampler
from autoquant.search.prior import Knowledge
from autoquant.search.walk import GreedySampler, IlpSampler

__all__ = [
    "DEFAULT_SAMPLER",
    "INFORMED",
    "SAMPLERS",
    "SamplerName",
    "UniqueSampler",
    "build_sampler",
]

SamplerName = Literal["auto", "tpe", "nsga2", "nsga3", "gp", "random", "greedy", "ilp"]
SAMPLERS: tuple[SamplerName, ...] = (
    "auto", "tpe", "nsga2", "nsga3", "gp", "random", "greedy", "ilp",
)  # fmt: skip
DEFAULT_SAMPLER: SamplerName = "auto"
INFORMED: frozenset[SamplerName] = frozenset({"auto", "greedy", "ilp"})

_STARTUP = 12
_SAMPLER_TRIES = 5
_RANDOM_TRIES = 200
_ENUMERABLE = 20_000
_UNEVEN = 0.5


def build_sampler(
    name: SamplerName,
    space: SearchSpace,
    seen: Callable[[], frozenset[str]],
    seed: int,
    knowledge: Knowledge | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> "UniqueSampler":
    """A sampler over a space that skips what was seen.

    Args:
        name: which strategy.
        space: where to look.
        seen: digests of the recipes that are decided already.
        seed: of every random choice.
        knowledge: what is known beside the trials; Optuna's own samplers make no use of it.
        tell: called with one line when the strategy has something to say of itself.
    """
    known = knowledge or Knowledge()
    inner = _build(name, space, seen, seed, known, tell)
    return UniqueSampler(inner, space, seen, seed)


def _build(
    name: SamplerName,
    space: SearchSpace,
    seen: Callable[[], frozenset[str]],
    seed: int,
    known: Knowledge,
    tell: Callable[[str], None],
) -> BaseSampler:
    match name:
        case "auto":
            return AutoSampler(space, known, seen, seed, _build_tpe(seed), tell)
        case "tpe":
            return _build_tpe(seed)
        case "nsga2":
            # Optuna's population of 50 would be most of a small budget.
            return NSGAIISampler(seed=seed, population_size=_STARTUP)
        case "nsga3":
            return NSGAIIISampler(seed=seed, population_size=_STARTUP)
        case "gp":
            return MirrorSampler(GPSampler(seed=seed, n_startup_trials=_STARTUP))
        case "random":
            return RandomSampler(seed=seed)
        case "greedy":
            return GreedySampler(space, known, seen, RandomSampler(seed=seed))
        case "ilp":
            return IlpSampler(space, known, seen, RandomSampler(seed=seed))


def _build_tpe(seed: int) -> TPESampler:
    return TPESampler(seed=seed, multivariate=True, n_startup_trials=_STARTUP)


class UniqueSampler(DelegatingSampler):
    """Asks another sampler until it proposes a recipe that is new.

    Where it keeps repeating itself, one decision after the other of its proposal is changed
    at random; a small space is walked through at last. Only a space without any new recipe
    makes it repeat one.
    """

    def __init__(
        self,
        inner: BaseSampler,
        space: SearchSpace,
        seen: Callable[[], frozenset[str]],
        seed: int,
    ) -> None:
        super().__init__(inner)
        self.space = space
        self.seen = seen
        self.random = random.Random(seed)
        self.distributions: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(choices) for name, choices in space.parameters.items()
        }

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The whole space, always: baselines without parameters must not narrow it."""
        return self.distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A complete set of parameters whose recipe is new."""
        if "fixed_params" in trial.system_attrs:
            return {}
        seen = self.seen()
        proposal: dict[str, str] = {}
        for _ in range(_SAMPLER_TRIES):
            proposal = self._propose(study, trial)
            if self._is_new(proposal, seen):
                return proposal
        return self._wander(proposal, seen) or self._enumerate(seen) or proposal

    def _propose(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, str]:
        drawn = self.inner.sample_relative(study, trial, self.distributions)
        if not drawn and not isinstance(self.inner, RandomSampler):
            drawn = self._draw_mixture()
        return {
            name: drawn[name]
            if name in drawn
            else self.inner.sample_independent(study, trial, name, distribution)
            for name, distribution in self.distributions.items()
        }

    def _draw_mixture(self) -> dict[str, str]:
        """Layer choices for a start: first how much of each choice, then which layers.

        Drawn layer by layer, networks of many layers would all come out the same, a third
        of each choice. The shares follow a symmetric Dirichlet distribution that favours
        uneven mixtures.
        """
        shares: dict[str, float] = {}
        drawn = {}
        for name, choices in self.space.parameters.items():
            if self.space.is_layer(name):
                weights = [
                    shares.setdefault(choice, self.random.gammavariate(_UNEVEN, 1.0) + 1e-9)
                    for choice in choices
                ]
                drawn[name] = self.random.choices(choices, weights)[0]
        return drawn

    def _is_new(self, parameters: dict[str, str], seen: frozenset[str]) -> bool:
        return self.space.decode(parameters).digest not in seen

    def _wander(self, start: dict[str, str], seen: frozenset[str]) -> dict[str, str] | None:
        proposal = dict(start)
        for _ in range(_RANDOM_TRIES if proposal else 0):
            name = self.random.choice(list(proposal))
            proposal[name] = self.random.choice(self.space.parameters[name])
            if self._is_new(proposal, seen):
                return proposal
        return None

    def _enumerate(self, seen: frozenset[str]) -> dict[str, str] | None:
        if self.space.size > _ENUMERABLE:
            return None
        every = (dict(parameters) for parameters in self.space.enumerate())
        return next((item for item in every if self._is_new(item, seen)), None)
