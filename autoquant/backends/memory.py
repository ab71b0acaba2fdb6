"""Peak memory of a model: a fresh process loads it, runs it, and tells how much it grew.

    python -m autoquant.backends.memory BACKEND model.onnx THREADS BATCH

A fresh process, because what another session has freed would be used again and not be seen.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from autoquant.core.artifact import Artifact

__all__ = ["measure_peak_bytes"]

_TIMEOUT_S = 120


def measure_peak_bytes(backend: str, content: bytes, threads: int, batch: int = 1) -> int | None:
    """Bytes by which a process grows at most when it loads a file and runs a batch.

    None if unknown.

    Args:
        backend: name of the runtime; what it takes without a model is not counted.
        content: the file.
        threads: threads within one operator.
        batch: samples of a run.
    """
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(content)
        file.flush()
        command = [sys.executable, "-m", __name__, backend, file.name, str(threads), str(batch)]
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S
            )
            return int(result.stdout)
        except (subprocess.SubprocessError, OSError, ValueError):
            return None


def _peak_bytes() -> int:
    """High-water mark of this process's resident memory (Linux)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ValueError("VmHWM is not among this process's figures")


def _main(backend: str, path: str, threads: str, batch: str) -> None:
    from autoquant.backends.registry import load_backend

    runtime = load_backend(backend)
    artifact = Artifact(Path(path).read_bytes(), {}, {})
    before = _peak_bytes()
    session = runtime.load(artifact, int(threads))
    inputs = session.random_inputs(int(batch))
    for _ in range(3):
        session.time_once(inputs)
    print(_peak_bytes() - before)


if __name__ == "__main__":
    _main(*sys.argv[1:])
