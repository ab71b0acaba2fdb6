"""What a worker's process prints while it evaluates a trial, native libraries included."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from autoquant.search.trial_log import MOST_CHARACTERS, shorten

__all__ = ["Capture", "capturing"]

_STREAMS = (1, 2)


@dataclass
class Capture:
    """What was printed; there when it is over.

    Attributes:
        text: of both streams, in order, shortened.
    """

    text: str = ""


@contextmanager
def capturing() -> Iterator[Capture]:
    """Keep what this process prints within, instead of printing it."""
    capture = Capture()
    with tempfile.TemporaryFile() as file:
        kept = [os.dup(stream) for stream in _STREAMS]
        _flush()
        for stream in _STREAMS:
            os.dup2(file.fileno(), stream)
        try:
            yield capture
        finally:
            _flush()
            for stream, before in zip(_STREAMS, kept, strict=True):
                os.dup2(before, stream)
                os.close(before)
            size = file.seek(0, os.SEEK_END)
            capture.text = shorten(_read(file.fileno(), size))


def _read(file: int, size: int) -> str:
    """All of it, or its two ends: a library may print without end."""
    half = 4 * MOST_CHARACTERS  # bytes
    if size <= 2 * half:
        return os.pread(file, size, 0).decode(errors="replace")
    ends = os.pread(file, half, 0), os.pread(file, half, size - half)
    return "\n...\n".join(end.decode(errors="replace") for end in ends)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
