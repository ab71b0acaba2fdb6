"""`python -m autoquant` and the command `autoquant`."""

import sys
from importlib.util import find_spec

__all__ = ["main"]

_FULL = ("typer", "rich", "pydantic", "optuna")


def main() -> None:
    """Run the command line; on a machine with ONNX Runtime alone, the part that times files."""
    if all(find_spec(name) for name in _FULL):
        from autoquant.cli import main as run

        run()
    else:
        from autoquant.edge import main as run_edge

        sys.exit(run_edge())


if __name__ == "__main__":
    main()
