"""`Snapshot`: a study as it was at one moment, composed of what its record says of each trial."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from autoquant.core.recipe import Recipe
from autoquant.core.trial import Trial
from autoquant.search.amend import amend_trial
from autoquant.search.header import FORMAT, StudyHeader, check_header
from autoquant.search.recall import KNOWLEDGE

__all__ = ["RUNNING", "Entry", "Snapshot", "Underway", "compose_snapshot", "is_finished"]

# Optuna's numbers of a trial's state
RUNNING = 0
_COMPLETE, _FAIL = 1, 3


@dataclass(frozen=True)
class Underway:
    """A trial that is not finished.

    Attributes:
        number: its number.
        recipe: what is evaluated.
        began: when, or None if the record does not tell.
    """

    number: int
    recipe: Recipe
    began: datetime | None


@dataclass(frozen=True)
class Snapshot:
    """A study as its record had it at one moment.

    Attributes:
        name: of the study.
        header: what it was started with.
        is_newer: a later version of autoquant wrote it; what it added is left out.
        trials: finished ones that can be read, by number.
        ended: when each of them ended, by number.
        underway: trials that have begun.
        damaged: in words, what could not be read.
        notes: of the front as a whole.
        knowledge: what the search knew beside its trials; see `search.recall`. None in a study
            from before it was kept.
    """

    name: str
    header: StudyHeader
    is_newer: bool
    trials: tuple[Trial, ...]
    ended: Mapping[int, datetime]
    underway: tuple[Underway, ...]
    damaged: tuple[str, ...]
    notes: Mapping[str, str]
    knowledge: object = None

    def seen_from(self, target: str) -> "Snapshot":
        """The study as one of its targets sees it: with one latency, its own."""
        return dataclasses.replace(
            self,
            header=self.header.seen_from(target),
            trials=tuple(trial.seen_from(target) for trial in self.trials),
        )


@dataclass
class Entry:
    """What a record says of one trial.

    Attributes:
        state: Optuna's number.
        began: when.
        attributes: those that matter.
        ended: when.
        trial: it, if it is finished and can be read.
        damage: why it cannot, in words.
        recipe_line: a line of a journal that holds its recipe, not parsed yet.
        is_read: it has been tried.
    """

    state: int
    began: datetime | None
    attributes: dict[str, Any]
    ended: datetime | None = None
    trial: Trial | None = None
    damage: str | None = None
    recipe_line: bytes | None = None
    is_read: bool = False


def is_finished(state: int) -> bool:
    """Whether a trial stays as it is."""
    return state in (_COMPLETE, _FAIL)


def compose_snapshot(
    name: str,
    attributes: Mapping[str, Any],
    entries: Mapping[int, Entry],
    broken: str | None = None,
) -> Snapshot:
    """A study of what its record says; entries that have been read once are not read again.

    Args:
        name: of the study.
        attributes: of the study.
        entries: of its trials, by number.
        broken: in words, from where on the record cannot be read.

    Raises:
        StudyError: it was not written by autoquant, or nothing of it can be shown.
    """
    header, is_newer = _read_header(name, attributes)
    for number, entry in entries.items():
        if is_finished(entry.state) and not entry.is_read:
            _read_entry(number, entry, is_newer=is_newer)
    known = [(number, entry) for number, entry in entries.items() if entry.trial]
    trials = [amend_trial(entry.trial, attributes) for _, entry in known if entry.trial]
    damage = [entry.damage for entry in entries.values() if entry.damage is not None]
    return Snapshot(
        name,
        header,
        is_newer,
        tuple(sorted(trials, key=lambda trial: trial.number)),
        {number: entry.ended for number, entry in known if entry.ended is not None},
        tuple(_find_underway(entries)),
        tuple([*damage, *([broken] if broken else [])]),
        dict(attributes.get("notes", {})),
        attributes.get(KNOWLEDGE),
    )


def _read_header(name: str, attributes: Mapping[str, Any]) -> tuple[StudyHeader, bool]:
    version = attributes.get("format")
    is_newer = isinstance(version, int) and version > FORMAT
    if not is_newer:
        return check_header(name, attributes), False
    known = StudyHeader.__dataclass_fields__
    try:
        written = attributes["header"]
        header = StudyHeader(**{key: written[key] for key in known if key in written})
        assert header.objectives is not None
        assert header.task
    except (KeyError, TypeError, AssertionError):
        check_header(name, attributes)
        raise
    return header.with_goal(attributes), True


def _find_underway(entries: Mapping[int, Entry]) -> list[Underway]:
    found = []
    for number, entry in entries.items():
        recipe = _read_recipe(entry) if entry.state == RUNNING else None
        if recipe is not None:
            found.append(Underway(number, recipe, entry.began))
    return found


def _read_recipe(entry: Entry) -> Recipe | None:
    attributes = entry.attributes
    try:
        if entry.recipe_line is not None:
            attributes = from_json(entry.recipe_line)["user_attr"]
        return Recipe.model_validate(attributes["recipe"])
    except (ValueError, KeyError, TypeError):
        return None


def _read_entry(number: int, entry: Entry, *, is_newer: bool) -> None:
    entry.is_read = True
    record = entry.attributes.pop("record", None)
    evidence = entry.attributes.pop("evidence", None)
    if record is None:  # a trial that was interrupted
        return
    if is_newer and isinstance(record, dict):
        record = {key: value for key, value in record.items() if key in Trial.model_fields}
    try:
        entry.trial = Trial.model_validate({**record, "evidence": evidence})
    except (ValidationError, TypeError) as error:
        errors = error.errors() if isinstance(error, ValidationError) else []
        where = ".".join(str(part) for part in errors[0]["loc"]) if errors else "record"
        entry.damage = f"the record of trial {number} is damaged at '{where}' and left out"
