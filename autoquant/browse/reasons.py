"""Why a trial of a study is as it is, for the app: from the record alone, no task is loaded."""

from autoquant.browse.library import StudyView
from autoquant.core.explanation import Explanation
from autoquant.search.explain import explain_trial
from autoquant.search.recall import recall_knowledge, recall_space

__all__ = ["explain_choice"]


def explain_choice(view: StudyView, number: int) -> Explanation:
    """The evidence for a trial's recipe, layer by layer.

    Args:
        view: a study.
        number: of a complete trial whose recipe is of the search space.

    Raises:
        InputError: no such trial; names some that there are.
    """
    snapshot = view.snapshot
    knowledge = recall_knowledge(snapshot.knowledge, snapshot.header)
    space = recall_space(snapshot.header, knowledge, snapshot.trials, snapshot.name)
    return explain_trial(snapshot.trials, space, knowledge, number)
