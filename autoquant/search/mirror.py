"""`MirrorSampler`: shows a sampler only those trials that lie in the space."""

from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

__all__ = ["MirrorSampler"]


class MirrorSampler(BaseSampler):
    """Asks another sampler, in a study of its own that holds the complete trials of the space.

    Optuna's Gaussian processes expect every trial to have every parameter, and a baseline
    outside the space has none.

    Args:
        inner: the sampler.
    """

    def __init__(self, inner: BaseSampler) -> None:
        self.inner = inner
        self.mirror: optuna.Study | None = None
        self.known: set[int] = set()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Nothing of its own: the wrapper hands over the whole space."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """What the other sampler proposes, knowing the trials of the space."""
        if not search_space:
            return {}
        if self.mirror is None:
            self.mirror = optuna.create_study(directions=study.directions, sampler=self.inner)
        for frozen in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if frozen.number not in self.known and set(search_space) <= set(frozen.params):
                self.mirror.add_trial(frozen)
            self.known.add(frozen.number)
        asked = self.mirror.ask(search_space)
        self.mirror.tell(asked, state=TrialState.FAIL)  # its place here is taken by the real one
        return asked.params

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """One parameter on its own."""
        return self.inner.sample_independent(study, trial, param_name, param_distribution)
