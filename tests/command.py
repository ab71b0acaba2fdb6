"""The command line, in processes of its own that need not import everything anew.

Each command is forked from a process that has done nothing but import what most commands need
(Python's own `forkserver`). Everything else is as in a process that is started; tests of the start
itself, of kills and of interrupts start one.
"""

import os
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from types import ModuleType
from unittest.mock import patch

__all__ = ["autoquant"]

_TIMEOUT_S = 300.0
# nothing that a test hides from a command, such as `openvino` or `kaleido`
_IMPORTS = [
    "autoquant.cli",
    "autoquant.build",
    "autoquant.deliver",
    "onnxscript",
    "sklearn.datasets",
    "torch._dynamo",
    "torch.onnx._internal.exporter._registration",
]
_SERVER = get_context("forkserver")
_SERVER.set_forkserver_preload(_IMPORTS)


def autoquant(*arguments: str | Path, cwd: Path, **environment: str) -> CompletedProcess[str]:
    """Run a command to its end.

    Args:
        arguments: what stands behind `autoquant`.
        cwd: the folder that it runs in.
        environment: more variables.

    Raises:
        TimeoutExpired: after five minutes.
    """
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        streams = {1: output, 2: errors}
        process = _SERVER.Process(
            target=_run, args=(words, cwd, {**os.environ, **environment}, streams)
        )
        # a test of the app leaves its page there, which the new process would run
        with patch.dict(sys.modules, {"__main__": ModuleType("__main__")}):
            process.start()
        process.join(_TIMEOUT_S)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutExpired(words, _TIMEOUT_S)
        return CompletedProcess(words, process.exitcode, output.read_text(), errors.read_text())


def _run(
    words: list[str], cwd: Path, environment: Mapping[str, str], streams: Mapping[int, Path]
) -> None:
    """In the process of the command: be as if it had been started so."""
    for number, path in streams.items():
        stream = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path.insert(0, str(cwd))  # as `python -m` does
    sys.argv = ["autoquant", *words]
    from autoquant.__main__ import main

    main()
