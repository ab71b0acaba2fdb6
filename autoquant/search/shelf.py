"""`Shelf`: the folder in which the files of a study's front lie, named by digest."""

import tempfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

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

    def put(self, digest: str, content: bytes) -> None:
        """Write beside the target and rename, so that no reader ever sees half a file."""
        with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
            file.write(content)
        Path(file.name).replace(self.folder / f"{digest}.onnx")

    def sweep(self, wanted: Collection[str]) -> None:
        """Remove the files of all other digests."""
        if self.keeps_all:
            return
        for path in self.folder.glob("*.onnx"):
            if path.stem not in wanted:
                with suppress(FileNotFoundError):
                    path.unlink()
