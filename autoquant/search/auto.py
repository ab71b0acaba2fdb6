"""`AutoSampler`: proposes what is expected to gain most hypervolume, and says if it is lost."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from autoquant.core.space import SearchSpace
from autoquant.search.delegate import DelegatingSampler
from autoquant.search.features import Features
from autoquant.search.history import History
from autoquant.search.outlook import Outlook
from autoquant.search.prior import Knowledge

__all__ = ["AutoSampler"]

Codes = npt.NDArray[np.int64]
Code = tuple[int, ...]

_CHILDREN = 150
_GENERATIONS = 4
_KEPT = 40
_CHANGES = (1, 1, 2, 3)  # parameters of a child, drawn from these
_EXPLORE = 8  # one in so many proposals takes the model for three times as unsure
_LOST = 2  # one in so many proposals is the fallback's while the model is lost


class AutoSampler(DelegatingSampler):
    """Asks models of loss, latency and size which recipe would pay.

    The models begin with what is known before the first trial (sizes, sensitivities) and learn
    from every one. Candidates are the recipes that lower layers one after the other in the
    order of what that is expected to cost for each byte, the front so far and what evolution
    makes of both. Everything is read from the study's trials: a resumed study goes on.

    Args:
        space: where to look.
        knowledge: what is known beside the trials.
        seen: digests of the recipes that are decided already.
        seed: of every random choice.
        fallback: proposes every other recipe while the model is lost.
        tell: called with one line when it gets lost, or finds its way again.
    """

    def __init__(
        self,
        space: SearchSpace,
        knowledge: Knowledge,
        seen: Callable[[], frozenset[str]],
        seed: int,
        fallback: BaseSampler,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        super().__init__(fallback)
        self.space = space
        self.seen = seen
        self.tell = tell
        self.random = np.random.default_rng(seed)
        self.features = Features(space, knowledge)
        self.outlook = Outlook(self.features, knowledge)
        self.history = History(self.features)
        self.population: list[Code] = []
        self.was_lost = False
        self.asked = 0

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A complete set of parameters."""
        if not self.features.names:
            return {}
        self.history.update(study, trial.number)
        self.asked += 1
        try:
            self.outlook.update(self.history)
        except np.linalg.LinAlgError as error:
            self.tell(f"the sampler's model failed ({error}): TPE proposes this trial")
            return self.inner.sample_relative(study, trial, search_space)
        if self._is_lost() and self.asked % _LOST == 0:
            return self.inner.sample_relative(study, trial, search_space)
        if self.asked % _EXPLORE == 0:
            self.outlook.inflation *= 3.0
        code = self._search()
        return {} if code is None else self.features.decode(code)

    def _is_lost(self) -> bool:
        """Whether the model's word is worth nothing now; told when that changes."""
        is_lost = self.outlook.is_lost
        if is_lost and not self.was_lost:
            self.tell(
                "the sampler's model has misjudged the last trials (rank correlation "
                f"{self.outlook.rank_correlation:.2f}): every other proposal is TPE's until it "
                "does better"
            )
        elif self.was_lost and not is_lost:
            self.tell("the sampler's model judges trials well again")
        self.was_lost = is_lost
        return is_lost

    def _search(self) -> Code | None:
        """The best recipe found that is new; None if there is none."""
        taken = {row.code for row in self.history.rows.values()} | {*self.history.pending}
        members = self.outlook.members(self.history)
        start = members[0] if members else tuple(self.features.references)
        pool = list(dict.fromkeys([*members, *self.population, *self._lower(np.array(start))]))
        scores = dict(zip(pool, self.outlook.score(np.array(pool)), strict=True))
        for _ in range(_GENERATIONS):
            parents = self._best(scores, _KEPT)
            children = map(tuple, self._breed(parents).tolist())
            fresh = [code for code in dict.fromkeys(children) if code not in scores]
            if fresh:
                found = self.outlook.score(np.array(fresh))
                scores.update(zip(fresh, found, strict=True))
        self.population = self._best(scores, _KEPT)
        return self._first_new(self._best(scores, len(scores)), taken)

    @staticmethod
    def _best(scores: dict[Code, float], count: int) -> list[Code]:
        return sorted(scores, key=lambda code: (-scores[code], code))[:count]

    def _first_new(self, codes: Sequence[Code], taken: set[Code | None]) -> Code | None:
        seen = self.seen()
        for code in codes:
            if code not in taken:
                digest = self.space.decode(self.features.decode(code)).digest
                if digest not in seen:
                    return code
        return None

    def _lower(self, start: Codes) -> list[Code]:
        """From 8 bits down, the layer first whose narrow choice costs least for each byte."""
        features = self.features
        costs = self.outlook.marginal_costs(start)
        saved = -features.bytes
        order = [i for i in np.argsort(costs / np.maximum(saved, 1e-9)) if saved[i] > 0]
        code = np.where(features.is_layer, features.references, start)
        found = [tuple(code.tolist())]
        for index in order:
            place, choice = features.pairs[index]
            if code[place] == features.references[place]:
                code[place] = choice
                found.append(tuple(code.tolist()))
        return found

    def _breed(self, parents: Sequence[Code]) -> Codes:
        """(children, p) each near one parent, or between two; better parents have more."""
        stock, count = np.array(parents), _CHILDREN
        random, width = self.random, len(self.features.names)
        children = stock[(len(stock) * random.random(count) ** 2).astype(int)]
        fathers = stock[random.integers(len(stock), size=count)]
        is_crossed = (random.random(count) < 0.3)[:, None]
        children = np.where(is_crossed & (random.random((count, width)) < 0.5), fathers, children)
        changes = random.choice(_CHANGES, size=count)
        for turn in range(max(_CHANGES)):
            changed = np.flatnonzero(changes > turn)
            places = random.integers(width, size=len(changed))
            children[changed, places] = random.integers(self.features.counts[places])
        return children
