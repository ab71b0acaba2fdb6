"""What a process leaves behind that a runtime takes down.

A fault in native code ends a process without an exception. Python can note it on the way
(`faulthandler`), and nothing notes a kill: so the two are told apart.
"""

import faulthandler
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["read_crash", "watch_crashes"]

_PREFIX = "Fatal Python error: "


@contextmanager
def watch_crashes(path: Path) -> Iterator[None]:
    """Note in a file if this process crashes within.

    Args:
        path: of the note; it is gone if the end is reached.
    """
    was_enabled = faulthandler.is_enabled()
    with path.open("w") as note:
        faulthandler.enable(note, all_threads=False)
        try:
            yield
        finally:
            faulthandler.disable()
            if was_enabled and sys.__stderr__ is not None:
                faulthandler.enable(sys.__stderr__)
    path.unlink(missing_ok=True)


def read_crash(path: Path) -> str | None:
    """How the process crashed that left this note; None if it was killed, or there is none."""
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return lines[0].removeprefix(_PREFIX) if lines else None
