"""`CellStudy`: evaluates given recipes as trials of a study; the accuracy-loss study's cells."""

import sys
from collections.abc import Sequence

from autoquant.core.artifact import Artifact
from autoquant.core.gate import Gate
from autoquant.core.recipe import Recipe
from autoquant.core.trial import Trial
from autoquant.search.closing import measure_after_all, read_report
from autoquant.search.event import describe_error
from autoquant.search.study import Budget, Study

__all__ = ["CellStudy"]


class CellStudy(Study):
    """A study in which recipes are measured that were chosen before anything was."""

    _wanted: frozenset[str] = frozenset()

    def measure(self, recipes: Sequence[Recipe]) -> None:
        """Evaluate these recipes in full and read the report split for each.

        They were chosen before anything was measured, so what is reported of them chooses
        nothing. Of recipes with figures nothing but the report split is read, where it was not;
        the front is what it was until the next `close`.
        """
        self._begin("random")
        self._company.close_door()  # whoever joined would take some, and would propose others
        self._enqueue_baselines()
        self._wanted = frozenset(recipe.digest for recipe in recipes)
        known = self._standing.seen | self.record.waiting_digests()
        for recipe in recipes:
            if recipe.digest not in known:
                self.record.enqueue(recipe, self._parameters_of(recipe))
        while self.record.waiting_digests():
            self._begin_next(Budget(sys.maxsize))  # one is waiting
            while self._running:
                self._take()
        self._measure_rejected()
        self._report_known()

    def _gate(self, recipe: Recipe) -> Gate | None:
        return None if recipe.digest in self._wanted else super()._gate(recipe)

    def _keep(self, trial: Trial, artifact: Artifact) -> None:
        super()._keep(trial, artifact)
        if trial.digest in self._wanted:
            self._report(trial, artifact)

    def _report(self, trial: Trial, artifact: Artifact) -> None:
        self._emit("report", f"reading the report split for trial {trial.number}")
        read_report(self.record, self.evaluator, trial, lambda _: artifact)

    def _report_known(self) -> None:
        """Cells that the search had measured and that are no members of its front."""
        if not self.evaluator.has_report:
            return
        for trial in self.record.trials():
            is_due = trial.report_accuracy is None and trial.report_error is None
            if trial.state == "complete" and trial.digest in self._wanted and is_due:
                self._emit("report", f"reading the report split for trial {trial.number}")
                read_report(self.record, self.evaluator, trial, self._rebuild)

    def _rebuild(self, trial: Trial) -> Artifact:
        return self._shelf.get(trial.digest) or self.evaluator.rebuild(trial.recipe)

    def _measure_rejected(self) -> None:
        for trial in self.record.trials():
            if trial.state != "rejected" or trial.digest not in self._wanted:
                continue
            self._emit("again", f"evaluating trial {trial.number} in full")
            try:
                artifact = measure_after_all(self.record, self.evaluator, trial)
            except Exception as error:  # any backend's: it stays rejected, as it was
                reason = describe_error(error)
                self._emit("note", f"trial {trial.number} stays rejected; it failed: {reason}")
                continue
            self._report(trial, artifact)
