"""`Record`: one study in Optuna's storage, in autoquant's words."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError

from autoquant.core.check import describe_machine_change
from autoquant.core.fingerprint import Fingerprint, fingerprint_digest
from autoquant.core.objective import Kind, kind_of
from autoquant.core.recipe import Recipe
from autoquant.core.space import SearchSpace
from autoquant.core.trial import LatencyFigures, Measurement, ReportFigures, Trial
from autoquant.errors import StudyError
from autoquant.search.amend import REPRIEVE, amend_trial
from autoquant.search.header import FORMAT, GOAL, StudyHeader, check_header
from autoquant.search.journal import BatchedStorage
from autoquant.search.together import find_together

__all__ = ["CLAIM", "Asked", "Record", "is_half_begun", "read_trial"]

CLAIM = "driver"  # attribute of a trial: the token of the process that evaluates it
_CLOSING = "closing"  # attribute of the study: the token of who closes it, or has
_DIRECTIONS: dict[Kind, StudyDirection] = {
    "accuracy": StudyDirection.MAXIMIZE,
    "latency": StudyDirection.MINIMIZE,
    "size": StudyDirection.MINIMIZE,
}


@dataclass(frozen=True)
class Asked:
    """A trial that has begun.

    Attributes:
        handle: Optuna's live trial.
        recipe: what to evaluate.
        name: the baseline that it is, or None.
        is_queued: it was waiting in the storage; the sampler did not propose it.
    """

    handle: optuna.Trial
    recipe: Recipe
    name: str | None
    is_queued: bool

    @property
    def number(self) -> int:
        """Its number in the storage."""
        return self.handle.number


class Record:
    """Reads and writes one study.

    Every trial of the storage is one of: running; finished, with a full record of ours;
    or failed without one, which is a trial that was interrupted and does not count.

    Attributes:
        token: of the process that writes here, which trials that it begins are marked with;
            None where nobody else can.
    """

    def __init__(self, study: optuna.Study) -> None:
        self.study = study
        self.token: str | None = None
        self._together = find_together(study)
        self.header = _read_header(study)
        self.target: str | None = None  # that the study is seen from

    @classmethod
    def create(cls, storage: BaseStorage, name: str, header: StudyHeader) -> "Record":
        """Begin a study, or go on where a process died at that; what was begun stays as it is.

        Raises:
            StudyError: there is one of that name that is not ours, or begun with other objectives.
        """
        directions = [_DIRECTIONS[kind_of(objective)] for objective in header.objectives]
        study = optuna.create_study(
            storage=storage, study_name=name, directions=directions, load_if_exists=True
        )
        with find_together(study)(is_durable=True):  # another machine may begin it now
            if is_half_begun(study):
                if study.directions != directions:
                    raise StudyError(
                        f"study '{name}' was not written by autoquant, or ended as it began with "
                        "other objectives: choose another name"
                    )
                study.set_metric_names(header.objectives)
                study.set_user_attr("format", FORMAT)
                study.set_user_attr("header", _without(dataclasses.asdict(header), "targets"))
        return cls(study)

    @classmethod
    def load(cls, storage: BaseStorage, name: str) -> "Record":
        """Open a study.

        Raises:
            StudyError: there is none of that name, or it is of a newer format.
        """
        try:
            study = optuna.load_study(study_name=name, storage=storage)
        except KeyError:
            raise StudyError(f"there is no study '{name}' in this storage") from None
        return cls(study)

    # Reading

    def seen_from(self, target: str | None) -> "Record":
        """The study as one of its targets sees it: with one latency, its own; to be read alone.

        Args:
            target: its name; None is the study as it is.

        Raises:
            StudyError: the study has no such target; lists those that it has.
        """
        if target is None:
            return self
        if target not in self.header.targets:
            there = (
                f"there are {', '.join(self.header.targets)}"
                if self.header.targets
                else ("it has none: name some with autoquant search --target")
            )
            name = self.study.study_name
            raise StudyError(f"'{target}' is no target of study '{name}'; {there}")
        view = Record(self.study)
        view.target, view.header = target, self.header.seen_from(target)
        return view

    def trials(self) -> list[Trial]:
        """Every finished trial, by number, report figures included."""
        found = self.study.get_trials(deepcopy=False)
        attributes = self.study.user_attrs
        return [
            amend_trial(trial, attributes).seen_from(self.target)
            for frozen in found
            if (trial := read_trial(frozen)) is not None
        ]

    def read_recent(self, first: int, among: Iterable[int]) -> list[FrozenTrial]:
        """Trials as Optuna has them: from a number on, and some before it."""
        storage = self.study._storage
        if isinstance(storage, BatchedStorage):
            return storage.get_recent_trials(self.study._study_id, first, among)
        every = self.study.get_trials(deepcopy=False)
        return [*(every[number] for number in among), *every[first:]]

    @property
    def closer(self) -> str | None:
        """Token of the process that closes the study, or has: nobody else is to begin a trial."""
        # not by way of the study, which copies all of its attributes for each that is asked for
        attributes = self.study._storage.get_study_user_attrs(self.study._study_id)
        closer: str | None = attributes.get(_CLOSING)
        return closer

    @property
    def fingerprints(self) -> dict[str, Fingerprint]:
        """What the trials were measured on, by digest; empty in a study of an old version."""
        return dict(self.study.user_attrs.get("fingerprints", {}))

    def fingerprint_of(self, trial: Trial) -> Fingerprint | None:
        """What a trial's figures were measured on; None where the record does not tell."""
        return self.fingerprints.get(trial.machine or "")

    def describe_move(self, trials: Sequence[Trial], here: Fingerprint) -> str | None:
        """How the machine of one of the trials differs from this one; None if none does."""
        known = self.fingerprints
        for digest in {trial.machine: None for trial in trials if trial.machine in known}:
            change = describe_machine_change(known[digest or ""]["machine"], here["machine"])
            if change is not None:
                return change
        return None

    def describe_moves(
        self, trials: Sequence[Trial], find: Callable[[str | None], Fingerprint]
    ) -> str | None:
        """The same of each target's machine, as it is now by `find`, and was for these trials."""
        for target in self.header.targets or (None,):
            change = self.describe_move([t.seen_from(target) for t in trials], find(target))
            if change is not None:
                return change if target is None else f"target {target}: {change}"
        return None

    @property
    def notes(self) -> dict[str, str]:
        """What a reader of the front should know of how it was measured, by subject."""
        return dict(self.study.user_attrs.get("notes", {}))

    # Writing

    def together(self, *, is_durable: bool = False) -> AbstractContextManager[None]:
        """Nobody else begins or ends a trial within; see `search.together`."""
        return self._together(is_durable=is_durable)

    @property
    def goal(self) -> int | None:
        """Finished trials that whoever leads the study is to reach; None if nobody has said so."""
        goal: int | None = self.study.user_attrs.get(GOAL)
        return goal

    def set_goal(self, trials: int) -> None:
        """Note how far the study is to go, for those who join it or go on with it."""
        if self.goal != trials:
            self.study.set_user_attr(GOAL, trials)

    def set_closing(self, *, is_closing: bool) -> None:
        """Note that this process closes the study, or that it goes on."""
        wanted = self.token if is_closing else None
        if self.closer != wanted:
            self.study.set_user_attr(_CLOSING, wanted)

    def ask(self, space: SearchSpace) -> Asked:
        """Begin a trial: a waiting one, or one that the study's sampler proposes."""
        with self._together(is_durable=False):
            return self._ask(space)

    def _ask(self, space: SearchSpace) -> Asked:
        handle = self.study.ask()
        if self.token is not None:
            handle.set_user_attr(CLAIM, self.token)
        attributes = handle.user_attrs
        parameters = {}
        if attributes.get("in_space", True):
            parameters = self._write_parameters(handle, space)
        is_queued = "recipe" in attributes
        if is_queued:
            recipe = Recipe.model_validate(attributes["recipe"])
        else:
            recipe = space.decode(parameters)
            handle.set_user_attr("recipe", recipe.to_dict())
        return Asked(handle, recipe, attributes.get("name"), is_queued)

    def _write_parameters(self, handle: optuna.Trial, space: SearchSpace) -> dict[str, str]:
        drawn = handle.relative_params
        if set(drawn) != set(space.parameters):  # it was queued
            return {
                name: str(handle.suggest_categorical(name, choices))
                for name, choices in space.parameters.items()
            }
        # asked for one after the other, Optuna copies all of them for each
        for name, choices in space.parameters.items():
            distribution = CategoricalDistribution(choices)
            value = distribution.to_internal_repr(drawn[name])
            self.study._storage.set_trial_param(handle._trial_id, name, value, distribution)
        return {name: str(drawn[name]) for name in space.parameters}

    def enqueue(
        self, recipe: Recipe, parameters: Mapping[str, str] | None, name: str | None = None
    ) -> None:
        """Let a recipe be evaluated before the sampler proposes others.

        Args:
            recipe: what to evaluate.
            parameters: its parameters, or None if it lies outside the search space.
            name: the baseline that it is.
        """
        attributes = {"recipe": recipe.to_dict(), "in_space": parameters is not None}
        if name is not None:
            attributes["name"] = name
        self.study.enqueue_trial(dict(parameters or {}), user_attrs=attributes)

    def finish(
        self, asked: Asked, trial: Trial, violations: Mapping[str, float] | None = None
    ) -> bool:
        """Write a finished trial: first its record, then its state.

        A process killed between the two leaves a running trial with a record, which
        `recovery` closes.

        Args:
            asked: the trial as it began.
            trial: what came of it.
            violations: by constraint, at most zero where it is kept; the sampler reads them.

        Returns:
            Whether it counts: not if this process was taken for dead meanwhile, and the trial
            was begun anew.
        """
        with self._together(is_durable=True):
            try:
                self._finish(asked, trial, violations)
            except UpdateFinishedTrialError:
                return False
        return True

    def _finish(self, asked: Asked, trial: Trial, violations: Mapping[str, float] | None) -> None:
        if trial.state != "failed":
            self._values_of(trial)  # before anything is written that could not be closed
        # what was turned away is nothing that Optuna should call feasible
        rejected = {"rejected": 1.0 if trial.state == "rejected" else 0.0}
        for name, value in {**(violations or {}), **rejected}.items():
            asked.handle.set_constraint(name, value)
        if trial.evidence is not None:
            asked.handle.set_user_attr("evidence", trial.evidence.model_dump())
        asked.handle.set_user_attr("record", trial.to_dict())
        self.close(trial)

    def discard(self, number: int) -> None:
        """Close a trial that is not to count."""
        self.study.tell(number, state=TrialState.FAIL)

    def add_fingerprint(self, fingerprint: Fingerprint) -> None:
        """Note what trials are measured on from now."""
        digest = fingerprint_digest(fingerprint)
        if digest not in self.fingerprints:  # asked first, since all but one are there
            self._add("fingerprints", {digest: dict(fingerprint)})

    def add_report(self, digest: str, figures: ReportFigures) -> None:
        """Note the report figures of a front member."""
        self._add("report", {digest: figures.model_dump(mode="json")})

    def add_report_error(self, digest: str, reason: str) -> None:
        """Note why a front member has no report figures."""
        self._add("report", {digest: {"report_error": reason}})

    def add_latency(self, figures: Mapping[str, LatencyFigures]) -> None:
        """Note what came of timing a front together, by digest; replaces what was before."""
        written = {key: value.model_dump(mode="json") for key, value in figures.items()}
        self._add("latency", {key: _without(value, "targets") for key, value in written.items()})

    def add_departures(self, reasons: Mapping[str, str | None]) -> None:
        """Note why trials are no members of the front any more, by digest; None takes back."""
        self._add("departure", {key: {"left_front": value} for key, value in reasons.items()})

    def add_reprieve(self, digest: str, measurement: Measurement) -> None:
        """Note the figures of a trial that had been turned away and was evaluated after all."""
        evidence = measurement.evidence
        figures = {
            **_without(measurement.model_dump(mode="json"), "targets"),
            "state": "complete",
            "evidence": None if evidence is None else evidence.model_dump(),
        }
        self._add(REPRIEVE, {digest: figures})

    def set_note(self, subject: str, text: str | None) -> None:
        """Note something on the front as a whole; None takes it back."""
        with self.together(is_durable=True):
            kept = {key: value for key, value in self.notes.items() if key != subject}
            wanted = kept if text is None else {**kept, subject: text}
            if wanted != self.notes:
                self.study.set_user_attr("notes", wanted)

    def _add(self, name: str, values: Mapping[str, Any]) -> None:
        with self.together(is_durable=True):
            known = self.study.user_attrs.get(name, {})
            self.study.set_user_attr(name, {**known, **values})

    def waiting_digests(self) -> set[str]:
        """Digests of the trials that are queued."""
        return {
            Recipe.model_validate(frozen.user_attrs["recipe"]).digest
            for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            if "recipe" in frozen.user_attrs
        }

    def close(self, trial: Trial) -> None:
        """Give a trial the state that its record tells of."""
        if trial.state != "failed":
            self.study.tell(trial.number, self._values_of(trial))
        else:
            self.study.tell(trial.number, state=TrialState.FAIL)

    def _values_of(self, trial: Trial) -> list[float]:
        """What Optuna is told of each objective: objectives count down, accuracy as it is.

        Raises:
            ValueError: the trial did not measure one of them.
        """
        values = {name: trial.objective(name) for name in self.header.objectives}
        return [-value if name == "accuracy" else value for name, value in values.items()]


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Leave out what is empty, which earlier versions do not know."""
    return {key: value for key, value in values.items() if key != name or value}


def _is_finished(frozen: FrozenTrial) -> bool:
    return frozen.state.is_finished() and "record" in frozen.user_attrs


def read_trial(frozen: FrozenTrial) -> Trial | None:
    """A finished trial of ours; None where it is none.

    Raises:
        StudyError: its record is damaged.
    """
    if not _is_finished(frozen):
        return None
    try:
        evidence = frozen.user_attrs.get("evidence")
        return Trial.model_validate({**frozen.user_attrs["record"], "evidence": evidence})
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise StudyError(
            f"the record of trial {frozen.number} is damaged at '{where}'; "
            "it was written by another version or changed by hand"
        ) from None


def is_half_begun(study: optuna.Study) -> bool:
    """Whether a process died between making a study and saying what it is."""
    return not ({*study.user_attrs} - {"format"} or study.get_trials(deepcopy=False))


def _read_header(study: optuna.Study) -> StudyHeader:
    return check_header(study.study_name, study.user_attrs)
