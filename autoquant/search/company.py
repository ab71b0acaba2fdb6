"""`Company`: the processes that run a study together, as one of them deals with the others.

All of them begin trials while nobody else does (`Record.together`), each marked with the token of
its process. What a process that dies was at is queued again by the one that leads. At the end
that one lets nobody begin any more, waits for what others are at, and closes the study.
"""

import time
from collections.abc import Callable

from autoquant.search.event import EventKind
from autoquant.search.membership import Membership
from autoquant.search.record import Record
from autoquant.search.recovery import recover
from autoquant.search.standing import Standing

__all__ = ["Company"]

_PATIENCE_S = 0.5  # between two looks at what others are at
_TEND_S = 5.0  # between two looks at who is dead
_SEED_DIGITS = 6  # of a token, hexadecimal


class Company:
    """Others, and this process among them.

    Args:
        membership: this process.
        record: the study.
        standing: what this process knows of it.
        tell: called with what happens, in words.
    """

    def __init__(
        self,
        membership: Membership,
        record: Record,
        standing: Standing,
        tell: Callable[[EventKind, str], None],
    ) -> None:
        self.membership = membership
        self.record = record
        self.standing = standing
        self._tell = tell
        self._tend_at = 0.0
        self._is_waiting = False
        self.is_closing = False  # whoever leads lets nobody begin any more
        self.queued_again = 0

    @property
    def leads(self) -> bool:
        """Whether this process leads."""
        return self.membership.leads

    @property
    def seed(self) -> int:
        """Added to a seed: who joins draws other recipes than those whom it joins."""
        token = self.membership.token
        return 0 if self.leads or token is None else int(token[:_SEED_DIGITS], 16)

    def agree(self, trials: int) -> int:
        """Finished trials to reach: what whoever leads was told."""
        if not self.leads:
            return self.record.goal or trials
        self.record.set_goal(trials)
        return trials

    def begin(self) -> None:
        """Do what whoever leads does at the beginning."""
        if self.leads:
            self._lead()

    def look(self) -> bool:
        """See what others have begun and finished; whether this process may begin a trial."""
        self.standing.look()
        closer = None if self.leads else self.record.closer
        self.is_closing = closer is not None and self.membership.lives(closer)
        return not self.is_closing

    def tend(self) -> None:
        """See now and then whether the others still live."""
        if self.membership.token is None or time.monotonic() < self._tend_at:
            return
        self._tend_at = time.monotonic() + _TEND_S
        if not self.leads:
            self._take_over(at_last=False)
            if self.is_closing:  # whoever was about to may be gone
                self.look()
            return
        self.membership.check()
        self.standing.look()
        if self.standing.elsewhere and self._recover():
            self.standing.look()

    def close_door(self) -> None:
        """Let nobody else begin a trial from now."""
        self.record.set_closing(is_closing=True)

    def is_done(self) -> bool:
        """Whether nothing is left to wait for, now that this process has nothing to do.

        Whoever leads waits for what others are at, and does again what they die of.
        """
        if not self.leads:
            return not self._take_over(at_last=True)
        before = self.standing.taken
        self._recover()
        with self.record.together():
            self.close_door()
            self.standing.look()
        if self.standing.taken < before:
            return False  # what somebody died of is to be done again
        if self.standing.elsewhere:
            self._wait()
        return not self.standing.elsewhere

    def _wait(self) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            count = self.standing.elsewhere
            trials = "1 trial" if count == 1 else f"{count} trials"
            self._tell("note", f"waiting for {trials} that other processes are at")
        self._tell("wait", "")
        time.sleep(_PATIENCE_S)

    def say_who_closes(self) -> None:
        """Tell that this process does not close the study."""
        lead = self.membership.describe_lead()
        self._tell("note", f"nothing is left for this process to begin: {lead} closes the study")

    def _take_over(self, *, at_last: bool) -> bool:
        """Lead the study if whoever did is gone; whether that is new."""
        if not self.membership.take_over(at_last=at_last):
            return False
        self._tell("note", "whoever led this study is gone: this process leads it now")
        self._lead()
        self.standing.look()
        return True

    def _lead(self) -> None:
        self.is_closing = False
        self.record.set_closing(is_closing=False)
        self._recover()

    def _recover(self) -> int:
        """Queue again what dead processes were at; how many trials."""
        lives, find_crash = self.membership.lives, self.membership.find_crash
        count = recover(self.record, lives=lives, find_crash=find_crash)
        self.membership.tidy()
        self.queued_again += count
        return count
