"""`Shelf`: the folder in which the files of a study's front lie, named by digest."""

import dataclasses
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from autoquant.core.artifact import SUFFIXES, Artifact, find_kept
from autoquant.files import replacing

__all__ = ["Shelf"]


class Shelf:
    """Files of trials.

    Args:
        folder: where they lie.
        keeps_all: nothing is ever swept away.
    """

    def __init__(self, folder: Path, *, keeps_all: bool = False) -> None:
        self.folder = folder
        self.keeps_all = keeps_all
        self._put: dict[str, Artifact] = {}  # without content, which lies on the disk

    def put(self, digest: str, artifact: Artifact) -> None:
        """Write a file, whole or not at all."""
        with replacing(self.folder / f"{digest}{artifact.suffix}") as file:
            file.write(artifact.content)
        self._put[digest] = dataclasses.replace(artifact, content=b"")

    def get(self, digest: str) -> Artifact | None:
        """What this process put there: learned rounding takes minutes, reading none."""
        path = find_kept(self.folder, digest)
        if digest not in self._put or path is None:
            return None
        return dataclasses.replace(self._put[digest], content=path.read_bytes())

    def sweep(self, wanted: Collection[str]) -> None:
        """Remove the files of all other digests."""
        if self.keeps_all:
            return
        for path in self.folder.glob("*.*"):
            if path.suffix in SUFFIXES and path.stem not in wanted:
                with suppress(FileNotFoundError):
                    path.unlink()
