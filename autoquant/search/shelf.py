"""`Shelf`: the folder in which the files of a study's front lie, named by digest."""

import dataclasses
import tempfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from autoquant.core.artifact import Artifact

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
        """Write beside the target and rename, so that no reader ever sees half a file."""
        with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
            beside = Path(file.name)
            try:
                file.write(artifact.content)
                file.flush()
            except OSError:  # the disk is full: what fits on it is of no use
                beside.unlink()
                raise
        beside.replace(self.folder / f"{digest}.onnx")
        self._put[digest] = dataclasses.replace(artifact, content=b"")

    def get(self, digest: str) -> Artifact | None:
        """What this process put there: learned rounding takes minutes, reading none."""
        path = self.folder / f"{digest}.onnx"
        if digest not in self._put or not path.is_file():
            return None
        return dataclasses.replace(self._put[digest], content=path.read_bytes())

    def sweep(self, wanted: Collection[str]) -> None:
        """Remove the files of all other digests."""
        if self.keeps_all:
            return
        for path in self.folder.glob("*.onnx"):
            if path.stem not in wanted:
                with suppress(FileNotFoundError):
                    path.unlink()
