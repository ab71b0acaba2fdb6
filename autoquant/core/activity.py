"""What long work is busy with, for whoever shows it.

The work announces; who starts it may listen. Nothing is handed through the layers between.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["announce", "listening"]

Listener = Callable[[str], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def announce(text: str) -> None:
    """Say what is being done: a few words, `learning rounding: 3 of 20 layers`."""
    listener = _listener.get()
    if listener is not None:
        listener(text)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Hear what is announced inside, in this thread."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
