"""The command line where only a runtime and numpy are installed: `bench`, `verify --latency`.

The full command line needs typer, rich and pydantic; `python -m autoquant` falls back to this
one where they are missing.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoquant.backends.machine import explain_oversubscription
from autoquant.backends.registry import BACKENDS
from autoquant.bench import bench_files, find_caveats, verify_latency
from autoquant.errors import ArtifactError, AutoquantError

__all__ = ["main"]

_BAD_INPUT, _INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except AutoquantError as error:
        print(f"error: {error}", file=sys.stderr)
        return _BAD_INPUT
    except OSError as error:  # a full disk, a folder that cannot be written
        print(f"error: {error}", file=sys.stderr)
        return _BAD_INPUT
    except KeyboardInterrupt:
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="autoquant",
        description="Time model files. For searches, install autoquant with its dependencies.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    bench = commands.add_parser(
        "bench", help="time a file, alone or against another",
        epilog="example: python -m autoquant bench model.onnx --vs float.onnx",
    )  # fmt: skip
    bench.add_argument("model", type=Path)
    bench.add_argument("--vs", type=Path)
    bench.add_argument("--threads", type=_count, default=1)
    bench.add_argument("--batch", type=_count, default=1)
    bench.add_argument("--backend", choices=BACKENDS)
    bench.add_argument("--format", choices=("table", "json"), default="table")
    bench.set_defaults(run=_bench)
    verify = commands.add_parser(
        "verify", help="compare a file's latency with its passport",
        epilog="example: python -m autoquant verify model.onnx --latency --vs float.onnx",
    )  # fmt: skip
    verify.add_argument("model", type=Path)
    verify.add_argument("--latency", action="store_true", required=True)
    verify.add_argument("--vs", type=Path, help="the float model's file, for the ratio")
    verify.add_argument("--format", choices=("table", "json"), default="table")
    verify.set_defaults(run=_verify)
    return parser


def _count(text: str) -> int:
    """A number of threads or samples."""
    number = int(text)  # argparse turns a ValueError into one line
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _bench(options: argparse.Namespace) -> int:
    excess = explain_oversubscription(options.threads)
    if excess is not None:
        _warn(excess)
    other = None if options.vs is None else (str(options.vs), _read(options.vs))
    file = str(options.model), _read(options.model)
    result = bench_files(file, other, options.threads, options.batch, options.backend)
    for caveat in find_caveats(result):
        _warn(caveat)
    _print(result, options.format)
    return 0


def _verify(options: argparse.Namespace) -> int:
    reference = None if options.vs is None else (str(options.vs), _read(options.vs))
    verification = verify_latency(str(options.model), _read(options.model), reference, _warn)
    if options.format == "json":
        _print(verification.to_dict(), "json")
    else:
        for check in verification.checks:
            print(f"{check.name}: {check.stored} -> {check.measured}: {check.verdict}")
    return 0 if verification.ok else 1


def _print(result: dict[str, Any], kind: str) -> None:
    if kind == "json":
        print(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        if name == "operators":
            for row in value:
                cells = [f"{role} {cell['ms']:.4f} ms" for role, cell in row["files"].items()]
                print(f"  {row['kernel']}: {', '.join(cells)}")
        elif value is not None:
            print(f"{name}: {value}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read '{path}': {error.strerror}") from error
