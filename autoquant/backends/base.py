"""What a runtime must offer."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from autoquant.backends.inputs import Arrays
from autoquant.core.artifact import Artifact
from autoquant.core.layer import Kernels
from autoquant.core.proof import NodeTime

__all__ = ["Backend", "FileBackend", "FileSession", "Session"]


class Session(Protocol):
    """A loaded artifact."""

    def predict(self, inputs: Any) -> npt.NDArray[np.float32]:
        """First output for one batch: an array or named arrays in, (n, ...) out."""
        ...

    def time_once(self, inputs: Any) -> float:
        """Seconds of one run."""
        ...


class Backend(Protocol):
    """Runs artifacts and says what it really executes. Knows no recipes.

    `backends.contract.BackendContract` states in tests what every implementation must do.
    """

    @property
    def name(self) -> str:
        """Name in commands and records."""
        ...

    @property
    def kernels(self) -> Kernels:
        """What it has integer kernels for."""
        ...

    @property
    def caveat(self) -> str | None:
        """Why timings of this installation do not compare with others', in words; else None."""
        ...

    def load(self, artifact: Artifact, threads: int) -> Session:
        """Load a file.

        Args:
            artifact: what to load.
            threads: threads within one operator; one operator runs at a time.

        Raises:
            ArtifactError: not a file that this runtime reads.
        """
        ...

    def find_integer_layers(self, artifact: Artifact, layers: Sequence[str]) -> frozenset[str]:
        """Which of the named layers the runtime executes in integer kernels."""
        ...

    def measure_memory(self, artifact: Artifact, threads: int, batch: int = 1) -> int | None:
        """Most bytes of memory that a process needs more once it has loaded and run the file.

        Args:
            artifact: the file.
            threads: threads within one operator.
            batch: samples of one run.

        Returns:
            None where the system does not tell.
        """
        ...

    def profile_nodes(
        self,
        artifact: Artifact,
        threads: int = 1,
        batch: int = 1,
        runs: int = 30,
        inputs: Any = None,
    ) -> list[NodeTime]:
        """Time of every node that the runtime executes, in order.

        The profiler itself costs time: shares are what to read, not sums.

        Args:
            artifact: the file.
            threads: threads within one operator.
            batch: batch size.
            runs: how many are timed.
            inputs: one batch; random ones if left out, which not every model can take.

        Raises:
            ArtifactError: not a file that this runtime reads.
        """
        ...

    def fingerprint(self) -> dict[str, Any]:
        """What timings depend on: processor, flags, versions."""
        ...


class FileSession(Session, Protocol):
    """A session that knows its own inputs, so that any file can be timed."""

    def run_all(self, inputs: Any) -> Arrays:
        """Every output for one batch, by name; the first is that of `predict`."""
        ...

    def random_inputs(self, batch: int, seed: int = 0) -> Arrays:
        """Inputs of the model's shapes; a first size that is free is the batch size.

        Raises:
            ArtifactError: an input that is neither float nor integer, or of no certain shape.
        """
        ...


class FileBackend(Backend, Protocol):
    """A backend that reads real files: what `bench` needs beside what a search needs."""

    def load(self, artifact: Artifact, threads: int) -> FileSession:
        """Load a file; see `Backend.load`."""
        ...
