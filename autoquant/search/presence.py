"""`Presence`: who runs a study and what runs where, for whoever asks.

It lies in the study's folder as long as the search runs; where the record is in a database, the
lease says the same to other machines.
"""

import json
import os
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoquant.files import replacing
from autoquant.search.event import Seat

__all__ = ["Announcement", "Presence", "read_presence"]


@dataclass(frozen=True)
class Presence:
    """A search that runs.

    Attributes:
        host: name of the driver's machine.
        pid: the driver's process.
        seats: name and node of each worker; empty where the driver does it all.
        dashboard: address of Ray's dashboard, where there is one.
    """

    host: str
    pid: int
    seats: tuple[tuple[str, str], ...] = ()
    dashboard: str | None = None

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Presence":
        """As it was stored; what a later version added is left out."""
        seats = tuple((str(name), str(node)) for name, node in stored.get("seats", ()))
        return cls(stored["host"], stored["pid"], seats, stored.get("dashboard"))

    def to_dict(self) -> dict[str, Any]:
        """For storing."""
        seats = [list(seat) for seat in self.seats]
        return {
            "host": self.host, "pid": self.pid, "seats": seats, "dashboard": self.dashboard
        }  # fmt: skip

    def describe(self) -> str:
        """In words."""
        nodes: dict[str, Counter[str]] = {}
        for name, node in self.seats:
            nodes.setdefault(node or "no node yet", Counter())[name.split()[0]] += 1
        parts = [f"driver on {self.host} (process {self.pid})"]
        for node, kinds in nodes.items():
            count = ", ".join(f"{n} {kind}{'s' * (n != 1)}" for kind, n in kinds.items())
            parts.append(f"{count} on {node}")
        if self.dashboard is not None:
            parts.append(f"dashboard at http://{self.dashboard}")
        return "; ".join(parts)


class Announcement:
    """Keeps a file that says what runs where while this process runs a study.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.presence = Presence(socket.gethostname(), os.getpid())

    def see(self, seats: Sequence[Seat], dashboard: str | None = None) -> None:
        """Take in where workers are; written when that has changed."""
        before = self.presence
        places = tuple((seat.name, seat.node) for seat in seats)
        self.presence = Presence(before.host, before.pid, places, dashboard or before.dashboard)
        if self.presence != before or not self.path.exists():
            self._write()

    def move(self, path: Path) -> None:
        """Say it in another file from now on."""
        self.path.unlink(missing_ok=True)
        self.path = path
        self._write()

    def end(self) -> None:
        """It runs no more."""
        self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        with replacing(self.path) as file:
            file.write(json.dumps(self.presence.to_dict()).encode())


def read_presence(path: Path) -> Presence | None:
    """Who runs a study, by the file in its folder; None where there is none that can be read."""
    try:
        return Presence.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None
