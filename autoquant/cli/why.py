"""Why a trial's recipe is as it is: what `front --why` prints."""

from autoquant.cli.output import STDERR, print_json, print_rows
from autoquant.core.explanation import Explanation
from autoquant.core.trial import Trial
from autoquant.report.row import describe_recipe
from autoquant.report.why import (
    LEGEND,
    describe_trust,
    flatten_reasons,
    summarize_reasons,
    tabulate_options,
    tabulate_reasons,
)
from autoquant.search.explain import explain_trial
from autoquant.search.recall import KNOWLEDGE, recall_knowledge, recall_space
from autoquant.search.record import Record
from autoquant.search.storage import Location

__all__ = ["show_why"]


def show_why(location: Location, record: Record, number: int, kind: str) -> None:
    """Print the evidence for a trial's recipe, layer by layer; nothing is measured.

    Args:
        location: where the study lies.
        record: the study.
        number: of a complete trial.
        kind: `table`, `json` or `csv`.

    Raises:
        InputError: no such trial; names some that there are.
    """
    trials, header = record.trials(), record.header
    knowledge = recall_knowledge(record.study.user_attrs.get(KNOWLEDGE), header)
    space = recall_space(header, knowledge, trials, location.name)
    found = explain_trial(trials, space, knowledge, number)
    if kind == "csv":
        print_rows(*flatten_reasons(found), kind="csv")
        return
    trial = next(trial for trial in trials if trial.number == number)
    if kind == "json":
        print_json({
            "study": location.name,
            "task": header.task,
            "trial": trial.to_dict(),
            "summary": summarize_reasons(found),
            "trust": describe_trust(found),
            "why": found.model_dump(mode="json"),
        })  # fmt: skip
        return
    _show_tables(location.name, trial, found)


def _show_tables(study: str, trial: Trial, found: Explanation) -> None:
    recipe = describe_recipe(trial.recipe, trial.name)
    STDERR.print(summarize_reasons(found), markup=False)
    title = f"Why trial {trial.number} of study {study} ({recipe})"
    print_rows(*tabulate_reasons(found), kind="table", title=title)
    columns, rows = tabulate_options(found)
    if rows:
        print_rows(columns, rows, "table", "\nOptions, for the whole network")
    STDERR.print(f"\n{LEGEND}", markup=False)
    STDERR.print(describe_trust(found), markup=False)
