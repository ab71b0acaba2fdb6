"""`Recommendations`: what to take from a front, as sentences."""

import html

from autoquant.core.trial import Trial
from autoquant.errors import NegativeAnswer
from autoquant.search.choice import Advice

__all__ = ["Recommendations"]


class Recommendations(tuple[Advice, ...]):
    """The trials that are recommended, the knee first; prints as one sentence each.

    `trial` and `reason` are those of the first.
    """

    __slots__ = ()

    @property
    def trial(self) -> Trial:
        """The trial that is recommended first.

        Raises:
            NegativeAnswer: there is none.
        """
        return self._first.trial

    @property
    def reason(self) -> str:
        """Why it is, in one sentence."""
        return self._first.reason

    @property
    def _first(self) -> Advice:
        if not self:
            raise NegativeAnswer(repr(self))
        return self[0]

    def __repr__(self) -> str:
        lines = [advice.reason for advice in self]
        return "\n".join(lines) or "nothing is recommended: no complete trial is within bounds"

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{html.escape(advice.reason)}</li>" for advice in self)
        return f"<ul>{items}</ul>" if items else f"<p>{html.escape(repr(self))}</p>"
